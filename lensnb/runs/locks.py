"""One process at a time builds a stage; the second is told who does, and whoever reads never waits.

A lock belongs to a stage and not to a run folder: two kernels may train a run's two models at once. It is
held only while something is written there, so that a notebook left open afterwards is in nobody's way. The
kernel of the operating system frees it when the process ends, however it ends: none is ever stale. `filelock`
asks for it (flock, on NFS too; on file systems without locks a file with process and host in its place) and
lets go of it in forked children, such as a loader's workers, which may outlive the process.
"""

import contextlib
import errno
import os
import socket
import time

import filelock

from lensnb.errors import InputError

PATIENCE = 0.5  # seconds: what ends by then is waited for
NOT_SERVED = (
    errno.ENOLCK,
    errno.EOPNOTSUPP,
)  # a network file system whose lock service is off keeps nobody out


@contextlib.contextmanager
def locked(path, patience=PATIENCE):
    """Hold `path`, a file or folder that need not be there yet, in a folder that is; or raise InputError that says who does."""
    beside = path.with_name(f".{path.name}.lock")
    lock = filelock.FileLock(beside, thread_local=False)
    try:
        lock.acquire(timeout=patience)
    except filelock.Timeout:
        raise InputError(
            f"{path}: {_holder(beside)} is writing there; wait for it, end it, or give this run another name "
            "(run=...)"
        ) from None
    except OSError as error:
        if error.errno not in NOT_SERVED:
            raise
    hard = not isinstance(
        lock, filelock.SoftFileLock
    )  # the soft one writes and removes its file itself
    try:
        with contextlib.suppress(OSError):
            hard and beside.write_text(f"{os.getpid()}\n{socket.gethostname()}\n")
        yield
    finally:
        with contextlib.suppress(
            OSError
        ):  # while it is held: who has opened it by now finds it gone, and tries again
            hard and beside.unlink()
        lock.release()


def _holder(beside):
    """Who holds a lock and since when, as far as its file tells."""
    with contextlib.suppress(OSError, ValueError):
        process, host, *_ = beside.read_text().splitlines()
        since = time.strftime("%d %b %H:%M", time.localtime(beside.stat().st_mtime))
        return f"process {process} on {host} (since {since})"
    return "another process"
