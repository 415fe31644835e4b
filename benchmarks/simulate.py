"""Images per second and memory of the simulator: python benchmarks/simulate.py

First by priors, in one process of one thread: CPU time an image, and the share of it that the
truth tables take. Then as 01_data calls it (data.workers), the start of the processes included.
Then threads, which help less. Last on a GPU, if there is one. On a machine with other work, compare
images per CPU second, not images per second.
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

from lensnb.lensing.priors import PRIORS, get_prior
from lensnb.lensing.simulate import BATCH, render, simulate
from lensnb.lensing.truth_tables import draw_truth
from lensnb.lensing.workers import cores, simulate_file

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


def chain(n, workers):
    """What 01_data does with so many processes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        np.lib.format.open_memmap(path, "w+", np.float32, (n, 1, 64, 64))
        simulate_file(path, workers=workers)


def run(threads, task, *arguments):
    torch.set_num_threads(threads)
    return measured(task, *arguments)


def by_prior(name, n=256):
    """CPU milliseconds an image of one process, and the share of its truth table."""
    torch.set_num_threads(1)
    simulate(16, name)
    began = time.process_time()
    truth = draw_truth(n, name)
    table = time.process_time() - began
    for start in range(0, n, BATCH):
        render({column: values[start : start + BATCH] for column, values in truth.items()}, name)
    return (time.process_time() - began) / n * 1e3, table / (time.process_time() - began)


def on_gpu(name, n=20_000):
    """Images a second on a GPU, copied back to memory; the second of two runs."""
    out = np.empty((n, 1, get_prior(name).size, get_prior(name).size), np.float32)
    for _ in range(2):
        began = time.perf_counter()
        simulate(n, name, device="cuda", out=out)
        seconds = time.perf_counter() - began
    return n / seconds


def report(label, n, seconds, cpu, megabytes):
    print(
        f"{label:32s} n = {n:5d} {n / seconds:5.0f} images/s {n / cpu:5.0f} per CPU second "
        f"+{megabytes:4.0f} MB",
        flush=True,
    )


def main():
    context = multiprocessing.get_context("spawn")
    for name in PRIORS:
        with context.Pool(1) as pool:
            milliseconds, share = pool.apply(by_prior, (name,))
        print(f"{name:32s} {milliseconds:.2f} CPU ms an image, truth tables {share:.1%}")
    for workers in sorted({1, 2, cores()}):
        for n in (5000, 20_000):
            began = time.perf_counter()
            chain(n, workers)
            rate = n / (time.perf_counter() - began)
            print(f"{f'01_data, {workers} processes':32s} n = {n:5d} {rate:5.0f} images/s")
    for task, label in ((in_memory, "to an array"), (to_file, "to a memory map")):
        with context.Pool(1) as pool:
            report(f"two threads, {label}", 2000, *pool.apply(run, (2, task, 2000)))
    if torch.cuda.is_available():
        for name in PRIORS:
            print(f"{name:32s} {on_gpu(name):6.0f} images/s on {torch.cuda.get_device_name()}")


if __name__ == "__main__":
    main()
