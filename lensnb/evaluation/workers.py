"""Worker processes that measure many images: the same results for any number of them.

joblib starts them. They have one thread each, import nothing of the user's script, and take
functions that were defined in a notebook, too.
"""

import contextlib
import functools
import importlib.util
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import psutil
import torch

FEW = 1000  # images on each side of a comparison, below which no process is started
IDLE = 60  # seconds after which a process that has nothing to do ends


@dataclass(frozen=True)
class Workers:
    """Where work is done: in `count` worker processes, or here if there is one only."""

    count: int = 1

    def map(self, function: Callable[..., Any], jobs: Iterable[tuple[Any, ...]]) -> list[Any]:
        """[function(*job) for job in jobs]; jobs are made as they are needed.

        On Ctrl-C the processes end.
        """
        if self.count == 1:
            return [function(*job) for job in jobs]
        import joblib

        calls = (joblib.delayed(_as_worker)(os.getpid(), function, *job) for job in jobs)
        with joblib.parallel_config("loky", inner_max_num_threads=1, idle_worker_timeout=IDLE):
            parallel = joblib.Parallel(
                self.count, batch_size=1, max_nbytes=None, return_as="generator"
            )
            with _interrupts_ignored():  # the processes that start now ignore them for good
                results = parallel(calls)
            return list(results)


HERE = Workers()


def workers_for(n: int, wish: int | None = None) -> Workers:
    """The workers for a comparison of n images a side.

    wish : how many, None for one a core. For few images, and where joblib is not installed, all
    work is done here.
    """
    if n < FEW or importlib.util.find_spec("joblib") is None:
        return HERE
    import joblib

    return Workers(wish or joblib.cpu_count())


def _as_worker(parent: int, function: Callable[..., Any], *job: Any) -> Any:
    _settle(parent)
    return function(*job)


@functools.lru_cache
def _settle(parent: int) -> None:
    """What a process does once: take one thread, and end when its parent does, however it ends."""

    def follow() -> None:
        while os.getppid() == parent and psutil.pid_exists(parent):
            time.sleep(1)
        os._exit(1)

    torch.set_num_threads(1)
    threading.Thread(target=follow, daemon=True).start()


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """A context that Ctrl-C does not end, and in which processes start that it never ends.

    It lasts milliseconds. Only the main thread can ignore a signal; elsewhere nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
