"""Images per second and memory of the simulator: python benchmarks/simulate.py

Two cores are measured in two ways: as two torch threads in one process, and as one thread in each
of two processes. The two processes draw different images (start) of the same seed. On a machine
with other work, compare images per CPU second, not images per second.
"""

import multiprocessing
import os
import tempfile
import threading
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads starve on a busy machine

import numpy as np
import torch

from lensnb.lensing.simulate import render, simulate
from lensnb.lensing.truth_tables import draw_truth

MEGABYTE = 2**20


def anonymous_memory() -> int:
    """Bytes of this process's memory that no file backs; Linux only."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return 1024 * int(line.split()[1])
    raise RuntimeError("/proc/self/status has no line RssAnon")


def watch(peak, stop):
    """Keep the largest memory seen in peak[0], until `stop` is set."""
    while not stop.is_set():
        peak[0] = max(peak[0], anonymous_memory())
        stop.wait(0.01)


def measured(task, *arguments):
    """Seconds and CPU seconds that a task takes here, and its peak growth of memory in MB."""
    simulate(48)  # imports and caches
    before = anonymous_memory()
    stop = threading.Event()
    peak = [before]
    watcher = threading.Thread(target=watch, args=(peak, stop))
    watcher.start()
    began = time.perf_counter()
    cpu_began = time.process_time()
    task(*arguments)
    seconds = time.perf_counter() - began
    cpu = time.process_time() - cpu_began
    stop.set()
    watcher.join()
    return seconds, cpu, (peak[0] - before) / MEGABYTE


def in_memory(n):
    simulate(n)


def to_file(n):
    with tempfile.TemporaryDirectory() as folder:
        shape = (n, 1, 64, 64)
        out = np.lib.format.open_memmap(Path(folder) / "images.npy", "w+", np.float32, shape)
        simulate(n, out=out)


def share(n, start):
    render(draw_truth(n, start=start))


def run(threads, task, *arguments):
    torch.set_num_threads(threads)
    return measured(task, *arguments)


def report(label, n, seconds, cpu, megabytes):
    print(
        f"{label:32s} n = {n:5d} {n / seconds:5.0f} images/s {n / cpu:5.0f} per CPU second "
        f"+{megabytes:4.0f} MB",
        flush=True,
    )


def main():
    context = multiprocessing.get_context("spawn")
    for n in (1000, 4000):
        with context.Pool(2) as pool:
            halves = pool.starmap(run, [(1, share, n // 2, 0), (1, share, n // 2, n // 2)], 1)
        seconds, cpu, megabytes = np.array(halves).T
        report("two processes of one thread each", n, seconds.max(), cpu.sum(), megabytes.sum())
    for task, label in ((in_memory, "to an array"), (to_file, "to a memory map")):
        for n in (1000, 4000):
            with context.Pool(1) as pool:
                report(f"two threads, {label}", n, *pool.apply(run, (2, task, n)))


if __name__ == "__main__":
    main()
