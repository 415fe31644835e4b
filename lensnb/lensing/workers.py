"""Simulation by several processes, the same images for any number of them.

Images are rendered in pieces of BATCH. Every process takes the next piece that is left and writes
it to its place in one memory-mapped file; the process that asks renders, too. Each uses one thread.

The others are started afresh (no fork: no copied locks) and import nothing of the user's script.
They end when their input ends, so none is left behind, however this process ends. A piece whose
process broke off is rendered by this one.
"""

import contextlib
import dataclasses
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from lensnb.lensing.priors import Prior, get_prior, whole_number
from lensnb.lensing.simulate import BATCH, joined, render, simulate
from lensnb.lensing.truth_tables import draw_truth

PAYING = 2**26  # rays to trace for each process: 1,000 images; it needs as long to start
POLL = 0.05  # seconds between two looks at what other processes have done
ROWS = 4096  # of a truth table that are drawn at once
COMMAND = (sys.executable, "-P", "-m", "lensnb.lensing.workers")  # -P: no module of the user's
READY = "ready"  # what a process says once it has started
QUOTA = Path("/sys/fs/cgroup/cpu.max")  # how much of the processors a container may use


def simulate_file(
    path: Path,
    prior: str | Prior = "broad",
    seed: int = 0,
    device: str | torch.device = "cpu",
    workers: int | None = None,
) -> dict[str, np.ndarray]:
    """Fill the first channel of the images (n, C, H, H) in a .npy file; returns their truth.

    prior, seed : as in `simulate`; the images have the prior's field of view
    device : a GPU renders all by itself
    workers : processes on a CPU, by default one for each core; where there is too little to do,
    fewer are started. The images have the same bits for any number.

    Raises InputError as `simulate` does, and for workers below 1.
    """
    images = np.lib.format.open_memmap(path, mode="r+")[:, :1]
    prior = get_prior(prior, images.shape[-1])
    wanted = cores() if workers is None else whole_number("workers", workers, 1)
    if torch.device(device).type != "cpu":
        return simulate(len(images), prior, seed, device=device, out=images)[1]
    n = len(images)
    starts = range(0, n, ROWS)
    tables = [draw_truth(min(ROWS, n - start), prior, seed, start) for start in starts]
    rays = n * (prior.size * prior.oversample) ** 2
    task = Task(str(path.resolve()), prior, seed)
    with one_thread():
        task.share(max(1, min(wanted, rays // PAYING)))
    return joined(tables)


def cores() -> int:
    """How many cores this process may use."""
    there = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        there = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError, ValueError):
        time, period = QUOTA.read_text().split()
        there = min(there, -(-int(time) // int(period)))
    return max(1, there)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """A context in which torch uses one thread, which decides the last bits of an image."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclasses.dataclass
class Task:
    """Images of a prior and a seed, to be written to a file."""

    path: str
    prior: Prior
    seed: int

    def __post_init__(self) -> None:
        self.images = np.lib.format.open_memmap(self.path, mode="r+")
        self.pieces: queue.Queue[int] = queue.Queue()  # first images, left to render

    def share(self, processes: int) -> None:
        """Render all images by so many processes, this one among them."""
        for start in range(0, len(self.images), BATCH):
            self.pieces.put(start)
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):  # where no more processes are allowed
                for _ in range(processes - 1):
                    stack.enter_context(Helper(self))
            while self.pieces.unfinished_tasks:  # others may still give one back
                with contextlib.suppress(queue.Empty):
                    self.render(self.pieces.get(timeout=POLL))
                    self.pieces.task_done()

    def render(self, start: int) -> None:
        """Render and write the piece that begins with this image."""
        count = min(BATCH, len(self.images) - start)
        images = render(draw_truth(count, self.prior, self.seed, start), self.prior)
        self.images[start : start + count, :1] = images.numpy()

    def written(self) -> str:
        """The task as JSON."""
        prior = dataclasses.asdict(self.prior)
        return json.dumps({"path": self.path, "prior": prior, "seed": self.seed})

    @classmethod
    def read(cls, text: str) -> "Task":
        """The task that `written` wrote."""
        tree = json.loads(text)
        ranges = {name: tuple(v) for name, v in tree["prior"].items() if isinstance(v, list)}
        return cls(tree["path"], Prior(**tree["prior"] | ranges), tree["seed"])


class Helper:
    """Another process that renders pieces of a task: it reads their numbers and repeats them.

    It is a context, at whose end the process is gone.
    """

    def __init__(self, task: Task) -> None:
        self.pieces = task.pieces
        self.ending = False
        self.errors: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in __exit__
        ones = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        paths = os.pathsep.join(filter(None, sys.path))  # where this process finds lensnb
        self.process: Any = subprocess.Popen(
            [*COMMAND, task.written()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            bufsize=1,
            env=os.environ | ones | {"PYTHONPATH": paths},
        )
        self.thread = threading.Thread(target=self._feed, daemon=True)

    def __enter__(self) -> "Helper":
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.ending = True
        self.process.kill()
        self.process.wait()
        self.thread.join()
        for file in (self.process.stdin, self.process.stdout, self.errors):
            with contextlib.suppress(OSError):  # its pipe is broken
                file.close()

    def _feed(self) -> None:
        """Hand over one piece after the other until none is left, or until the process ends."""
        if self._answer() != READY:
            return self._complain()
        with contextlib.suppress(queue.Empty):
            while not self.ending:
                start = self.pieces.get_nowait()
                whole = self._render(start)
                if not whole:
                    self.pieces.put(start)
                self.pieces.task_done()
                if not whole:
                    return self._complain()

    def _render(self, start: int) -> bool:
        """Let the process render the piece; False if it ended before it had."""
        with contextlib.suppress(OSError):
            self.process.stdin.write(f"{start}\n")
        return self._answer() == str(start)

    def _answer(self) -> str:
        """The next line that the process writes; empty once it has ended."""
        return str(self.process.stdout.readline()).strip()

    def _complain(self) -> None:
        """Say why the process ended, unless it was ended on purpose."""
        if self.ending:
            return
        self.process.kill()
        code = self.process.wait()
        self.errors.seek(0)
        *_, last = self.errors.read().strip().splitlines() or [f"code {code}"]
        print(
            f"data: a process that simulated images ended early ({last[:200]}); "
            "the others render its share",
            file=sys.stderr,
        )


def main() -> None:
    """What another process does: render the pieces whose numbers it reads, until there are none."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches it, too: its parent decides
    torch.set_num_threads(1)
    task = Task.read(sys.argv[1])
    print(READY, flush=True)
    for line in sys.stdin:
        task.render(int(line))
        print(line, end="", flush=True)


if __name__ == "__main__":
    main()
