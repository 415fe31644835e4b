"""Files in NumPy's format (.npy), memory-mapped: images in several layouts, and object arrays.

Nothing in a file is executed. See readers.py for what is refused, and how.
"""

import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from lensnb.datasets import pickles
from lensnb.datasets.readers import READERS, ImageShape, NamedFile, check_regular, reading
from lensnb.errors import FULL, InputError

SHAPES = "(H,W), (N,H,W), (N,C,H,W) or (N,H,W,C) with C 1 or 3"
OBJECT = np.dtype(object)


class ArrayReader:
    """Reads images from .npy files; one file may hold one image or many."""

    suffixes: tuple[str, ...] = (".npy",)

    def survey(self, named: Sequence[NamedFile]) -> tuple[list[int], ImageShape]:
        """How many images each file holds, and the shape (C, H, H) of all.

        Raises InputError for a file that cannot be read, and for one whose images have another
        shape than the first file's.
        """
        counts = []
        shapes = []
        for path, name in named:
            array, _ = self.open_images(path, name)
            counts.append(len(array))
            shapes.append(array.shape[1:])
        for (_, name), shape in zip(named, shapes, strict=True):
            if shape != shapes[0]:
                raise InputError(
                    f"{name}: an image has shape {shape} where {named[0][1]} has {shapes[0]}; "
                    "expected one shape (C, H, W) for all"
                )
        return counts, shapes[0]

    def open_images(self, path: Path, name: str) -> tuple[np.ndarray, float]:
        """The images (N, C, H, H) of a .npy file and their mass, or NaN.

        Raises InputError as `open_array` and `layout` do.
        """
        array, mass = open_array(path, name)
        return layout(array, name), mass


READERS.add("npy", ArrayReader())


def read_header(file: Any) -> tuple[tuple[int, ...], Literal["C", "F"], np.dtype]:
    """Shape, order and type from the head of a .npy stream."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        header = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        header = np.lib.format.read_array_header_2_0(file)
    else:
        raise ValueError(f"format {version} is for records")
    shape, fortran, dtype = header
    if min(shape, default=1) < 0:
        raise ValueError(f"its header claims the shape {shape}")
    return shape, "F" if fortran else "C", dtype


def open_array(path: Path, name: str | None = None) -> tuple[np.ndarray, float]:
    """The array of a .npy file, and the mass that it holds or NaN.

    A plain array is memory-mapped and holds no mass. It may have any type, and any shape but an
    empty one. An object array, as DeepLense saves it, gives its image (H, W) or (1, H, W).

    name : in messages; the path if it is None.

    Raises InputError for anything but a whole file of np.save that holds numbers alone. Nothing is
    executed, and nothing is allocated that the file does not hold.
    """
    name = name or str(path)
    with reading(name):
        check_regular(path, name)
        with open(path, "rb") as file:
            shape, order, dtype = read_header(file)
            if dtype == OBJECT:
                return pickles.image_and_mass(pickles.unpickle(file.read(), name), name)
            _check_size(file, shape, dtype, name)
            return np.memmap(file, dtype, "r", file.tell(), shape, order), math.nan


def _check_size(file: BinaryIO, shape: tuple[int, ...], dtype: np.dtype, name: str) -> None:
    """Refuse a head that promises more than follows, before anything of that size is asked for."""
    need = math.prod(shape) * dtype.itemsize
    has = os.fstat(file.fileno()).st_size - file.tell()
    if not need:
        raise InputError(f"{name}: an empty array of shape {shape}; expected {SHAPES}")
    if need > has:
        raise InputError(
            f"{name}: its header promises {need} bytes for shape {shape} and {has} follow; "
            "copy or save it again"
        )


def layout(array: np.ndarray, name: str) -> np.ndarray:
    """A view (N, C, H, H) of an array in any of `SHAPES`; (H, H, C) is one image too.

    Raises InputError for other shapes, for images that are not square and for values that are not
    real numbers.
    """
    shape = array.shape
    if array.dtype.kind not in "fiub":
        what = "complex numbers" if array.dtype.kind == "c" else f"type {array.dtype}"
        raise InputError(f"{name}: found {what}; expected images of real numbers")
    if array.ndim == 2:
        array = array[None, None]
    elif array.ndim == 3:
        one_in_colour = shape[0] == shape[1] != shape[2] and shape[2] in (1, 3)
        array = np.moveaxis(array, 2, 0)[None] if one_in_colour else array[:, None]
    elif array.ndim == 4 and shape[1] not in (1, 3) and shape[3] in (1, 3):
        array = np.moveaxis(array, 3, 1)
    elif array.ndim != 4 or shape[1] not in (1, 3):
        raise InputError(f"{name}: found shape {shape}; expected {SHAPES}")
    if array.shape[2] != array.shape[3]:
        raise InputError(
            f"{name}: found shape {shape}, images that are not square; crop them to H = W"
        )
    return array


def new_array(path: Path, dtype: Any, shape: tuple[int, ...]) -> np.memmap:
    """A new .npy file of zeros, memory-mapped.

    Its room on the disk is taken now. A later write to a full disk would end the process.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    free = shutil.disk_usage(path.parent).free
    if size > free:
        raise InputError(
            f"{path.parent}: {size / 2**30:.1f} GiB are needed there for {shape[0]} images, and "
            f"{free / 2**30:.1f} are free; make room, take fewer, or set LENSNB_OUTPUTS to "
            "another folder"
        )
    array = np.lib.format.open_memmap(path, "w+", dtype, shape)
    if hasattr(os, "posix_fallocate"):  # not on macOS
        _take_room(path)
    return array


def _take_room(path: Path) -> None:
    with open(path, "r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, os.path.getsize(path))
        except OSError as error:
            if error.errno in FULL:  # other errors: a file system that promises nothing
                raise
