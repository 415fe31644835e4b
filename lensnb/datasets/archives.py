"""Archives in NumPy's format (.npz): one of many images, unpacked to .npy files, or a folder."""

import contextlib
import math
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lensnb.datasets.arrays import Peek, StackReader, read_header
from lensnb.datasets.readers import READERS, check_regular, reading
from lensnb.errors import InputError, did_you_mean

# an archive may unpack to this many bytes, or to this many times its own size; images need less
MOST_BYTES = 2**30
MOST_TIMES = 200


def unpack(path: Path, folder: Path, key: str | None = None) -> dict[str, Path]:
    """Write the useful members of a .npz as .npy files into a new `folder`: role -> path.

    key : of the images; chosen by `choose_key` if it is None.

    Roles are "images" (N, ...), "labels" where the archive has a `y` or `labels` of any shape, and
    the name of every column (N,) of real numbers or text. Raises InputError for a damaged archive
    and for one without exactly one set of images.
    """
    with reading(path, path=path), zipfile.ZipFile(path) as archive:
        _check_size(path, archive)
        roles = _roles(path, archive, key)
        folder.mkdir()
        unpacked = {}
        for i, (member, role) in enumerate(roles.items()):
            unpacked[role] = folder / f"{i}.npy"  # never a name from the archive
            with archive.open(f"{member}.npy") as packed, open(unpacked[role], "wb") as file:
                shutil.copyfileobj(packed, file)
        return unpacked


def _check_size(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse an archive that unpacks to far more than images would."""
    size = sum(member.file_size for member in archive.infolist())
    packed = os.path.getsize(path)
    if size > max(MOST_BYTES, MOST_TIMES * packed):
        raise InputError(
            f"{path}: would unpack to {size / 2**30:.1f} GiB, {size // packed} times its size, "
            "which no images do; save them with np.save"
        )


def _roles(path: Path, archive: zipfile.ZipFile, key: str | None) -> dict[str, str]:
    """Which members are read, and as what: key -> role."""
    heads = _heads(archive)
    shapes = {key: head.shape for key, head in heads.items()}
    images = choose_key(str(path), shapes, key)
    lengths = {shapes[images][:1], shapes[images][-1:]}  # N is the first axis, or else the last
    roles: dict[str, str] = {k: "labels" for k in ("y", "labels") if k in shapes}
    roles[images] = "images"
    for column, head in heads.items():
        if column not in roles and head.shape in lengths and head.dtype.kind in "fiubUS":
            roles[column] = column
    return roles


def choose_key(name: str, shapes: dict[str, tuple[int, ...]], key: str | None = None) -> str:
    """The key of the images among arrays of these shapes: `key`, `images`, or the only stack.

    Raises InputError where there is no such array, and where there are several.
    """
    if key is not None:
        if key not in shapes:
            raise InputError(f"{name}: no array {key} of data.key; {did_you_mean(key, shapes)}")
        return key
    if "images" in shapes:
        return "images"
    stacks = [key for key, shape in shapes.items() if len(shape) in (3, 4)]
    stacks = stacks or [key for key, shape in shapes.items() if len(shape) == 2]
    if len(stacks) == 1:
        return stacks[0]
    listed = ", ".join(f"{key} {shape}" for key, shape in list(shapes.items())[:8]) or "nothing"
    raise InputError(
        f"{name}: expected images under the key `images`, or a single 3-D or 4-D array; "
        f"found {listed}; data.key names the one to read"
    )


class ArchiveReader(StackReader):
    """Reads images from folders of .npz files; a single one is unpacked instead."""

    suffixes: tuple[str, ...] = (".npz",)

    def peek(self, path: Path, name: str) -> Peek:
        """Shape and type of the images in an archive."""
        with reading(name, path=path), _opened(path, name) as archive:
            with archive.open(f"{self._key(archive, name)}.npy") as member:
                shape, _, dtype = read_header(member)
            return Peek(shape, dtype)

    def load(self, path: Path, name: str) -> tuple[np.ndarray, float]:
        """The images of an archive, in memory, and NaN."""
        with reading(name, path=path), _opened(path, name) as archive:
            return _member(archive, self._key(archive, name)), math.nan

    def columns(self, path: Path, name: str) -> dict[str, np.ndarray]:
        """The arrays beside the images with one value an image, name -> (N,)."""
        with reading(name, path=path), _opened(path, name) as archive:
            heads = _heads(archive)
            images = heads.pop(self._key(archive, name)).shape
            count = images[self.axes.get(len(images), "N").index("N")] if len(images) > 2 else 1
            return {
                key: _member(archive, key).astype(str if head.dtype.kind in "US" else float)
                for key, head in heads.items()
                if head.shape == (count,) and head.dtype.kind in "fiubUS"
            }

    def _key(self, archive: zipfile.ZipFile, name: str) -> str:
        shapes = {key: head.shape for key, head in _heads(archive).items()}
        return choose_key(name, shapes, getattr(self.data, "key", None))


READERS.add("npz", ArchiveReader())


@contextlib.contextmanager
def _opened(path: Path, name: str) -> Iterator[zipfile.ZipFile]:
    check_regular(path, name)
    with zipfile.ZipFile(path) as archive:
        _check_size(path, archive)
        yield archive


def _heads(archive: zipfile.ZipFile) -> dict[str, Peek]:
    """Shape and type of every array in an archive, by its key."""
    found = {}
    for member in archive.namelist():
        if member.endswith(".npy"):
            with archive.open(member) as file:
                shape, _, dtype = read_header(file)
            found[member[:-4]] = Peek(shape, dtype)
    return found


def _member(archive: zipfile.ZipFile, key: str) -> np.ndarray:
    with archive.open(f"{key}.npy") as file:
        return np.lib.format.read_array(file, allow_pickle=False)
