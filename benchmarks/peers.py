"""lensnb beside what a user would take instead: speed, memory, and quality against training time.

    python benchmarks/peers.py [--minutes 4] [--n 64] [--threads 2] [--only lensnb ...] [--fast]

denoising-diffusion-pytorch, diffusers and smalldiffusion come into an environment of their own,
outputs/benchmarks/peers-env. All libraries train on the training images of params/quick.yaml in
batches of 16; all else is each library's own (see peers_worker.py).

Every measurement is a process of its own. The first gives training images a second and peak memory
(of the process on a CPU, of torch's tensors on a GPU). The second trains for --minutes, planned by
that speed, and draws n images a few times on the way; drawing does not count as training.

Writes outputs/benchmarks/peers.csv, peers.png and peers.pdf, and peers-gallery.png and .pdf with
images of the last point. Libraries that --only leaves out keep
their rows. --fast: torch.compile and bfloat16 for all.
"""

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

from lensnb import io
from lensnb.datasets.dataset import Scaling, load_dataset, prepare_dataset
from lensnb.display import figures
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
# Columns of peers.csv and the value of each where nothing was measured.
COLUMNS = {
    **dict.fromkeys(("library", "version", "torch", "torchvision", "device"), ""),
    **dict.fromkeys(("threads", "fast", "minutes"), NAN),
    **dict.fromkeys(("parameters", "images_per_second", "peak_gib"), NAN),
    "sampler": "",
    **dict.fromkeys(("n", "step", "seconds", "seconds_per_image"), NAN),
    "frechet_lensnet": NAN,
    "frechet_lensnet_error": NAN,
    "frechet_lensnet_floor": NAN,
    "frechet_lensnet_floor_error": NAN,
    "failed": "",
}

Row = dict[str, Any]


def environment(folder: Path) -> tuple[Path, dict[str, str]]:
    """The python of the peers' environment, and package -> why it could not be installed.

    The environment is made if it is not there.
    """
    python = folder / "bin" / "python"
    failed: dict[str, str] = {}
    wanted = f"torch=={torch.__version__.split('+')[0]}"
    marker = folder / "installed.json"
    pins = [wanted, *(f"{name}=={version}" for name, version in PACKAGES.items())]
    if marker.is_file() and json.loads(marker.read_text()) == pins:
        return python, failed
    done = subprocess.run([sys.executable, "-m", "venv", folder], capture_output=True, text=True)
    if done.returncode:
        return python, dict.fromkeys(PACKAGES, reason(done))
    for pin in pins:  # one by one: a package that cannot be had does not keep out the others
        install = [python, "-m", "pip", "install", "--quiet", wanted, pin]
        done = subprocess.run(install, capture_output=True, text=True)
        if done.returncode:
            failed[pin.split("==")[0]] = reason(done)
    if not failed:
        io.write_json(marker, pins)
    return python, failed


def reason(done: subprocess.CompletedProcess[str]) -> str:
    """Why a process failed: the last line that it wrote."""
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return (said or [f"exit {done.returncode}"])[-1][:200]


def measured(python: str | Path, folder: Path, **job: Any) -> Row:
    """One measurement in a process of its own: its result, or {"failed": why}."""
    (folder / "result.json").unlink(missing_ok=True)
    worker = Path(__file__).with_name("peers_worker.py")
    done = subprocess.run(
        [python, worker, json.dumps(job | {"folder": str(folder)})],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": str(job["threads"])},
    )
    return {"failed": reason(done)} if done.returncode else io.read_json(folder / "result.json")


def in_units(scaling: Scaling, images: np.ndarray) -> np.ndarray:
    """Images from scaled units in their own, clipped as lensnb clips its images.

    Far beyond the range, the inverse of an asinh overflows.
    """
    span = scaling.high - scaling.low
    return scaling.inverse(images.clip(scaling.low - span, scaling.high + span))


def distance(judge: Judge, images: np.ndarray) -> Row:
    """Frechet distance (LensNet) of images in scaled units, with error and floor.

    {"failed": why} if there is none.
    """
    images = in_units(judge.dataset.scaling, images)
    key = "frechet_lensnet"
    try:
        found = judge.compared(key, judge.makers[key](images), None)[key]
    except ValueError as error:
        return {"failed": str(error)}
    return {
        key: found["value"],
        f"{key}_error": found["error"],
        f"{key}_floor": found["floor"],
        f"{key}_floor_error": found["floor_error"],
    }


def compared(
    row: Row, python: str | Path, folder: Path, judge: Judge, args: argparse.Namespace
) -> list[Row]:
    """The rows of a library: `row` for each time that images were drawn.

    If there are none, one row has the reason.
    """
    library = row["library"]
    job = {"library": library, "threads": args.threads, "fast": args.fast, "n": judge.n}
    found = measured(python, folder, seconds=min(20, 20 * args.minutes), steps=10**6, **job)
    if "failed" not in found:
        row |= found
        print(
            f"{library}: {found['images_per_second']:.1f} images/s, "
            f"{found['peak_gib']:.2f} GiB, {found['torchvision']}",
            flush=True,
        )
        steps = max(10, round(60 * args.minutes * found["images_per_second"] / 16))
        found = measured(python, folder, seconds=0, steps=steps, **job)
    if "failed" in found:
        return [row | found]
    return [
        row | point | distance(judge, np.load(folder / f"{library}-{i}.npy"))
        for i, point in enumerate(found["points"])
    ]


def unmeasured(library: str, setting: Row) -> Row:
    """What is known of a library before it is measured, as a row."""
    version = PACKAGES.get(library) or importlib.metadata.version(library)
    known = {"library": library, "version": version, "sampler": SAMPLERS[library]}
    return COLUMNS | known | setting


def kept(path: Path, setting: Row, without: Sequence[str]) -> list[Row]:
    """The rows of an earlier table of the same setting, without those of some libraries."""
    table = io.read_table(path) if path.is_file() else {}
    rows = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]

    def stays(row: Row) -> bool:
        same = all(row[key] == value for key, value in setting.items())
        return same and row["library"] not in without

    return [row for row in rows if stays(row)]


def points_of(rows: Sequence[Row], library: str) -> np.ndarray:
    """(seconds, distance, error) of a library's finite points, in the order of time: (3, K)."""
    points = [
        [row[key] for key in ("seconds", "frechet_lensnet", "frechet_lensnet_error")]
        for row in finite(rows)
        if row["library"] == library
    ]
    return np.array(sorted(points)).reshape(-1, 3).T


def finite(rows: Sequence[Row]) -> list[Row]:
    """The rows that have a distance."""
    return [row for row in rows if np.isfinite(row["frechet_lensnet"])]


def reached(seconds: np.ndarray, values: np.ndarray, goal: float) -> str:
    """When the distance first falls to the goal, in words.

    Between two points it follows a line in both logarithms.
    """
    below = np.flatnonzero(values <= goal)
    if not len(below):
        return "not reached"
    i = below[0]
    if i == 0:
        return f"before {seconds[0]:.0f} s"
    share = np.log(values[i - 1] / goal) / np.log(values[i - 1] / values[i])
    return f"{seconds[i - 1] * (seconds[i] / seconds[i - 1]) ** share:.0f} s"


@figures.styled
def figure(rows: Sequence[Row]) -> Figure:
    """Distance to the held-out images against seconds of training: a line a library, the floor."""
    plot, axis = plt.subplots(figsize=(5, 3.6), layout="constrained")
    names = [name for name in SAMPLERS if points_of(rows, name).size]
    for name, shade in figures.colours(names).items():
        seconds, values, errors = points_of(rows, name)
        axis.errorbar(
            seconds, values, yerr=errors, marker="o", ms=3, lw=1.2, color=shade, label=name
        )
    row = finite(rows)[0]
    figures.show_floor(axis, row["frechet_lensnet_floor"], row["frechet_lensnet_floor_error"])
    axis.set(
        xscale="log",
        yscale="log",
        xlabel=f"time of training [s] ({row['device']})",
        ylabel=f"Frechet distance (LensNet) of {row['n']:.0f} images",
    )
    figures.plain_ticks(axis.xaxis)
    figures.plain_ticks(axis.yaxis)
    plot.legend(loc="outside upper center", ncols=2)
    return plot


def gallery(judge: Judge, folder: Path, shown: int = 8) -> Figure:
    """Held-out images, and the last ones of each library that has some in the folder."""
    images = {"real": judge.dataset.images[np.sort(judge.dataset.heldout)[:shown]]}
    for library in SAMPLERS:
        drawn = sorted(folder.glob(f"{library}-[0-9].npy"))
        if drawn:
            images[library] = in_units(judge.dataset.scaling, np.load(drawn[-1])[:shown])
    return figures.gallery(images, pixel_scale=judge.dataset.pixel_scale)


def report(rows: Sequence[Row], goal: float | None = None) -> None:
    """Print a line for each library, with the time to a distance.

    goal : that distance; the one that all libraries reach if not given.
    """
    points = {name: points_of(rows, name) for name in SAMPLERS}
    goal = goal or max((p[1].min() for p in points.values() if p.size), default=NAN)
    print(
        f"{'library':29s}{'version':>9s}{'parameters':>12s}{'images/s':>10s}{'peak GiB':>10s}"
        f"{'best distance':>32s}  to {goal:.1f}"
    )
    for row in {row["library"]: row for row in rows}.values():
        print(
            f"{row['library']:29s}{row['version']:>9s}{row['parameters']:12.0f}"
            f"{row['images_per_second']:10.1f}{row['peak_gib']:10.2f}"
            f"{_best(points[row['library']], goal, row['sampler'])} {row['failed']}"
        )
    for row in finite(rows)[:1]:
        floor = row["frechet_lensnet_floor"]
        error = row["frechet_lensnet_floor_error"]
        print(f"real vs real at n = {row['n']:.0f}: {floor:.1f} +- {error:.1f}")
    versions = {
        f"torch {row['torch']}, {row['torchvision'] or 'no torchvision'}: {row['library']}"
        for row in rows
        if row["torch"]
    }
    print(*sorted(versions), sep="\n")


def _best(points: np.ndarray, goal: float, sampler: str) -> str:
    """The least distance of a library and its time to the goal, in words; empty without points."""
    seconds, values, errors = points
    if not len(values):
        return ""
    i = values.argmin()
    best = f"{values[i]:.1f} +- {errors[i]:.1f} at {seconds[i]:.0f} s"
    return f"{best:>32s}  {reached(seconds, values, goal)}; {sampler}"


def arguments() -> argparse.Namespace:
    """What the command line asks for."""
    n = 256 if torch.cuda.is_available() else 64
    parser = argparse.ArgumentParser(description="lensnb beside its peers.")
    parser.add_argument("--minutes", type=float, default=4, help="training time of each library")
    parser.add_argument("--n", type=int, default=n, help="images drawn at each point")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=SAMPLERS, default=list(SAMPLERS))
    parser.add_argument(
        "--goal", type=float, help="the distance to time; if not given, the one that all reach"
    )
    parser.add_argument("--fast", action="store_true", help="torch.compile and bfloat16 for all")
    return parser.parse_args()


def prepared(args: argparse.Namespace, folder: Path) -> Judge:
    """The judge of all libraries; writes the dataset and train.npy, their training images."""
    overrides = (
        f"evaluate.n={args.n} sample.n={args.n} data.size=64 "
        "evaluate.bootstrap=100 evaluate.floors=20"
    )
    recipe = load_recipe(io.home() / "params/quick.yaml", overrides)
    prepare_dataset(recipe.data, recipe.seed, folder / "data")
    dataset = load_dataset(folder / "data")
    train = dataset.scaling.forward(dataset.images[dataset.train])
    np.save(folder / "train.npy", train.astype(np.float32))
    return Judge(recipe, dataset)


def tell(row: Row) -> None:
    """Print one point of a library."""
    found = row["failed"] or f"{row['frechet_lensnet']:9.1f} after {row['seconds']:.0f} s"
    print(f"{row['library']}: {found}", flush=True)


def main() -> None:
    """Measure library by library; the table is written after each."""
    args = arguments()
    torch.set_num_threads(args.threads)
    folder = io.home() / "outputs/benchmarks/peers"
    path = folder.parent / "peers.csv"
    judge = prepared(args, folder)
    python, failed = environment(folder.parent / "peers-env")
    setting = {
        "minutes": args.minutes,
        "threads": args.threads,
        "fast": float(args.fast),
        "n": judge.n,
    }
    rows = kept(path, setting, args.only)
    for library in args.only:
        found = [unmeasured(library, setting) | {"failed": failed.get(library, "")}]
        if not found[0]["failed"]:
            own = sys.executable if library == "lensnb" else python
            found = compared(found[0], own, folder, judge, args)
        for row in found:
            tell(row)
        rows += found
        io.write_table(path, {key: [row[key] for row in rows] for key in COLUMNS})
    if finite(rows):
        figures.save(figure(rows), path.parent, "peers")
        figures.save(gallery(judge, folder), path.parent, "peers-gallery")
    report(rows, args.goal)


if __name__ == "__main__":
    main()
