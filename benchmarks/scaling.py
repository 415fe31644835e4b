"""One training in one process and in many, by `accelerate launch`: updates a second, speed-up, efficiency, and whether the losses agree.

    python benchmarks/scaling.py

On a machine with several GPUs in 1, 2, 4 ... processes, one to each; else in one and in two on the CPU, one thread each, and in one
with two threads. The recipe is the same, and with it the batch, which is that of all processes together. Start-up is left out:
the clock's seconds are those of the loop, CPU seconds (of all processes) those of a long training less a short one. Other work on
the machine slows the clock alone, so that its least over the repeats is held against the others' least, and the mean
is told beside it. outputs/benchmarks/scaling.csv keeps the table.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from lensnb import io

SHORT = 10
LONG = 60
REPEATS = 3
BATCH = 16
SETS = (
    "run=scaling threads={threads} data.n=1000 train.steps={steps} train.batch={batch} train.log_every=5 train.watch_every=0 "
    "'sample.methods={{dpm: {{sampler: dpmpp_2m, steps: 10}}}}'"
)  # the diffusion model alone


def ways():
    """(processes, threads of each) to compare; the others are held against the first."""
    import torch

    cards = torch.cuda.device_count()
    return [(2**i, 1) for i in range(cards.bit_length())] if cards > 1 else [(1, 1), (2, 1), (1, 2)]


def command(processes, threads, steps):
    """The one line that trains."""
    launcher = [
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        str(processes),
        "-m",
    ]  # without GPUs, too: --cpu starts one alone
    return [
        sys.executable,
        "-m",
        *(launcher if processes > 1 else []),
        "lensnb.apps.launch",
        "params/quick.yaml",
        "--set",
        SETS.format(threads=threads, steps=steps, batch=BATCH),
    ]


def spent(folder, processes, threads, steps):
    """Seconds of the loop and CPU seconds of all processes, start-up included, that a training takes; its losses."""
    environment = os.environ | {"LENSNB_OUTPUTS": str(folder), "OMP_NUM_THREADS": str(threads)}

    def cpu():
        return sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])

    before = cpu()
    done = subprocess.run(
        command(processes, threads, steps),
        env=environment,
        cwd=io.home(),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    taken = cpu() - before
    model = folder / "scaling/models/diffusion"
    seconds = io.read_json(model / "timing.json")["seconds"]
    losses = io.read_table(model / "history.csv")["loss"]
    model.rename(folder / f"done-{time.monotonic_ns()}")  # the next one starts from nothing
    return seconds, taken, losses


def measured(folder, processes, threads):
    """A row of the table: means over the repeats, with their standard errors."""
    walls = []
    cpus = []
    losses = None
    for _ in range(REPEATS):
        _, short, _ = spent(folder, processes, threads, SHORT)
        wall, long, losses = spent(folder, processes, threads, LONG)
        walls.append(wall / LONG)
        cpus.append((long - short) / (LONG - SHORT))
    told = {
        "seconds_least": min(walls),
        "images_per_second": BATCH / min(walls),
        "load": os.getloadavg()[0],
    }
    for name, values in (("seconds", walls), ("cpu_seconds", cpus)):
        told |= {name: np.mean(values), f"{name}_error": np.std(values, ddof=1) / REPEATS**0.5}
    return {"processes": processes, "threads": threads, "updates": LONG * REPEATS, **told}, losses


def main():
    """Print a row for each way and keep the table."""
    rows = []
    first = None
    with tempfile.TemporaryDirectory() as folder:
        spent(Path(folder), 1, 1, 2)  # the data, once
        for way in ways():
            row, losses = measured(Path(folder), *way)
            rows.append(row)
            first = losses if first is None else first
            speed_up = rows[0]["seconds_least"] / row["seconds_least"]
            row |= {
                "speed_up": speed_up,
                "efficiency": speed_up / (way[0] * way[1]),
                "cpu_efficiency": rows[0]["cpu_seconds"] / row["cpu_seconds"],
                "loss_differs": float(np.abs(losses / first - 1).max()),
            }
            print(" ".join(f"{key} {value:.3g}" for key, value in row.items()), flush=True)
    path = io.home() / "outputs/benchmarks/scaling.csv"
    io.make_folder(path.parent)
    io.write_rows(path, rows)
    assert max(row["loss_differs"] for row in rows) < 1e-3


if __name__ == "__main__":
    main()
