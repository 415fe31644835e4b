"""Where images come from, simulated or the user's own, to one images.npy in one size and type.

Images reach the disk in chunks, so that memory stays constant however many there are.
"""

import dataclasses
import math
import os
import shutil
import stat
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from lensnb import io
from lensnb.datasets import arrays, mnist, pictures
from lensnb.errors import InputError, nearest
from lensnb.lensing.priors import CLASSES, PRIORS
from lensnb.lensing.simulate import simulate

CHUNK = 2**20  # pixels held in memory at a time
DEEPLENSE = {"no": "no_sub", "sphere": "cdm", "vort": "vortex"}  # its folders, our class names
SPLITS = {"train", "val", "test"}


def read(params, seed, folder):
    """Write the images that `params` (params.Data) asks for to images.npy in `folder`, which exists.

    They are (n, C, size, size) float32 in the source's units, finite and none of them constant.
    Returns their labels, (n,) integers into the classes, or None; the classes, a tuple of names; the
    truth, name -> (n,); arcsec a pixel or None; and where they come from, in words. Raises
    InputError for an unknown prior and for anything wrong with the user's files.
    """
    return (_simulated if params.path is None and params.download is None else _given)(
        params, seed, folder
    )


def held_out(n, holdout):
    """How many of n images are held out: round(n * holdout), at least 1."""
    return max(1, round(n * holdout))


def chunks(n, pixels):
    """Slices that cover n images of so many pixels each, at most CHUNK pixels or one image at a time."""
    step = max(1, CHUNK // pixels)
    return [slice(at, min(at + step, n)) for at in range(0, n, step)]


# Simulated images ---------------------------------------------------------------------------------


def _simulated(params, seed, folder):
    if params.prior not in PRIORS:
        guess = nearest(params.prior, PRIORS)
        raise InputError(
            f"data.prior: unknown prior {params.prior!r}; "
            + (f"did you mean {guess}?" if guess else f"known are {', '.join(PRIORS)}")
        )
    if params.labels is not None:
        raise InputError(
            f"data.labels: {params.labels} was given without data.path; "
            "name the array that it labels, or leave it out"
        )
    _check_enough(params.n, params, f"prior {params.prior}")
    channels = params.channels or 1
    images = _create(folder, params.n, channels, params.size)
    _, truth = simulate(
        params.n, prior=params.prior, seed=seed, size=params.size, out=images[:, :1]
    )
    for c in range(1, channels):
        images[:, c] = images[:, 0]
    images.flush()
    scale = PRIORS[params.prior].pixel_scale * PRIORS[params.prior].size / params.size
    source = f"{params.n} images simulated with prior {params.prior} and seed {seed}"
    return np.asarray(truth["class"]), CLASSES, truth, scale, source


def _create(folder, n, channels, size):
    return arrays.new_array(folder / "images.npy", np.float32, (n, channels, size, size))


def _check_enough(n, params, name):
    held = held_out(n, params.holdout)
    if min(n - held, held) < 2:
        raise InputError(
            f"{name}: found {n}, of which holdout {params.holdout:g} leaves {n - held} for training and "
            f"{held} held out; at least 2 of each are needed"
        )


# The user's images --------------------------------------------------------------------------------


@dataclasses.dataclass
class _Source:
    files: list  # (path, name in messages)
    title: str  # in the note of where images come from
    reader: ModuleType = arrays  # that surveys and opens them
    labels: np.ndarray | None = None  # (N,) into classes
    classes: tuple = ()
    truth: dict = dataclasses.field(default_factory=dict)
    counts: list = dataclasses.field(default_factory=list)  # images in each file
    shape: tuple = ()  # (C, H, H) of every image; H is None for pictures of different sizes


def _given(params, seed, folder):
    unpacked = folder / ".npz"
    shutil.rmtree(unpacked, ignore_errors=True)
    try:
        source = _find(params, unpacked)
        total = sum(source.counts)
        chosen = _subset(total, params.n, source.labels, seed)
        _check_enough(len(chosen), params, source.title)
        channels = params.channels or source.shape[0]
        size = source.shape[1]
        if params.pixel_scale and not size:
            raise InputError(
                f"data.pixel_scale: the pictures of {params.path} differ in size, so that one scale "
                "cannot hold for all; leave it out, or crop them to one size"
            )
        images = _create(folder, len(chosen), channels, params.size)
        mass = _copy(source, chosen, images)
        images.flush()
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)
    truth = {k: v[chosen] for k, v in source.truth.items()} | (
        {} if np.isnan(mass).all() else {"mass": mass}
    )
    labels = None if source.labels is None else source.labels[chosen]
    scale = params.pixel_scale and params.pixel_scale * size / params.size
    count = f"{total}" if len(chosen) == total else f"{len(chosen)} of {total}"
    return labels, source.classes, truth, scale, f"{count} images of {source.title}"


def _subset(total, n, labels, seed):
    """Sorted indices of n images at random, with the share of each class as it is."""
    order = np.random.default_rng([seed, 1]).permutation(total)
    if labels is not None:
        order = order[np.argsort(labels[order], kind="stable")]
    n = min(n, total)
    return np.sort(order[np.arange(n) * total // n])  # evenly spaced, hence in proportion


def _copy(source, chosen, images):
    """Write the chosen images, converted, into `images`; their masses, NaN where not known."""
    mass = np.full(len(chosen), np.nan)
    starts = np.cumsum([0, *source.counts])
    edges = np.searchsorted(chosen, starts)
    for (path, name), start, a, b in zip(source.files, starts, edges, edges[1:], strict=False):
        if a == b:
            continue
        array, mass[a:b] = source.reader.open_images(path, name)
        rows = chosen[a:b] - start
        for part in chunks(b - a, math.prod(array.shape[1:])):
            names = [name if len(array) == 1 else f"{name}, image {i}" for i in rows[part]]
            images[a + part.start : a + part.stop] = _convert(
                array[rows[part]], *images.shape[1:3], names
            )
    return mass


def _convert(x, channels, size, names):
    """float32 (B, channels, size, size) from (B, C, H, H) of any real type, or a refusal by name."""
    x = x.astype(np.float64)
    _check_pixels(x, names)
    if channels != x.shape[1]:
        x = x.mean(axis=1, keepdims=True) if channels == 1 else np.repeat(x, channels, axis=1)
    x = resize(x, size).astype(np.float32)
    _check_pixels(x, names)  # averaging or single precision can make an image constant
    return x


def _check_pixels(x, names):
    pixels = (1, 2, 3)
    bad = (~(np.abs(x) <= np.finfo(np.float32).max)).sum(axis=pixels)
    for i in np.flatnonzero(bad)[:1]:
        raise InputError(
            f"{names[i]}: {bad[i]} of {x[i].size} pixels are NaN, infinite or beyond single precision; "
            "expected finite numbers, so mask or drop it"
        )
    for i in np.flatnonzero(x.min(axis=pixels) == x.max(axis=pixels))[:1]:
        raise InputError(f"{names[i]}: constant image, every pixel is {x[i].flat[0]:g}; drop it")


def resize(x, size):
    """Square images (B, C, H, H) to (B, C, size, size), keeping surface brightness.

    Smaller: the mean over the area of each new pixel, as a detector with larger pixels sees it, so
    that the image's mean is kept to rounding. Larger: bilinear.
    """
    old = x.shape[-1]
    if size > old:
        return torch.nn.functional.interpolate(
            torch.from_numpy(x), size=(size, size), mode="bilinear"
        ).numpy()
    if size < old:
        return _area_means(_area_means(x, size).swapaxes(2, 3), size).swapaxes(2, 3)
    return x


def _area_means(x, size):
    """Means over `size` equal parts of the last axis; an old pixel on a border counts to both by its overlap."""
    old = x.shape[-1]
    edges = np.arange(size + 1) * old / size
    total = 0.0
    for k in range(math.ceil(old / size) + 1):
        j = np.floor(edges[:-1]).astype(int) + k
        overlap = np.minimum(edges[1:], j + 1) - np.maximum(edges[:-1], j)
        total = total + x[..., np.minimum(j, old - 1)] * np.clip(overlap, 0, None)
    return total * size / old


def _find(params, unpacked):
    """The `_Source` behind params.path or params.download, surveyed: every file opened, its shape checked."""
    if params.download is not None:
        columns, title = mnist.download(unpacked)
        return _columns(columns, params.download, title)
    with arrays.reading(params.path):
        path = io.locate(params.path)
        mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        if params.labels is not None:
            raise InputError(
                f"data.labels: {params.labels} can label a single array alone, and {params.path} is a "
                "folder; use class sub-folders there"
            )
        return _in_folder(path, params.path, unpacked)
    if path.suffix.lower() not in (".npy", ".npz"):
        raise InputError(
            f"{params.path}: expected a folder of .npy files, of pictures or of MNIST's files, one .npy "
            "or one .npz"
        )
    columns = {"images": path} if path.suffix.lower() == ".npy" else arrays.unpack(path, unpacked)
    return _columns(columns, params.path, params.path, params.labels)


def _columns(columns, name, title, labels=None):
    """A `_Source` of .npy files: role -> path, as `files.unpack` gives them; `labels` is the user's own file."""
    source = _survey(_Source([(columns.pop("images"), name)], title))
    labelled = columns.pop("labels", None), f"{name}, labels"
    if labels is not None:
        labelled = io.locate(labels), labels
    if labelled[0] is not None:
        source.classes, source.labels = _labels(*labelled, source.counts[0])
    source.truth = {
        k: np.array(arrays.open_array(file, f"{name}, {k}")[0], float)
        for k, file in columns.items()
    }
    return source


def _survey(source, folders=()):
    """Fill in counts, shape and, from the class folder of each file, labels."""
    source.counts, source.shape = source.reader.survey(source.files)
    if len(set(folders)) > 1:
        names, index = np.unique(folders, return_inverse=True)
        named = tuple(DEEPLENSE.get(str(name), str(name)) for name in names)
        source.classes = named if len(set(named)) == len(names) else tuple(map(str, names))
        source.labels = np.repeat(index, source.counts)
    return source


def _labels(path, name, n):
    """Class names and labels (n,) from a file of integers."""
    values = arrays.open_array(path, name)[0]
    if values.dtype.kind not in "iub" or values.shape != (n,):
        raise InputError(
            f"{name}: labels have shape {values.shape} and type {values.dtype}; expected one integer "
            f"for each of the {n} images"
        )
    names, index = np.unique(values, return_inverse=True)
    return tuple(str(v) for v in names.tolist()), index


def _in_folder(top, title, unpacked):
    """The `_Source` of a folder: MNIST's files in it, or all .npy files or pictures in it and below."""
    with arrays.reading(top):
        idx, note = mnist.find(top)

        def order(p):
            return p.relative_to(top).parts

        saved, images = (
            sorted(arrays.walk(top, suffixes), key=order)
            for suffixes in ((".npy",), pictures.SUFFIXES)
        )
    kinds = {"MNIST's files": [*idx.values()], ".npy files": saved, "pictures": images}
    _check_one_kind(top, [f"{kind} such as {order(of[0])[-1]}" for kind, of in kinds.items() if of])
    if idx:
        return _columns(mnist.unpack(idx, unpacked), str(idx["images"]), title + note)
    paths, classes, note = _classes(top, saved or images)
    return _survey(
        _Source([(p, str(p)) for p in paths], title + note, arrays if saved else pictures), classes
    )


def _check_one_kind(top, found):
    if len(found) > 1:
        raise InputError(f"{top}: holds {' and '.join(found)}; keep one kind there")
    if not found:
        raise InputError(
            f"{top}: no .npy file, picture or MNIST file in this folder or below; expected images saved "
            "with np.save or as PNG, JPEG, WebP, TIFF, BMP or GIF (name a .npz file itself)"
        )


def _classes(top, paths):
    """The files to read, the class folder of each where there are such, and a note on what is left unread."""
    tails = [p.relative_to(top).parts for p in paths]
    note = ""
    heads = {tail[0] if len(tail) > 1 else None for tail in tails}
    if heads <= SPLITS:
        if "train" in heads and len(heads) > 1:
            paths = [p for p, tail in zip(paths, tails, strict=True) if tail[0] == "train"]
            note = (
                f", its train folder alone ({' and '.join(sorted(heads - {'train'}))} left unread)"
            )
        tails = [p.relative_to(top).parts[1:] for p in paths]
    i = next((i for i, tail in enumerate(tails) if len(tail) != len(tails[0])), None)
    if i is not None:
        raise InputError(
            f"{top}: {Path(*tails[0])} and {Path(*tails[i])} lie at different depths; put all images "
            "into one folder, or each into the folder of its class"
        )
    return paths, [tail[0] for tail in tails if len(tail) > 1], note
