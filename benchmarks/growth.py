"""How time, memory and disk grow with the number of images, their side, the width of the network and the batch.

    python benchmarks/growth.py [--full] [curve ...]

Every point is measured in a process of its own, after its imports, with one thread: CPU seconds, so that other work on the machine
hardly counts; the peak of the memory that no file backs, beyond what it was before the work; bytes on disk. The
table outputs/benchmarks/growth.csv keeps them, and a benchmark that broke off goes on from there; growth.png and
growth.pdf show them, and the exponents are printed. --full goes up to 100,000 images, in about an hour of one core.
"""

import argparse
import multiprocessing
import os
import resource
import shutil
import threading
import time
from pathlib import Path

os.environ |= {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
}  # for the processes that measure

import numpy as np

from lensnb import io
from lensnb.display import figures

HOME = io.home() / (os.environ.get("LENSNB_OUTPUTS") or "outputs") / "benchmarks"
SCRATCH = HOME / "growth-data"
MEGABYTE = 2**20
COPIES = 2500  # generated images that are looked for among the training images


class Parts(dict):
    """CPU seconds of the parts of some work, one number or several of each."""


# ---- what is measured: each gets a size ready, and returns the work, which may give Parts


def simulated(n):
    """Simulated, split and scaled: what 01_data does."""
    from lensnb.datasets.dataset import prepare_dataset
    from lensnb.recipes.schema import Data

    shutil.rmtree(SCRATCH / str(n), ignore_errors=True)
    return lambda: prepare_dataset(Data(n=n), 0, SCRATCH / str(n))


def stock(n):
    """A Dataset of n simulated images of 64x64 or of more, where there is one; else it is made."""
    from lensnb.datasets.dataset import load_dataset

    there = sorted(
        int(p.parent.name)
        for p in SCRATCH.glob("*/dataset.json")
        if p.parent.name.isdigit() and int(p.parent.name) >= n
    )
    if not there:
        simulated(n)()
    return load_dataset(SCRATCH / str((there or [n])[0]))


def opened(n):
    """Read back: tables at once, images where they lie."""
    stock(n)
    return lambda: stock(n)


def of_side(size):
    """A thousand images of so many pixels on a side."""
    from lensnb.datasets.dataset import prepare_dataset
    from lensnb.recipes.schema import Data

    return lambda: prepare_dataset(Data(n=1000, size=size), 0, SCRATCH / f"side-{size}")


def copies(n):
    """2,500 images looked for among nine tenths of n, of which the other tenth is held out."""
    from lensnb.evaluation import memorisation

    dataset = stock(n)
    made = dataset.images[:COPIES]
    return lambda: memorisation.memorised(
        made, dataset.part(dataset.train[: n - n // 10]), dataset.part(dataset.heldout[: n // 10])
    )


def drawn(method, n):
    """Images of an untrained network of width 48, written as they come: what 03_sample does."""
    from lensnb import generator, io
    from lensnb.recipes.recipe import Params

    recipe = Params(device="cpu", model={"width": 48})
    dataset = stock(1000)
    method = recipe.sample.methods[method]
    generator = generator.Generator(
        recipe, method, dataset, generator.untrained(method.model, recipe, dataset).eval(), "cpu"
    )
    return lambda: io.write_images(
        SCRATCH / "drawn.npy", (n, *dataset.images.shape[1:]), generator.batches(n)
    )


def updates(size=64, batch=16, width=48, times=6):
    """Updates of the diffusion model of the quick recipe, after two to warm up."""
    from types import SimpleNamespace

    import torch

    from lensnb.datasets.dataset import Scaling
    from lensnb.recipes.recipe import Params
    from lensnb.training import loop
    from lensnb.training.accelerator import make_accelerator

    recipe = Params(device="cpu", model={"width": width}, train={"batch": batch})
    dataset = SimpleNamespace(
        images=np.zeros((1, 1, size, size), np.float32),
        classes=(),
        labels=None,
        truth={},
        sigma_data=0.5,
        scaling=Scaling("linear", 1, 0, 1, -1, 1),
    )
    x = torch.randn(batch, 1, size, size)
    generator = torch.Generator().manual_seed(0)

    def work():
        task = loop.task("diffusion", recipe, dataset, make_accelerator("cpu"))
        return Parts(
            {
                "": [
                    seconds(lambda k=k: task.step(k, x, None, generator)) for k in range(times + 2)
                ][2:]
            }
        )

    return work


def measured_on(n):
    """n images, n held-out ones and 4 n others measured: features, spectra, profiles, morphology."""
    from lensnb.evaluation.judge import Judge
    from lensnb.recipes.recipe import Params

    dataset = stock(10 * n)
    recipe = Params(evaluate={"n": n, "fit": 0}, sample={"n": n})
    return lambda: Judge(recipe, dataset).rows(dataset.part(dataset.train[-n:]))


def compared(n):
    """One value of each kind of distance between two sets of n rows as LensNet gives them, capped as in the evaluation."""
    from lensnb import metrics
    from lensnb.evaluation import morphology
    from lensnb.evaluation.measures import MOST, area_under_curve

    rows = np.random.default_rng(0).normal(size=(2, n, 64))
    calls = {
        "Frechet": metrics.frechet,
        "kernel": metrics.kid,
        "Wasserstein": morphology.wasserstein_columns,
        "neighbours": metrics.neighbours,
        "told apart": area_under_curve,
    }
    most = {"neighbours": MOST, "told apart": MOST}
    return lambda: Parts(
        {
            name: seconds(lambda d=distance, m=most.get(name): d(*rows[:, :m]))
            for name, distance in calls.items()
        }
    )


IMAGES = "images"
SIDE = "pixels on a side"
MANY = (1000, 10_000, 100_000)
FEW = (300, 1000, 3000)
CURVES = {  # name -> (x axis, what is measured, sizes, sizes of --full)
    "simulated": (IMAGES, simulated, FEW, MANY),
    "opened": (IMAGES, opened, FEW, MANY),
    "searched for copies": (IMAGES, copies, (1000, 3000), (10_000, 30_000, 100_000)),
    "drawn by the GAN": (
        IMAGES,
        lambda n: drawn("gan", n),
        (30, 100, 300),
        (100, 1000, 10_000, 100_000),
    ),
    "drawn by DPM-Solver++": (
        IMAGES,
        lambda n: drawn("dpm", n),
        (30, 100, 300),
        (100, 300, 1000, 3000),
    ),
    "measured": ("images on each side", measured_on, (100, 300), (300, 1000, 3000)),
    "distance": ("images on each side", compared, (300, 1000), (1000, 3000, 10_000, 30_000)),
    "1,000 images simulated": (SIDE, of_side, (32, 64), (32, 64, 128)),
    "update": (SIDE, lambda size: updates(size=size), (32, 64, 128), (32, 64, 128)),
    "update at batch 16": (
        "width of the network [channels]",
        lambda width: updates(width=width),
        (32, 64),
        (32, 48, 64, 96, 128),
    ),
    "update at width 48": (
        "batch [images]",
        lambda batch: updates(batch=batch),
        (8, 16, 32),
        (8, 16, 32, 64, 128),
    ),
}


# ---- how it is measured


def seconds(call):
    """CPU seconds of a call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def held():
    """Bytes that this process holds and no file backs."""
    return next(
        1024 * int(line.split()[1])
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("RssAnon")
    )


def point(curve, size):
    """One row for each part of the work of a curve at a size; called in a fresh process."""
    import torch

    torch.set_num_threads(1)
    work = CURVES[curve][1](size)
    done = threading.Event()
    before = peak = held()

    def watch():
        nonlocal peak
        while not done.wait(0.02):
            peak = max(peak, held())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.process_time()
    parts = work()
    whole = time.process_time() - start
    done.set()
    watcher.join()
    folder = {
        "simulated": SCRATCH / str(size),
        "1,000 images simulated": SCRATCH / f"side-{size}",
    }.get(curve)
    disk = sum(p.stat().st_size for p in folder.iterdir()) if folder else 0
    row = {
        "curve": curve,
        "size": size,
        "megabytes": (max(peak, held()) - before) / MEGABYTE,
        "resident": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "disk": disk / MEGABYTE,
    }
    parts = parts if isinstance(parts, Parts) else {"": whole}
    times = {part: np.atleast_1d(value) for part, value in parts.items()}
    return [
        row
        | {
            "part": part,
            "seconds": t.mean(),
            "error": t.std(ddof=1) / len(t) ** 0.5 if len(t) > 1 else 0.0,
            "times": len(t),
        }
        for part, t in times.items()
    ]


def measured(full, curves):
    """All points of the curves; those that are not in the table yet are measured now, first the images that others use, then the cheap ones."""
    path = HOME / "growth.csv"
    io.make_folder(path.parent)
    table = io.read_table(path) if path.is_file() else {}
    rows = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    wanted = [(curve, size) for curve in curves for size in CURVES[curve][2 + full]]
    there = {(row["curve"], int(row["size"])) for row in rows}
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(
        [
            "lensnb.evaluation.judge",
            "lensnb.training.loop",
            "lensnb.lensing.simulate",
            "caustics.light.func",
            "scipy.stats",
            "scipy.interpolate",
        ]
    )
    for curve, size in sorted(
        set(wanted) - there, key=lambda p: (p[0] != "simulated", p[1] * COST.get(p[0], 0.1), p)
    ):
        with server.Pool(1) as pool:
            new = pool.apply(point, (curve, size))
        rows += new
        io.write_rows(path, rows)
        for row in new:
            print(
                f"{curve:24s}{row['part']:20s}{size:8d}{row['seconds']:10.3f} s +- {row['error']:.3f}{row['megabytes']:8.0f} MB"
                f"{row['disk']:8.0f} MB on disk",
                flush=True,
            )
    return [row for row in rows if (row["curve"], int(row["size"])) in wanted]


COST = {
    "measured": 0.05,
    "drawn by DPM-Solver++": 0.02,
    "drawn by the GAN": 2e-3,
    "opened": 3e-5,
    "searched for copies": 4e-4,
}  # rough seconds an image


# ---- what it says


def slope(x, y, last=3):
    """The exponent of y ~ x^p over the last few sizes, which small fixed costs no longer flatten, and its standard error."""
    from scipy import stats

    fit = stats.linregress(np.log(x[-last:]), np.log(y[-last:]))
    return fit.slope, fit.stderr if len(x) > 2 else np.nan


def panels(rows):
    """x axis -> kind -> label with its exponent -> (sizes, values)."""
    found = {}
    for name, key in dict.fromkeys((row["curve"], row["part"]) for row in rows):
        own = sorted(
            (row for row in rows if (row["curve"], row["part"]) == (name, key)),
            key=lambda row: row["size"],
        )
        size = np.array([row["size"] for row in own], float)
        kinds = (
            {"CPU time [s]": ("seconds", key or name)}
            | ({"memory [MiB]": ("megabytes", name)} if key in ("", "Frechet") else {})
            | ({"disk": ("disk", f"{name}, on disk")} if own[0]["disk"] else {})
        )
        for kind, (column, label) in kinds.items():
            value = np.array(
                [max(row[column], 0.1 if column == "megabytes" else 1e-4) for row in own]
            )
            exponent, error = slope(size, value)
            print(
                f"{label:34s}{kind:14s} exponent {exponent:6.2f} +- {error:.2f}  ({value[0]:.4g} at {size[0]:.0f} to {value[-1]:.4g} at {size[-1]:.0f})"
            )
            panel = found.setdefault(CURVES[name][0], {}).setdefault(
                "memory [MiB]" if kind == "disk" else kind, {}
            )
            panel[f"{label}: {exponent:.2f} ± {error:.2f}"] = size, value
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="up to 100,000 images")
    parser.add_argument(
        "curves",
        nargs="*",
        metavar="curve",
        help=f"which of them: {', '.join(CURVES)}; all, if none is named",
    )
    given = parser.parse_args()
    rows = measured(given.full, given.curves or list(CURVES))
    shutil.rmtree(SCRATCH, ignore_errors=True)
    figures.save(figures.growth(panels(rows)), HOME, "growth")


if __name__ == "__main__":
    main()
