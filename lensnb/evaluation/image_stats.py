"""What an astronomer measures on an image: images (N, C, H, W) in, rows (N, d) of numbers out."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

import numpy as np

from lensnb.errors import InputError

P = ParamSpec("P")
T = TypeVar("T")
MAD = 1.4826  # standard deviation of a Gaussian over its median absolute deviation


_shared: ContextVar[dict[Any, Any] | None] = ContextVar("shared", default=None)


@contextlib.contextmanager
def sharing() -> Iterator[None]:
    """A context in which measures of the same images share what they have in common.

    The images must not change within it.
    """
    token = _shared.set({})
    try:
        yield
    finally:
        _shared.reset(token)


def common(function: Callable[P, T]) -> Callable[P, T]:
    """A decorator: within `sharing`, the function is called once for the same images."""

    @functools.wraps(function)
    def once(*args: P.args, **kwargs: P.kwargs) -> T:
        known = _shared.get()
        if known is None or kwargs:
            return function(*args, **kwargs)
        key = (function, id(args[0]), args[1:])
        if key not in known:
            # the images are held, so that their id stays theirs
            known[key] = args[0], function(*args, **kwargs)
        found: T = known[key][1]
        return found

    return once


def grey(images: Any) -> np.ndarray:
    """Images (N, C, H, W) as float64 (N, H, W), channels averaged."""
    return np.asarray(images, dtype=float).mean(axis=1)


def bands(images: Any) -> np.ndarray:
    """Mean, scatter, and scatter of the difference to the mean of all bands, of each band (N, 3 C).

    All other statistics see the mean of the bands alone.
    """
    pixels = np.asarray(images, dtype=float)
    apart = pixels - grey(images)[:, None]
    columns = (pixels.mean(axis=(2, 3)), pixels.std(axis=(2, 3)), apart.std(axis=(2, 3)))
    return np.concatenate(columns, axis=1)


def refuse_not_finite(images: np.ndarray, where: str = "") -> None:
    """Raise InputError, its message after `where`, if images (N, ...) hold NaN or infinity."""
    bad = np.flatnonzero(~np.isfinite(images).all(tuple(range(1, images.ndim))))
    if len(bad):
        raise InputError(
            f"{where}image {bad[0]} holds NaN or infinite pixels (as do {len(bad) - 1} others), "
            "expected finite ones"
        )


def in_chunks(chunk: int) -> Callable[[Callable[P, np.ndarray]], Callable[P, np.ndarray]]:
    """A decorator that calls a measure of images with `chunk` images at a time.

    Memory stays small, and the maps of a chunk stay in the cache.
    """

    def decorate(measure: Any) -> Any:
        @functools.wraps(measure)
        def chunked(images: Any, *args: Any, **kwargs: Any) -> np.ndarray:
            if 0 < len(images) <= chunk:
                found: np.ndarray = measure(images, *args, **kwargs)
                return found
            parts = [images[i : i + chunk] for i in range(0, len(images), chunk)]
            return np.concatenate([measure(part, *args, **kwargs) for part in parts])

        return chunked

    return decorate


def _ring_means(maps: np.ndarray, radius: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Mean of maps (N, H, W) over the pixels whose radius (H, W) lies in each bin: (N, bins)."""
    which = np.digitize(radius.ravel(), edges) - 1
    bins = len(edges) - 1
    member = (which[:, None] == np.arange(bins)).astype(float)  # (HW, bins)
    return maps.reshape(len(maps), -1) @ (member / member.sum(0))


def power_spectrum(images: Any, chunk: int = 1024) -> np.ndarray:
    """Azimuthally averaged power |FFT|^2 / HW in rings: (N, size // 2 - 1).

    Each ring is one frequency step wide; the mean of the image is left out. `frequencies(size)`
    gives the frequency of each ring. `chunk` images are transformed at once.
    """
    size = images.shape[-1]
    steps = np.fft.fftfreq(size) * size
    radius = np.hypot(*np.meshgrid(steps, steps))
    edges = np.arange(1, size // 2 + 1) - 0.5

    parts = []
    for i in range(0, len(images), chunk):
        power = np.abs(np.fft.fft2(grey(images[i : i + chunk]))) ** 2 / size**2  # (n, H, W)
        parts.append(_ring_means(power, radius, edges))
    return np.concatenate(parts)


def frequencies(size: int, pixel_scale: float | None = None) -> np.ndarray:
    """Mean frequency of each ring of `power_spectrum` [cycles/pixel; cycles/arcsec if scaled]."""
    return np.arange(1, size // 2) / size / (pixel_scale or 1)


def log_power(images: Any) -> np.ndarray:
    """log10 of the power spectrum; a ring without power counts as the smallest positive float."""
    return np.log10(power_spectrum(images).clip(np.finfo(float).tiny))


def radial_profile(images: Any) -> np.ndarray:
    """Mean brightness in rings about the image centre, at radii 0.5, 1.5, ...: (N, size // 2).

    Each ring is one pixel wide.
    """
    size = images.shape[-1]
    offsets = np.arange(size) - (size - 1) / 2
    radius = np.hypot(*np.meshgrid(offsets, offsets))
    return _ring_means(grey(images), radius, np.arange(size // 2 + 1))


def mean_curves(
    power: np.ndarray, profile: np.ndarray, size: int, pixel_scale: float | None
) -> dict[str, list[float]]:
    """Mean log10 power (N, rings) and radial profile (N, size // 2) with their errors, as lists.

    size : of the images in pixels. Frequencies and radii are in arcsec if the scale is known.
    """
    root = np.sqrt(len(power))
    return {
        "frequency": frequencies(size, pixel_scale).tolist(),
        "log_power": power.mean(0).tolist(),
        "log_power_error": (power.std(0, ddof=1) / root).tolist(),
        "radius": ((np.arange(size // 2) + 0.5) * (pixel_scale or 1)).tolist(),
        "profile": profile.mean(0).tolist(),
        "profile_error": (profile.std(0, ddof=1) / root).tolist(),
    }


def intensity_edges(reference: Any, bins: int = 1000) -> np.ndarray:
    """Bin edges at even quantiles of the reference pixels: (<= bins + 201,).

    100 edges on each side leave room for outliers.
    """
    pixels = grey(reference).ravel()
    inner = np.unique(np.quantile(pixels, np.linspace(0, 1, bins + 1)))
    span = inner[-1] - inner[0]
    tails = span * np.geomspace(0.01, 10, 100)
    return np.concatenate([inner[0] - tails[::-1], inner, inner[-1] + tails])


def cumulative_shares(images: Any, edges: np.ndarray) -> np.ndarray:
    """Share of each image's pixels at or below each edge: (N, len(edges)).

    The first and last share also hold the pixels beyond the edges.
    """
    maps = np.sort(grey(images).reshape(len(images), -1), axis=1).clip(max=edges[-1])
    return np.stack([np.searchsorted(row, edges, side="right") for row in maps]) / maps.shape[1]


# ---- sky and flux


def frame(shape: Any) -> np.ndarray:
    """The border of an image, an eighth of the size wide, as a mask (H, W)."""
    width = max(shape[-1] // 8, 1)
    free = np.ones(shape, bool)
    free[width:-width, width:-width] = False
    return free


def sky(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Level and scatter of the sky in maps (N, H, W), each (N, 1, 1).

    They are the median and the scaled MAD of a frame along the border, an eighth of the size wide.
    A lens in the middle leaves the frame free: on the broad prior the level is right to 2 % of the
    noise, while the median of all pixels is half of the noise too high.
    """
    pixels = maps[:, frame(maps.shape[1:])]  # (N, pixels)
    level = np.median(pixels, axis=1, keepdims=True)
    scatter = MAD * np.median(np.abs(pixels - level), axis=1, keepdims=True)
    return level[..., None], scatter[..., None]


@common
def above_sky(images: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Maps (N, H, W) less their sky, and its level and scatter (N, 1, 1), see `sky`."""
    maps = grey(images)
    level, scatter = sky(maps)
    return maps - level, level, scatter


@in_chunks(256)
def total_flux(images: Any) -> np.ndarray:
    """Sum of all pixels, less the sky of the border: (N, 1), in the images' unit times pixels.

    The error of the sky's level enters with every pixel: 100 times the noise at 64 pixels, which is
    1 % of a mean lens of the broad prior. The lens's own light in the frame takes off another 1 %.
    """
    return above_sky(images)[0].sum((1, 2))[:, None]


@common
@in_chunks(256)
def noise_level(images: Any) -> np.ndarray:
    """Standard deviation of white noise in the sky of each image: (N, 1), in the images' unit.

    The noise (see `_noise_of`) of the half of the image whose 3x3 mean is fainter. It leaves out
    the lens and its photon noise. On the broad prior the noise is 0.2 % too high and scatters by
    4 % an image. Averaged channels have less noise than each channel.
    """
    light, detail = _light_and_detail(images)
    half = light.shape[1] // 2
    return _noise_of(detail, np.argpartition(light, half, axis=1)[:, :half])


@common
@in_chunks(256)
def light_detail(images: Any) -> np.ndarray:
    """Strength of the finest detail where an image is brightest: (N, 1), in the images' unit.

    What `noise_level` measures, in the twentieth of the image whose 3x3 mean is brightest. On the
    broad prior the noise of sky and photons makes 1.35 sky noises there, and the curvature of the
    arcs brings it to 1.5. A network that learns from stretched images can be right about the sky
    and far too rough here.
    """
    light, detail = _light_and_detail(images)
    faint = light.shape[1] - max(light.shape[1] // 20, 1)
    return _noise_of(detail, np.argpartition(light, faint, axis=1)[:, faint:])


def _noise_of(detail: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Standard deviation (N, 1) of white noise in some pixels (N, n) of each image.

    The scaled MAD of the image's second difference in x and in y. This is blind to planes and 6
    times as noisy as the image (Immerkaer 1996). Pixels may be chosen by their 3x3 mean, to which
    it is orthogonal: the choice does not bias the estimate.
    """
    return MAD * np.median(np.take_along_axis(detail, pixels, axis=1), axis=1, keepdims=True)


def _light_and_detail(images: Any) -> tuple[np.ndarray, np.ndarray]:
    """Sum of 3x3 pixels and size of the second difference in x and y, over 6: (N, pixels) each."""
    maps = grey(images)
    detail = np.abs(_along_both(functools.partial(np.diff, n=2), maps)) / 6
    return _along_both(_sum_of_three, maps), detail


def _sum_of_three(maps: np.ndarray) -> np.ndarray:
    return maps[..., :-2] + maps[..., 1:-1] + maps[..., 2:]


def _along_both(operation: Callable[[np.ndarray], np.ndarray], maps: np.ndarray) -> np.ndarray:
    """An operation along the rows and then along the columns of maps (N, H, W): (N, pixels)."""
    return operation(operation(maps).swapaxes(1, 2)).reshape(len(maps), -1)
