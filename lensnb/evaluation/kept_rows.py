"""What was measured on real images, kept on disk for the next run with the same real images.

A folder a set of real images. Its name is a digest of all that the arrays in it depend on: the
images, the settings, this package's measuring code, the weights of its networks and the libraries.
Whatever changes, the name changes, so that nothing stale is read. Arrays are zipped .npy files with
a checksum and without pickle; a damaged one is measured anew, and a line says so.
"""

import hashlib
import os
import shutil
import zipfile
from collections.abc import Callable, Iterable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lensnb import io
from lensnb.recipes.recipe import Params

MEASURED = ".measured"  # the folder beside the runs in which all this lies
NETWORKS = ("lensnet", "finder")  # whose weights measure
FOLDERS = 4  # sets of real images that are kept; the one that was used longest ago goes first
# What is measured with: this room, and the measures below it.
CODE = ("evaluation/*.py", "metrics.py", "two_sample.py", "lensing/critical.py", "weights/*.json")


def digest_of(*parts: bytes) -> str:
    """A digest of some bytes, each with its length."""
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        found.update(len(part).to_bytes(8, "big") + part)
    return found.hexdigest()


@cache
def of_code() -> str:
    """A digest of the code and the weights that measure, and of the libraries' versions."""
    top = Path(__file__).parents[1]
    files = sorted(path for pattern in CODE for path in top.glob(pattern))
    weights = sorted(path for path in top.glob("weights/*.safetensors") if path.stem in NETWORKS)
    versions = (np.__version__, version("scipy"), torch.__version__)
    return digest_of(
        *(part for path in files for part in (path.name.encode(), path.read_bytes())),
        *(io.sha256(path).encode() for path in weights),
        *(one.encode() for one in versions),
    )


class Kept:
    """The arrays of one set of real images; `folder` None keeps nothing.

    folder : where the sets lie, one folder each. `of` opens the one of some images.
    """

    def __init__(self, folder: Path | None = None, opened: Path | None = None) -> None:
        self.folder = folder
        self.opened = opened

    def of(self, sets: Iterable[Any], params: Params, device: str) -> "Kept":
        """The Kept of these sets of images (N, C, H, W), measured with these settings."""
        if self.folder is None:
            return self
        found = hashlib.blake2b(digest_size=16)
        for images in sets:
            found.update(str((len(images), *images[:1].shape[1:])).encode())
            for at in range(0, len(images), 256):
                found.update(np.ascontiguousarray(images[at : at + 256]).tobytes())
        settings = params.evaluate.model_dump_json(exclude={"workers", "fit"})
        told = f"{settings} {params.seed} {device} {self._inception(params)}"
        name = digest_of(found.digest(), told.encode(), of_code().encode())
        return Kept(self.folder, self.folder / name)

    @staticmethod
    def _inception(params: Params) -> str:
        path = params.evaluate.inception and io.locate(params.evaluate.inception)
        return io.sha256(path) if path and path.is_file() else ""

    def read(self, name: str) -> np.ndarray | None:
        """The array of this name; None if it is not there or damaged, which a line says."""
        path = self.opened and self.opened / f"{name}.npz"
        if not path or not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                array: np.ndarray = file["array"]
            path.parent.touch()
            return array
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            print(f"{path}: damaged ({type(error).__name__}), so it is measured anew", flush=True)
            return None

    def write(self, name: str, array: np.ndarray) -> None:
        """Keep an array under this name, atomically; where there is no room, nothing is kept."""
        if self.opened is None:
            return
        try:
            if not self.opened.is_dir():
                self.opened.mkdir(parents=True, exist_ok=True)
                self._tidy()
            # jobs beside this one may write the same array: each has a name of its own
            own = self.opened / f"{name}.{os.getpid()}"
            with io.atomic(own, "wb") as file:
                np.savez(file, array=array)
            os.replace(own, self.opened / f"{name}.npz")
        except OSError as error:
            print(f"{self.opened}: nothing kept there ({error.strerror})", flush=True)

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """The array of this name, or what `make` returns, which is kept if it is an array."""
        found = self.read(name)
        if found is None:
            found = make()
            if isinstance(found, np.ndarray):
                self.write(name, found)
        return found

    def _tidy(self) -> None:
        """Remove the folders that were used longest ago."""
        if self.folder is None:
            return
        folders = sorted(self.folder.iterdir(), key=lambda path: path.stat().st_mtime)
        for old in [path for path in folders if path != self.opened][: 1 - FOLDERS]:
            shutil.rmtree(old, ignore_errors=True)


NOTHING = Kept()
