"""The asinh stretch of images, and the colour bar that belongs to it."""

from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import FuncNorm
from matplotlib.figure import Figure

Span = tuple[float, float]  # the lowest and the highest value that is shown
SOFTENING = 0.1  # the share of the range that the stretch leaves linear


def stretch(images: Any, low: float, high: float, softening: float = SOFTENING) -> np.ndarray:
    """Images after an asinh stretch of [low, high] to [0, 1].

    softening : the share of the range that stays linear.
    """
    scaled = (np.asarray(images, float) - low) / (high - low)
    return (np.arcsinh(scaled / softening) / np.arcsinh(1 / softening)).clip(0, 1)


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
