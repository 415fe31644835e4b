"""Where images come from, simulated or the user's own, to one images.npy in one size and type.

Images reach the disk in chunks, so that memory stays constant however many there are.
"""

import math
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from lensnb.datasets.arrays import new_array
from lensnb.datasets.file_source import FileSource, find_source
from lensnb.datasets.pixels import chunks, convert
from lensnb.errors import InputError
from lensnb.lensing.priors import CLASSES, PRIORS
from lensnb.lensing.workers import simulate_file


class Known(NamedTuple):
    """What is known of n images beside their pixels."""

    labels: np.ndarray | None  # (n,) integers into the classes
    classes: tuple[str, ...]  # names
    truth: dict[str, np.ndarray]  # name -> (n,)
    pixel_scale: float | None  # arcsec
    source: str  # where the images come from, in words


def read_images(params: Any, seed: int, folder: Path, device: str | torch.device = "cpu") -> Known:
    """Write the images that `params` asks for to images.npy in `folder`, which exists.

    params : the data section of a recipe; device : where images are simulated.

    The images are float32 (n, C, size, size) in the source's units, finite and not constant.
    Returns what is known of them. Raises InputError for an unknown prior and for anything wrong
    with the user's files.
    """
    if params.path is None and params.download is None:
        return _simulate_images(params, seed, folder, device)
    unpacked = folder / ".npz"
    shutil.rmtree(unpacked, ignore_errors=True)
    try:
        return _read_files(params, seed, folder, find_source(params, unpacked))
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)


def held_out(n: int, holdout: float) -> int:
    """How many of n images are held out: round(n * holdout), at least 1."""
    return max(1, round(n * holdout))


def _check_enough(n: int, params: Any, name: str) -> None:
    held = held_out(n, params.holdout)
    if min(n - held, held) < 2:
        raise InputError(
            f"{name}: found {n}, of which holdout {params.holdout:g} leaves {n - held} for "
            f"training and {held} held out; at least 2 of each are needed"
        )


def _new_images(folder: Path, n: int, channels: int, size: int) -> np.memmap:
    return new_array(folder / "images.npy", np.float32, (n, channels, size, size))


# Simulated images ---------------------------------------------------------------------------------


def _simulate_images(params: Any, seed: int, folder: Path, device: str | torch.device) -> Known:
    prior = PRIORS.find(params.prior, "data.prior")
    if params.labels is not None:
        raise InputError(
            f"data.labels: {params.labels} was given without data.path; "
            "name the file that it labels, or leave it out"
        )
    _check_enough(params.n, params, f"prior {params.prior}")
    channels = params.channels or 1
    images = _new_images(folder, params.n, channels, params.size)
    # Apple's GPUs are left out: nobody has compared their images with those of a CPU
    device = device if torch.device(device).type == "cuda" else "cpu"
    path = folder / "images.npy"
    truth = simulate_file(path, params.prior, seed, device, params.workers)
    for c in range(1, channels):
        images[:, c] = images[:, 0]
    images.flush()
    pixel_scale = prior.pixel_scale * prior.size / params.size
    source = f"{params.n} images simulated with prior {params.prior} and seed {seed}"
    return Known(np.asarray(truth["class"]), CLASSES, truth, pixel_scale, source)


# The user's images --------------------------------------------------------------------------------


def _read_files(params: Any, seed: int, folder: Path, source: FileSource) -> Known:
    total = sum(source.counts)
    rows = _subset(total, params.n, source.labels, seed)
    _check_enough(len(rows), params, source.title)
    pixel_scale = _pixel_scale(params, source)
    channels = params.channels or source.shape[0]
    images = _new_images(folder, len(rows), channels, params.size)
    mass = _copy(source, rows, images)
    images.flush()
    truth = {name: column[rows] for name, column in source.truth.items()}
    if not np.isnan(mass).all():
        truth["mass"] = mass
    labels = None if source.labels is None else source.labels[rows]
    count = f"{total}" if len(rows) == total else f"{len(rows)} of {total}"
    return Known(labels, source.classes, truth, pixel_scale, f"{count} images of {source.title}")


def _pixel_scale(params: Any, source: FileSource) -> float | None:
    """Arcsec a pixel of the resized images."""
    size = source.shape[1]
    if params.pixel_scale is None:
        return None
    if size is None:
        raise InputError(
            f"data.pixel_scale: the pictures of {params.path} differ in size, so that one scale "
            "cannot hold for all; leave it out, or crop them to one size"
        )
    return params.pixel_scale * size / params.size


def _subset(total: int, n: int, labels: np.ndarray | None, seed: int) -> np.ndarray:
    """Sorted indices of n random images; each class keeps its share."""
    order = np.random.default_rng([seed, 1]).permutation(total)
    if labels is not None:
        order = order[np.argsort(labels[order], kind="stable")]
    n = min(n, total)
    return np.sort(order[np.arange(n) * total // n])  # evenly spaced, hence in proportion


def _copy(source: FileSource, rows: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Write these rows of the source, converted, into `images`; their masses, NaN if not known."""
    mass = np.full(len(rows), np.nan)
    starts = np.cumsum([0, *source.counts])
    edges = np.searchsorted(rows, starts)  # rows[edges[i]:edges[i + 1]] lie in file i
    for i, (path, name) in enumerate(source.files):
        here = slice(edges[i], edges[i + 1])
        if here.start < here.stop:
            array, mass_of_file = source.reader.open_images(path, name)
            mass[here] = mass_of_file
            _copy_file(array, rows[here] - starts[i], images[here], name)
    return mass


def _copy_file(array: np.ndarray, rows: np.ndarray, images: np.ndarray, name: str) -> None:
    """Write these rows of one file's images, converted, into `images`, chunk by chunk."""
    channels, size = images.shape[1:3]
    for chunk in chunks(len(rows), math.prod(array.shape[1:])):
        names = [name if len(array) == 1 else f"{name}, image {i}" for i in rows[chunk]]
        images[chunk] = convert(array[rows[chunk]], channels, size, names)
