"""MNIST: its IDX files, their download, and the digits that stand in for them without a network."""

import gzip
import hashlib
import http.client
import math
import os
import struct
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from lensnb import io
from lensnb.datasets.arrays import new_array
from lensnb.datasets.readers import reading
from lensnb.errors import InputError, one_line

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
SHA256 = {
    "train-images-idx3-ubyte.gz": (
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
    ),
    "train-labels-idx1-ubyte.gz": (
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"
    ),
}
AXES = {"images": 3, "labels": 1}
TIMEOUT = 10  # seconds without an answer
LARGEST = 2**24  # bytes of a download: more than either file has
DEFLATE = 1032  # the most bytes that one compressed byte can stand for
CHUNK = 2**20  # bytes held in memory at a time
STAND_IN = (
    "scikit-learn's handwritten digits, enlarged from 8x8 to 28x28, "
    "which stand in for MNIST as it could not be fetched"
)


class _Unreachable(Exception):
    """No mirror gave the file."""


# IDX files ----------------------------------------------------------------------------------------


def find_files(top: Path) -> tuple[dict[str, Path], str]:
    """MNIST's files in the folder `top`, role -> path, and a note on which are read.

    Roles are "images" and, where there is such a file, "labels". The train files are taken, or
    else the t10k files; a plain file comes before a .gz file. Returns {} and "" where there are no
    such files. Raises OSError for a folder that cannot be read.
    """
    splits = {split: _files_of_split(top, split) for split in ("train", "t10k")}
    there = [split for split, found in splits.items() if "images" in found]
    if not there:
        return {}, ""
    found = splits[there[0]]
    note = f", its {there[0]} files"
    if len(there) > 1:
        note += " alone (t10k left unread)"
    if "labels" not in found:
        note += ", without labels"
    return found, note


def _files_of_split(top: Path, split: str) -> dict[str, Path]:
    paths = {role: _find_file(top, split, role) for role in AXES}
    return {role: path for role, path in paths.items() if path is not None}


def _find_file(top: Path, split: str, role: str) -> Path | None:
    names = (
        f"{split}-{role}{mark}idx{AXES[role]}-ubyte{end}" for end in ("", ".gz") for mark in "-."
    )
    return next((top / name for name in names if (top / name).is_file()), None)


def unpack(paths: Mapping[str, Path], folder: Path) -> dict[str, Path]:
    """Write IDX files as .npy files into a new `folder`: role -> path.

    paths : role -> path, as `find_files` returns them.

    Images become (N, H, W) uint8, labels (N,) uint8. Raises InputError for a damaged file, for
    other types than unsigned bytes, and where there are not as many labels as images.
    """
    folder.mkdir()
    unpacked = {role: folder / f"{role}.npy" for role in paths}
    n = {role: _unpack_file(path, unpacked[role], AXES[role]) for role, path in paths.items()}
    if n.get("labels", n["images"]) != n["images"]:
        raise InputError(
            f"{paths['labels']}: {n['labels']} labels for the {n['images']} images of "
            f"{paths['images']}; fetch both again"
        )
    return unpacked


def _unpack_file(path: Path, target: Path, axes: int) -> int:
    """Copy an IDX file to a .npy file, piece by piece; how many images or labels it holds."""
    with (
        reading(path, "IDX", "a whole file as MNIST is published, so fetch it again"),
        _open(path) as file,
    ):
        shape = _read_shape(file, path, axes)
        need = math.prod(shape)
        _check_promise(path, shape, need)  # before anything of that size is asked for
        array = new_array(target, np.uint8, shape)
        found = _fill(array.reshape(-1), file)
        if found < need or file.read(1):  # at the very end gzip compares its checksum
            raise InputError(
                f"{path}: its header promises {need} bytes for shape {shape} and "
                f"{found if found < need else 'more'} follow; fetch it again"
            )
        return shape[0]


def _open(path: Path) -> Any:
    return gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb")


def _check_promise(path: Path, shape: tuple[int, ...], need: int) -> None:
    """Refuse a head that promises more bytes than the file can hold."""
    size = path.stat().st_size
    most = size * DEFLATE if path.suffix == ".gz" else size
    if not 0 < need <= most:
        raise InputError(
            f"{path}: its header promises {need} bytes for shape {shape}, which a file of "
            f"{size} bytes cannot hold; fetch it again"
        )


def _read_shape(file: BinaryIO, path: Path, axes: int) -> tuple[int, ...]:
    head = file.read(4)
    if len(head) < 4 or head[:2] != b"\0\0":
        raise InputError(
            f"{path}: begins with {head.hex(' ') or 'nothing'}, not with the zeros of an IDX file; "
            "fetch it again"
        )
    if head[2] != 8:
        raise InputError(
            f"{path}: holds values of IDX type 0x{head[2]:02x}; expected unsigned bytes, type 0x08"
        )
    if head[3] != axes:
        raise InputError(f"{path}: has {head[3]} dimensions; expected {axes}")
    return struct.unpack(f">{axes}I", file.read(4 * axes))


def _fill(array: np.ndarray, file: BinaryIO) -> int:
    """Fill a flat array from a stream; returns how many bytes there were."""
    at = 0
    while piece := file.read(min(CHUNK, len(array) - at)):
        array[at : at + len(piece)] = np.frombuffer(piece, np.uint8)
        at += len(piece)
    return at


# Download -----------------------------------------------------------------------------------------


def download(folder: Path) -> tuple[dict[str, Path], str]:
    """MNIST's train files as .npy files in a new `folder`, role -> path, and a title for them.

    The files are fetched once into the cache (`LENSNB_CACHE`, or .cache/mnist in the project) and
    checked by sha256. Where no mirror answers, a line is printed and scikit-learn's 1797 digits
    are taken: images (N, 28, 28) in 0..16. Raises InputError for a file with another hash, which
    is not kept.
    """
    try:
        fetched = {role: _cached(name) for role, name in zip(AXES, SHA256, strict=True)}
    except _Unreachable as reason:
        print(f"data.download: {STAND_IN} ({reason})")
        return _unpack_digits(folder), STAND_IN
    return unpack(fetched, folder), "MNIST, its train files, checked by sha256"


def _cached(name: str) -> Path:
    """The path of a published file in the cache, fetched if it is not there with the right hash."""
    path = io.home() / Path(os.environ.get("LENSNB_CACHE") or ".cache/mnist").expanduser() / name
    try:
        if not path.is_file() or io.sha256(path) != SHA256[name]:
            path.unlink(missing_ok=True)
            _fetch(path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be kept there ({error.strerror or error}); free the folder or set "
            "LENSNB_CACHE to another one"
        ) from None
    return path


def _fetch(path: Path) -> None:
    """Fetch the published file of this name to `path`, from the first mirror that answers."""
    pooch = _import_pooch()
    reasons = []
    for mirror in _mirrors():
        try:
            pooch.retrieve(
                mirror + path.name,
                known_hash=f"sha256:{SHA256[path.name]}",
                fname=path.name,
                path=path.parent,
                downloader=_download_file,
            )
            return
        except _Unreachable as reason:
            reasons.append(f"{mirror}: {reason}")
    raise _Unreachable(reasons[-1])


def _import_pooch() -> Any:
    try:
        import pooch
    except ImportError:
        raise InputError(
            "data.download: MNIST is fetched with pooch, which is not installed; pip install pooch"
        ) from None
    pooch.get_logger().setLevel("WARNING")  # it would report every download
    return pooch


def _download_file(url: str, target: str, _: Any) -> None:
    """Write what `url` gives to the file `target`; a downloader for pooch.retrieve.

    Unlike pooch's own it takes at most LARGEST bytes, and its refusal names both hashes.
    """
    try:
        body = _read_body(url)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _Unreachable(one_line(error)) from None
    found = hashlib.sha256(body).hexdigest()
    expected = SHA256[url.rsplit("/", 1)[1]]
    if found != expected:
        raise InputError(
            f"{url}: found sha256 {found}, expected {expected}; the file was not kept, so try "
            "again or set LENSNB_MNIST_URL to another address"
        )
    Path(target).write_bytes(body)


def _mirrors() -> tuple[str, ...]:
    given = os.environ.get("LENSNB_MNIST_URL")
    if not given:
        return MIRRORS
    if not given.startswith(("http://", "https://")):
        raise InputError(
            f"LENSNB_MNIST_URL: found {given!r}; expected the address of a folder, such as "
            f"{MIRRORS[0]}"
        )
    return (given.rstrip("/") + "/",)


def _read_body(url: str) -> bytes:
    """The first LARGEST bytes of an answer; raises ConnectionError if it ends early."""
    with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
        body = response.read(LARGEST)
        promised = response.headers.get("Content-Length", "")
    if promised.isdecimal() and len(body) < min(int(promised), LARGEST):
        raise ConnectionError(f"the connection ended after {len(body)} of {promised} bytes")
    return body


def _unpack_digits(folder: Path) -> dict[str, Path]:
    """scikit-learn's digits, enlarged, as .npy files in a new `folder`: role -> path."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InputError(
            "data.download: MNIST could not be fetched, and scikit-learn, whose digits would stand "
            "in, is not installed; pip install scikit-learn"
        ) from None
    digits = load_digits()
    small = torch.from_numpy(digits.images)[:, None]  # (N, 1, 8, 8)
    large = torch.nn.functional.interpolate(small, size=(28, 28), mode="bilinear")[:, 0]
    folder.mkdir()
    np.save(folder / "images.npy", large.numpy())
    np.save(folder / "labels.npy", digits.target)
    return {role: folder / f"{role}.npy" for role in AXES}
