"""MNIST: its IDX files, the place where they are fetched, and the digits that stand in without a network."""

import gzip
import hashlib
import http.client
import math
import os
import struct
import urllib.request
from pathlib import Path

import numpy as np
import torch

from lensnb import io
from lensnb.datasets import arrays
from lensnb.errors import InputError

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
SHA256 = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
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


def find(top):
    """MNIST's files in the folder `top`: role -> path, and a note on which are read; {} and "" where there are none.

    Roles are "images" and, where there is such a file, "labels". The train files are taken, or else
    those of t10k, each plain before .gz. Raises OSError for a folder that cannot be read.
    """
    splits = {
        split: {role: path for role in AXES if (path := _named(top, split, role))}
        for split in ("train", "t10k")
    }
    there = [split for split, found in splits.items() if "images" in found]
    if not there:
        return {}, ""
    found = splits[there[0]]
    return found, (
        f", its {there[0]} files"
        + (" alone (t10k left unread)" if len(there) > 1 else "")
        + ("" if "labels" in found else ", without labels")
    )


def _named(top, split, role):
    names = (
        f"{split}-{role}{mark}idx{AXES[role]}-ubyte{end}" for end in ("", ".gz") for mark in "-."
    )
    return next((top / name for name in names if (top / name).is_file()), None)


def unpack(paths, folder):
    """Write IDX files (role -> path, as of `find`) as .npy files into a new `folder`: role -> path.

    Images become (N, H, W) uint8, labels (N,) uint8. Raises InputError for a damaged file, for
    other types than unsigned bytes and where the labels are not as many as the images.
    """
    folder.mkdir()
    unpacked = {role: folder / f"{role}.npy" for role in paths}
    n = {role: _unpack(path, unpacked[role], AXES[role])[0] for role, path in paths.items()}
    if n.get("labels", n["images"]) != n["images"]:
        raise InputError(
            f"{paths['labels']}: {n['labels']} labels for the {n['images']} images of {paths['images']}; "
            "fetch both again"
        )
    return unpacked


def _unpack(path, target, axes):
    """Copy an IDX file to a .npy file, piece by piece; its shape."""
    packed = path.suffix == ".gz"
    with (
        arrays.reading(path, "IDX", "a whole file as MNIST is published, so fetch it again"),
        (gzip.open if packed else open)(path, "rb") as file,
    ):
        shape = _shape(file, path, axes)
        need = math.prod(shape)
        most = path.stat().st_size * (DEFLATE if packed else 1)
        if not 0 < need <= most:  # checked before anything of that size is asked for
            raise InputError(
                f"{path}: its header promises {need} bytes for shape {shape}, which a file of "
                f"{path.stat().st_size} bytes cannot mean; fetch it again"
            )
        array = arrays.new_array(target, np.uint8, shape)
        follow = _fill(array.reshape(-1), file)
        if follow < need or file.read(1):  # at the very end gzip compares its checksum
            raise InputError(
                f"{path}: its header promises {need} bytes for shape {shape} and "
                f"{follow if follow < need else 'more'} follow; fetch it again"
            )
        return shape


def _shape(file, path, axes):
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


def _fill(array, file):
    """Fill a flat array from a stream; how many bytes there were."""
    at = 0
    while piece := file.read(min(CHUNK, len(array) - at)):
        array[at : at + len(piece)] = np.frombuffer(piece, np.uint8)
        at += len(piece)
    return at


# Download -----------------------------------------------------------------------------------------


def download(folder):
    """MNIST's train files as .npy files in a new `folder`: role -> path, and in words what they are.

    Fetched once into the cache (`LENSNB_CACHE`, or .cache/mnist in the project) and checked by
    sha256. Where no mirror answers, a line is printed and scikit-learn's 1797 digits are taken:
    images (N, 28, 28) in 0..16. Raises InputError for a file with another hash, which is not kept.
    """
    try:
        fetched = {role: _cached(name) for role, name in zip(AXES, SHA256, strict=True)}
    except _Unreachable as reason:
        print(f"data.download: {STAND_IN} ({reason})")
        return _digits(folder), STAND_IN
    return unpack(fetched, folder), "MNIST, its train files, checked by sha256"


def _cached(name):
    """The path of a published file in the cache, fetched if it is not there with the right hash."""
    path = io.home() / Path(os.environ.get("LENSNB_CACHE") or ".cache/mnist").expanduser() / name
    try:
        if path.is_file() and io.sha256(path) == SHA256[name]:
            return path
        path.unlink(missing_ok=True)
        body = _fetch(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with io.atomic(path, "wb") as file:
            file.write(body)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be kept there ({error.strerror}); free the folder or set LENSNB_CACHE "
            "to another one"
        ) from None
    return path


def _fetch(name):
    """The bytes of a published file, whose hash is right, from the first mirror that answers."""
    for mirror in _mirrors():
        try:
            body = _body(mirror + name)
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = f"{mirror}: {' '.join(str(error).split())[:200] or type(error).__name__}"
            continue
        found = hashlib.sha256(body).hexdigest()
        if found != SHA256[name]:
            raise InputError(
                f"{mirror}{name}: found sha256 {found}, expected {SHA256[name]}; the file was not kept, "
                "so try again or set LENSNB_MNIST_URL to another address"
            )
        return body
    raise _Unreachable(reason)


def _mirrors():
    given = os.environ.get("LENSNB_MNIST_URL")
    if given and not given.startswith(("http://", "https://")):
        raise InputError(
            f"LENSNB_MNIST_URL: found {given!r}; expected the address of a folder, such as {MIRRORS[0]}"
        )
    return [given.rstrip("/") + "/"] if given else MIRRORS


def _body(url):
    with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
        body = response.read(LARGEST)
        promised = response.headers.get("Content-Length", "")
    if promised.isdecimal() and len(body) < min(int(promised), LARGEST):
        raise ConnectionError(f"the connection ended after {len(body)} of {promised} bytes")
    return body


def _digits(folder):
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InputError(
            "data.download: MNIST could not be fetched, and scikit-learn, whose digits would stand in, is "
            "not installed; pip install scikit-learn"
        ) from None
    digits = load_digits()
    small = torch.from_numpy(digits.images)[:, None]  # (N, 1, 8, 8)
    folder.mkdir()
    np.save(
        folder / "images.npy",
        torch.nn.functional.interpolate(small, size=(28, 28), mode="bilinear")[:, 0].numpy(),
    )
    np.save(folder / "labels.npy", digits.target)
    return {role: folder / f"{role}.npy" for role in AXES}
