"""What is locked to the pixel grid: means of pixels, directions, handedness, mirror symmetry.

Images (N, C, H, W) in, rows (N, d) of finite numbers out. Lenses have no preferred direction and
no favourite pixel. A generator may have both, and measures that are blind to orientation miss it.
"""

import functools
import math
from typing import Any

import numpy as np

from lensnb.evaluation.image_stats import grey, in_chunks
from lensnb.evaluation.morphology import (
    RING_SHARE,
    bright,
    central_moments,
    centroid,
    circle,
    grid,
    ratio,
)

FOLD = 8  # pixels after which patterns of upsampling repeat
# Edges of the bins of |frequency|, in steps of a cycle an image of 64 pixels
STEPS = (0.5, 1.5, 2.5, 4.5, 8.5, 16.5, 24.5)


@in_chunks(256)
def brightness_map(images: Any, level: float, noise: float) -> np.ndarray:
    """asinh((pixel - level) / noise) of 2 x 2 pixels, and by position modulo 8: (N, HW / 4 + 64).

    The first columns show where light lies, the last 64 what repeats every FOLD pixels: a
    checkerboard, marks of upsampling. asinh keeps one bright arc from outweighing all else. Pixels
    beyond a whole number of blocks are left out. float32, because the rows are many.
    """
    maps = np.arcsinh((grey(images) - level) / noise).astype(np.float32)
    n, height, width = maps.shape
    halves = maps[:, : height // 2 * 2, : width // 2 * 2]
    blocks = halves.reshape(n, height // 2, 2, width // 2, 2).mean((2, 4)).reshape(n, -1)
    whole = maps[:, : height // FOLD * FOLD, : width // FOLD * FOLD]
    folded = whole.reshape(n, height // FOLD, FOLD, width // FOLD, FOLD).mean((1, 3))
    return np.concatenate([blocks, folded.reshape(n, -1)], axis=1)


@functools.lru_cache
def _cells(size: int) -> np.ndarray:
    """Which frequencies of the half plane lie in which cell: float (size * (size // 2 + 1), cells).

    Each column sums to 1. A wave and its negative are one; the mean of the image is left out.
    """
    edges = np.array(STEPS)
    kx = np.fft.rfftfreq(size) * size
    ky = np.fft.fftfreq(size) * size
    across = np.digitize(kx, edges)[None, :]
    along = np.where(kx == 0, np.abs(ky[:, None]), ky[:, None])
    signed = np.sign(along) * np.digitize(np.abs(along), edges)
    number = (across * 100 + signed + 50).ravel()
    names = np.unique(number[1:])
    member = (number[:, None] == names).astype(float)
    member[0] = 0
    return member / member.sum(0)


@in_chunks(256)
def log_power_2d(images: Any) -> np.ndarray:
    """log10 of the mean power |FFT|^2 / HW in cells of frequency along x and y: (N, cells).

    Unlike the rings of `image_stats.log_power` they tell the directions apart.
    """
    maps = grey(images)
    size = min(maps.shape[1:])
    power = np.abs(np.fft.rfft2(maps[:, :size, :size])) ** 2 / size**2
    means = power.reshape(len(maps), -1) @ _cells(size)
    return np.log10(means.clip(np.finfo(float).tiny))


def corner(rows: np.ndarray) -> np.ndarray:
    """Power at the finest checkerboard over that of its mirror image: rows (N, cells) -> (N, 1).

    In dex, of what `log_power_2d` gives. Waves up to the Nyquist frequency along x and y lie in two
    cells, one for each diagonal. Only one has the checkerboard of single pixels, and white noise
    fills both alike. The value is 0 for the few sizes that have no such two cells (34, 50).
    """
    finest = round((math.sqrt(1 + 2 * rows.shape[1]) - 1) / 2)
    if rows.shape[1] != 2 * finest * (finest + 1):  # of as many steps along x as along y
        return np.zeros((len(rows), 1))
    return rows[:, [-2 * finest - 1]] - rows[:, [-1]]


@in_chunks(256)
def handedness(images: Any) -> np.ndarray:
    """Signed directions of the bright light: (N, 6).

    Columns: sum of F cos(m phi) and F sin(m phi) over sum of F for m = 1 and 2, with the angle phi
    from the x axis (columns of the image) to the y axis (rows); then the centre of the ring, x and
    y, in pixels from the image centre. The angle of m = 1 is about the centre of the ring, so that
    a ring that is out of place does not look like an arc that opens to one side. All is 0 if
    nothing stands out from the noise.
    """
    flux = bright(images, RING_SHARE)
    x, y = grid(flux.shape[1:])
    half = np.array(flux.shape[:0:-1]) / 2
    shift, _ = circle(central_moments(flux))
    lit = flux.max((1, 2))[:, None] > 0
    centre = np.where(lit, (centroid(flux) + shift).clip(-half, half), 0)  # (n, 2)
    dx = x - centre[:, 0, None, None]
    dy = y - centre[:, 1, None, None]
    first = (dx + 1j * dy) / np.hypot(dx, dy).clip(min=1e-9)
    second = (x + 1j * y) ** 2 / (x**2 + y**2).clip(min=1e-9)
    total = flux.sum((1, 2))
    found = []
    for wave in (first, second):
        signed = (flux * wave).sum((1, 2))
        found += [ratio(signed.real, total), ratio(signed.imag, total)]
    return np.concatenate([np.stack(found, axis=1), centre], axis=1)


@in_chunks(256)
def mirror(images: Any) -> np.ndarray:
    """Largest correlation of an image with its four mirror images: (N, 2), light and detail.

    The mirrors lie along x, along y and along both diagonals. `detail` correlates the second
    differences, in which white noise outweighs a smooth lens: images whose halves were made by
    mirroring give 1, others about 0.02.
    """
    maps = grey(images)
    size = min(maps.shape[1:])
    maps = maps[:, :size, :size]
    detail = np.diff(np.diff(maps, 2, axis=1), 2, axis=2)
    return np.stack([_best_mirror(maps), _best_mirror(detail)], axis=1)


def _best_mirror(maps: np.ndarray) -> np.ndarray:
    """Largest correlation (n,) of square maps (n, k, k) with their mirror images."""
    maps = maps - maps.mean((1, 2), keepdims=True)
    turned = maps[:, ::-1, ::-1]
    mirrors = (maps[:, ::-1], maps[:, :, ::-1], maps.swapaxes(1, 2), turned.swapaxes(1, 2))
    products = [np.einsum("nij,nij->n", maps, other) for other in mirrors]
    return ratio(np.max(products, axis=0), np.einsum("nij,nij->n", maps, maps))
