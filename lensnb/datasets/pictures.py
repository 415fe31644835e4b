"""Pictures: PNG, JPEG, BMP, WebP, TIFF and GIF files, cropped to squares of one or three channels."""

import contextlib
import math
import warnings

import numpy as np

from lensnb.datasets import arrays
from lensnb.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif")
FORMATS = (
    "PNG",
    "JPEG",
    "BMP",
    "WEBP",
    "TIFF",
    "GIF",
)  # no other decoder sees a file: EPS would start a program
LARGEST = 2**25  # pixels of a picture: 33 million, 0.8 GB in double precision and three channels


def survey(named):
    """What the pictures (path, name in messages) hold, by their heads alone: counts and one shape.

    The counts are 1 each; the shape is (C, H, H) with 3 channels as soon as one picture has colour,
    and H None where sizes differ. Raises InputError for a head that cannot be read and where
    pictures of 8 bits, in units 0..255, lie among deeper ones.
    """
    channels, sides, deep = zip(*(_head(*file) for file in named), strict=True)
    if len(set(deep)) > 1:
        raise InputError(
            f"{named[deep.index(True)][1]}: more than 8 bits a pixel where {named[deep.index(False)][1]} "
            "has 8; their units differ, so save all with one depth"
        )
    side = sides[0] if len(set(sides)) == 1 else None
    return [1] * len(named), (max(channels), side, side)


def open_images(path, name):
    """The picture of a file as an array (1, C, H, H), C 1 for grey and 3 for colour, and NaN for its mass.

    H is the shorter side, around the centre of the picture as its EXIF orientation shows it; an
    animation gives its first frame. Values are the file's, 0..255 for 8 bits; a palette counts as
    colour, and what is transparent lies on black. Raises InputError under `name` for a damaged file
    and for more than `LARGEST` pixels.
    """
    from PIL import ImageOps

    with _opened(path, name) as image:
        image = _plain(_square(ImageOps.exif_transpose(image)))
        return np.moveaxis(np.atleast_3d(image), 2, 0)[None], math.nan


def _head(path, name):
    """Channels, shorter side, and whether a pixel has more than 8 bits, without decoding the picture."""
    with _opened(path, name) as image:
        return 1 if _is_grey(image) else 3, min(image.size), _is_deep(image)


@contextlib.contextmanager
def _opened(path, name):
    try:
        from PIL import Image
    except ImportError:
        raise InputError(
            f"{name}: pictures are read with Pillow, which is not installed; pip install pillow"
        ) from None
    whole = "a whole PNG, JPEG, BMP, WebP, TIFF or GIF file, so save it again or remove it"
    with arrays.reading(name, "a picture", whole), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks on odd metadata; what matters raises
        arrays.check_regular(path, name)
        try:
            image = Image.open(path, formats=FORMATS)
        except Image.DecompressionBombError:
            image = None
        if image is None or math.prod(image.size) > LARGEST:  # before any pixel is decoded
            raise InputError(
                f"{name}: more than {LARGEST} pixels; expected a picture, so crop or shrink it"
            )
        with image:
            yield image


def _is_deep(image):
    return image.mode[0] in "IF"  # I, I;16 in either byte order, F


def _is_grey(image):
    return _is_deep(image) or image.mode in ("1", "L", "LA", "La")


def _square(image):
    side = min(image.size)
    left = (image.width - side) // 2
    top = (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _plain(image):
    """The picture with one grey channel or three of colour, nothing transparent."""
    from PIL import Image

    if _is_deep(image):
        return image
    mode = "L" if _is_grey(image) else "RGB"
    if image.mode[-1] in "Aa" or "transparency" in image.info:
        black = Image.new("RGBA", image.size, "black")
        image = Image.alpha_composite(black, image.convert("RGBA"))
    return image.convert(mode)
