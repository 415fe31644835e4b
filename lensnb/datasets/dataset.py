"""A dataset: one array of images, with labels, truth, a split and a reversible scaling.

Images are read back memory-mapped and worked on in chunks, so that memory stays constant however
many there are.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from lensnb import io
from lensnb.datasets import duplicates
from lensnb.datasets.arrays import open_array
from lensnb.datasets.pixels import chunks
from lensnb.datasets.sources import held_out, read_images
from lensnb.errors import InputError, nearest
from lensnb.seeds import Purpose, derived_seed

SIGMA_DATA = 0.5  # standard deviation that linear and asinh scaling aim at (EDM, Table 1)
MONITORED = 256  # most held-out images that trainings are monitored on
FEWEST_MONITORED = 64  # with fewer to spare, no held-out image is used for monitoring
KINDS = ("linear", "minmax", "asinh", "range")
WRITTEN = ("images.npy", "labels.npy", "truth.csv", "dataset.json")

AnyArray = TypeVar("AnyArray", np.ndarray, torch.Tensor)


@dataclasses.dataclass(frozen=True)
class Scaling:
    """A reversible map between the user's units and what models see, about [-1, 1].

    forward(x) = (f(x) - offset) / scale, where f is asinh(x / softening) for kind "asinh" and the
    identity otherwise. `low` and `high` bound the scaled training pixels. `dataclasses.asdict`
    gives a mapping that JSON can hold, and `Scaling(**mapping)` reads it.
    """

    kind: str
    softening: float
    offset: float
    scale: float
    low: float
    high: float

    def forward(self, x: AnyArray) -> AnyArray:
        """Scaled images from images in the user's units.

        x : array or tensor, of any shape and on any device.
        """
        if self.kind == "asinh":
            asinh: Callable[..., Any] = torch.asinh if torch.is_tensor(x) else np.arcsinh
            x = asinh(x / self.softening)
        return (x - self.offset) / self.scale

    def inverse(self, y: AnyArray) -> AnyArray:
        """Images in the user's units from scaled images."""
        y = y * self.scale + self.offset
        if self.kind != "asinh":
            return y
        sinh: Callable[..., Any] = torch.sinh if torch.is_tensor(y) else np.sinh
        return sinh(y) * self.softening

    @classmethod
    def fit(
        cls,
        images: np.ndarray,
        kind: str,
        rows: np.ndarray | None = None,
        softening: float = 3.0,
    ) -> "Scaling":
        """The scaling for training images (N, C, H, W).

        rows : the training images among `images`, which may be a larger memory map.
        softening : of asinh, in standard deviations of the pixels. Brighter pixels are compressed,
            and their noise and detail with them.

        "linear" and "asinh" bring the pixels to mean 0 and standard deviation 0.5. "range" brings
        the smallest of all pixels to -1 and the largest to 1. "minmax" takes images that span
        [0, 1] each, and maps that to [-1, 1]. Raises InputError if `kind` is unknown or all pixels
        are equal.
        """
        _check_kind(kind)
        rows = np.arange(len(images)) if rows is None else rows
        mean, std, low, high = _moments(images, rows, _unchanged)
        if not std > 0:
            raise InputError(
                f"scaling {kind!r}: expected training images that vary, found every pixel at "
                f"{low:g}"
            )
        if kind == "range":  # exact bounds, without the rounding of the formula below
            return cls(kind, 1.0, (low + high) / 2, (high - low) / 2, -1.0, 1.0)
        softening = softening * std if kind == "asinh" else 1.0
        if kind == "asinh":
            mean, std, low, high = _moments(images, rows, lambda x: np.arcsinh(x / softening))
        offset, scale = (0.5, 0.5) if kind == "minmax" else (mean, std / SIGMA_DATA)
        return cls(kind, softening, offset, scale, (low - offset) / scale, (high - offset) / scale)


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        guess = nearest(kind, KINDS)
        hint = f"; did you mean {guess}?" if guess else ""
        raise InputError(f"scaling {kind!r}: expected one of {', '.join(KINDS)}{hint}")


def _unchanged(x: np.ndarray) -> np.ndarray:
    return x


class Rows:
    """Some images of a memory map, by their rows: sliced like an array, and read only then."""

    def __init__(self, images: np.ndarray, rows: np.ndarray) -> None:
        self.images = images
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: Any) -> np.ndarray:
        return self.images[self.rows[at]]


@dataclasses.dataclass
class Dataset:
    """Images with all that is known of them; N counts training and held-out images together."""

    images: np.ndarray  # (N, C, H, W) float32 in the user's units, memory-mapped
    labels: np.ndarray | None  # (N,) int64 into `classes`
    classes: tuple[str, ...]  # names, () when unlabelled
    truth: Mapping[str, np.ndarray]  # name -> (N,), may be empty
    pixel_scale: float | None  # arcsec
    train: np.ndarray  # sorted indices; with `heldout` disjoint and covering all images
    heldout: np.ndarray
    scaling: Scaling
    sigma_data: float  # standard deviation of the scaled training pixels, as measured
    source: str  # where the images come from, in words

    def part(self, rows: np.ndarray) -> Rows:
        """The images of these rows, read only when they are sliced."""
        return Rows(self.images, rows)

    def examples(self, n: int, seed: int = 0) -> np.ndarray:
        """n held-out images (n, C, H, W), picked by a seed: the files may be ordered by class."""
        return self.images[np.random.default_rng(seed).permutation(self.heldout)[:n]]


# Which images are for what ------------------------------------------------------------------------


def split(
    n: int, holdout: float, seed: int, groups: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Sorted index arrays (train, heldout) of n images; `held_out` says how many are held out.

    groups : (n,) images of one value stay together; fewer are held out where groups do not fit.
    """
    held = held_out(n, holdout)
    order = np.random.default_rng([seed, 0]).permutation(n)
    if groups is None or len(np.unique(groups)) == n:
        return np.sort(order[held:]), np.sort(order[:held])
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    chosen = np.zeros(len(sizes), bool)
    seen = np.zeros(len(sizes), bool)
    room = held
    for i in group[order]:
        if not seen[i] and sizes[i] <= room:
            chosen[i] = True
            room -= sizes[i]
        seen[i] = True
    return np.flatnonzero(~chosen[group]), np.flatnonzero(chosen[group])


def _split_of_files(
    images: np.ndarray, holdout: float, seed: int, group: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, str]:
    """The split of images from files, with groups and copies on one side; and a note on them.

    Copies part where half of the held-out images would be lost otherwise, as in a set of few
    different images; the note says so. Raises InputError where data.group leaves too few.
    """
    n = len(images)
    alone = np.arange(n) if group is None else np.unique(group, return_inverse=True)[1]
    least = max(2, held_out(n, holdout) // 2)
    parts = split(n, holdout, seed, alone)
    notes = [] if group is None else [f"{len(np.unique(alone))} groups kept on one side each"]
    if group is not None and min(map(len, parts)) < 2:
        raise InputError(
            f"data.group: {len(np.unique(alone))} groups of {n} images leave {len(parts[0])} for "
            f"training and {len(parts[1])} held out; at least 2 of each are needed, so bring more "
            "groups or raise data.holdout"
        )
    same = duplicates.exact(images)
    copies = n - len(np.unique(same))
    groups = duplicates.joined(alone, same)
    apart = split(n, holdout, seed, groups)
    if copies and len(apart[1]) < least:
        notes.append(f"{copies} copies of others, on both sides as too few images differ")
        return *parts, _told(notes)
    if copies:
        notes.append(f"{copies} copies of others kept on the side of their twin")
    nearer, near = _without_near_copies(images, holdout, seed, groups, apart)
    if near and len(nearer[1]) < least:
        notes.append(f"{near} near copies on both sides, as too few images differ")
    elif near:
        notes.append(f"{near} near copies kept on the side of their twin")
        apart = nearer
    return *apart, _told(notes)


def _told(notes: list[str]) -> str:
    return "".join(f"; {note}" for note in notes)


def _without_near_copies(
    images: np.ndarray,
    holdout: float,
    seed: int,
    groups: np.ndarray,
    parts: tuple[np.ndarray, np.ndarray],
) -> tuple[tuple[np.ndarray, np.ndarray], int]:
    """A split (train, heldout) with near copies on one side, and how many images those are."""
    near: set[int] = set()
    for _ in range(duplicates.ROUNDS):
        if min(map(len, parts)) < 2:
            break
        found = duplicates.near_pairs(images, *parts)
        if not found:
            break
        near |= {row for pair in found for row in pair}
        groups = duplicates.joined(groups, found)
        parts = split(len(images), holdout, seed, groups)
    return parts, len(near)


def comparison_rows(dataset: Dataset, most: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the real images of a comparison: held-out ones, and training ones for the floor.

    The held-out images, at most `most`, are the reference. The training images, up to four times
    as many, give the real-vs-real floor.
    """
    heldout, _, train = _shuffled(dataset, seed)
    n = min(most, len(heldout), len(train) // 2)
    return heldout[:n], train[: 4 * n]


def monitoring_rows(dataset: Dataset, seed: int) -> np.ndarray:
    """Indices of the held-out images that trainings are monitored on; no comparison uses them.

    They are a quarter of the held-out images, at most MONITORED. There are none where a quarter is
    below FEWEST_MONITORED.
    """
    return _shuffled(dataset, seed)[1]


def _shuffled(dataset: Dataset, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of held-out images to compare with, held-out images to monitor with, training images.

    Each set is in random order, because the files may be ordered by class.
    """
    rng = np.random.default_rng(derived_seed(seed, Purpose.CHOOSE))
    heldout = rng.permutation(dataset.heldout)
    train = rng.permutation(dataset.train)
    n = min(MONITORED, len(heldout) // 4)
    if n < FEWEST_MONITORED:
        n = 0
    compared = len(heldout) - n
    return heldout[:compared], heldout[compared:], train


# To a folder and back -----------------------------------------------------------------------------


def prepare_dataset(
    params: Any, seed: int, folder: str | Path, device: str | torch.device = "cpu"
) -> None:
    """Read or simulate the images that `params` asks for, into `folder`.

    params : the data section of a recipe; device : where images are simulated.

    Writes images.npy, train.npy, heldout.npy, dataset.json and, where known, labels.npy and
    truth.csv. Raises InputError with one sentence for anything wrong with the source.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in WRITTEN:  # removed, not overwritten: an old file may still be mapped
        (folder / name).unlink(missing_ok=True)
    known = read_images(params, seed, folder, device)
    images = np.lib.format.open_memmap(folder / "images.npy", mode="r+")
    truth = dict(known.truth)
    if params.scaling == "minmax":
        truth |= _to_unit_range(images)
        images.flush()
    note = ""
    if known.is_simulated:
        train, heldout = split(len(images), params.holdout, seed)
    else:
        train, heldout, note = _split_of_files(images, params.holdout, seed, known.group)
    scaling = Scaling.fit(images, params.scaling, train, params.softening)
    np.save(folder / "train.npy", train)
    np.save(folder / "heldout.npy", heldout)
    _write_labels_and_truth(folder, known.labels, truth)
    notes = {
        "source": known.source + note,
        "classes": list(known.classes),
        "pixel_scale": known.pixel_scale,
        "scaling": dataclasses.asdict(scaling),
        "sigma_data": _moments(images, train, scaling.forward)[1],
    }
    io.write_json(folder / "dataset.json", notes)


def _write_labels_and_truth(
    folder: Path, labels: np.ndarray | None, truth: Mapping[str, np.ndarray]
) -> None:
    if labels is not None:
        np.save(folder / "labels.npy", labels.astype(np.int64))
    if truth:
        columns = {name: _cells(column) for name, column in truth.items()}
        io.write_table(folder / "truth.csv", columns)


def _cells(column: Any) -> list[Any]:
    """The cells of a column; a row of empty text would be taken for a blank line."""
    return ["nan" if cell == "" else cell for cell in np.asarray(column).tolist()]


def load_dataset(folder: str | Path) -> Dataset:
    """The `Dataset` that `prepare_dataset` wrote; images stay on disk until they are indexed."""
    folder = Path(folder)
    notes = io.read_json(folder / "dataset.json")
    table = folder / "truth.csv"
    return Dataset(
        images=open_array(folder / "images.npy")[0],
        labels=_load(folder / "labels.npy") if notes["classes"] else None,
        classes=tuple(notes["classes"]),
        pixel_scale=notes["pixel_scale"],
        truth=io.read_table(table) if table.exists() else {},
        train=_load(folder / "train.npy"),
        heldout=_load(folder / "heldout.npy"),
        scaling=Scaling(**notes["scaling"]),
        sigma_data=notes["sigma_data"],
        source=notes["source"],
    )


def _load(path: Path) -> np.ndarray:
    return np.array(open_array(path)[0])


# Statistics in chunks -----------------------------------------------------------------------------


def _moments(
    images: np.ndarray, rows: np.ndarray, f: Callable[[np.ndarray], np.ndarray]
) -> tuple[float, float, float, float]:
    """Mean, standard deviation, minimum and maximum of f(pixels), in one pass over images[rows]."""
    n = 0
    mean = 0.0
    squares = 0.0
    low = math.inf
    high = -math.inf
    for chunk in chunks(len(rows), math.prod(images.shape[1:])):
        x = f(np.asarray(images[rows[chunk]], dtype=np.float64))
        apart = x.mean() - mean  # Chan et al. 1979: merge two sets of moments without cancellation
        squares += x.var() * x.size + apart**2 * n * x.size / (n + x.size)
        n += x.size
        mean += apart * x.size / n
        low = min(low, x.min())
        high = max(high, x.max())
    return float(mean), math.sqrt(squares / n), float(low), float(high)


def _to_unit_range(images: np.ndarray) -> dict[str, np.ndarray]:
    """Bring each image to [0, 1] in place; returns the columns (N,) that lead back."""
    low = images.min(axis=(1, 2, 3))
    high = images.max(axis=(1, 2, 3))
    for chunk in chunks(len(images), math.prod(images.shape[1:])):
        a = low[chunk, None, None, None].astype(np.float64)
        b = high[chunk, None, None, None].astype(np.float64)
        images[chunk] = (images[chunk] - a) / (b - a)
    return {"image_min": low, "image_max": high}
