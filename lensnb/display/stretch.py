"""The asinh stretch of images, what several bands look like, and the colour bar."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import FuncNorm
from matplotlib.figure import Figure

Span = tuple[float, float]  # the lowest and the highest value that is shown
MOST_SETS = 24  # rows of a gallery
SOFTENING = 0.1  # the share of the range that the stretch leaves linear


def stretch(images: Any, low: float, high: float, softening: float = SOFTENING) -> np.ndarray:
    """Images after an asinh stretch of [low, high] to [0, 1].

    softening : the share of the range that stays linear.
    """
    scaled = (np.asarray(images, float) - low) / (high - low)
    return (np.arcsinh(scaled / softening) / np.arcsinh(1 / softening)).clip(0, 1)


def picture(images: Any, low: float, high: float) -> np.ndarray:
    """Images (..., C, H, W) as they are shown under one asinh stretch, in [0, 1].

    Three bands become one colour picture (..., H, W, 3), the first band red, the second green, the
    third blue. The stretch acts on their mean, and a pixel keeps its ratios of the bands, so that
    bright cores keep their colour (Lupton et al. 2004, PASP 116, 133). Any other number of bands is
    shown side by side: (..., H, W) for one, and (..., H, C * W + C - 1) for more.
    """
    if not is_colour(images):
        return arranged(stretch(images, low, high))
    scaled = (np.asarray(images, float) - low) / (high - low)
    mean = scaled.mean(axis=-3, keepdims=True)
    brightness = np.arcsinh(mean / SOFTENING) / np.arcsinh(1 / SOFTENING)
    factor = np.divide(brightness, mean, out=np.zeros_like(mean), where=mean > 0)
    colours = (scaled * factor).clip(0)
    return arranged(colours / colours.max(axis=-3, keepdims=True).clip(1))


def arranged(images: Any) -> np.ndarray:
    """Images (..., C, H, W) with values in [0, 1] as one picture each, see `picture`."""
    images = np.asarray(images)
    if is_colour(images):
        return np.moveaxis(images, -3, -1)  # (..., H, W, 3)
    bands = [images[..., c, :, :] for c in range(images.shape[-3])]
    gap = np.ones_like(bands[0][..., :1])  # a bright line between two bands
    return np.concatenate([part for band in bands for part in (gap, band)][1:], axis=-1)


def shown_sets(sets: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], str]:
    """The sets that a gallery shows, name -> images (N, C, H, W), and a line on the others or "".

    A set without images is left out, and what is behind the first MOST_SETS.
    """
    full = {name: images for name, images in sets.items() if len(images)}
    more = len(full) - MOST_SETS
    line = f"the first {MOST_SETS} are shown, {more} more are there" if more > 0 else ""
    return dict(list(full.items())[:MOST_SETS]), line


def is_colour(images: Any) -> bool:
    """Whether images (..., C, H, W) are shown as colour pictures."""
    return bool(np.shape(images)[-3] == 3)


def side_by_side(images: Any) -> int:
    """How many panels one of the images (..., C, H, W) takes."""
    return 1 if is_colour(images) else int(np.shape(images)[-3])


def limits(images: np.ndarray) -> Span:
    """(low, high) that a stretch of these images shows.

    low is the median, which is the sky; high is exceeded by the brightest 0.1 % of the pixels.
    If both are equal, high is set a little above low.
    """
    low = float(np.median(images))
    high = float(np.quantile(images, 0.999))
    return low, high if high > low else low + 1e-3 * (abs(low) or 1.0)


def _norm(span: Span, softening: float = SOFTENING) -> FuncNorm:
    """The normalisation of a colour bar that belongs to `stretch`."""
    low, high = span
    top = np.arcsinh(1 / softening)

    def forward(value: np.ndarray) -> np.ndarray:
        return np.arcsinh((value - low) / (high - low) / softening) / top

    def inverse(share: np.ndarray) -> np.ndarray:
        return low + (high - low) * softening * np.sinh(share * top)

    return FuncNorm((forward, inverse), low, high)


def _round_ticks(norm: FuncNorm, span: Span, apart: float) -> list[float]:
    """A few round numbers inside `span`: 0 and 1, 2, 5 times powers of ten.

    Where the range lies far from zero, they are counted from a round number near its lower end.
    Neighbours are at least the share `apart` of the bar's length away from each other.
    """
    low, high = span
    decade = 10.0 ** np.floor(np.log10(high - low))
    base = 0.0 if abs(low) < high - low else decade * np.round(low / decade)
    sizes = np.outer([1, 2, 5], decade * 10.0 ** np.arange(-3, 2)).ravel()
    chosen: list[float] = []
    # Zero first, then the large numbers.
    for tick in base + np.concatenate([[0], -np.sort(-sizes), -sizes]):
        clear = all(abs(norm(tick) - norm(other)) >= apart for other in chosen)
        if low <= tick <= high and clear:
            chosen.append(float(tick))
    return sorted(chosen)


def colour_bar(figure: Figure, axes: np.ndarray, span: Span) -> None:
    """The colour bar of `stretch`, for images in one colour."""
    norm = _norm(span)
    bar = figure.colorbar(
        ScalarMappable(norm, "inferno"),
        ax=axes,
        fraction=0.02,
        pad=0.01,
        aspect=12 * len(axes),
        extend="both",
    )
    rows = len(axes)
    ticks = _round_ticks(norm, span, apart=max(0.12, 0.2 / rows))
    bar.set_ticks(ticks, labels=[f"{tick:.10g}" for tick in ticks], fontsize=7)
    bar.ax.minorticks_off()
    label = "pixel value [units of the images]"
    bar.set_label(label if rows > 1 else label.replace(" of", "\nof"), fontsize=7)
    bar.outline.set_visible(False)
