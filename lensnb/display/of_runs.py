"""Several runs beside each other: one object with its tables, its sentences and its figures."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lensnb.display import tables
from lensnb.display.comparison import show_floor
from lensnb.display.curves import NO_LOSSES
from lensnb.display.style import colours, count_ticks, name, plain_ticks, save, styled
from lensnb.evaluation.measures import label
from lensnb.evaluation.of_runs import APART

Row = Mapping[str, Any]
ALWAYS = ("frechet_lensnet", "told_apart")  # measures that are shown even where runs are equal
MARKERS = "osD^vP*X<>"
LINES = ("-", "--", ":", "-.")


class RunsCompared:
    """Several runs beside each other; a notebook shows it as its sentences and its tables.

    runs : their names, the first is the one that the others are compared with
    recipes : where the recipes differ, one row a key and one column a run
    footing : one sentence for each other run, on what its differences rest
    table : one row a run and method, one column a measure: value, error and ratio
    differences : one row a run, method and measure, see `evaluation.of_runs.against_first`
    """

    def __init__(self, found: Mapping[str, Any]) -> None:
        self._found = found
        self.runs: list[str] = list(found["runs"])
        self.footing: list[str] = list(found["footing"])
        self.recipes = pd.DataFrame.from_dict(
            {key: list(map(str, values)) for key, values in found["recipes"].items()},
            orient="index",
            columns=self.runs,
        )
        self.table = tables.of_runs(found["rows"])
        self.differences = pd.DataFrame(found["differences"])

    def shown(self, all_rows: bool = False) -> pd.DataFrame:
        """The differences in words, one row a method and measure, and a group of columns a run.

        all_rows : also those where no run is more than two errors away from the first
        """
        rows = [row for row in self._found["differences"] if all_rows or self._is_shown(row)]
        cells: dict[tuple[str, str], dict[str, str]] = {}
        for row in rows:
            own = cells.setdefault((name(row["method"]), label(row["metric"])), {})
            own[self.runs[0]] = _value(row["first"], row["first_error"])
            own[row["run"]] = _value(row["value"], row["error"])
            own[f"{row['run']} is"] = _words(row)
        columns = [self.runs[0], *(c for run in self.runs[1:] for c in (run, f"{run} is"))]
        table = pd.DataFrame(list(cells.values()), columns=columns).fillna("")
        index = pd.MultiIndex.from_tuples(list(cells), names=("method", "measure"))
        return table.set_index(index) if len(table) else table

    def _is_shown(self, row: Row) -> bool:
        same = (row["method"], row["metric"])
        return row["metric"] in ALWAYS or any(
            abs(other["z"]) > APART
            for other in self._found["differences"]
            if (other["method"], other["metric"]) == same
        )

    def summary(self) -> list[str]:
        """One sentence for each other run: in how many measures it is better, worse, or equal."""
        found = []
        for run in self.runs[1:]:
            z = [row["z"] for row in self._found["differences"] if row["run"] == run]
            better, worse = sum(v < -APART for v in z), sum(v > APART for v in z)
            found.append(
                f"Of {len(z)} measures (all methods), {run} is better than {self.runs[0]} in "
                f"{better}, worse in {worse}, and within {APART} errors in the others."
            )
        return found

    def told(self, all_rows: bool = False) -> str:
        """All of it as text, for a terminal."""
        parts = [_text(self.recipes, "The recipes differ in nothing but the name.")]
        parts += ["\n".join([*self.footing, *self.summary()])]
        if len(self.runs) > 1:
            parts.append(_text(self.shown(all_rows), "No method is in both runs."))
        else:
            parts.append(tables.of_runs(self._found["rows"])["value"].T.to_string())
        return "\n\n".join(part for part in parts if part)

    def __str__(self) -> str:
        return self.told()

    def _repr_html_(self) -> str:
        sentences = "".join(f"<p>{text}</p>" for text in [*self.footing, *self.summary()])
        both = [self.recipes, self.shown()]
        return both[0].to_html() + sentences + both[1].to_html()

    def training(self) -> Figure:
        """The curves of training, see `training_of_runs`."""
        return training_of_runs(self._found["histories"])

    def quality_against_cost(self, metric: str = "frechet_lensnet") -> Figure:
        """Quality against cost over all runs, see `quality_against_cost`."""
        return quality_against_cost(self._found["rows"], self._found["costs"], metric)

    def save(self, folder: Path) -> list[str]:
        """Write tables and figures to a folder; returns the names of the files."""
        folder.mkdir(parents=True, exist_ok=True)
        self.recipes.to_csv(folder / "recipes.csv", index_label="key")
        pd.DataFrame(self._found["rows"]).to_csv(folder / "table.csv", index=False)
        self.differences.to_csv(folder / "differences.csv", index=False)
        (folder / "comparison.txt").write_text(self.told(all_rows=True) + "\n")
        for stem, figure in (
            ("training", self.training()),
            ("quality_against_cost", self.quality_against_cost()),
        ):
            save(figure, folder, stem)
        return sorted(path.name for path in folder.iterdir())


def _value(value: float, error: float) -> str:
    """A value with its error; an error of rounding alone is 0."""
    return f"{value:.3g} ± {error if error > 1e-12 * abs(value) else 0:.1g}"


def _words(row: Row) -> str:
    """Better or worse, by how much and with which error."""
    if row["worse"] == 0:
        return "the same"
    word = "worse" if row["worse"] > 0 else "better"
    told = f"{word} by {abs(row['worse']):.2g} ± {row['worse_error']:.1g}"
    return told if abs(row["z"]) > APART else f"equal ({told})"


def _text(table: pd.DataFrame, empty: str) -> str:
    return table.to_string() if len(table) else empty


@styled
def training_of_runs(histories: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Figure:
    """Losses (above) and kernel distance to real images (below) against training images seen.

    histories : run -> generator -> "history" and "watch" -> columns. One column of panels a
    generator, one colour a run, one style of line a loss. Only what was watched has panels below.
    """
    generators = list(dict.fromkeys(g for own in histories.values() for g in own))
    watched = any("watch" in tables_ for own in histories.values() for tables_ in own.values())
    size = (4.2 * len(generators) + 1, 2.6 * (1 + watched))
    figure, axes = plt.subplots(
        1 + watched, len(generators), figsize=size, squeeze=False, layout="constrained"
    )
    shades = colours(histories)
    width = dict(zip(histories, np.linspace(2.5, 1, len(histories)), strict=True))  # none is hidden
    for column, generator in zip(axes.T, generators, strict=True):
        losses: list[str] = []
        for run, own in histories.items():
            if generator in own:
                losses = _losses(column[0], own[generator]["history"], shades[run], width[run])
            if "watch" in own.get(generator, {}):
                table = own[generator]["watch"]
                column[1].plot(
                    table["images"],
                    table["kid"],
                    "o-",
                    ms=3 * width[run],
                    lw=width[run],
                    color=shades[run],
                )
        _finish_losses(column[0], generator, losses)
        if watched:
            column[1].axhline(0, color="0.5", lw=0.8, ls="--")
            column[1].set(ylabel="kernel distance (KID)\nto real images")
        column[-1].set(xlabel="training images seen")
        count_ticks(column[-1].xaxis)
    handles = [Line2D([], [], color=shade) for shade in shades.values()]
    figure.legend(handles, list(shades), loc="outside upper center", ncols=min(4, len(shades)))
    return figure


def _losses(axis: Axes, table: Mapping[str, Any], shade: Any, width: float) -> list[str]:
    """Draw the losses of one history; returns their names."""
    names = [key for key in table if key not in NO_LOSSES]
    for key, line in zip(names, LINES, strict=False):
        axis.plot(table["images"], table[key], line, lw=width, color=shade)
    return names


def _finish_losses(axis: Axes, generator: str, losses: Sequence[str]) -> None:
    axis.set(yscale="log", ylabel="loss", title=name(generator))
    plain_ticks(axis.yaxis)
    count_ticks(axis.xaxis)
    if len(losses) > 1:
        handles = [
            Line2D([], [], color="0.3", ls=line) for line, _ in zip(LINES, losses, strict=False)
        ]
        axis.legend(handles, losses, fontsize=6, loc="best")


COSTS = {  # key of a method's costs -> label of the axis
    "seconds_per_image": "sampling time [s/image]",
    "training_images_seen": "training images seen",
}


@styled
def quality_against_cost(
    rows: Sequence[Row],
    costs: Mapping[str, Mapping[str, Mapping[str, Any]]],
    metric: str = "frechet_lensnet",
) -> Figure:
    """Distance to the held-out images against the time of drawing (left) and of training (right).

    rows : as `compare.compare_runs` gives them; costs : run -> method -> costs
    One colour a run, one marker a method. The band is the floor of the first run.
    """
    own = [row for row in rows if row["metric"] == metric]
    methods = list(dict.fromkeys(row["method"] for row in own))
    shades = colours(costs)
    figure, axes = plt.subplots(1, len(COSTS), figsize=(8.5, 3), sharey=True, layout="constrained")
    for axis, (key, text) in zip(axes, COSTS.items(), strict=True):
        for row in own:
            marker = MARKERS[methods.index(row["method"]) % len(MARKERS)]
            x = costs[row["run"]][row["method"]][key]
            axis.errorbar(x, row["value"], row["error"], fmt=marker, ms=4, color=shades[row["run"]])
        show_floor(axis, own[0]["floor"], own[0]["floor_error"])
        axis.set(xscale="log", yscale="log", xlabel=text)
        plain_ticks(axis.xaxis)
    axes[0].set_ylabel(f"{label(metric)}\nto held-out images")
    plain_ticks(axes[0].yaxis)
    handles, labels = _key(shades, methods)
    floor = axes[0].get_legend_handles_labels()
    handles, labels = [*handles, *floor[0][:1]], [*labels, *floor[1][:1]]
    figure.legend(handles, labels, loc="outside right center", fontsize=7)
    return figure


def _key(shades: Mapping[str, Any], methods: Iterable[str]) -> tuple[list[Any], list[str]]:
    """Handles and labels: a colour for each run, a marker for each method."""
    runs = [Line2D([], [], color=shade, marker="s", ls="") for shade in shades.values()]
    kinds = [
        Line2D([], [], color="0.3", marker=MARKERS[i % len(MARKERS)], ls="")
        for i, _ in enumerate(methods)
    ]
    return [*runs, *kinds], [*shades, *map(name, methods)]
