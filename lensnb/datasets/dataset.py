"""Any source of images to one array, labels, truth, a split and a reversible scaling.

Images are read back memory-mapped and worked on in chunks, so that memory stays constant however
many there are.
"""

import dataclasses
import math
from pathlib import Path

import numpy as np
import torch

from lensnb import io
from lensnb.datasets import arrays, sources
from lensnb.errors import InputError, nearest
from lensnb.seeds import Purpose, derived_seed

SIGMA_DATA = 0.5  # standard deviation that linear and asinh scaling aim at (EDM, Table 1)
WATCHED = 256  # held-out images that trainings may be watched on
KINDS = ("linear", "minmax", "asinh", "range")


@dataclasses.dataclass(frozen=True)
class Scaling:
    """A reversible map between the user's units and what models see, about [-1, 1].

    forward(x) = (f(x) - offset) / scale, where f is asinh(x / softening) for kind "asinh" and the
    identity otherwise. `low` and `high` bound the scaled training pixels. `dataclasses.asdict`
    gives a JSON-able mapping and `Scaling(**mapping)` reads it.
    """

    kind: str
    softening: float
    offset: float
    scale: float
    low: float
    high: float

    def forward(self, x):
        """Scaled images from images in the user's units: arrays or tensors of any shape and device."""
        asinh = torch.asinh if isinstance(x, torch.Tensor) else np.arcsinh
        return (
            (asinh(x / self.softening) if self.kind == "asinh" else x) - self.offset
        ) / self.scale

    def inverse(self, y):
        """Images in the user's units from scaled ones."""
        y = y * self.scale + self.offset
        sinh = torch.sinh if isinstance(y, torch.Tensor) else np.sinh
        return sinh(y) * self.softening if self.kind == "asinh" else y

    @classmethod
    def fit(cls, images, kind, rows=None):
        """The scaling for training images (N, C, H, W); `rows` picks them from a larger memory map.

        "linear" and "asinh" bring the pixels to mean 0 and standard deviation 0.5; "range" brings
        the smallest of all pixels to -1 and the largest to 1; "minmax" takes images that span [0, 1]
        each, and maps that to [-1, 1]. Raises InputError if `kind` is unknown or all pixels are equal.
        """
        if kind not in KINDS:
            raise InputError(
                f"scaling {kind!r}: expected one of {', '.join(KINDS)}"
                + (f"; did you mean {nearest(kind, KINDS)}?" if nearest(kind, KINDS) else "")
            )
        rows = np.arange(len(images)) if rows is None else rows
        mean, std, low, high = _moments(images, rows, lambda x: x)
        if not std > 0:
            raise InputError(
                f"scaling {kind!r}: expected training images that vary, found every pixel at {low:g}"
            )
        softening = std if kind == "asinh" else 1.0
        if kind == "asinh":
            mean, std, low, high = _moments(images, rows, lambda x: np.arcsinh(x / softening))
        if (
            kind == "range"
        ):  # the bounds as they are meant, without the rounding of the formula below
            return cls(kind, softening, (low + high) / 2, (high - low) / 2, -1.0, 1.0)
        offset, scale = (0.5, 0.5) if kind == "minmax" else (mean, std / SIGMA_DATA)
        return cls(kind, softening, offset, scale, (low - offset) / scale, (high - offset) / scale)


class Part:
    """Some images of a memory map, by their rows: sliced like an array, and read only then."""

    def __init__(self, images, rows):
        self.images = images
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, at):
        return self.images[self.rows[at]]


@dataclasses.dataclass
class Dataset:
    """Images with all that is known of them; N counts both parts of the split."""

    images: np.ndarray  # (N, C, H, W) float32 in the user's units, memory-mapped
    labels: np.ndarray | None  # (N,) int64 into `classes`
    classes: tuple  # names, () when unlabelled
    truth: dict  # name -> (N,), may be empty
    pixel_scale: float | None  # arcsec
    train: np.ndarray  # sorted indices; with `heldout` disjoint and covering all images
    heldout: np.ndarray
    scaling: Scaling
    sigma_data: float  # standard deviation of the scaled training pixels, as measured
    source: str  # where the images come from, in words

    def part(self, rows):
        """The images of these rows as a `Part`: whoever goes through them in chunks holds no more than a chunk."""
        return Part(self.images, rows)

    def examples(self, n, seed=0):
        """n held-out images (n, C, H, W), picked by a seed: the files may be ordered by class."""
        return self.images[np.random.default_rng(seed).permutation(self.heldout)[:n]]


def split(n, holdout, seed):
    """Sorted index arrays (train, heldout) of n images: round(n * holdout), at least 1, held out."""
    held = sources.held_out(n, holdout)
    order = np.random.default_rng([seed, 0]).permutation(n)
    return np.sort(order[held:]), np.sort(order[:held])


def choose(dataset, most, seed):
    """Indices of the real images of a comparison: at most `most` held-out ones (the reference), up to four times as many training ones (for the floor)."""
    (heldout, _), train = _shuffled(dataset, seed)
    n = min(most, len(heldout), len(train) // 2)
    return heldout[:n], train[: 4 * n]


def spared(dataset, seed):
    """Indices of held-out images that trainings are watched on and no comparison uses: a quarter of them, at most 256; none where that is below 64."""
    return _shuffled(dataset, seed)[0][1]


def _shuffled(dataset, seed):
    """(held-out images to judge with, those to watch with), training images: in random order, as files may be ordered by class."""
    rng = np.random.default_rng(derived_seed(seed, Purpose.CHOOSE))
    heldout = rng.permutation(dataset.heldout)
    n = min(WATCHED, len(dataset.heldout) // 4)
    return np.split(heldout, [len(heldout) - n * (n >= WATCHED // 4)]), rng.permutation(
        dataset.train
    )


def prepare_dataset(params, seed, folder):
    """Read or simulate the images that `params` (params.Data) asks for, into `folder`.

    Writes images.npy, train.npy, heldout.npy, dataset.json and, where known, labels.npy and
    truth.csv. Raises InputError with one sentence for anything wrong with the source.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for stale in (
        "images.npy",
        "labels.npy",
        "truth.csv",
        "dataset.json",
    ):  # not overwritten: may be mapped
        (folder / stale).unlink(missing_ok=True)
    labels, classes, truth, pixel_scale, source = sources.read(params, seed, folder)
    images = np.lib.format.open_memmap(folder / "images.npy", mode="r+")
    if params.scaling == "minmax":
        truth = truth | _to_unit_range(images)
        images.flush()
    train, heldout = split(len(images), params.holdout, seed)
    scaling = Scaling.fit(images, params.scaling, train)
    arrays = {"train": train, "heldout": heldout} | (
        {} if labels is None else {"labels": labels.astype(np.int64)}
    )
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    if truth:
        io.write_table(
            folder / "truth.csv",
            {k: (value.item() for value in np.asarray(v)) for k, v in truth.items()},
        )
    io.write_json(
        folder / "dataset.json",
        {
            "source": source,
            "classes": list(classes),
            "pixel_scale": pixel_scale,
            "scaling": dataclasses.asdict(scaling),
            "sigma_data": _moments(images, train, scaling.forward)[1],
        },
    )


def load_dataset(folder):
    """The `Dataset` that `prepare` wrote into `folder`; images stay on disk until they are indexed."""
    folder = Path(folder)
    notes = io.read_json(folder / "dataset.json")

    def array(name):
        return arrays.open_array(folder / f"{name}.npy")[0]

    return Dataset(
        images=array("images"),
        labels=np.array(array("labels")) if notes["classes"] else None,
        classes=tuple(notes["classes"]),
        pixel_scale=notes["pixel_scale"],
        truth=io.read_table(folder / "truth.csv") if (folder / "truth.csv").exists() else {},
        train=np.array(array("train")),
        heldout=np.array(array("heldout")),
        scaling=Scaling(**notes["scaling"]),
        sigma_data=notes["sigma_data"],
        source=notes["source"],
    )


def _moments(images, rows, f):
    """Mean, standard deviation, minimum and maximum of f(pixels), in one pass over images[rows]."""
    n = 0
    mean = 0.0
    squares = 0.0
    low = math.inf
    high = -math.inf
    for part in sources.chunks(len(rows), math.prod(images.shape[1:])):
        x = f(np.asarray(images[rows[part]], dtype=np.float64))
        apart = x.mean() - mean  # Chan et al. 1979: merge two sets of moments without cancellation
        squares += x.var() * x.size + apart**2 * n * x.size / (n + x.size)
        n += x.size
        mean += apart * x.size / n
        low = min(low, x.min())
        high = max(high, x.max())
    return float(mean), math.sqrt(squares / n), float(low), float(high)


def _to_unit_range(images):
    """Bring each image to [0, 1] in place; the columns that lead back."""
    # (N,)
    low = images.min(axis=(1, 2, 3))
    high = images.max(axis=(1, 2, 3))
    for part in sources.chunks(len(images), math.prod(images.shape[1:])):
        a, b = (v[part, None, None, None].astype(np.float64) for v in (low, high))
        images[part] = (images[part] - a) / (b - a)
    return {"image_min": low, "image_max": high}
