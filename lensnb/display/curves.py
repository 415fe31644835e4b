"""Figures made of curves: training histories, spectra, intensities, and growth with size."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lensnb.display.stretch import limits
from lensnb.display.style import REAL, colour, colours, count_ticks, name, plain_ticks, styled

Table = Mapping[str, Any]
# The columns of history.csv that are not losses.
NO_LOSSES = ("step", "images", "rate", "skipped")


@styled
def history(tables: Mapping[str, Table]) -> Figure:
    """Training losses and learning rate against the training images seen, one panel a generator.

    tables : generator -> columns of its history.csv.
    """
    figure, axes = plt.subplots(
        1, len(tables), figsize=(4.2 * len(tables), 3), squeeze=False, layout="constrained"
    )
    for axis, (generator, table) in zip(axes[0], tables.items(), strict=True):
        for key in table:
            if key not in NO_LOSSES:
                axis.plot(table["images"], table[key], label=key.replace("_", " "))
        if "rate" in table:
            _learning_rate(axis, table)
        axis.set(
            xlabel="training images seen",
            ylabel="loss, accuracy" if "accuracy" in table else "loss",
        )
        count_ticks(axis.xaxis)
        # Above the panel, where the legend hides no curve.
        axis.legend(
            loc="lower center",
            bbox_to_anchor=(0.5, 1),
            ncols=4,
            columnspacing=1,
            handlelength=1.2,
            title=name(generator),
        )
    axes[0][0].set_yscale("log")
    plain_ticks(axes[0][0].yaxis)
    return figure


def _learning_rate(axis: Axes, table: Table) -> None:
    """The learning rate of a training, dotted, on an axis of its own."""
    right = axis.twinx()
    right.plot(table["images"], 1e4 * np.asarray(table["rate"]), color="0.6", ls=":")
    right.set(ylabel=r"learning rate [$10^{-4}$], dotted", ylim=(0, None))
    right.spines["right"].set_visible(True)


@styled
def watched(tables: Mapping[str, Table]) -> Figure:
    """Kernel distance to real images (left) and diversity (right) along the training.

    tables : generator -> columns of its watch.csv.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.6), layout="constrained")
    for generator, table in tables.items():
        for axis, key in ((left, "kid"), (right, "diversity")):
            axis.plot(
                table["images"],
                table[key],
                color=colour(generator),
                marker="o",
                ms=3,
                lw=1,
                label=name(generator),
            )
    chance = max(max(table["kid_error"]) for table in tables.values())
    left.set_yscale("symlog", linthresh=chance)
    left.axhline(0, color=REAL, lw=0.8, ls="--", label="real images")
    chance_label = "real against real, one standard deviation"
    left.axhspan(-chance, chance, color=REAL, alpha=0.15, lw=0, label=chance_label)
    right.axhline(1, color=REAL, lw=0.8, ls="--")
    left.set(xlabel="training images seen", ylabel="kernel distance (KID)\nto real images")
    right.set(
        xlabel="training images seen",
        ylabel="diversity /\ndiversity of real images",
        ylim=(0, None),
    )
    count_ticks(left.xaxis)
    count_ticks(right.xaxis)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return figure


@styled
def spectra(curves: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Power spectrum and radial profile of each method and of real images.

    curves : method -> tree of its curves.json. A band is two standard errors to each side.
    """
    first = next(iter(curves.values()))
    unit = "arcsec" if first["pixel_scale"] else "pixel"
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    sets = {"real": first["real"]} | {m: tree["generated"] for m, tree in curves.items()}
    for method, c in sets.items():
        _band(left, c["frequency"], c["log_power"], c["log_power_error"], method)
        _band(right, c["radius"], c["profile"], c["profile_error"], method)
    left.set_xscale("log")
    plain_ticks(left.xaxis)
    left.set(
        xlabel=f"spatial frequency [cycles/{unit}]",
        ylabel="mean $\\log_{10}$ power\n[power in units of the images, squared]",
    )
    right.set(xlabel=f"radius [{unit}]", ylabel="mean brightness [units of the images]")
    figure.legend(
        *left.get_legend_handles_labels(), loc="outside upper center", ncols=min(len(sets), 6)
    )
    return figure


def _band(axis: Axes, x: Any, mean: Any, error: Any, method: str) -> None:
    """A curve of a method with a band of two standard errors to each side."""
    mean = np.asarray(mean)
    error = np.asarray(error)
    shade = colour(method)
    axis.plot(x, mean, color=shade, label=name(method), lw=1.3)
    axis.fill_between(x, mean - 2 * error, mean + 2 * error, color=shade, alpha=0.25, lw=0)


@styled
def intensities(sets: Mapping[str, np.ndarray], bins: int = 80) -> Figure:
    """The distribution of pixel values.

    sets : method, or "real", -> images (N, C, H, W). The bins reach from the darkest to the
    brightest real pixel. The outermost bins also hold what lies beyond, so no pixel is left out.
    """
    figure, axis = plt.subplots(figsize=(6, 3), layout="constrained")
    real = sets["real"]
    edges = np.linspace(real.min(), max(real.max(), limits(real)[1]), bins)
    for method, images in sets.items():
        counts = np.histogram(np.clip(images, edges[0], edges[-1]), edges)[0]
        axis.stairs(
            counts / images.size / np.diff(edges),
            edges,
            color=colour(method),
            label=name(method),
            lw=1.6 if method == "real" else 1.1,
        )
    axis.set(
        xlabel="pixel value [units of the images]\n(values beyond are in the outermost bins)",
        ylabel="share of pixels per unit",
        yscale="log",
    )
    figure.legend(loc="outside right upper")
    return figure


@styled
def growth(panels: Mapping[str, Mapping[str, Mapping[str, Sequence[np.ndarray]]]]) -> Figure:
    """Time, and memory with disk, against what grows; all axes are logarithmic.

    panels : x label -> y label -> name of the line with its exponent -> (sizes, values), as
    benchmarks/growth.py makes them. A line of a disk's size has ", on disk" in its name.
    """
    kinds = list(next(iter(panels.values())))
    figure, axes = plt.subplots(
        len(kinds),
        len(panels),
        figsize=(2.9 * len(panels), 6),
        sharex="col",
        squeeze=False,
        layout="constrained",
    )
    for column, (xlabel, panel) in zip(axes.T, panels.items(), strict=True):
        shades = colours(dict.fromkeys(_curve(label) for kind in kinds for label in panel[kind]))
        for axis, kind in zip(column, kinds, strict=True):
            _growth_panel(axis, panel[kind], shades)
            axis.set_ylabel(kind if axis in axes[:, 0] else None)
        column[-1].set_xlabel(xlabel)
    return figure


def _curve(label: str) -> str:
    """The curve that a line of `growth` belongs to."""
    return label.partition(":")[0].removesuffix(", on disk")


def _growth_panel(
    axis: Axes, lines: Mapping[str, Sequence[np.ndarray]], shades: Mapping[str, Any]
) -> None:
    for label, (x, y) in lines.items():
        style = "o:" if "on disk" in label else "o-"
        axis.plot(x, y, style, ms=3, lw=1, color=shades[_curve(label)], label=label)
    axis.set(xscale="log", yscale="log")
    for one, (low, high) in ((axis.xaxis, axis.get_xlim()), (axis.yaxis, axis.get_ylim())):
        if high < 50 * low:  # a short axis holds too few powers of ten
            plain_ticks(one)
    axis.legend(
        fontsize=6,
        loc="lower center",
        bbox_to_anchor=(0.5, 1),
        title="exponent",
        title_fontsize=6,
    )
