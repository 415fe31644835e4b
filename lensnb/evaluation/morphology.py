"""The shapes that an image holds: its ring, its lopsidedness, its excursion sets, its peaks, its wavelet scales.

Each measure takes images (N, C, H, W), averages their channels, and gives rows (N, d); `SUMMARIES` names them all.
None depends on the orientation: an image flipped or turned by a quarter measures the same. Every image gives finite
numbers: where there is nothing to measure (noise, a constant) the number is 0.
"""

import functools

import numpy as np
import torch

from lensnb.evaluation import image_stats
from lensnb.evaluation.image_stats import grey, in_chunks, sky

SIGNIFICANT = 6  # standard deviations of the smoothed sky: noise alone passes in less than one image of a thousand
RING_SHARE = (
    0.1  # of the smoothed peak: keeps faint neighbours, which pull hard, out of the circle fit
)
PEAK_LEVELS = (2, 3, 5, 10, 20)  # in units of the image's noise
SHARES = (
    0.9,
    0.7,
    0.5,
    0.3,
    0.2,
    0.1,
    0.05,
    0.02,
    0.01,
)  # of the reference's pixels, above a level


# ---- the bright light: ring, multipoles, ellipticity


def _grid(shape):
    """x (1, W) and y (H, 1) in pixels from the image centre."""
    y, x = (np.arange(n) - (n - 1) / 2 for n in shape)
    return x[None, :], y[:, None]


@functools.lru_cache
def _smoothing(size):
    """Gaussian of 1 pixel as a matrix (size, size), cut off and renormalised at the borders."""
    steps = np.arange(size)
    kernel = np.exp(-((steps[:, None] - steps) ** 2) / 2)
    return kernel / kernel.sum(1, keepdims=True)


def _bright(images, share=0.0):
    """Flux above the sky where it stands out, 0 elsewhere: (n, H, W), not negative.

    It stands out where the image, smoothed by 1 pixel, is above both `SIGNIFICANT` of its own sky scatter and
    `share` of its peak. The mask is smoothed, the flux is not: no shape is widened.
    """
    maps = grey(images)
    level, _ = sky(maps)
    kernel = _smoothing(maps.shape[-1])
    smooth = kernel @ maps @ kernel.T
    floor, scatter = sky(smooth)
    threshold = np.maximum(
        SIGNIFICANT * scatter, share * (smooth - floor).max((1, 2), keepdims=True)
    )
    return np.where(smooth - floor > threshold, maps - level, 0).clip(min=0)


def _ratio(above, below):
    """above / below, 0 where `below` is 0."""
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def _central_moments(flux):
    """Flux-weighted means of x^a y^b about the centroid, as a function of (a, b) that gives (n,)."""
    x, y = _grid(flux.shape[1:])
    total = flux.sum((1, 2))
    along_x = flux.sum(1)
    along_y = flux.sum(2)
    u = x - _ratio(along_x @ x[0], total)[:, None]  # (n, W)
    v = y[:, 0] - _ratio(along_y @ y[:, 0], total)[:, None]  # (n, H)
    return lambda a, b: _ratio(np.einsum("nyx,nx,ny->n", flux, u**a, v**b, optimize=True), total)


@in_chunks(256)
def ring_radius(images, pixel_scale=None):
    """Radius of the circle through the bright light: (N, 1) in pixels, or arcsec with a pixel scale.

    Least squares of x^2 + y^2 - 2 a x - 2 b y - c over the pixels, weighted by flux (Kasa 1976), in closed form:
    about the centroid (a, b) solves a 2x2 system of second and third moments, and R^2 = a^2 + b^2 + c.
    On the broad prior 0.044 arcsec above theta_E, because the ring has a width, with 0.028 arcsec scatter.
    Other light gives the radius of the circle that fits it best, a blob of Gaussian width s about 1.25 s. 0 where
    nothing stands out from the noise, so that a lost ring costs its whole radius; at most half the image's diagonal.
    """
    flux = _bright(images, RING_SHARE)
    mean = _central_moments(flux)
    # 1/12: of a pixel, so that lines solve too
    xx = mean(2, 0) + 1 / 12
    yy = mean(0, 2) + 1 / 12
    xy = mean(1, 1)
    p = (mean(3, 0) + mean(1, 2)) / 2
    q = (mean(0, 3) + mean(2, 1)) / 2
    a, b = np.stack([yy * p - xy * q, xx * q - xy * p]) / (xx * yy - xy**2)
    radius = np.sqrt(a**2 + b**2 + mean(2, 0) + mean(0, 2)).clip(max=np.hypot(*flux.shape[1:]) / 2)
    return radius[:, None] * (pixel_scale or 1)


@in_chunks(256)
def multipoles(images, orders=(1, 2, 3, 4)):
    """|sum of F exp(i m phi)| / sum of F over the bright flux F, for each order m: (N, len(orders)), from 0 to 1.

    About the image centre, not that of the ring: there m = 1 sees a lens that is out of place, and no fit can fail.
    A ring 1 + s cos(m phi) has s / 2. 0 where nothing stands out from the noise.
    """
    flux = _bright(images)
    x, y = _grid(flux.shape[1:])
    # a pixel on the centre has no angle
    phi = np.arctan2(y, x)
    off_centre = np.hypot(x, y) > 0
    waves = np.exp(1j * phi.reshape(-1, 1) * np.asarray(orders)) * off_centre.reshape(-1, 1)
    flux = flux.reshape(len(flux), -1)  # (n, pixels)
    return _ratio(np.abs(flux @ waves), flux.sum(1, keepdims=True))


@in_chunks(256)
def ellipticity(images):
    """(1 - q) / (1 + q) for the axis ratio q of the bright flux's second moments: (N, 1), from 0 to 1.

    |Qxx - Qyy + 2i Qxy| / (Qxx + Qyy + 2 sqrt(det Q)) about the centroid (Bartelmann & Schneider 2001, equation
    4.10). 0 where nothing stands out from the noise.
    """
    mean = _central_moments(_bright(images))
    xx = mean(2, 0)
    yy = mean(0, 2)
    xy = mean(1, 1)
    size = xx + yy + 2 * np.sqrt((xx * yy - xy**2).clip(min=0))
    return _ratio(np.hypot(xx - yy, 2 * xy), size)[:, None]


# ---- excursion sets and peaks


def excursion_levels(reference, shares=SHARES):
    """Rising levels that the given shares of the reference pixels exceed: (<= len(shares),)."""
    return np.unique(np.quantile(grey(reference), 1 - np.asarray(shares)))


def _counts_above(steps, levels):
    """How many entries of steps (n, ...) exceed each of so many levels: (n, levels); a step k exceeds the k lowest."""
    bins = levels + 1
    flat = steps.reshape(len(steps), -1) + bins * np.arange(len(steps))[:, None]
    counts = np.bincount(flat.ravel(), minlength=bins * len(steps)).reshape(-1, bins)
    return counts[:, ::-1].cumsum(1)[:, ::-1][:, 1:]


@in_chunks(64)
def minkowski(images, levels):
    """Minkowski functionals of the pixels above each level: (N, 3 L) for L rising levels.

    First the L areas [pixels^2], then the perimeters [pixels], then the Euler numbers: pieces minus holes, where
    pixels that touch at a corner hang together. All is dark beyond the border.
    Perimeter by Crofton's formula in four directions (Legland, Kieu & Devaux 2007): pi / 2 times the mean number of
    crossings per length of lines 1 or 1 / sqrt(2) apart. Euler number: pixels - edges + corners.
    """
    steps = np.searchsorted(levels, grey(images)).astype(
        np.uint8 if len(levels) < 256 else np.int64
    )
    steps = np.pad(steps, ((0, 0), (1, 1), (1, 1)))

    def count(s):
        return _counts_above(s, len(levels))

    def either(a, b):
        return count(np.maximum(a, b))  # pairs of pixels with one above

    west = steps[:, :, :-1]
    east = steps[:, :, 1:]
    north = steps[:, :-1]
    south = steps[:, 1:]
    pixels = count(steps)
    edges = either(west, east) + either(north, south)
    diagonals = either(west[:, :-1], east[:, 1:]) + either(east[:, :-1], west[:, 1:])
    corners = either(np.maximum(west, east)[:, :-1], np.maximum(west, east)[:, 1:])
    # a pair with one above crosses the boundary unless both are: crossings = 2 (either - pixels)
    perimeter = np.pi / 4 * (edges - 2 * pixels + (diagonals - 2 * pixels) / np.sqrt(2))
    return np.concatenate([pixels, perimeter, pixels - edges + corners], axis=1)


@in_chunks(256)
def peak_counts(images, levels=PEAK_LEVELS):
    """Number of pixels brighter than all 8 neighbours and than each level: (N, len(levels)).

    Levels are in units of the image's own noise (`physics.noise_level`) above its sky.
    """
    maps = grey(images)
    height, width = maps.shape[1:]
    padded = np.pad(maps, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    shifts = [(i, j) for i in range(3) for j in range(3) if (i, j) != (1, 1)]
    neighbours = functools.reduce(
        np.maximum, [padded[:, i : i + height, j : j + width] for i, j in shifts]
    )
    above = maps - sky(maps)[0]
    noise = image_stats.noise_level(images)[..., None]
    return np.stack(
        [((maps > neighbours) & (above > level * noise)).sum((1, 2)) for level in levels], axis=1
    )


# ---- wavelet scattering


@functools.lru_cache
def wavelets(size, scales, orientations=4):
    """Fourier transforms of Morlet wavelets on a periodic grid: float32 tensor (scales, orientations, size, size).

    A plane wave of 3 pi / 4 / 2^j radians a pixel under a Gaussian of 0.8 * 2^j pixels, less what gives it a mean
    (Bruna & Mallat 2013, arXiv:1203.1513; parameters of kymatio for 4 orientations); height about 1.
    """
    k = (
        2 * np.pi * (np.fft.fftfreq(size) + np.array([[-1], [0], [1]]))
    ).ravel()  # with the aliases on both sides

    def fold(spectrum):
        return spectrum.reshape(3, size, 3, size).sum((0, 2))

    def gaussian(sigma, x, y):
        return fold(np.exp(-(sigma**2) * ((k[:, None] - y) ** 2 + (k - x) ** 2) / 2))

    bank = np.empty((scales, orientations, size, size), np.float32)
    for j in range(scales):
        sigma = 0.8 * 2**j
        wave = 0.75 * np.pi / 2**j
        envelope = gaussian(sigma, 0, 0)
        for l in range(orientations):
            angle = np.pi * l / orientations
            gabor = gaussian(sigma, wave * np.cos(angle), wave * np.sin(angle))
            bank[j, l] = gabor - gabor[0, 0] / envelope[0, 0] * envelope
    return torch.from_numpy(bank)


def _moduli(spectra, bank):
    """Moduli of maps filtered by each wavelet, from spectra (..., 1, H, W) and a bank (..., H, W)."""
    return torch.fft.ifft2(spectra * bank).abs()


def _low(spectra, half):
    """The lowest 2 * half frequencies in both directions."""
    kept = torch.cat([torch.arange(half), torch.arange(-half, 0)])
    return spectra[..., kept, :][..., kept]


def _by_angle(count):
    """Weights (count^2, count // 2 + 1) that average over the pairs of orientations with the same angle between them."""
    turn = (torch.arange(count)[:, None] - torch.arange(count)).abs()
    same = torch.minimum(turn, count - turn).flatten()[:, None] == torch.arange(count // 2 + 1)
    return same / same.sum(0)


def _second_order(spectra, bank, half):
    """Mean moduli by angle (n, L // 2 + 1) of first moduli, given as spectra (n, L, H, W), under one scale (L, H, W).

    Frequencies beyond `half` are left out, where the wavelets are nil: a coarser map has the same mean (to 2e-4 dex).
    """
    coarse = _moduli(_low(spectra, half)[:, :, None], _low(bank, half))  # (n, L, L, 2 half, 2 half)
    means = coarse.mean((-2, -1)) * (2 * half / spectra.shape[-1]) ** 2
    return means.flatten(1) @ _by_angle(len(bank))


@in_chunks(32)
def scattering(images, scales=None, orientations=4):
    """log10 of the mean wavelet moduli of first and second order, over pixels and orientations: (N, d).

    First |x * psi_j|, in the images' unit, for each of J scales; then ||x * psi_j| * psi_k| / |x * psi_j| for each
    j < k, by the angle between the two wavelets (0, 45, 90 degrees). J is log2(size) - 2 unless given: at 64
    pixels J = 4 and d = 4 + 6 * 3. A modulus of 0 counts as the smallest positive float.
    """
    maps = grey(images)
    maps = torch.from_numpy(maps - maps.mean((1, 2), keepdims=True)).float()
    size = maps.shape[-1]
    tiny = torch.finfo(torch.float32).tiny
    scales = scales or max(int(np.log2(size)) - 2, 1)
    bank = wavelets(size, scales, orientations)
    first = _moduli(torch.fft.fft2(maps)[:, None, None], bank)  # (n, J, L, H, W)
    # (n, J), (n, J, L, H, W)
    means = first.mean((-3, -2, -1))
    spectra = torch.fft.fft2(first)
    second = [
        _second_order(spectra[:, j], bank[k], size >> max(k, 1)) / means[:, j, None].clamp(min=tiny)
        for j in range(scales)
        for k in range(j + 1, scales)
    ]
    return torch.cat([means, *second], 1).double().clamp(min=tiny).log10().numpy()


# ---- comparison of two sets


def _units(reference):
    """Standard deviation of each column of reference rows (n, d): (d,); 1 for a column that does not vary."""
    spread = reference.std(0)
    return np.where(spread > 1e-9 * np.abs(reference).max(0), spread, 1)


def mean_vector(a, b, ridge=0.01):
    """Difference between the mean rows of a (n, d) and b (m, d) in standard deviations of b, whitened.

    sqrt(g^T (C + ridge)^-1 g / d) with g the difference over the scatter of b, C the correlations of b
    (Mahalanobis 1936). Neighbouring columns move together: a step across their common scatter counts for more, and
    faults show up to 18 times better than in the same without C. The ridge keeps C invertible where b has few rows.
    """
    units = _units(b)
    correlations = np.atleast_2d(np.cov(b / units, rowvar=False, ddof=0))
    np.fill_diagonal(correlations, 1 + ridge)  # also of a column that does not vary
    gap = (a.mean(0) - b.mean(0)) / units
    return float(np.sqrt(gap @ np.linalg.solve(correlations, gap) / len(gap)))


def wasserstein_columns(a, b):
    """Wasserstein-1 distance of each column of rows a (n, d) and b (m, d), in standard deviations of b, averaged.

    The integral of |F_a - F_b| over the values of both (Vallender 1974): exact.
    """

    def distance(x, y):
        values = np.sort(np.concatenate([x, y]))

        def share(z):
            return np.searchsorted(np.sort(z), values[:-1], side="right") / len(z)

        return np.abs(share(x) - share(y)) @ np.diff(values)

    return float(np.mean([distance(x, y) / unit for x, y, unit in zip(a.T, b.T, _units(b))]))


# name: (measure, unit of its rows, distance of two sets of rows). Distributions tell most about single numbers, whose
# scatter may be at fault, and whitened means about columns that move together.
SUMMARIES = {
    "noise_level": (image_stats.noise_level, "image unit", wasserstein_columns),
    "total_flux": (image_stats.total_flux, "image unit * pixel", wasserstein_columns),
    "ring_radius": (ring_radius, "pixels", wasserstein_columns),
    "ellipticity": (ellipticity, "1", wasserstein_columns),
    "multipoles": (multipoles, "1", mean_vector),
    "peak_counts": (peak_counts, "peaks", wasserstein_columns),
    "minkowski": (minkowski, "pixels^2, pixels, 1", mean_vector),
    "scattering": (scattering, "dex", mean_vector),
}


def summaries(reference):
    """The measures ready to compare: name -> (rows of images, distance of two sets of rows, unit of the distance).

    Levels are fixed by the reference images (n, C, H, W). The second set of a distance is the one that sets the scale.
    """
    fixed = {"minkowski": {"levels": excursion_levels(reference)}}
    return {
        name: (
            functools.partial(measure, **fixed.get(name, {})),
            distance,
            "standard deviations of real images",
        )
        for name, (measure, _, distance) in SUMMARIES.items()
    }
