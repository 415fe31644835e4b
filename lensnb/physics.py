"""What an astronomer measures on an image: images (N, C, H, W) in, one row of numbers an image out."""

import numpy as np


def grey(images):
    """Images (N, C, H, W) as float64 (N, H, W), channels averaged."""
    return np.asarray(images, dtype=float).mean(axis=1)


def _ring_means(maps, radius, edges):
    """Mean of maps (N, H, W) over the pixels whose radius (H, W) lies in each bin: (N, bins)."""
    which = np.digitize(radius.ravel(), edges) - 1
    bins = len(edges) - 1
    member = (which[:, None] == np.arange(bins)).astype(float)         # (HW, bins)
    return maps.reshape(len(maps), -1) @ (member / member.sum(0))


def power_spectrum(images, chunk=1024):
    """Azimuthally averaged power |FFT|^2 / HW in rings one frequency step wide, without the mean: (N, size // 2 - 1).

    The frequencies are those of `frequencies(size)`. `chunk` images are transformed at once.
    """
    size = images.shape[-1]
    steps = np.fft.fftfreq(size) * size
    radius, edges = np.hypot(*np.meshgrid(steps, steps)), np.arange(1, size // 2 + 1) - 0.5
    power = lambda maps: np.abs(np.fft.fft2(maps)) ** 2 / size**2       # (n, H, W)
    return np.concatenate([_ring_means(power(grey(images[i:i + chunk])), radius, edges)
                           for i in range(0, len(images), chunk)])


def frequencies(size, pixel_scale=None):
    """Mean frequency of each ring of `power_spectrum` [cycles/pixel, or cycles/arcsec with a pixel scale]."""
    return np.arange(1, size // 2) / size / (pixel_scale or 1)


def log_power(images):
    """log10 of the power spectrum; a ring without power counts as the smallest positive float."""
    return np.log10(power_spectrum(images).clip(np.finfo(float).tiny))


def radial_profile(images):
    """Mean brightness in rings one pixel wide about the image centre: (N, size // 2), at radii 0.5, 1.5, ... pixels."""
    maps = grey(images)
    offsets = np.arange(maps.shape[-1]) - (maps.shape[-1] - 1) / 2
    return _ring_means(maps, np.hypot(*np.meshgrid(offsets, offsets)), np.arange(maps.shape[-1] // 2 + 1))


def intensity_edges(reference, bins=1000):
    """Bin edges at even quantiles of the reference pixels, with room for outliers on both sides: (<= bins + 201,)."""
    pixels = grey(reference).ravel()
    inner = np.unique(np.quantile(pixels, np.linspace(0, 1, bins + 1)))
    span = inner[-1] - inner[0]
    tails = span * np.geomspace(0.01, 10, 100)
    return np.concatenate([inner[0] - tails[::-1], inner, inner[-1] + tails])


def cumulative_shares(images, edges):
    """Share of each image's pixels at or below each edge: (N, len(edges)); the ends hold all that lies beyond."""
    maps = np.sort(grey(images).reshape(len(images), -1), axis=1).clip(edges[0], edges[-1])
    return np.stack([np.searchsorted(row, edges, side="right") for row in maps]) / maps.shape[1]
