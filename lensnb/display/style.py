"""The style of all figures: names, colours, matplotlib settings, and how a figure is saved."""

import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib.pyplot as plt
import seaborn
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from lensnb.kinds import KINDS
from lensnb.sampler import method_name as name

P = ParamSpec("P")

REAL = "#222222"
PALETTE = seaborn.color_palette("colorblind")
# The place in PALETTE of each method that the recipes use.
PLACES = {"ddpm": 0, "ddim": 1, "dpm": 3} | {
    name: kind.place for name, kind in KINDS.items() if kind.place is not None
}
STYLE: dict[Any, Any] = {
    "figure.dpi": 110,
    "savefig.dpi": 300,
    "savefig.bbox": "tight",
    "font.size": 9,
    "axes.titlesize": 9,
    "image.cmap": "inferno",
    "axes.prop_cycle": plt.cycler(color=PALETTE),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def colour(label: str) -> Any:
    """The colour of a method, the same in every figure.

    label : a method ("dpm"), its name ("DPM-Solver++"), a kind of generator, or "real". A kind of
    generator that is sampled has the colour of DDPM. A method without a place of its own gets one
    of the other colours; its letters decide which.
    """
    if label == "real":
        return REAL
    method = next((m for m in PLACES if label in (m, name(m))), label)
    if method in KINDS and KINDS[method].sampled:
        method = "ddpm"
    if method in PLACES:
        return PALETTE[PLACES[method]]
    others = PALETTE[len(PLACES) :]
    return others[sum(map(ord, method)) % len(others)]


def has_colour(label: str) -> bool:
    """Whether a label is "real" or one of the methods that have a place in the palette."""
    return label == "real" or any(label in (method, name(method)) for method in PLACES)


def colours(labels: Iterable[str], taken: Iterable[str] = ()) -> dict[str, Any]:
    """Label -> colour, for lines that are no methods.

    taken : methods whose colours are left out.
    """
    used = [colour(method) for method in taken]
    free = [shade for shade in PALETTE if shade not in used]
    return {label: free[i % len(free)] for i, label in enumerate(labels)}


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """A decorator: draws in this style, and closes the figure so that a notebook shows it once."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with plt.rc_context(STYLE):
            figure = draw(*args, **kwargs)
            plt.close(figure)
        return figure

    return drawn


def save(figure: Figure, folder: Path, stem: str) -> None:
    """Save a figure as <stem>.pdf (vector) and <stem>.png (300 dpi) in `folder`."""
    with plt.rc_context(STYLE):
        # Without the date, the PDF has the same bits each time.
        figure.savefig(folder / f"{stem}.pdf", metadata={"CreationDate": None})
        figure.savefig(folder / f"{stem}.png")


def plain_ticks(axis: Axis) -> None:
    """Write the ticks of a logarithmic axis as plain numbers: 1, 2, 5, 10, or powers of ten only.

    Only powers of ten are labelled where the axis spans more than a factor of 200.
    """
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 200 * low else (1,)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def count_ticks(axis: Axis) -> None:
    """Write a few round ticks of an axis that counts, with a comma between thousands."""
    axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], integer=True))
    axis.set_major_formatter("{x:,.0f}")
