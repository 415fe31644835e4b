"""Pixels of any source to single precision, to the channels and the size that a recipe wants."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from lensnb.errors import InputError

CHUNK = 2**20  # pixels held in memory at a time


def chunks(n: int, pixels: int) -> list[slice]:
    """Slices that cover n images of `pixels` pixels each.

    A slice has at most CHUNK pixels, or one image.
    """
    step = max(1, CHUNK // pixels)
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]


class BadImages(InputError):
    """Images whose pixels cannot be used.

    found : the name of each, and why
    """

    def __init__(self, found: list[tuple[str, str]]) -> None:
        super().__init__(found[0][1])
        self.found = found


class Framing(NamedTuple):
    """What is taken of each image before it gets its size; see the data section of a recipe."""

    bands: tuple[int, ...] | None = None
    crop: str | int | None = None
    fill: float | None = None

    def apply(self, x: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """The bands and the central part (B, C, H, W) of images, masked pixels filled."""
        if self.bands is not None:
            x = x[:, list(self.bands)]
        if self.crop is not None:
            x = self._cropped(x, names)
        if self.fill is not None:
            x = np.where(np.isnan(x), self.fill, x)
        return x

    def _cropped(self, x: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """The central square; where a pixel is over, it is cut at the right or at the bottom."""
        shorter = min(x.shape[2:])
        side = shorter if isinstance(self.crop, str) else int(self.crop or 0)
        if side > shorter:
            why = f"{shorter} pixels on its shorter side, and data.crop asks for {side}"
            raise BadImages(
                [(name, f"{name}: {why}; lower it or drop the image") for name in names]
            )
        top, left = ((n - side) // 2 for n in x.shape[2:])
        return x[:, :, top : top + side, left : left + side]


def convert(
    images: np.ndarray,
    channels: int,
    size: int,
    names: Sequence[str],
    framing: Framing = Framing(),  # noqa: B008 - a constant
) -> np.ndarray:
    """float32 images (B, channels, size, size) from (B, C, H, W) of any real type.

    names : of the images, in messages; framing : bands, crop and fill.

    Raises BadImages for pixels that are not finite in single precision, for images that are
    constant or become constant, and for images below the size of the crop.
    """
    x = framing.apply(images.astype(np.float64), names)
    _check_pixels(x, names)
    if channels != x.shape[1]:
        x = x.mean(axis=1, keepdims=True) if channels == 1 else np.repeat(x, channels, axis=1)
    x = resize(x, size).astype(np.float32)
    _check_pixels(x, names)  # averaging or single precision can make an image constant
    return x


def _check_pixels(x: np.ndarray, names: Sequence[str]) -> None:
    axes = (1, 2, 3)
    bad = (~(np.abs(x) <= np.finfo(np.float32).max)).sum(axis=axes)
    constant = x.min(axis=axes) == x.max(axis=axes)  # NaN equals nothing
    found = []
    for i in np.flatnonzero(bad.astype(bool) | constant).tolist():
        why = (
            f"{bad[i]} of {x[i].size} pixels are NaN, infinite or beyond single precision; "
            "expected finite numbers, so mask or drop it, crop it, or fill NaN (data.fill=0)"
            if bad[i]
            else f"constant image, every pixel is {x[i].flat[0]:g}; drop it"
        )
        found.append((names[i], f"{names[i]}: {why}"))
    if found:
        raise BadImages(found)


def resize(x: np.ndarray, size: int) -> np.ndarray:
    """Square images (B, C, H, H) to (B, C, size, size), keeping surface brightness.

    A smaller image takes the mean over the area of each new pixel, as a detector with larger
    pixels sees it, so that the image's mean is kept to rounding. A larger one is bilinear.
    """
    old = x.shape[-1]
    if size > old:
        return torch.nn.functional.interpolate(
            torch.from_numpy(x), size=(size, size), mode="bilinear"
        ).numpy()
    if size < old:
        return _area_means(_area_means(x, size).swapaxes(2, 3), size).swapaxes(2, 3)
    return x


def _area_means(x: np.ndarray, size: int) -> np.ndarray:
    """Means over `size` equal parts of the last axis.

    An old pixel on a border counts to both parts, by its overlap with each.
    """
    old = x.shape[-1]
    edges = np.arange(size + 1) * old / size
    total = np.zeros(())
    for k in range(math.ceil(old / size) + 1):
        pixel = np.floor(edges[:-1]).astype(int) + k
        overlap = np.minimum(edges[1:], pixel + 1) - np.maximum(edges[:-1], pixel)
        total = total + x[..., np.minimum(pixel, old - 1)] * np.clip(overlap, 0, None)
    return total * size / old
