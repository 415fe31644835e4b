"""HDF5: the dataset that `data.key` names, `images`, or the only one of three or four axes (h5py).

Datasets of one value an image beside it become labels and columns. Links to other files are not
followed.
"""

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lensnb.datasets.archives import choose_key
from lensnb.datasets.arrays import Peek, StackReader
from lensnb.datasets.axes import arrange
from lensnb.datasets.readers import READERS, check_regular, library, reading
from lensnb.errors import InputError

IN_MEMORY = 2**27  # bytes of a dataset that is read at once


class Hdf5Reader(StackReader):
    """Reads images from HDF5 files."""

    suffixes: tuple[str, ...] = (".h5", ".hdf5", ".hdf", ".he5")

    def peek(self, path: Path, name: str) -> Peek:
        """Shape and type of the images in a file."""
        with _opened(path, name) as file:
            dataset = file[self._key(file, name)]
            return Peek(dataset.shape, dataset.dtype)

    def load(self, path: Path, name: str) -> tuple[Any, float]:
        """The images of a file: in memory if they are few, else read as they are sliced."""
        with _opened(path, name) as file:
            dataset = file[self._key(file, name)]
            if dataset.nbytes <= IN_MEMORY:
                return dataset[()], math.nan
            return LazyStack(path, name, dataset.name, dataset.shape, dataset.dtype), math.nan

    def open_images(self, path: Path, name: str) -> tuple[Any, float]:
        """The images (N, C, H, W) of a file, and NaN."""
        array, mass = self.load(path, name)
        if isinstance(array, LazyStack):
            return array.arranged(self.axes[len(array.shape)]), mass
        return super().open_images(path, name)

    def columns(self, path: Path, name: str) -> dict[str, np.ndarray]:
        """The datasets beside the images with one value an image, name -> (N,)."""
        with _opened(path, name) as file:
            images = file[self._key(file, name)]
            n = images.shape[self.axes.get(images.ndim, "N").index("N")]
            found = {}
            for key, dataset in _datasets(images.parent).items():
                if dataset.shape == (n,) and "/" not in key:
                    column = dataset.asstr()[()] if dataset.dtype.kind == "O" else dataset[()]
                    if column.dtype.kind in "fiub":
                        found[key] = column.astype(float)
                    elif column.dtype.kind in "SUO":
                        found[key] = np.array([_text(value) for value in column])
            return found

    def _key(self, file: Any, name: str) -> str:
        shapes = {key: dataset.shape for key, dataset in _datasets(file).items()}
        return choose_key(name, shapes, getattr(self.data, "key", None))


READERS.add("hdf5", Hdf5Reader())


class LazyStack:
    """A dataset of a file that is read slice by slice, because it is larger than memory may be."""

    def __init__(
        self, path: Path, name: str, key: str, shape: tuple[int, ...], dtype: np.dtype
    ) -> None:
        self.path = path
        self.name = name
        self.key = key
        self.shape = shape
        self.dtype = dtype
        self.axes = ""

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    def arranged(self, axes: str) -> "LazyStack":
        """The same stack as (N, C, H, W)."""
        if not axes.startswith("N"):
            raise InputError(
                f"{self.name}: {math.prod(self.shape) * self.dtype.itemsize / 2**30:.1f} GiB whose "
                "first axis is not N cannot be read image by image; save it with N first"
            )
        self.axes = axes
        bands = self.shape[axes.index("C")] if "C" in axes else 1
        size = [self.shape[axes.index(axis)] for axis in "HW"]
        self.shape = (self.shape[0], bands, *size)
        return self

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Images (B, C, H, W) of these rows, in rising order."""
        with _opened(self.path, self.name) as file:
            return arrange(file[self.key][rows], self.axes)


@contextlib.contextmanager
def _opened(path: Path, name: str) -> Iterator[Any]:
    h5py = library("h5py", "HDF5 is", name)
    with reading(name, "HDF5", "a whole HDF5 file", path):
        check_regular(path, name)
        with h5py.File(path, "r") as file:
            yield file


def _datasets(group: Any, prefix: str = "") -> dict[str, Any]:
    """The datasets in a group and below it that lie in this very file, path -> dataset."""
    import h5py

    found: dict[str, Any] = {}
    for key in group:
        if not isinstance(group.get(key, getlink=True), h5py.HardLink):
            continue
        entry = group[key]
        if isinstance(entry, h5py.Group) and prefix.count("/") < 8:
            found |= _datasets(entry, f"{prefix}{key}/")
        elif isinstance(entry, h5py.Dataset) and not entry.is_virtual and not entry.external:
            found[f"{prefix}{key}"] = entry
    return found


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
