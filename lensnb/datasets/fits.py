"""FITS: images, cubes, several extensions, compressed ones, and tables of cutouts (astropy).

`data.hdu` names the extension by number or name; a list of them gives the bands of one image, and
`all` takes every image extension as an image of its own. `data.key` names the column of a table.

Where an extension is called MASK and has the shape of the images, its pixels other than 0 are
masked: they become NaN. So do BLANK pixels of integers. `data.fill` says what becomes of NaN.
"""

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lensnb.datasets.archives import MOST_BYTES, MOST_TIMES
from lensnb.datasets.arrays import Peek, StackReader
from lensnb.datasets.readers import READERS, check_regular, library, reading
from lensnb.errors import InputError

# extensions that describe the images beside them
BESIDE = ("MASK", "DQ", "ERR", "ERROR", "WHT", "WEIGHT", "VAR", "IVAR", "PSF", "CTX")
ARCSEC = {"deg": 3600.0, "arcmin": 60.0, "arcsec": 1.0}
SCALED = ("BSCALE", "BZERO", "BLANK")
CELESTIAL = ("RA--", "DEC-", "GLON", "GLAT", "ELON", "ELAT")


class FitsReader(StackReader):
    """Reads images from FITS files."""

    suffixes: tuple[str, ...] = (".fits", ".fit", ".fts", ".fz", ".fits.gz", ".fit.gz", ".fts.gz")

    def __init__(self, data: Any = None) -> None:
        super().__init__(data)
        self.hdu = getattr(data, "hdu", None)
        if isinstance(self.hdu, tuple) or self.hdu == "all":
            self.fixed = {4: "NCHW"}

    def peek(self, path: Path, name: str) -> Peek:
        """The shape of the images in a file, off its headers."""
        with _opened(path, name) as hdus:
            picked = self._picked(hdus, name, path)
            if _is_table(picked[0]):
                column = self._column(picked[0], name)
                return Peek(picked[0].data[column].shape, picked[0].data[column].dtype)
            return Peek(self._stacked_shape(picked, name), np.dtype(float))

    def load(self, path: Path, name: str) -> tuple[np.ndarray, float]:
        """The images of a file, memory-mapped where FITS allows it, and NaN."""
        with _opened(path, name) as hdus:
            picked = self._picked(hdus, name, path)
            if _is_table(picked[0]):
                return np.asarray(picked[0].data[self._column(picked[0], name)]), math.nan
            shape = self._stacked_shape(picked, name)
            arrays = [_masked(hdu, hdus) for hdu in picked]
            if not self.fixed:
                return arrays[0], math.nan
            return np.stack(arrays, axis=-3).reshape(self._in_order(shape)), math.nan

    def columns(self, path: Path, name: str) -> dict[str, np.ndarray]:
        """The columns of a table of cutouts with one value a row, name -> (N,)."""
        with _opened(path, name) as hdus:
            [hdu, *_] = self._picked(hdus, name, path)
            if not _is_table(hdu):
                return {}
            found = {}
            for key in hdu.columns.names:
                column = np.array(hdu.data[key])
                if column.ndim == 1 and column.dtype.kind in "fiubSU":
                    found[key] = column.astype(str if column.dtype.kind in "SU" else float)
            return found

    def pixel_scale(self, path: Path, name: str) -> float | None:
        """Arcsec a pixel by CD, or by CDELT and PC; None without celestial axes."""
        with _opened(path, name) as hdus:
            return _scale(self._picked(hdus, name, path)[0].header)

    def _picked(self, hdus: Any, name: str, path: Path) -> list[Any]:
        """The extensions that are read: images, or one table. None of them is too large."""
        picked = (
            self._named(hdus, name) if self.hdu not in (None, "all") else self._found(hdus, name)
        )
        for hdu in picked:
            _check_size(hdu, path, name)
        return picked

    def _named(self, hdus: Any, name: str) -> list[Any]:
        keys = self.hdu if isinstance(self.hdu, tuple) else (self.hdu,)
        try:
            return [hdus[key] for key in keys]
        except (KeyError, IndexError):
            known = ", ".join(f"{i} {hdu.name}".strip() for i, hdu in enumerate(hdus))
            raise InputError(
                f"{name}: no extension {self.hdu} of data.hdu; known are {known}"
            ) from None

    def _found(self, hdus: Any, name: str) -> list[Any]:
        """The extensions with images where none is named; a table counts if there is no image."""
        images = [h for h in hdus if not _is_table(h) and h.shape and h.name not in BESIDE]
        if self.hdu == "all" and images:
            return images
        science = [hdu for hdu in images if hdu.name == "SCI"] if len(images) > 1 else images
        found = images if len(science) != 1 else science
        found = found or [hdu for hdu in hdus if _is_table(hdu) and self._cells(hdu)]
        if len(found) == 1:
            return found
        if not found:
            raise InputError(
                f"{name}: no image and no table of cutouts in it; expected a FITS file with one"
            )
        listed = ", ".join(f"{hdus.index_of(h.name) if h.name else i} {h.name}".strip()
                           for i, h in enumerate(hdus) if h in found)  # fmt: skip
        raise InputError(
            f"{name}: several extensions with images ({listed}): bands of one image "
            "(data.hdu=[1,2,3]), images of their own (data.hdu=all), or one that counts "
            "(data.hdu=1)"
        )

    def _stacked_shape(self, picked: list[Any], name: str) -> tuple[int, ...]:
        """The shape of one image extension, or (N, C, H, W) of those that data.hdu lists."""
        shapes = {tuple(hdu.shape) for hdu in picked if not _is_table(hdu)}
        if len(shapes) != 1:
            raise InputError(f"{name}: the extensions of data.hdu have the shapes "
                             f"{', '.join(map(str, sorted(shapes)))}; expected one")  # fmt: skip
        [shape] = shapes
        if not self.fixed:
            return shape
        if len(shape) not in (2, 3):
            raise InputError(f"{name}: an extension of shape {shape}; expected (H,W) or (N,H,W)")
        return self._in_order((len(picked), *shape) if len(shape) == 2 else
                              (shape[0], len(picked), *shape[1:]))  # fmt: skip

    def _in_order(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """(N, C, H, W) of (K, H, W): K bands or, for data.hdu=all, K images."""
        if len(shape) == 4:
            return shape if self.hdu != "all" else (shape[0] * shape[1], 1, *shape[2:])
        return (shape[0], 1, *shape[1:]) if self.hdu == "all" else (1, *shape)

    def _cells(self, hdu: Any) -> list[str]:
        """The columns of a table whose cells are arrays of two axes or more."""
        return [c for c in hdu.columns.names if len(hdu.columns.dtype[c].shape) >= 2]

    def _column(self, hdu: Any, name: str) -> str:
        cells = self._cells(hdu)
        key = getattr(self.data, "key", None)
        if key in cells or (key is None and len(cells) == 1):
            return key or cells[0]
        raise InputError(f"{name}: columns of images are {', '.join(cells) or 'none'}; "
                         f"data.key names the one to read (found {key})")  # fmt: skip


READERS.add("fits", FitsReader())


@contextlib.contextmanager
def _opened(path: Path, name: str) -> Iterator[Any]:
    fits = library("astropy.io.fits", "FITS is", name)
    with reading(name, "FITS", "a whole FITS file", path):
        check_regular(path, name)
        with open(path, "rb") as file:
            head = file.read(9)
        packed = head[:2] == b"\x1f\x8b"
        if not packed and not head.startswith(b"SIMPLE  ="):
            raise ValueError("it does not begin with SIMPLE")
        with fits.open(path, memmap=not packed, lazy_load_hdus=True) as hdus:
            is_scaled = any(key in hdu.header for hdu in hdus for key in SCALED)
            if packed or not is_scaled:
                yield hdus
                return
        with fits.open(
            path, memmap=False, lazy_load_hdus=True
        ) as hdus:  # astropy maps none of them
            yield hdus


def _is_table(hdu: Any) -> bool:
    return hasattr(hdu, "columns") and not hasattr(hdu, "compression_type")


def _check_size(hdu: Any, path: Path, name: str) -> None:
    """Refuse a header that promises more than the file holds, before memory for it is taken."""
    size = os.path.getsize(path)
    pixels = math.prod(hdu.shape) if not _is_table(hdu) and hdu.shape else 0
    is_packed = hasattr(hdu, "compression_type") or str(path).lower().endswith((".gz", ".fz"))
    if is_packed:
        if 8 * pixels > max(MOST_BYTES, MOST_TIMES * size):
            raise InputError(f"{name}: would unpack to {8 * pixels / 2**30:.1f} GiB, which no "
                             "images do")  # fmt: skip
        return
    place = hdu.fileinfo() or {}
    end = place.get("datLoc", 0) + hdu.size
    if end > size:
        raise InputError(
            f"{name}: its header promises {end} bytes and {size} are there; copy it again"
        )


def _masked(hdu: Any, hdus: Any) -> np.ndarray:
    """The image of an extension; NaN where an extension MASK of its shape is not 0."""
    data = hdu.data
    for other in hdus:
        if other.name == "MASK" and other is not hdu and tuple(other.shape) == data.shape:
            return np.where(other.data != 0, np.nan, data.astype(float))
    return data


def _scale(header: Any) -> float | None:
    if not str(header.get("CTYPE1", "")).startswith(CELESTIAL):
        return None
    unit = ARCSEC.get(str(header.get("CUNIT1", "deg")).strip().lower())
    if "CD1_1" in header or "CD1_2" in header:
        rows = [[header.get(f"CD{i}_{j}", 0.0) for j in (1, 2)] for i in (1, 2)]
    elif "CDELT1" in header:
        rows = [[header.get(f"PC{i}_{j}", float(i == j)) * header[f"CDELT{i}"] for j in (1, 2)]
                for i in (1, 2)]  # fmt: skip
    else:
        return None
    area = abs(rows[0][0] * rows[1][1] - rows[0][1] * rows[1][0])
    return math.sqrt(area) * unit if unit and area > 0 else None
