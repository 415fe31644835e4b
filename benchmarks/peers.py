"""lensnb beside what a user would take instead: speed, memory, and quality against training time.

    python benchmarks/peers.py [--minutes 4] [--n 64] [--threads 2] [--only lensnb diffusers] [--fast]

denoising-diffusion-pytorch, diffusers and smalldiffusion come into an environment of their own,
outputs/benchmarks/peers-env. All train on the training images of params/quick.yaml in batches of 16, on
networks of as many parameters; all else is each library's own (see peers_worker.py). Every measurement
is a process of its own: first training images a second and peak memory (of the process on a CPU, of
torch's tensors on a GPU), then a training of --minutes, planned by that speed, with n images drawn a few
times on the way; drawing does not count as training. Writes outputs/benchmarks/peers.csv, peers.png and
peers.pdf; libraries that --only leaves out keep their rows. --fast: torch.compile and bfloat16 for all.
"""

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn
import torch

from lensnb import io, metrics
from lensnb.datasets.dataset import load_dataset, prepare_dataset
from lensnb.display import figures
from lensnb.evaluation import uncertainty
from lensnb.evaluation.judge import Judge
from lensnb.recipes.recipe import load_recipe

PACKAGES = {
    "denoising-diffusion-pytorch": "2.3.4",
    "diffusers": "0.42.1",
    "smalldiffusion": "0.5.0",
    "torch-ema": "0.3",
}
SAMPLERS = {
    "lensnb": "DDIM, 50 steps",
    "denoising-diffusion-pytorch": "sampling_timesteps=50 (DDIM)",
    "diffusers": "DDIMScheduler, 50 steps",
    "smalldiffusion": "samples, 20 steps, gam=1.6",
}
NAN = float("nan")
COLUMNS = {
    "library": "",
    "version": "",
    "torch": "",
    "torchvision": "",
    "device": "",
    "threads": NAN,
    "fast": NAN,
    "minutes": NAN,
    "parameters": NAN,
    "images_per_second": NAN,
    "peak_gib": NAN,
    "sampler": "",
    "n": NAN,
    "step": NAN,
    "seconds": NAN,
    "seconds_per_image": NAN,
    "frechet_lensnet": NAN,
    "frechet_lensnet_error": NAN,
    "frechet_lensnet_floor": NAN,
    "frechet_lensnet_floor_error": NAN,
    "failed": "",
}


def environment(folder):
    """The python of the peers' environment, made where it is not there, and package -> why it could not be installed."""
    python = folder / "bin" / "python"
    failed = {}
    wanted = f"torch=={torch.__version__.split('+')[0]}"
    marker = folder / "installed.json"
    pins = [wanted, *(f"{name}=={version}" for name, version in PACKAGES.items())]
    if marker.is_file() and json.loads(marker.read_text()) == pins:
        return python, failed
    done = subprocess.run([sys.executable, "-m", "venv", folder], capture_output=True, text=True)
    if done.returncode:
        return python, dict.fromkeys(PACKAGES, reason(done))
    for pin in pins:  # one by one: what cannot be had does not keep out the others
        done = subprocess.run(
            [python, "-m", "pip", "install", "--quiet", wanted, pin], capture_output=True, text=True
        )
        failed |= {pin.split("==")[0]: reason(done)} if done.returncode else {}
    if not failed:
        io.write_json(marker, pins)
    return python, failed


def reason(done):
    """Why a process failed: the last thing that it said."""
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return (said or [f"exit {done.returncode}"])[-1][:200]


def measured(python, folder, **job):
    """One measurement in a process of its own: what it tells, or {"failed": why}."""
    (folder / "result.json").unlink(missing_ok=True)
    done = subprocess.run(
        [
            python,
            Path(__file__).with_name("peers_worker.py"),
            json.dumps(job | {"folder": str(folder)}),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(job["threads"])},
    )
    return {"failed": reason(done)} if done.returncode else io.read_json(folder / "result.json")


def distance(judge, images):
    """Frechet distance (LensNet) of images in scaled units, with error and floor; or why there is none."""
    scaling = judge.dataset.scaling
    span = (
        scaling.high - scaling.low
    )  # as lensnb's own drawing does: far beyond, an asinh's inverse overflows
    made = judge.makers["frechet_lensnet"](
        scaling.inverse(images.clip(scaling.low - span, scaling.high + span))
    )
    try:
        found = uncertainty.measure(
            metrics.frechet,
            made,
            judge.real["frechet_lensnet"],
            judge.others["frechet_lensnet"],
            "",
            100,
            20,
            judge.seed,
        )
    except ValueError as error:
        return {"failed": str(error)}
    return {
        "frechet_lensnet": found["value"],
        "frechet_lensnet_error": found["error"],
        "frechet_lensnet_floor": found["floor"],
        "frechet_lensnet_floor_error": found["floor_error"],
    }


def compared(row, python, folder, judge, args):
    """The rows of a library: `row` for each time that images were drawn, or once with the reason why there are none."""
    library = row["library"]
    job = {"library": library, "threads": args.threads, "fast": args.fast, "n": judge.n}
    told = measured(python, folder, seconds=min(20, 20 * args.minutes), steps=10**6, **job)
    if "failed" not in told:
        row |= told
        print(
            f"{library}: {told['images_per_second']:.1f} images/s, {told['peak_gib']:.2f} GiB, {told['torchvision']}",
            flush=True,
        )
        steps = max(10, round(60 * args.minutes * told["images_per_second"] / 16))
        told = measured(python, folder, seconds=0, steps=steps, **job)
    if "failed" in told:
        return [row | told]
    return [
        row | point | distance(judge, np.load(folder / f"{library}-{i}.npy"))
        for i, point in enumerate(told["points"])
    ]


def named(library, setting):
    """What is known of a library before it is measured, as a row."""
    version = PACKAGES.get(library) or importlib.metadata.version(library)
    return (
        COLUMNS | {"library": library, "version": version, "sampler": SAMPLERS[library]} | setting
    )


def kept(path, setting, without):
    """Rows of an earlier table that was made with the same setting, but for those of some libraries."""
    table = io.read_table(path) if path.is_file() else {}
    rows = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    return [
        row
        for row in rows
        if row["library"] not in without
        and all(row[key] == value for key, value in setting.items())
    ]


def own(rows, library):
    """(seconds, distance, error) of a library's finite points, as arrays, in the order of time."""
    points = [
        [row[key] for key in ("seconds", "frechet_lensnet", "frechet_lensnet_error")]
        for row in rows
        if row["library"] == library and np.isfinite(row["frechet_lensnet"])
    ]
    return np.array(sorted(points)).reshape(-1, 3).T


def reached(seconds, values, goal):
    """When the distance first falls to the goal, in words; between two points along a line in both logarithms."""
    below = np.flatnonzero(values <= goal)
    if not len(below):
        return "not reached"
    i = below[0]
    if i == 0:
        return f"before {seconds[0]:.0f} s"
    share = np.log(values[i - 1] / goal) / np.log(values[i - 1] / values[i])
    return f"{seconds[i - 1] * (seconds[i] / seconds[i - 1]) ** share:.0f} s"


@figures.styled
def figure(rows):
    """Distance to the held-out images against seconds of training, one line a library, with the floor."""
    plot, axis = plt.subplots(figsize=(5, 3.6), layout="constrained")
    names = [name for name in SAMPLERS if own(rows, name).size]
    for name, shade in zip(names, seaborn.color_palette("colorblind", len(names)), strict=True):
        seconds, values, errors = own(rows, name)
        axis.errorbar(
            seconds, values, yerr=errors, marker="o", ms=3, lw=1.2, color=shade, label=name
        )
    row = next(row for row in rows if np.isfinite(row["frechet_lensnet"]))
    floor = row["frechet_lensnet_floor"]
    scatter = row["frechet_lensnet_floor_error"]
    axis.axhspan(
        max(floor - scatter, 0.5 * floor),
        floor + scatter,
        color=figures.REAL,
        alpha=0.15,
        lw=0,
        label="real vs real",
    )
    axis.set(
        xscale="log",
        yscale="log",
        xlabel=f"seconds of training ({row['device']})",
        ylabel=f"Frechet distance (LensNet) of {row['n']:.0f} images",
    )
    plot.legend(loc="outside upper center", ncols=2)
    return plot


def report(rows, goal=None):
    """Print a line for each library. Without a goal it is the distance that all of them reach."""
    best = {name: own(rows, name) for name in SAMPLERS}
    goal = goal or max((points[1].min() for points in best.values() if points.size), default=NAN)
    print(
        f"{'library':29s}{'version':>9s}{'parameters':>12s}{'images/s':>10s}{'peak GiB':>10s}{'best distance':>32s}  to {goal:.1f}"
    )
    for row in {row["library"]: row for row in rows}.values():
        line = f"{row['library']:29s}{row['version']:>9s}{row['parameters']:12.0f}{row['images_per_second']:10.1f}{row['peak_gib']:10.2f}"
        seconds, values, errors = best[row["library"]]
        if len(values):
            i = values.argmin()
            line += f"{f'{values[i]:.1f} +- {errors[i]:.1f} at {seconds[i]:.0f} s':>32s}  {reached(seconds, values, goal)}; {row['sampler']}"
        print(line, row["failed"])
    for row in [row for row in rows if np.isfinite(row["frechet_lensnet"])][:1]:
        print(
            f"real vs real at n = {row['n']:.0f}: {row['fld_floor']:.1f} +- {row['fld_floor_error']:.1f}"
        )
    print(
        *sorted(
            {
                f"torch {row['torch']}, {row['torchvision'] or 'no torchvision'}: {row['library']}"
                for row in rows
                if row["torch"]
            }
        ),
        sep="\n",
    )


def arguments():
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description="lensnb beside its peers.")
    parser.add_argument("--minutes", type=float, default=4, help="training time of each library")
    parser.add_argument(
        "--n",
        type=int,
        default=256 if torch.cuda.is_available() else 64,
        help="images drawn at each point",
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=SAMPLERS, default=list(SAMPLERS))
    parser.add_argument(
        "--goal", type=float, help="the distance to time; what all reach, if not given"
    )
    parser.add_argument("--fast", action="store_true", help="torch.compile and bfloat16 for all")
    return parser.parse_args()


def main():
    """Measure library by library; the table is written after each."""
    args = arguments()
    folder = io.home() / "outputs/benchmarks/peers"
    torch.set_num_threads(args.threads)
    recipe = load_recipe(
        io.home() / "params/quick.yaml", f"evaluate.n={args.n} sample.n={args.n} data.size=64"
    )
    prepare_dataset(recipe.data, recipe.seed, folder / "data")
    dataset = load_dataset(folder / "data")
    path = folder.parent / "peers.csv"
    np.save(
        folder / "train.npy",
        dataset.scaling.forward(dataset.images[dataset.train]).astype(np.float32),
    )
    judge = Judge(recipe, dataset)
    python, failed = environment(folder.parent / "peers-env")
    setting = {
        "minutes": args.minutes,
        "threads": args.threads,
        "fast": float(args.fast),
        "n": judge.n,
    }
    rows = kept(path, setting, args.only)
    for library in args.only:
        row = named(library, setting) | {"failed": failed.get(library, "")}
        found = (
            [row]
            if row["failed"]
            else compared(
                row, sys.executable if library == "lensnb" else python, folder, judge, args
            )
        )
        for row in found:
            print(
                f"{library}: {row['failed']}"
                if row["failed"]
                else f"{library}: {row['fld']:9.1f} after {row['seconds']:.0f} s",
                flush=True,
            )
        rows += found
        io.write_table(path, {key: [row[key] for row in rows] for key in COLUMNS})
    if any(np.isfinite(row["frechet_lensnet"]) for row in rows):
        figures.save(figure(rows), path.parent, "peers")
    report(rows, args.goal)


if __name__ == "__main__":
    main()
