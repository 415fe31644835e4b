"""Figures that compare methods: distances over their floor, z values, quality against cost.

The real-vs-real floor is the same distance between two sets of real images.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lensnb.display.style import PLACES, REAL, colour, colours, name, plain_ticks, styled
from lensnb.evaluation import compare
from lensnb.evaluation.measures import label
from lensnb.sampler import SAMPLERS

Row = Mapping[str, Any]
# (axis, row, place on the y axis, legend entry or None) draws one row.
Dot = Callable[[Axes, Row, float, str | None], None]

APART = 0.18  # between two methods on one line of a dot plot; less where there are many


@styled
def ratios(rows: Sequence[Row]) -> Figure:
    """Each distance over its real-vs-real floor, with error bars; 1 is as good as real.

    rows : the rows of table.json.
    """
    return _dot_plot([row for row in rows if row["ratio"] is not None], _one_value)


@styled
def over_seeds(rows: Sequence[Row]) -> Figure:
    """Each distance over its real-vs-real floor: a dot a training seed, their mean and spread.

    rows : the rows of `compare.over_seeds`.
    """
    return _dot_plot([row for row in rows if row["is_distance"]], _one_value_a_seed)


def _dot_plot(rows: Sequence[Row], dot: Dot) -> Figure:
    """One line a metric, one colour a method, on a logarithmic axis of distance over floor."""
    metrics, methods = _in_order(rows)
    size = (6, 1 + 0.34 * len(metrics))
    figure, axis = plt.subplots(figsize=size, layout="constrained")
    apart = min(APART, 0.8 / len(methods))
    named = set()
    for method in methods:
        for row in (row for row in rows if row["method"] == method):
            shift = (methods.index(method) - (len(methods) - 1) / 2) * apart
            dot(
                axis,
                row,
                metrics.index(row["metric"]) + shift,
                None if method in named else name(method),
            )
            named.add(method)
    axis.axvline(1, color=REAL, lw=0.8, ls="--", label="real vs real")
    axis.set(
        xscale="log",
        xlabel="distance to the held-out images / real-vs-real floor",
        yticks=range(len(metrics)),
        yticklabels=[label(metric) for metric in metrics],
        ylim=(len(metrics) - 0.5, -0.5),
    )
    plain_ticks(axis.xaxis)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", color="0.9")
    figure.legend(loc="outside upper center", ncols=len(methods) + 1)
    return figure


def _one_value(axis: Axes, row: Row, place: float, legend: str | None) -> None:
    axis.errorbar(
        row["ratio"],
        place,
        xerr=row["error"] / row["floor"],
        fmt="o",
        ms=3,
        color=colour(row["method"]),
        label=legend,
    )


def _one_value_a_seed(axis: Axes, row: Row, place: float, legend: str | None) -> None:
    shade = colour(row["method"])
    values = np.array(row["values"]) / row["floor"]
    axis.plot(values, [place] * row["seeds"], "o", ms=2.5, color=shade, alpha=0.6, lw=0)
    axis.errorbar(
        row["mean"] / row["floor"],
        place,
        xerr=(row["spread"] or 0) / row["floor"],
        fmt="|",
        ms=7,
        lw=1,
        color=shade,
        label=legend,
    )


def _in_order(rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    """The metrics and the methods of some rows, each once, in the order of the rows."""
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    return metrics, methods


@styled
def z_values(rows: Sequence[Row], most: float = 10) -> Figure:
    """Heat map of all metrics and methods: deviations z on the wrong side of the floor.

    Below 3 is as good as real. The colours end at `most`, beyond which z grows with the number of
    images more than with the fault; the numbers go on to a hundred.
    """
    metrics, methods = _in_order(rows)
    worse = {(row["metric"], row["method"]): compare.badness(row) for row in rows}
    grid = np.array([[worse[metric, method] for method in methods] for metric in metrics])
    size = (2.6 + 1.1 * len(methods), 0.8 + 0.24 * len(metrics))
    figure, axis = plt.subplots(figsize=size, layout="constrained")
    seaborn.heatmap(
        grid.clip(0, most),
        ax=axis,
        cmap="rocket_r",
        vmin=0,
        vmax=most,
        annot=np.vectorize(compare.z_told, otypes=[object])(grid),
        fmt="",
        annot_kws={"size": 7},
        xticklabels=[name(method) for method in methods],
        yticklabels=[label(metric) for metric in metrics],
        cbar_kws={
            "label": "z, deviations from the real-vs-real floor",
            "ticks": [0, 3, *np.arange(5, most + 1, 5)],
            "extend": "max",
        },
    )
    axis.tick_params(length=0)
    axis.tick_params(axis="x", rotation=0)
    return figure


@styled
def quality_against_time(
    rows: Sequence[Row], costs: Mapping[str, Mapping[str, Any]], metric: str = "frechet_lensnet"
) -> Figure:
    """Distance to the held-out images against seconds an image, both logarithmic, with the floor.

    rows : the rows of table.json; costs : method -> costs, as in timing.json.
    """
    figure, axis = plt.subplots(figsize=(5.5, 3), layout="constrained")
    own = [row for row in rows if row["metric"] == metric]
    for row in own:
        axis.errorbar(
            costs[row["method"]]["seconds_per_image"],
            row["value"],
            yerr=row["error"],
            fmt="o",
            color=colour(row["method"]),
            label=name(row["method"]),
        )
    show_floor(axis, own[-1]["floor"], own[-1]["floor_error"])
    axis.set(
        xscale="log",
        yscale="log",
        xlabel="sampling time [s/image]",
        ylabel=f"{label(metric)}\nto held-out images",
    )
    plain_ticks(axis.xaxis)
    plain_ticks(axis.yaxis)
    figure.legend(loc="outside right center")
    return figure


def show_floor(axis: Axes, floor: float, error: float) -> None:
    """A band of the real-vs-real floor and its error, not below half of the floor."""
    axis.axhspan(
        max(floor - error, 0.5 * floor),
        floor + error,
        color=REAL,
        alpha=0.15,
        lw=0,
        label="real vs real",
    )


@styled
def quality_against_evaluations(
    rows: Sequence[Row],
    metrics: Sequence[str] = ("frechet_lensnet", "spectrum"),
    most: float = 50,
) -> Figure:
    """Distance to the held-out images against network evaluations.

    Each sampler has a line, each metric a panel.

    rows : as benchmarks/samplers.py writes them. What lies above `most` times the real-vs-real
    floor leaves the frame.
    """
    size = (4 * len(metrics) + 1.6, 3.2)
    figure, axes = plt.subplots(1, len(metrics), figsize=size, layout="constrained")
    shades = _sampler_colours(list(dict.fromkeys(row["sampler"] for row in rows)))
    for axis, metric in zip(axes, metrics, strict=True):
        for sampler, shade in shades.items():
            own = [row for row in rows if row["sampler"] == sampler]
            _sampler_line(axis, own, metric, shade)
        floor = rows[0][f"{metric}_floor"]
        axis.axhline(floor, color=REAL, lw=0.8, ls=":", label="real vs real")
        axis.set(
            xscale="log",
            yscale="log",
            ylim=(0.7 * floor, most * floor),
            xlabel="network evaluations (NFE)",
            ylabel=label(metric),
        )
        plain_ticks(axis.xaxis)
        plain_ticks(axis.yaxis)
    figure.suptitle("distance to the held-out images", fontsize=9)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=7)
    return figure


def _sampler_line(axis: Axes, rows: Sequence[Row], metric: str, shade: Any) -> None:
    """One metric of one sampler against evaluations; dashed along the levels of a schedule."""
    sampler = rows[0]["sampler"]
    rows = sorted(rows, key=lambda row: row["nfe"])
    axis.errorbar(
        [row["nfe"] for row in rows],
        [row[metric] for row in rows],
        yerr=[row[f"{metric}_error"] for row in rows],
        marker="o",
        ms=3,
        lw=1,
        color=shade,
        ls="--" if "schedule" in sampler else "-",
        label=_sampler_name(sampler),
    )


def _sampler_colours(samplers: Sequence[str]) -> dict[str, Any]:
    """Sampler -> colour; samplers by which the recipes draw have the colour of their method."""
    known = {"ddpm": "ddpm", "ddim": "ddim", "dpmpp_2m": "dpm"}
    others = colours([s for s in samplers if s not in known], taken=PLACES)
    return {s: colour(known[s]) if s in known else others[s] for s in samplers}


def _sampler_name(sampler: str) -> str:
    """The label of a sampler, its settings in brackets: "Heun (schedule)" for "heun schedule"."""
    known = max((s for s in SAMPLERS if sampler.startswith(s)), key=len, default="")
    settings = sampler.removeprefix(known).strip("_ ")
    label_ = SAMPLERS[known].label if known else sampler
    return f"{label_} ({settings})" if known and settings else label_
