"""One process at a time builds a stage; the second is told who does, and whoever reads never waits.

A lock belongs to a stage and not to a run folder: two kernels may train a run's two models at once. It is
held only while something is written there, so that a notebook left open afterwards is in nobody's way. The
kernel of the operating system frees it when the process ends, however it ends: none is ever stale. `filelock`
asks for it (flock, on NFS too; on file systems without locks a file with process and host in its place) and
lets go of it in forked children, such as a loader's workers, which may outlive the process.
"""

import contextlib
import os
import socket
import time

import filelock

from lensnb.errors import InputError

PATIENCE = 0.5      # seconds: what ends by then is waited for
FIELDS = 2          # lines of a lock file that are read: process and host


@contextlib.contextmanager
def locked(path, patience=PATIENCE):
    """Hold `path`, a file or folder that may not be there yet, or raise InputError that says who does; its folder must be there."""
    beside = path.with_name(f".{path.name}.lock")
    lock = filelock.FileLock(beside, thread_local=False)
    try:
        lock.acquire(timeout=patience)
    except filelock.Timeout:
        raise InputError(f"{path}: {_holder(beside)} is writing there; wait for it, end it, or give this run another name "
                         "(run=...)") from None
    hard = not isinstance(lock, filelock.SoftFileLock)
    try:
        if hard:
            beside.write_text(f"{os.getpid()}\n{socket.gethostname()}\n")
        yield
    finally:
        if hard:    # while it is held: who has opened it by now finds that it is gone, and tries again
            beside.unlink(missing_ok=True)
        lock.release()


def _holder(beside):
    """Who holds a lock and since when, as far as its file tells."""
    with contextlib.suppress(OSError, ValueError):
        process, host = beside.read_text().splitlines()[:FIELDS]
        since = time.strftime("%d %b %H:%M", time.localtime(beside.stat().st_mtime))
        return f"process {process} on {host} (since {since})"
    return "another process"
