"""The work that benchmarks/growth.py measures; by itself it does nothing.

Each function gets a size ready and returns the work, a function without arguments. The work may
return Parts.
"""

import os
import shutil
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from lensnb import io

HOME = io.home() / (os.environ.get("LENSNB_OUTPUTS") or "outputs") / "benchmarks"
SCRATCH = HOME / "growth-data"
COPIES = 2500  # generated images that are searched for among the training images


class Parts(dict[str, Any]):
    """Part of some work -> its CPU seconds, one number or several."""


Work = Callable[[], Any]


def seconds(call: Work) -> float:
    """CPU seconds of a call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def simulated(n: int) -> Work:
    """Images are simulated, split and scaled, as in notebook 01_data."""
    from lensnb.datasets.dataset import prepare_dataset
    from lensnb.recipes.schema import Data

    shutil.rmtree(SCRATCH / str(n), ignore_errors=True)
    return lambda: prepare_dataset(Data(n=n), 0, SCRATCH / str(n))


def stock(n: int) -> Any:
    """A Dataset of at least n simulated images of 64x64; it is made if there is none."""
    from lensnb.datasets.dataset import load_dataset

    sizes = [int(p.parent.name) for p in SCRATCH.glob("*/dataset.json") if p.parent.name.isdigit()]
    enough = sorted(size for size in sizes if size >= n)
    if not enough:
        simulated(n)()
    return load_dataset(SCRATCH / str((enough or [n])[0]))


def opened(n: int) -> Work:
    """A dataset is opened: its tables are read, its images stay where they lie."""
    stock(n)
    return lambda: stock(n)


def of_side(size: int) -> Work:
    """A thousand images of `size` pixels on a side are simulated."""
    from lensnb.datasets.dataset import prepare_dataset
    from lensnb.recipes.schema import Data

    return lambda: prepare_dataset(Data(n=1000, size=size), 0, SCRATCH / f"side-{size}")


def copies(n: int) -> Work:
    """COPIES images are searched for among nine tenths of n; the other tenth is held out."""
    from lensnb.evaluation import memorisation

    dataset = stock(n)
    made = dataset.images[:COPIES]
    train = dataset.train[: n - n // 10]
    heldout = dataset.heldout[: n // 10]
    return lambda: memorisation.memorised(made, dataset.part(train), dataset.part(heldout))


def drawn(method: str, n: int) -> Work:
    """Images of an untrained network of width 48 are drawn and written, as in 03_sample."""
    from lensnb import generator
    from lensnb.recipes.recipe import Params

    recipe = Params(device="cpu", model={"width": 48})
    dataset = stock(1000)
    chosen = recipe.sample.methods[method]
    net = generator.untrained(chosen.model, recipe, dataset).eval()
    drawer = generator.Generator(recipe, chosen, dataset, net, "cpu")
    shape = (n, *dataset.images.shape[1:])
    return lambda: io.write_images(SCRATCH / "drawn.npy", shape, drawer.batches(n))


def drawn_by_gan(n: int) -> Work:
    """The GAN draws n images."""
    return drawn("gan", n)


def drawn_by_dpm(n: int) -> Work:
    """DPM-Solver++ draws n images."""
    return drawn("dpm", n)


def updates(size: int = 64, batch: int = 16, width: int = 48, times: int = 6) -> Work:
    """Updates of the quick recipe's diffusion model, after two to warm up."""
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

    def work() -> Parts:
        task = loop.task("diffusion", recipe, dataset, make_accelerator("cpu"))

        def update(k: int) -> float:
            return seconds(lambda: task.step(k, x, None, generator))

        return Parts({"": [update(k) for k in range(times + 2)][2:]})

    return work


def updates_by_size(size: int) -> Work:
    """Updates on images of `size` pixels on a side."""
    return updates(size=size)


def updates_by_width(width: int) -> Work:
    """Updates of a network of `width` channels."""
    return updates(width=width)


def updates_by_batch(batch: int) -> Work:
    """Updates on `batch` images each."""
    return updates(batch=batch)


def measured(n: int) -> Work:
    """n images, n held-out and 4 n other images become rows of all measures."""
    from lensnb.evaluation.judge import Judge
    from lensnb.recipes.recipe import Params

    dataset = stock(10 * n)
    recipe = Params(evaluate={"n": n, "fit": 0}, sample={"n": n})
    return lambda: Judge(recipe, dataset).rows(dataset.part(dataset.train[-n:]))


def compared(n: int) -> Work:
    """Each kind of distance between two sets of n rows like LensNet's, capped as in the judge."""
    from lensnb import metrics
    from lensnb.evaluation import measures, morphology

    rows = np.random.default_rng(0).normal(size=(2, n, 64))
    distances: dict[str, tuple[Callable[..., Any], int | None]] = {
        "Frechet": (metrics.frechet, None),
        "kernel": (metrics.kid, None),
        "Wasserstein": (morphology.wasserstein_columns, None),
        "neighbours": (metrics.neighbours, measures.MOST),
        "told apart": (measures.area_under_curve, measures.MOST),
    }

    def timed(distance: Callable[..., Any], most: int | None) -> float:
        return seconds(lambda: distance(*rows[:, :most]))

    return lambda: Parts({name: timed(*how) for name, how in distances.items()})


class Curve(NamedTuple):
    """What is measured along one curve.

    axis : what grows; work : size -> Work; sizes, and full_sizes of --full
    cost : rough seconds an image, which decide the order of the points
    """

    axis: str
    work: Callable[[int], Work]
    sizes: tuple[int, ...]
    full_sizes: tuple[int, ...]
    cost: float = 0.1


IMAGES = "images"
ON_A_SIDE = "images on each side"
SIDE = "pixels on a side"
WIDTH = "width of the network [channels]"
BATCH = "batch [images]"
FEW = (300, 1000, 3000)
MANY = (1000, 10_000, 100_000)
DRAWN = (30, 100, 300)

CURVES = {
    "simulated": Curve(IMAGES, simulated, FEW, MANY),
    "opened": Curve(IMAGES, opened, FEW, MANY, 3e-5),
    "searched for copies": Curve(IMAGES, copies, (1000, 3000), (10_000, 30_000, 100_000), 4e-4),
    "drawn by the GAN": Curve(IMAGES, drawn_by_gan, DRAWN, (100, 1000, 10_000, 100_000), 2e-3),
    "drawn by DPM-Solver++": Curve(IMAGES, drawn_by_dpm, DRAWN, (100, 300, 1000, 3000), 0.02),
    "measured": Curve(ON_A_SIDE, measured, (100, 300), (300, 1000, 3000), 0.05),
    "distance": Curve(ON_A_SIDE, compared, (300, 1000), (1000, 3000, 10_000, 30_000)),
    "1,000 images simulated": Curve(SIDE, of_side, (32, 64), (32, 64, 128)),
    "update": Curve(SIDE, updates_by_size, (32, 64, 128), (32, 64, 128)),
    "update at batch 16": Curve(WIDTH, updates_by_width, (32, 64), (32, 48, 64, 96, 128)),
    "update at width 48": Curve(BATCH, updates_by_batch, (8, 16, 32), (8, 16, 32, 64, 128)),
}
