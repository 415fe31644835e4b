"""One training in one process and in several, by `accelerate launch`: speed and equal losses.

    python benchmarks/scaling.py

A machine with several GPUs trains in 1, 2, 4 ... processes, one for each GPU. Any other machine
trains on the CPU: in one process and in two, with one thread each, and in one with two threads. The
recipe is the same, and so is the batch, which all processes share.

Start-up is left out. The clock's seconds are the seconds of the loop. CPU seconds (of all
processes) are those of a long training minus those of a short one. Other work on the machine slows
only the clock. So the speed-up compares the least seconds over the repeats, and the mean stands
beside them. outputs/benchmarks/scaling.csv keeps the table.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from lensnb import io

SHORT = 10
LONG = 60
REPEATS = 3
BATCH = 16
TOLERANCE = 1e-3  # relative difference of the losses
SETS = (  # trains the diffusion model alone
    "run=scaling threads={threads} data.n=1000 train.steps={steps} train.batch={batch} "
    "train.log_every=5 train.watch_every=0 "
    "'sample.methods={{dpm: {{sampler: dpmpp_2m, steps: 10}}}}'"
)


def settings() -> list[tuple[int, int]]:
    """(processes, threads of each) to compare; the first is the reference of the others."""
    import torch

    gpus = torch.cuda.device_count()
    if gpus > 1:
        return [(2**i, 1) for i in range(gpus.bit_length())]
    return [(1, 1), (2, 1), (1, 2)]


def command(processes: int, threads: int, steps: int) -> list[str]:
    """The command that trains."""
    launcher = []
    if processes > 1:
        # --multi_gpu without GPUs, too: --cpu would start one process alone.
        launcher = ["accelerate.commands.launch", "--multi_gpu", "--num_processes"]
        launcher += [str(processes), "-m"]
    sets = SETS.format(threads=threads, steps=steps, batch=BATCH)
    training = ["lensnb", "train", "params/quick.yaml", "--set", sets]
    return [sys.executable, "-m", *launcher, *training]


def cpu_seconds() -> float:
    """CPU seconds of all finished child processes."""
    return sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])


def train(
    folder: Path, processes: int, threads: int, steps: int
) -> tuple[float, float, np.ndarray]:
    """Seconds of the loop, CPU seconds of all processes with start-up, and the losses."""
    environment = os.environ | {"LENSNB_OUTPUTS": str(folder), "OMP_NUM_THREADS": str(threads)}
    before = cpu_seconds()
    done = subprocess.run(
        command(processes, threads, steps),
        env=environment,
        cwd=io.home(),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    cpu = cpu_seconds() - before
    model = folder / "scaling/models/diffusion"
    seconds = io.read_json(model / "timing.json")["seconds"]
    losses = io.read_table(model / "history.csv")["loss"]
    model.rename(folder / f"done-{time.monotonic_ns()}")  # the next training starts from nothing
    return seconds, cpu, losses


def measure(folder: Path, processes: int, threads: int) -> tuple[dict[str, Any], np.ndarray]:
    """A row of the table, means over the repeats with their standard errors, and the losses."""
    clock = []
    cpu = []
    for _ in range(REPEATS):
        _, short, _ = train(folder, processes, threads, SHORT)
        seconds, long, losses = train(folder, processes, threads, LONG)
        clock.append(seconds / LONG)
        cpu.append((long - short) / (LONG - SHORT))
    row: dict[str, Any] = {
        "processes": processes,
        "threads": threads,
        "updates": LONG * REPEATS,
        "seconds_least": min(clock),
        "images_per_second": BATCH / min(clock),
        "load": os.getloadavg()[0],
    }
    for name, values in (("seconds", clock), ("cpu_seconds", cpu)):
        row[name] = np.mean(values)
        row[f"{name}_error"] = np.std(values, ddof=1) / REPEATS**0.5
    return row, losses


def main() -> None:
    """Print a row for each setting and keep the table."""
    rows: list[dict[str, Any]] = []
    reference = None
    with tempfile.TemporaryDirectory() as folder:
        train(Path(folder), 1, 1, 2)  # makes the data
        for processes, threads in settings():
            row, losses = measure(Path(folder), processes, threads)
            rows.append(row)
            reference = losses if reference is None else reference
            speed_up = rows[0]["seconds_least"] / row["seconds_least"]
            row |= {
                "speed_up": speed_up,
                "efficiency": speed_up / (processes * threads),
                "cpu_efficiency": rows[0]["cpu_seconds"] / row["cpu_seconds"],
                "loss_differs": float(np.abs(losses / reference - 1).max()),
            }
            print(" ".join(f"{key} {value:.3g}" for key, value in row.items()), flush=True)
    path = io.home() / "outputs/benchmarks/scaling.csv"
    io.make_folder(path.parent)
    io.write_rows(path, rows)
    assert max(row["loss_differs"] for row in rows) < TOLERANCE


if __name__ == "__main__":
    main()
