"""The shapes that an image shows: its ring, its lopsidedness, its excursion sets, its peaks.

Each measure takes images (N, C, H, W), averages their channels, and gives rows (N, d).
None depends on the orientation: a flipped image, or one turned by 90 degrees, measures the same.
Every image gives finite numbers: if there is nothing to measure (noise, a constant) the number is
0.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lensnb.evaluation import image_stats
from lensnb.evaluation.image_stats import above_sky, common, grey, in_chunks, sky

# Standard deviations of the smoothed sky. Noise alone passes in less than one image of a thousand.
SIGNIFICANT = 6
# Share of the smoothed peak. It keeps faint neighbours, which pull hard, out of the circle fit.
RING_SHARE = 0.1
PEAK_LEVELS = (2, 3, 5, 10, 20)  # in units of the image's noise
SHARES = (0.9, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01)  # of reference pixels above a level


# ---- the bright light: ring, multipoles, ellipticity


def grid(shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """x (1, W) and y (H, 1) in pixels from the image centre."""
    y, x = (np.arange(n) - (n - 1) / 2 for n in shape)
    return x[None, :], y[:, None]


@functools.lru_cache
def _smoothing(size: int) -> np.ndarray:
    """Gaussian of 1 pixel as a matrix (size, size), cut off and renormalised at the borders."""
    steps = np.arange(size)
    kernel = np.exp(-((steps[:, None] - steps) ** 2) / 2)
    return kernel / kernel.sum(1, keepdims=True)


@common
def bright(images: Any, share: float = 0.0) -> np.ndarray:
    """Flux above the sky where it stands out, 0 elsewhere: (n, H, W), not negative.

    It stands out where the image, smoothed by 1 pixel, is above both `SIGNIFICANT` times its own
    sky scatter and `share` times its peak. The mask is smoothed and the flux is not, so that no
    shape is widened.
    """
    smooth, scatter = _smooth_above_sky(images)
    threshold = np.maximum(SIGNIFICANT * scatter, share * smooth.max((1, 2), keepdims=True))
    return np.where(smooth > threshold, above_sky(images)[0], 0).clip(min=0)


@common
def _smooth_above_sky(images: Any) -> tuple[np.ndarray, np.ndarray]:
    """Smoothed maps (n, H, W) less their sky, and its scatter (n, 1, 1)."""
    maps = grey(images)
    kernel = _smoothing(maps.shape[-1])
    smooth = kernel @ maps @ kernel.T
    floor, scatter = sky(smooth)
    return smooth - floor, scatter


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below, 0 where `below` is 0."""
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def centroid(flux: np.ndarray) -> np.ndarray:
    """Flux-weighted mean x and y of maps (n, H, W) from the image centre: (n, 2), in pixels."""
    x, y = grid(flux.shape[1:])
    total = flux.sum((1, 2))
    sums = (flux.sum(1) @ x[0], flux.sum(2) @ y[:, 0])
    return np.stack([ratio(along, total) for along in sums], axis=1)


def central_moments(flux: np.ndarray) -> Callable[[int, int], np.ndarray]:
    """Flux-weighted means (n,) of x^a y^b about the centroid, as a function of (a, b)."""
    x, y = grid(flux.shape[1:])
    total = flux.sum((1, 2))
    middle = centroid(flux)
    u = x - middle[:, :1]  # (n, W)
    v = y[:, 0] - middle[:, 1:]  # (n, H)

    def moment(a: int, b: int) -> np.ndarray:
        return ratio(np.einsum("nyx,nx,ny->n", flux, u**a, v**b, optimize=True), total)

    return moment


def circle(mean: Callable[[int, int], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Centre (n, 2), from the centroid, and radius (n,) of the circle through light.

    mean : its `central_moments`; see `ring_radius`
    """
    # 1/12 is the second moment of a pixel; with it a line of pixels has a solution, too
    xx = mean(2, 0) + 1 / 12
    yy = mean(0, 2) + 1 / 12
    xy = mean(1, 1)
    p = (mean(3, 0) + mean(1, 2)) / 2
    q = (mean(0, 3) + mean(2, 1)) / 2
    a, b = np.stack([yy * p - xy * q, xx * q - xy * p]) / (xx * yy - xy**2)
    return np.stack([a, b], axis=1), np.sqrt(a**2 + b**2 + mean(2, 0) + mean(0, 2))


@in_chunks(256)
def ring_radius(images: Any, pixel_scale: float | None = None) -> np.ndarray:
    """Radius of the circle through the bright light: (N, 1) in pixels; arcsec with a pixel scale.

    Least squares of x^2 + y^2 - 2 a x - 2 b y - c over the pixels, weighted by flux (Kasa 1976), in
    closed form: about the centroid (a, b) solves a 2x2 system of second and third moments, and
    R^2 = a^2 + b^2 + c.
    On the broad prior the radius is 0.044 arcsec above theta_E, because the ring has a width, with
    0.028 arcsec scatter. Other light gives the radius of the circle that fits it best; a blob of
    Gaussian width s gives about 1.25 s. The radius is at most half the image's diagonal. It is 0 if
    nothing stands out from the noise, so that a lost ring costs its whole radius.
    """
    flux = bright(images, RING_SHARE)
    _, radius = circle(central_moments(flux))
    radius = radius.clip(max=np.hypot(*flux.shape[1:]) / 2)
    return radius[:, None] * (pixel_scale or 1)


@in_chunks(256)
def multipoles(images: Any, orders: Sequence[int] = (1, 2, 3, 4)) -> np.ndarray:
    """|sum of F exp(i m phi)| / sum of F over the bright flux F, for each order m: (N, orders).

    The values are from 0 to 1. The angle phi is about the image centre, not the ring's. So m = 1
    sees a lens that is out of place, and there is no fit that can fail. A ring 1 + s cos(m phi)
    gives s / 2. The value is 0 if nothing stands out from the noise.
    """
    flux = bright(images)
    x, y = grid(flux.shape[1:])
    # a pixel on the centre has no angle
    phi = np.arctan2(y, x)
    off_centre = np.hypot(x, y) > 0
    waves = np.exp(1j * phi.reshape(-1, 1) * np.asarray(orders)) * off_centre.reshape(-1, 1)
    flux = flux.reshape(len(flux), -1)  # (n, pixels)
    return ratio(np.abs(flux @ waves), flux.sum(1, keepdims=True))


@in_chunks(256)
def ellipticity(images: Any) -> np.ndarray:
    """(1 - q) / (1 + q) for the axis ratio q of the bright flux's second moments: (N, 1), 0 to 1.

    |Qxx - Qyy + 2i Qxy| / (Qxx + Qyy + 2 sqrt(det Q)) about the centroid (Bartelmann & Schneider
    2001, equation 4.10). The value is 0 if nothing stands out from the noise.
    """
    mean = central_moments(bright(images))
    xx = mean(2, 0)
    yy = mean(0, 2)
    xy = mean(1, 1)
    size = xx + yy + 2 * np.sqrt((xx * yy - xy**2).clip(min=0))
    return ratio(np.hypot(xx - yy, 2 * xy), size)[:, None]


# ---- excursion sets and peaks


def excursion_levels(reference: Any, shares: Sequence[float] = SHARES) -> np.ndarray:
    """Rising levels that the given shares of the reference pixels exceed: (<= len(shares),)."""
    return np.unique(np.quantile(grey(reference), 1 - np.asarray(shares)))


def _counts_above(steps: np.ndarray, levels: int) -> np.ndarray:
    """How many entries of steps (n, ...) exceed each level: (n, levels).

    A step k exceeds the k lowest levels.
    """
    bins = levels + 1
    flat = steps.reshape(len(steps), -1) + bins * np.arange(len(steps))[:, None]
    counts = np.bincount(flat.ravel(), minlength=bins * len(steps)).reshape(-1, bins)
    return counts[:, ::-1].cumsum(1)[:, ::-1][:, 1:]


@in_chunks(64)
def minkowski(images: Any, levels: Any) -> np.ndarray:
    """Minkowski functionals of the pixels above each level: (N, 3 L) for L rising levels.

    The L areas [pixels^2] come first, then the perimeters [pixels], then the Euler numbers: pieces
    minus holes, where pixels that touch at a corner are one piece. All is dark beyond the border.
    The perimeter follows Crofton's formula in four directions (Legland, Kieu & Devaux 2007): pi / 2
    times the mean number of crossings per length of lines 1 or 1 / sqrt(2) apart. The Euler number
    is pixels - edges + corners.
    """
    kind = np.uint8 if len(levels) < 256 else np.int64
    steps = np.searchsorted(levels, grey(images)).astype(kind)
    steps = np.pad(steps, ((0, 0), (1, 1), (1, 1)))

    def count(s: np.ndarray) -> np.ndarray:
        return _counts_above(s, len(levels))

    def either(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Number of pairs of pixels of which one or both are above."""
        return count(np.maximum(a, b))

    west = steps[:, :, :-1]
    east = steps[:, :, 1:]
    north = steps[:, :-1]
    south = steps[:, 1:]
    pixels = count(steps)
    edges = either(west, east) + either(north, south)
    diagonals = either(west[:, :-1], east[:, 1:]) + either(east[:, :-1], west[:, 1:])
    corners = either(np.maximum(west, east)[:, :-1], np.maximum(west, east)[:, 1:])
    # a pair crosses the boundary if one is above and not both: crossings = 2 (either - pixels)
    perimeter = np.pi / 4 * (edges - 2 * pixels + (diagonals - 2 * pixels) / np.sqrt(2))
    return np.concatenate([pixels, perimeter, pixels - edges + corners], axis=1)


@in_chunks(256)
def peak_counts(images: Any, levels: Sequence[float] = PEAK_LEVELS) -> np.ndarray:
    """Number of pixels brighter than all 8 neighbours and than each level: (N, len(levels)).

    Levels are in units of the image's own noise (`image_stats.noise_level`) above its sky.
    """
    maps = grey(images)
    height, width = maps.shape[1:]
    padded = np.pad(maps, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    shifts = [(i, j) for i in range(3) for j in range(3) if (i, j) != (1, 1)]
    neighbours = functools.reduce(
        np.maximum, [padded[:, i : i + height, j : j + width] for i, j in shifts]
    )
    above = above_sky(images)[0]
    noise = image_stats.noise_level(images)[..., None]
    peaks = maps > neighbours
    return np.stack([(peaks & (above > level * noise)).sum((1, 2)) for level in levels], axis=1)


# ---- comparison of two sets


def _units(reference: np.ndarray) -> np.ndarray:
    """Standard deviation of each column of rows (n, d): (d,); 1 if a column does not vary."""
    spread = reference.std(0)
    return np.where(spread > 1e-9 * np.abs(reference).max(0), spread, 1)


def mean_vector(a: np.ndarray, b: np.ndarray, ridge: float = 0.01) -> float:
    """Whitened difference between the mean rows of a (n, d) and b (m, d), in deviations of b.

    sqrt(g^T (C + ridge)^-1 g / d), where g is the difference over the scatter of b and C the
    correlations of b (Mahalanobis 1936). Neighbouring columns move together: a step across their
    common scatter counts for more, and faults show up to 18 times better than without C. The ridge
    keeps C invertible if b has few rows.
    """
    units = _units(b)
    correlations = np.atleast_2d(np.cov(b / units, rowvar=False, ddof=0))
    np.fill_diagonal(correlations, 1 + ridge)  # also for a column that does not vary
    gap = (a.mean(0) - b.mean(0)) / units
    return float(np.sqrt(gap @ np.linalg.solve(correlations, gap) / len(gap)))


def wasserstein_each(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Wasserstein-1 distance of each column of rows a (n, d) and b (m, d): (d,), see below."""
    columns = zip(a.T, b.T, _units(b), strict=True)
    return np.array([_wasserstein(x, y) / unit for x, y, unit in columns])


def wasserstein_columns(a: np.ndarray, b: np.ndarray) -> float:
    """Mean Wasserstein-1 distance of the columns of rows a (n, d) and b (m, d).

    Each column is in standard deviations of b. The integral of |F_a - F_b| over the values of both
    (Vallender 1974) is exact.
    """
    return float(wasserstein_each(a, b).mean())


def wasserstein_worst(a: np.ndarray, b: np.ndarray) -> float:
    """Largest Wasserstein-1 distance of a column, in standard deviations of b."""
    return float(wasserstein_each(a, b).max())


def _wasserstein(x: np.ndarray, y: np.ndarray) -> np.floating:
    """Wasserstein-1 distance of samples x (n,) and y (m,)."""
    values = np.sort(np.concatenate([x, y]))

    def share(z: np.ndarray) -> np.ndarray:
        return np.searchsorted(np.sort(z), values[:-1], side="right") / len(z)

    return np.abs(share(x) - share(y)) @ np.diff(values)
