"""Strangers' files: folders, .npy, .npz and pickled bytes, parsed here and never executed.

Whatever is wrong with them becomes an InputError of one sentence that names the file.
"""

import contextlib
import math
import os
import shutil
import stat
import zipfile
from pathlib import Path

import numpy as np

from lensnb.datasets import pickles
from lensnb.errors import FULL, InputError

BOMB = 2**30, 200  # bytes, and times its own size: no archive of images unpacks to more than both
SHAPES = "(H,W), (N,H,W), (N,C,H,W) or (N,H,W,C) with C 1 or 3"


def walk(top, suffixes=(".npy",)):
    """Every visible file below the folder `top` with one of the suffixes, as a Path, in any order, through links.

    Raises InputError for a folder that is met twice, OSError for one that cannot be read.
    """

    def fail(error):
        raise error

    seen = {}
    for here, folders, files in os.walk(top, onerror=fail, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:
            raise InputError(
                f"{here}: a link to {seen[real]}, which was read already; remove the link"
            )
        seen[real] = here
        folders[:] = [f for f in folders if not f.startswith(".")]
        yield from (
            Path(here, f) for f in files if f.lower().endswith(suffixes) and not f.startswith(".")
        )


@contextlib.contextmanager
def reading(name, form="NumPy's format", wanted="a file as np.save or np.savez writes it"):
    """A context that turns whatever a damaged or hostile file makes a parser raise into one sentence.

    Raises InputError, which begins with `name`; one that is raised inside goes through as it is.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # parsers of foreign bytes raise anything, MemoryError included
        if (
            isinstance(error, OSError) and error.errno in FULL
        ):  # where the content is copied to, not the file
            raise
        if isinstance(error, OSError) and error.strerror:  # the system's, not a parser's
            raise InputError(
                f"{name}: {error.strerror}; expected a readable file or folder"
            ) from None
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f"{name}: cannot be read as {form} ({reason}); expected {wanted}"
        ) from None


def check_regular(path, name):
    """Refuse what is no file: opening a pipe would wait for ever."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise InputError(f"{name}: expected a file, found a folder or a device")


def _header(file):
    """Shape, order and type from the head of a .npy stream."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"format {version} is for records")
    read = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, fortran, dtype = read(file)
    if min(shape, default=1) < 0:
        raise ValueError(f"its header claims the shape {shape}")
    return shape, "F" if fortran else "C", dtype


def open_array(path, name=None):
    """The array of a .npy file, memory-mapped, and NaN; of an object array its image and its mass, or NaN.

    Any type and any shape but an empty one; an object array gives (H, W) or (1, H, W). Raises
    InputError, under `name` or else the path, for all that is not a whole file of np.save or that
    holds more than numbers; nothing is executed, and nothing allocated that the file does not hold.
    """
    name = name or str(path)
    with reading(name):
        check_regular(path, name)
        with open(path, "rb") as file:
            shape, order, dtype = _header(file)
            if dtype == object:
                return pickles.image_and_mass(pickles.unpickle(file.read(), name), name)
            need = math.prod(shape) * dtype.itemsize
            has = os.fstat(file.fileno()).st_size - file.tell()
            if not need:
                raise InputError(f"{name}: an empty array of shape {shape}; expected {SHAPES}")
            if need > has:  # checked before anything of that size is asked for
                raise InputError(
                    f"{name}: its header promises {need} bytes for shape {shape} and {has} follow; "
                    "copy or save it again"
                )
            return np.memmap(file, dtype, "r", file.tell(), shape, order), math.nan


def new_array(path, dtype, shape):
    """A new .npy file of zeros, memory-mapped. Its room on the disk is taken now: a write that finds no more would end the process."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    free = shutil.disk_usage(path.parent).free
    if size > free:
        raise InputError(
            f"{path.parent}: {size / 2**30:.1f} GiB are needed there for {shape[0]} images, and {free / 2**30:.1f} are free; "
            "make room, take fewer, or set LENSNB_OUTPUTS to another folder"
        )
    array = np.lib.format.open_memmap(path, "w+", dtype, shape)
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with open(path, "r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, os.path.getsize(path))
            except OSError as error:
                if error.errno in FULL:  # others: a file system that promises nothing
                    raise
    return array


def layout(array, name):
    """A view (N, C, H, H) of an array in any of `SHAPES`; (H, H, C) is one image too.

    Raises InputError for other shapes, images that are not square and what is not real numbers.
    """
    s = array.shape
    if array.dtype.kind not in "fiub":
        what = "complex numbers" if array.dtype.kind == "c" else f"type {array.dtype}"
        raise InputError(f"{name}: found {what}; expected images of real numbers")
    if array.ndim == 2:
        array = array[None, None]
    elif array.ndim == 3:
        one = s[0] == s[1] != s[2] and s[2] in (1, 3)
        array = np.moveaxis(array, 2, 0)[None] if one else array[:, None]
    elif array.ndim == 4 and s[1] not in (1, 3) and s[3] in (1, 3):
        array = np.moveaxis(array, 3, 1)
    elif array.ndim != 4 or s[1] not in (1, 3):
        raise InputError(f"{name}: found shape {s}; expected {SHAPES}")
    if array.shape[2] != array.shape[3]:
        raise InputError(f"{name}: found shape {s}, images that are not square; crop them to H = W")
    return array


def open_images(path, name):
    """The images (N, C, H, H) of a .npy file and their mass, or NaN; raises as `open_array` and `layout` do."""
    array, mass = open_array(path, name)
    return layout(array, name), mass


def survey(named):
    """How many images each of the .npy files (path, name in messages) holds, and the shape (C, H, H) of all.

    Raises InputError for a file that cannot be read and for one whose images have another shape.
    """
    counts, shapes = zip(
        *((len(a), a.shape[1:]) for a, _ in (open_images(*file) for file in named)), strict=True
    )
    for (_, name), shape in zip(named, shapes, strict=True):
        if shape != shapes[0]:
            raise InputError(
                f"{name}: an image has shape {shape} where {named[0][1]} has {shapes[0]}; "
                "expected one shape (C, H, W) for all"
            )
    return list(counts), shapes[0]


def unpack(path, folder):
    """Write the useful members of a .npz as .npy files into a new `folder`: role -> path.

    Roles are "images" (N, ...), "labels" where there is a `y` or `labels`, of any shape, and the
    name of every column (N,) of real numbers. Raises InputError for a damaged archive and for one
    without a single set of images.
    """
    with reading(path), zipfile.ZipFile(path) as archive:
        size = sum(member.file_size for member in archive.infolist())
        if size > max(BOMB[0], BOMB[1] * os.path.getsize(path)):
            raise InputError(
                f"{path}: would unpack to {size / 2**30:.1f} GiB, {size // os.path.getsize(path)} times its size, which "
                "no images do; save them with np.save"
            )
        shapes = {}
        kinds = {}
        for member in archive.namelist():
            if member.endswith(".npy"):
                with archive.open(member) as file:
                    shape, _, dtype = _header(file)
                shapes[member[:-4]] = shape
                kinds[member[:-4]] = dtype.kind
        images = _image_key(path, shapes)
        roles = {k: "labels" for k in ("y", "labels") if k in shapes} | {images: "images"}
        roles |= {
            k: k
            for k in shapes
            if k not in roles and shapes[k] == shapes[images][:1] and kinds[k] in "fiub"
        }
        folder.mkdir()
        for i, key in enumerate(roles):
            with archive.open(f"{key}.npy") as packed, open(folder / f"{i}.npy", "wb") as file:
                shutil.copyfileobj(packed, file)  # never a name from the archive
        return {role: folder / f"{i}.npy" for i, role in enumerate(roles.values())}


def _image_key(path, shapes):
    many = [key for key, shape in shapes.items() if len(shape) in (3, 4)]
    if "images" in shapes or len(many) == 1:
        return "images" if "images" in shapes else many[0]
    listed = ", ".join(f"{k} {s}" for k, s in shapes.items()) or "nothing"
    raise InputError(
        f"{path}: expected images under the key `images`, or a single 3-D or 4-D array; found {listed}"
    )
