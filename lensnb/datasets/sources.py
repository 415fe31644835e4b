"""Where images come from, simulated or the user's own, to one images.npy in one size and type.

Images reach the disk in chunks, so that memory stays constant however many there are.
"""

import math
import shutil
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from lensnb.datasets import tables
from lensnb.datasets.arrays import new_array
from lensnb.datasets.file_source import FileSource, find_source
from lensnb.datasets.pixels import CHUNK, BadImages, Framing, chunks, convert
from lensnb.datasets.readers import READING_THREADS, ahead, refuse_all
from lensnb.errors import InputError, did_you_mean
from lensnb.lensing.priors import CLASSES, PRIORS
from lensnb.lensing.workers import simulate_file

OF_FILES = ("axes", "bands", "crop", "resize", "fill", "hdu", "key", "table", "group")


class Known(NamedTuple):
    """What is known of n images beside their pixels."""

    labels: np.ndarray | None  # (n,) integers into the classes
    classes: tuple[str, ...]  # names
    truth: dict[str, np.ndarray]  # name -> (n,) numbers or text
    pixel_scale: float | None  # arcsec
    source: str  # where the images come from, in words
    is_simulated: bool = True
    group: np.ndarray | None = None  # (n,) images of one value stay on one side of the split


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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # parsers' remarks on odd metadata; what matters raises
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
    for key in OF_FILES:
        if getattr(params, key, None) is not None:
            raise InputError(f"data.{key}: is for files, and there is no data.path; leave it out")
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
    if params.table is not None:
        tables.attach(source, params.table, params.path)
    group = _group(source, params.group)
    rows = _subset(total, params.n, source.labels, seed)
    _check_enough(len(rows), params, source.title)
    side = _side(params, source)
    pixel_scale = _pixel_scale(params, source, side)
    channels = _channels(params, source)
    images = _new_images(folder, len(rows), channels, params.size)
    mass = _copy(source, rows, images, Framing(params.bands, params.crop, params.fill))
    images.flush()
    truth = {name: column[rows] for name, column in (source.truth | source.beside).items()}
    if not np.isnan(mass).all():
        truth["mass"] = mass
    labels = None if source.labels is None else source.labels[rows]
    count = f"{total}" if len(rows) == total else f"{len(rows)} of {total}"
    told = f"{count} images of {source.title}{_how_framed(params, side, channels)}"
    group = None if group is None else group[rows]
    return Known(labels, source.classes, truth, pixel_scale, told, False, group)


def _group(source: FileSource, column: str | None) -> np.ndarray | None:
    """What says which images belong together, (N,)."""
    if column is None:
        return None
    known = source.truth | source.beside
    if column not in known:
        raise InputError(
            f"data.group: no column {column} beside the images; {did_you_mean(column, known)}"
        )
    return known[column]


def _side(params: Any, source: FileSource) -> int | None:
    """Pixels of an image's side before it is resized; None where images differ."""
    _, height, width = source.shape
    if isinstance(params.crop, int):
        side: int | None = params.crop
    else:
        side = None if height is None or width is None else min(height, width)
    if params.resize is False and side != params.size:
        found = "images that differ in size" if side is None else f"images of {side} pixels"
        raise InputError(
            f"{params.path}: found {found} where data.size is {params.size} and data.resize false "
            f"forbids to resample; set data.crop={params.size} or another data.size"
        )
    return side


def _channels(params: Any, source: FileSource) -> int:
    """How many channels the images get."""
    bands = source.shape[0]
    if params.bands is not None:
        if max(params.bands) >= bands:
            raise InputError(
                f"data.bands: {list(params.bands)} names band {max(params.bands)}, and "
                f"{source.title} has {bands}, counted from 0"
            )
        bands = len(params.bands)
    channels = params.channels or bands
    if channels not in (1, bands) and bands != 1:
        raise InputError(
            f"data.channels: {channels} is asked for, and {source.title} has {bands} bands; "
            "data.bands=[0,1] picks bands by number"
        )
    return channels


def _how_framed(params: Any, side: int | None, channels: int) -> str:
    """What was done to each image beyond today's habit, in words."""
    done = []
    if params.bands is not None:
        done.append(f"bands {', '.join(map(str, params.bands))}")
    if params.crop is not None:
        done.append("cut to the central square" if isinstance(params.crop, str) else
                    f"cut to the central {side} pixels")  # fmt: skip
    if params.fill is not None:
        done.append(f"masked pixels set to {params.fill:g}")
    if side is None:
        done.append(f"brought from different sizes to {params.size} x {params.size} pixels")
    elif side != params.size:
        new = f"{params.size} x {params.size}"
        done.append(f"brought from {side} x {side} to {new} pixels")
    return "".join(f", {what}" for what in done)


def _pixel_scale(params: Any, source: FileSource, side: int | None) -> float | None:
    """Arcsec a pixel of the resized images: of the recipe, or else of the files if they agree."""
    scale = params.pixel_scale if params.pixel_scale is not None else source.pixel_scale()
    if scale is None:
        return None
    if side is None and params.pixel_scale is None:
        return None
    if side is None:
        raise InputError(
            f"data.pixel_scale: the pictures of {params.path} differ in size, so that one scale "
            "cannot hold for all; leave it out, or crop them to one size"
        )
    return scale * side / params.size


def _subset(total: int, n: int, labels: np.ndarray | None, seed: int) -> np.ndarray:
    """Sorted indices of n random images; each class keeps its share."""
    order = np.random.default_rng([seed, 1]).permutation(total)
    if labels is not None:
        order = order[np.argsort(labels[order], kind="stable")]
    n = min(n, total)
    return np.sort(order[np.arange(n) * total // n])  # evenly spaced, hence in proportion


def _copy(source: FileSource, rows: np.ndarray, images: np.ndarray, framing: Framing) -> np.ndarray:
    """Write these rows of the source, converted, into `images`; their masses, NaN if not known.

    Raises InputError once all are read: it counts the bad images and names the first few.
    """
    mass = np.full(len(rows), np.nan)
    starts = np.cumsum([0, *source.counts])
    edges = np.searchsorted(rows, starts)  # rows[edges[i]:edges[i + 1]] lie in file i

    def copy(i: int) -> list[tuple[str, str]]:
        here = slice(edges[i], edges[i + 1])
        path, name = source.files[i]
        try:
            array, mass[here] = source.reader.open_images(path, name)
        except InputError as error:
            return [(name, str(error))]
        return _copy_file(array, rows[here] - starts[i], images[here], name, framing)

    wanted = [i for i in range(len(source.files)) if edges[i] < edges[i + 1]]
    are_small = max(source.counts) * math.prod(n or CHUNK for n in source.shape) <= CHUNK // 4
    threads = READING_THREADS if are_small else 1  # else each would hold a large file in memory
    refuse_all([bad for found in ahead(copy, wanted, "files", threads) for bad in found])
    return mass


def _copy_file(
    array: np.ndarray, rows: np.ndarray, images: np.ndarray, name: str, framing: Framing
) -> list[tuple[str, str]]:
    """Write these rows of one file's images, converted, into `images`, chunk by chunk.

    Returns the bad ones: name and why.
    """
    channels, size = images.shape[1:3]
    bad = []
    for chunk in chunks(len(rows), math.prod(array.shape[1:])):
        names = [name if len(array) == 1 else f"{name}, image {i}" for i in rows[chunk]]
        try:
            images[chunk] = convert(array[rows[chunk]], channels, size, names, framing)
        except BadImages as error:
            bad += error.found
    return bad
