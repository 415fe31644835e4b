"""One process at a time builds a stage. The second is told who does; readers never wait.

A lock belongs to a stage and not to a run folder, so two kernels may train two models of one run.
It is held only while something is written, so a notebook that is left open blocks nobody. The
operating system frees the lock when the process ends, however it ends: no lock is ever stale.
`filelock` asks for it (flock, on NFS too; on file systems without locks a file with process and
host in its place). It lets go of the lock in forked children, such as a loader's workers, which
may outlive the process.
"""

import contextlib
import errno
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import filelock

from lensnb.errors import InputError

PATIENCE = 0.5  # seconds: what ends by then is waited for
# A network file system whose lock service is off keeps nobody out.
NOT_SERVED = (errno.ENOLCK, errno.EOPNOTSUPP)


@contextlib.contextmanager
def locked(path: Path, patience: float = PATIENCE) -> Iterator[None]:
    """Hold `path`, a file or folder that need not exist yet in a folder that does.

    Raises InputError that names the process that holds it.
    """
    beside = path.with_name(f".{path.name}.lock")
    lock = filelock.FileLock(beside, thread_local=False)
    try:
        lock.acquire(timeout=patience)
    except filelock.Timeout:
        raise InputError(
            f"{path}: {_holder(beside)} is writing there; wait for it, end it, or give this run "
            "another name (run=...)"
        ) from None
    except OSError as error:
        if error.errno not in NOT_SERVED:
            raise
    # The soft lock writes and removes its file itself.
    ours = not isinstance(lock, filelock.SoftFileLock)
    try:
        if ours:
            _sign(beside)
        yield
    finally:
        if ours:
            # Delete while locked, so that a waiting process sees the file vanish and retries.
            with contextlib.suppress(OSError):
                beside.unlink()
        lock.release()


def _sign(path: Path) -> None:
    """Write process and host into a lock's file, if that is possible."""
    with contextlib.suppress(OSError):
        path.write_text(f"{os.getpid()}\n{socket.gethostname()}\n")


def _holder(path: Path) -> str:
    """Who holds a lock and since when, as far as its file tells."""
    with contextlib.suppress(OSError, ValueError):
        process, host, *_ = path.read_text().splitlines()
        since = time.strftime("%d %b %H:%M", time.localtime(path.stat().st_mtime))
        return f"process {process} on {host} (since {since})"
    return "another process"
