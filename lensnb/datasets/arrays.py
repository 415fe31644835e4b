"""Files in NumPy's format (.npy), memory-mapped: images in several layouts, and object arrays.

Nothing in a file is executed. See readers.py for what is refused, and how.
"""

import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np

from lensnb.datasets import axes, pickles
from lensnb.datasets.axes import SHAPES
from lensnb.datasets.readers import (
    READERS,
    ImageShape,
    NamedFile,
    check_regular,
    look_at_all,
    reading,
    refuse_all,
)
from lensnb.errors import FULL, InputError

OBJECT = np.dtype(object)


class Peek(NamedTuple):
    """What the head of a file says of its array."""

    shape: tuple[int, ...]
    dtype: np.dtype


class StackReader:
    """What the readers of arrays share: one file holds one image or many, in any layout of `axes`.

    A format adds `suffixes`, `peek` and `load`.
    """

    suffixes: tuple[str, ...] = ()

    def __init__(self, data: Any = None) -> None:
        self.data = data  # the data section of a recipe, or None
        self.axes: dict[int, str] = {}  # number of axes -> axes, once files were surveyed
        self.fixed: dict[int, str] = {}  # the same, where the file itself or the recipe says so

    def told(self, data: Any) -> "StackReader":
        """The same reader, which heeds the data section of a recipe."""
        return type(self)(data)

    def peek(self, path: Path, name: str) -> Peek:
        """Shape and type of the array in a file, off its head."""
        raise NotImplementedError

    def load(self, path: Path, name: str) -> tuple[Any, float]:
        """The array of a file, as it lies there, and its mass or NaN; best memory-mapped."""
        raise NotImplementedError

    def survey(self, named: Sequence[NamedFile]) -> tuple[list[int], ImageShape]:
        """How many images each file holds, and the shape (C, H, W) of all.

        H and W are None where sizes differ, which the data section must allow. Raises InputError
        for files that cannot be read, for images that are not square and are not to be cropped, and
        for images of another shape than the first file's.
        """

        def look(path: Path, name: str) -> tuple[int, ...]:
            found = self.peek(path, name)
            _check_kind(found.dtype, name)
            return found.shape

        found = look_at_all(named, look)
        by_ndim: dict[int, list[int]] = {}
        for i, shape in enumerate(found):
            by_ndim.setdefault(len(shape), []).append(i)
        for ndim, rows in by_ndim.items():
            name = named[rows[0]][1]
            known = self.fixed.get(ndim)
            self.axes[ndim] = known or axes.decide([found[i] for i in rows], name, self.data)
        shapes = [axes.shape_of(shape, self.axes[len(shape)]) for shape in found]
        return [shape[0] for shape in shapes], one_shape(named, shapes, self.data)

    def open_images(self, path: Path, name: str) -> tuple[Any, float]:
        """The images (N, C, H, W) of a file and their mass, or NaN.

        Raises InputError as `load` and `layout` do.
        """
        array, mass = self.load(path, name)
        known = self.fixed.get(array.ndim) or self.axes.get(array.ndim)
        return layout(array, name, known, self.data), mass


def one_shape(
    named: Sequence[NamedFile], shapes: Sequence[tuple[int, ...]], data: Any = None
) -> ImageShape:
    """The one shape (C, H, W) of images of these shapes (N, C, H, W); H and W None if they differ.

    Raises InputError for images that do not become one size by data.crop or data.resize.
    """
    first = shapes[0][1:]
    crop, may_resize = getattr(data, "crop", None), getattr(data, "resize", None)
    one_size = isinstance(crop, int) or may_resize
    bad = []
    for (_, name), (_, *shape) in zip(named, shapes, strict=True):
        if crop is None and shape[1] != shape[2]:
            why = (
                f"found shape {tuple(shape)}, images that are not square; crop them: "
                "data.crop=centre takes the central square of each"
            )
        elif shape[0] != first[0] if one_size else tuple(shape) != first:
            why = (
                f"an image has shape {tuple(shape)} where {named[0][1]} has {first}; expected one "
                "shape (C, H, W) for all"
            )
            if shape[0] == first[0]:
                why += "; data.resize=true or data.crop=64, a number of pixels, makes them one size"
        else:
            continue
        bad.append((name, f"{name}: {why}"))
    refuse_all(bad)
    same = all(shape[2:] == shapes[0][2:] for shape in shapes)
    return (first[0], first[1], first[2]) if same else (first[0], None, None)


class ArrayReader(StackReader):
    """Reads images from .npy files."""

    suffixes: tuple[str, ...] = (".npy",)

    def peek(self, path: Path, name: str) -> Peek:
        """Shape and type of the array in a .npy file, off its head."""
        array, _ = open_array(path, name)
        return Peek(array.shape, array.dtype)

    def load(self, path: Path, name: str) -> tuple[np.ndarray, float]:
        """The array of a .npy file, memory-mapped, and its mass or NaN."""
        return open_array(path, name)


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
    with reading(name, path=path):
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


def layout(array: np.ndarray, name: str, known: str | None = None, data: Any = None) -> np.ndarray:
    """A view (N, C, H, W) of an array.

    known : its axes, such as "NHW"; its shape decides if they are None.

    Raises InputError for shapes that `axes.decide` refuses and for values that are no real numbers.
    """
    _check_kind(array.dtype, name)
    return axes.arrange(array, known or axes.decide([array.shape], name, data))


def _check_kind(dtype: np.dtype, name: str) -> None:
    if dtype.kind not in "fiub":
        what = "complex numbers" if dtype.kind == "c" else f"type {dtype}"
        raise InputError(f"{name}: found {what}; expected images of real numbers")


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
