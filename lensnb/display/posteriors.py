"""Figures of posteriors: images with their scatter, coverage, and what is read from the draws."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lensnb.display.stretch import limits, stretch
from lensnb.display.style import REAL, colours, styled


class Case(NamedTuple):
    """One observation: its data (C, h, w), NaN where missing; draws (n, C, H, W); truth or None."""

    data: np.ndarray
    draws: np.ndarray
    truth: np.ndarray | None = None


@styled
def posterior(cases: Mapping[str, Case], shown: int = 6) -> Figure:
    """A row for each case: data, mean, scatter, a few draws, truth.

    All images of a row but the scatter share one asinh stretch; missing data are grey. The scatter
    is the standard deviation over the draws, black for 0, white for the number below it.
    """
    titles = ["data", "mean", "scatter", *(f"draw {i + 1}" for i in range(shown)), "truth"]
    figure, axes = plt.subplots(
        len(cases),
        len(titles),
        figsize=(0.95 * len(titles) + 0.6, 1.1 * len(cases) + 0.2),
        squeeze=False,
        gridspec_kw={"wspace": 0.05, "hspace": 0.12},
    )
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=7)
    for row, (label, case) in zip(axes, cases.items(), strict=True):
        row[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
        row[0].set_facecolor("0.5")  # where data are missing
        images = [case.data, case.draws.mean(0), None, *case.draws[:shown]]
        images += [None] * (shown - len(case.draws[:shown])) + [case.truth]
        span = limits(case.draws)
        for axis, image in zip(row, images, strict=True):
            if image is not None:
                axis.imshow(stretch(image.mean(0), *span), origin="lower", vmin=0, vmax=1)
        _scatter(row[2], case.draws.std(0, ddof=1).mean(0))
    return figure


def _scatter(axis: Axes, scatter: np.ndarray) -> None:
    """A map of standard deviations, from 0 to the value that 1 % of the pixels exceed."""
    top = float(np.quantile(scatter, 0.99))
    axis.imshow(scatter, origin="lower", vmin=0, vmax=top, cmap="gray")
    axis.set_xlabel(f"0 to {top:.3g}", fontsize=6, labelpad=1)


@styled
def coverage(curves: Mapping[str, Any]) -> Figure:
    """Expected coverage against credibility; grey bands hold 68 % and 95 % of right posteriors.

    curves : label -> `evaluation.coverage.Coverage`, all with as many truths as the first
    """
    figure, axis = plt.subplots(figsize=(3.6, 3.4), layout="constrained")
    first = next(iter(curves.values()))
    for width, shade in ((2, "0.92"), (1, "0.84")):
        low, high = (first.credibility + s * width * first.error for s in (-1, 1))
        axis.fill_between(first.credibility, low, high, color=shade, lw=0)
    axis.plot([0, 1], [0, 1], color=REAL, lw=0.8, ls="--")
    for label, shade in colours(curves).items():
        curve = curves[label]
        axis.plot(curve.credibility, curve.coverage, color=shade, label=label)
    axis.set(
        xlabel="credibility of a region of draws",
        ylabel="share of truths inside",
        xlim=(0, 1),
        ylim=(0, 1),
        aspect="equal",
    )
    axis.legend(fontsize=7, loc="upper left")
    return figure


@styled
def readings(read: Mapping[str, np.ndarray], truth: float, label: str, unit: str = "") -> Figure:
    """What is read from draws: a dot each, mean and scatter of each row, a line for the truth.

    read : label -> numbers (n,); truth : the same number read from the true image
    """
    figure, axis = plt.subplots(figsize=(5.5, 0.5 * len(read) + 0.9), layout="constrained")
    for place, (name, shade) in enumerate(colours(read).items()):
        values = np.asarray(read[name])
        axis.plot(values, np.full(len(values), place + 0.15), ".", color=shade, ms=4, alpha=0.6)
        axis.errorbar(
            values.mean(), place - 0.1, xerr=values.std(ddof=1), fmt="o", color=shade, capsize=3
        )
    axis.axvline(truth, color=REAL, ls="--", lw=1, label="read from the truth")
    axis.set_yticks(range(len(read)), labels=list(read))
    axis.set(xlabel=f"{label} [{unit}]" if unit else label, ylim=(len(read) - 0.5, -0.5))
    axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(0, 1.25))
    return figure
