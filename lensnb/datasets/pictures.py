"""Pictures (PNG, JPEG, BMP, WebP, TIFF, GIF), cropped to squares of one or three channels."""

import contextlib
import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lensnb.datasets.readers import READERS, ImageShape, NamedFile, check_regular, reading
from lensnb.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

# no other decoder sees a file: EPS would start a program
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF")
LARGEST = 2**25  # pixels of a picture: 33 million, 0.8 GB in double precision and three channels
WHOLE = "a whole PNG, JPEG, BMP, WebP, TIFF or GIF file, so save it again or remove it"


class PictureReader:
    """Reads pictures, one image a file."""

    suffixes: tuple[str, ...] = (
        ".png",
        ".jpg",
        ".jpeg",
        ".bmp",
        ".webp",
        ".tif",
        ".tiff",
        ".gif",
    )

    def survey(self, named: Sequence[NamedFile]) -> tuple[list[int], ImageShape]:
        """One image a file and one shape (C, H, H), read only off the heads of the files.

        C is 3 as soon as one picture has colour, and H is None where sizes differ. Raises
        InputError for a head that cannot be read, and where pictures of 8 bits, in units 0..255,
        lie among deeper ones.
        """
        channels, sides, deep = zip(*(_read_head(*file) for file in named), strict=True)
        if len(set(deep)) > 1:
            raise InputError(
                f"{named[deep.index(True)][1]}: more than 8 bits a pixel where "
                f"{named[deep.index(False)][1]} has 8; their units differ, so save all with one "
                "depth"
            )
        side = sides[0] if len(set(sides)) == 1 else None
        return [1] * len(named), (max(channels), side, side)

    def open_images(self, path: Path, name: str) -> tuple[np.ndarray, float]:
        """The picture as an array (1, C, H, H), with C 1 for grey and 3 for colour, and NaN.

        H is the shorter side, around the centre of the picture as its EXIF orientation shows it.
        An animation gives its first frame. Values are the file's, 0..255 for 8 bits. A palette
        counts as colour, and transparent parts lie on black. The mass is never known. Raises
        InputError, under `name`, for a damaged file and for more than `LARGEST` pixels.
        """
        from PIL import ImageOps

        with _opened(path, name) as picture:
            picture = _without_transparency(_cropped(ImageOps.exif_transpose(picture)))
            return np.moveaxis(np.atleast_3d(np.asarray(picture)), 2, 0)[None], math.nan


READERS.add("picture", PictureReader())


def _read_head(path: Path, name: str) -> tuple[int, int, bool]:
    """Channels, shorter side, and whether a pixel has more than 8 bits, without decoding pixels."""
    with _opened(path, name) as picture:
        return 1 if _is_grey(picture) else 3, min(picture.size), _is_deep(picture)


@contextlib.contextmanager
def _opened(path: Path, name: str) -> "Iterator[Picture]":
    try:
        from PIL import Image
    except ImportError:
        raise InputError(
            f"{name}: pictures are read with Pillow, which is not installed; pip install pillow"
        ) from None
    with reading(name, "a picture", WHOLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks on odd metadata; what matters raises
        check_regular(path, name)
        picture: Picture | None
        try:
            picture = Image.open(path, formats=FORMATS)
        except Image.DecompressionBombError:
            picture = None
        if picture is None or math.prod(picture.size) > LARGEST:  # before any pixel is decoded
            raise InputError(
                f"{name}: more than {LARGEST} pixels; expected a picture, so crop or shrink it"
            )
        with picture:
            yield picture


def _is_deep(picture: "Picture") -> bool:
    return picture.mode[0] in "IF"  # I, I;16 in either byte order, F


def _is_grey(picture: "Picture") -> bool:
    return _is_deep(picture) or picture.mode in ("1", "L", "LA", "La")


def _cropped(picture: "Picture") -> "Picture":
    """The central square."""
    side = min(picture.size)
    left = (picture.width - side) // 2
    top = (picture.height - side) // 2
    return picture.crop((left, top, left + side, top + side))


def _without_transparency(picture: "Picture") -> "Picture":
    """The picture with one grey channel or three of colour; transparent parts lie on black."""
    from PIL import Image

    if _is_deep(picture):
        return picture
    mode = "L" if _is_grey(picture) else "RGB"
    if picture.mode[-1] in "Aa" or "transparency" in picture.info:
        black = Image.new("RGBA", picture.size, "black")
        picture = Image.alpha_composite(black, picture.convert("RGBA"))
    return picture.convert(mode)
