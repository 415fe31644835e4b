"""Pictures (PNG, JPEG, BMP, WebP, TIFF, GIF), cropped to squares of one or three channels."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lensnb.datasets.readers import (
    READERS,
    ImageShape,
    NamedFile,
    check_regular,
    look_at_all,
    reading,
)
from lensnb.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

# no other decoder sees a file: EPS would start a program
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF")
DEEP_COLOUR = "RGB;16B"  # what Pillow calls three channels of 16 bits in a PNG
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
        channels, sides, deep = zip(*look_at_all(named, _read_head), strict=True)
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
            if _raw(picture).startswith(DEEP_COLOUR):
                return _deep_colour(path, picture), math.nan
            picture = _without_transparency(_cropped(ImageOps.exif_transpose(picture)))
            return np.moveaxis(np.atleast_3d(np.asarray(picture)), 2, 0)[None], math.nan


READERS.add("picture", PictureReader())


def _read_head(path: Path, name: str) -> tuple[int, int, bool]:
    """Channels, shorter side, and whether a pixel has more than 8 bits, without decoding pixels."""
    with _opened(path, name) as picture:
        raw = _raw(picture)
        is_deep_colour = picture.mode in ("RGB", "RGBA", "LA") and ";16" in raw
        if is_deep_colour and not (picture.format == "PNG" and raw == DEEP_COLOUR):
            raise InputError(
                f"{name}: {picture.format} of 16 bits a channel that is no plain RGB PNG would "
                "lose 8 of them; save it as a plain RGB PNG or as .npy"
            )
        if picture.format == "TIFF" and getattr(picture, "n_frames", 1) > 1:
            raise InputError(
                f"{name}: a TIFF of several pages among pictures; keep one kind in a folder"
            )
        is_deep = _is_deep(picture) or is_deep_colour
        return 1 if _is_grey(picture) else 3, min(picture.size), is_deep


def _raw(picture: "Picture") -> str:
    """How the pixels lie in the file, as Pillow names it, such as RGB;16B."""
    tiles = getattr(picture, "tile", None)
    args = tiles[0][3] if tiles else ""
    return str(args[0] if isinstance(args, tuple) and args else args or "")


def _deep_colour(path: Path, picture: "Picture") -> np.ndarray:
    """A PNG of 16 bits a channel, the central square, (1, 3, H, H).

    Pillow gives 8 of the 16 bits. It takes the upper byte of each big-endian number; told that the
    numbers are little-endian, it takes the lower one.
    """
    from PIL import Image

    upper = np.asarray(_cropped(picture)).astype(np.uint16)
    with Image.open(path, formats=("PNG",)) as again:
        tile = again.tile[0]
        again.tile = [tile._replace(args="RGB;16L")]
        lower = np.asarray(_cropped(again))
    return np.moveaxis(upper * np.uint16(256) + lower, 2, 0)[None]


@contextlib.contextmanager
def _opened(path: Path, name: str) -> "Iterator[Picture]":
    try:
        from PIL import Image
    except ImportError:
        raise InputError(
            f"{name}: pictures are read with Pillow, which is not installed; pip install pillow"
        ) from None
    with reading(name, "a picture", WHOLE, path):
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
