"""The comparison: one table of all methods of a run. It reads files and knows no method by name."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lensnb import io
from lensnb.errors import InputError
from lensnb.evaluation.verdict import badness as badness
from lensnb.evaluation.verdict import side
from lensnb.evaluation.verdict import verdict as verdict
from lensnb.kinds import trained_for
from lensnb.runs.run_folder import Run

KEPT = (
    "group",
    "value",
    "error",
    "floor",
    "floor_error",
    "z",
    "ratio",
    "larger_is_better",
    "n",
    "unit",
)
COLUMNS = ("method", "metric", *KEPT, "best")
OVER_SEEDS = ("method", "metric", "mean", "spread", "seeds", "error", "floor")

Row = dict[str, Any]  # of one method and metric, such as the rows of `table`
Deviations = Mapping[str, Mapping[str, np.ndarray]]  # method -> metric -> (times,)


# ---- tables


def table(run: Run) -> list[Row]:
    """One row a method and metric, with the keys COLUMNS."""
    methods = run.params.sample.methods
    folders = {name: run.need(f"evaluation/{name}") for name in methods}
    found = {name: io.read_json(path / "metrics.json")["metrics"] for name, path in folders.items()}
    return table_of(found, deviations_of(run))


def table_of(found: Mapping[str, Row], deviations: Deviations) -> list[Row]:
    """The rows of `table`; found : method -> metric -> what the judge found."""
    rows: list[Row] = []
    for name, metrics in found.items():
        for metric, tree in metrics.items():
            kept = {column: tree[column] for column in KEPT}
            rows.append({"method": name, "metric": metric, **kept})
    winners = [
        clear_winner([row for row in rows if row["metric"] == metric], deviations)
        for metric in dict.fromkeys(row["metric"] for row in rows)
    ]
    return [row | {"best": any(row is winner for winner in winners)} for row in rows]


def deviations_of(run: Run) -> dict[str, dict[str, np.ndarray]]:
    """The resampled values behind the error of each value: method -> metric -> (times,).

    All methods are resampled alike, so that columns of two methods are paired.
    """
    return {
        name: io.read_table(run.need(f"evaluation/{name}") / "deviations.csv")
        for name in run.params.sample.methods
    }


def compare_runs(runs: Iterable[Run]) -> list[Row]:
    """One row a run, method and metric, read from the comparisons of finished runs.

    The rows are the rows of `table`, with the key `run` before them. Nothing is trained or drawn.
    Raises InputError for a run whose comparison is missing or out of date.
    """
    return [{"run": run.params.run, **row} for run in runs for row in _compared(run)]


def _compared(run: Run) -> list[Row]:
    name = run.params.run
    try:
        folder = run.need("comparison")
    except InputError as error:
        raise InputError(
            f"run {name} has no comparison to read; make it with: lensnb run {name} ({error})"
        ) from None
    return io.read_json(folder / "table.json")["rows"]


def over_seeds(run: Run) -> list[Row]:
    """One row a method and metric over the training seeds of the recipe; no rows without `seeds`.

    The keys are OVER_SEEDS, `values` (one a seed) and `is_distance`. `spread` is the standard
    deviation of the values (None for a single seed), `error` the mean of their standard errors. If
    the spread is larger, another training matters more than other images.
    """
    found: dict[tuple[str, str], list[Row]] = {}
    for folders in run.evaluations().values():
        for method, folder in folders.items():
            for metric, value in io.read_json(folder / "metrics.json")["metrics"].items():
                found.setdefault((method, metric), []).append(value)
    return [
        {"method": method, "metric": metric, **_summary(trees)}
        for (method, metric), trees in found.items()
    ]


def _summary(trees: list[Row]) -> Row:
    """Mean and spread of the trees of one metric, one tree a seed."""
    values, errors, floors = (
        np.array([tree[key] for tree in trees]) for key in ("value", "error", "floor")
    )
    return {
        "mean": float(values.mean()),
        "spread": float(values.std(ddof=1)) if len(values) > 1 else None,
        "seeds": len(values),
        "error": float(errors.mean()),
        "floor": float(floors.mean()),
        "values": values.tolist(),
        "is_distance": all(tree["ratio"] is not None for tree in trees),
    }


def seeds_told(rows: list[Row]) -> str:
    """One sentence on how far the rows of `over_seeds` can be trusted."""
    if not rows:
        return (
            "This is one training seed: another may give another order. "
            'make run SEEDS="0 1 2" trains three on the same images.'
        )
    wide = [row for row in rows if row["spread"] is not None and row["spread"] > row["error"]]
    return (
        f"Over {rows[0]['seeds']} training seeds on the same images, {len(wide)} of {len(rows)} "
        "measures scatter by more than the standard error of one run. By these measures, one "
        "training is not enough to rank the methods."
    )


def costs(run: Run) -> dict[str, Row]:
    """What each method took: method -> network evaluations, parameters, seconds an image, training.

    The training is told in minutes and in images seen, those of the model that it started from
    included.
    """
    found = {}
    for name, method in run.params.sample.methods.items():
        samples = run.need(f"samples/{name}")
        trained = [run.need(f"models/{kind}") for kind in trained_for([method.model])]
        seconds = [io.read_json(model / "timing.json")["seconds"] for model in trained]
        seen = [int(io.read_table(model / "history.csv")["images"][-1]) for model in trained]
        sample = io.read_json(samples / "sample.json")
        found[name] = {
            "model": method.model,
            "nfe": sample["nfe"],
            "parameters": sample["parameters"],
            "images": sample["n"],
            "seconds_per_image": io.read_json(samples / "timing.json")["seconds_per_image"],
            "training_minutes": sum(seconds) / 60,
            "training_images_seen": sum(seen),
        }
    return found


# ---- which of two is better


def gap(first: Row, second: Row, deviations: Deviations) -> tuple[float, float]:
    """By how much row `second` is worse than row `first` of the same metric, and the error of that.

    Both are measured against one reference, whose own scatter cancels: the error is the standard
    deviation of the difference of their deviations. If one of them has no deviations, the errors
    are taken as independent.
    """
    one, other = (deviations.get(row["method"], {}).get(row["metric"]) for row in (first, second))
    if one is None or other is None:
        error = math.hypot(first["error"], second["error"])
    else:
        error = float(np.std(side(first) * one - side(second) * other, ddof=1))
    return _loss(second) - _loss(first), error


def _loss(row: Row) -> float:
    """What should be small: the value, its negative, or for two-sided metrics |value - floor|."""
    return side(row) * (row["value"] - (row["floor"] if row["larger_is_better"] is None else 0))


def clear_winner(rows: list[Row], deviations: Deviations) -> Row | None:
    """The best row of one metric, if the next is worse by more than the error of the difference."""
    ranked = sorted(rows, key=_loss)
    if len(ranked) < 2:
        return None
    behind, error = gap(ranked[0], ranked[1], deviations)
    return ranked[0] if behind > error else None


# ---- sentences


def times_told(ratio: float | None) -> str:
    """A ratio to the floor in words of a table: beyond a thousand only that it is beyond."""
    if ratio is None or math.isnan(ratio):
        return ""
    return "> 1,000" if ratio > 1000 else f"{ratio:.1f}"


def z_told(z: float, digits: int = 0) -> str:
    """A deviation in words of a table: beyond a hundred only that it is beyond."""
    if math.isnan(z):
        return ""
    if abs(z) > 100:
        return "> 100" if z > 0 else "< -100"
    return f"{round(z, digits) + 0.0:.{digits}f}"  # + 0.0 turns -0 into 0


def footing(costs: Mapping[str, Row], images: int) -> str:
    """One sentence: how many images all models learned from, and what each model took to learn."""
    models = {cost["model"]: cost for cost in costs.values()}
    parts = [
        f"{name} saw {cost['training_images_seen']} in {cost['training_minutes']:.1f} minutes and "
        f"draws with {cost['parameters'] / 1e6:.2f} million parameters"
        for name, cost in models.items()
    ]
    seen = {cost["training_images_seen"] for cost in models.values()}
    equal = (
        " The number of images seen is the same for all." if len(seen) == 1 < len(models) else ""
    )
    return f"Of the same {images} training images, turned and flipped, {'; '.join(parts)}.{equal}"


# ---- files


def compare(run: Run, folder: Path) -> list[Row]:
    """Compare all methods of a run; writes to `folder` and returns the rows of `table`.

    table.csv holds the rows, seeds.csv the rows over training seeds if there are any, table.json
    both and the verdict, timing.json the costs.
    """
    rows = table(run)
    seeds = over_seeds(run)
    trees = {
        name: io.read_json(run.need(f"evaluation/{name}") / "metrics.json")
        for name in run.params.sample.methods
    }
    tree: Row = {"rows": rows, "verdict": verdict(rows, trees)}
    _write_columns(folder / "table.csv", rows, COLUMNS)
    if seeds:
        _write_columns(folder / "seeds.csv", seeds, OVER_SEEDS)
        tree["seeds"] = seeds
    io.write_json(folder / "table.json", tree)
    io.write_json(folder / "timing.json", costs(run))
    return rows


def _write_columns(path: Path, rows: list[Row], columns: Iterable[str]) -> None:
    """Write these columns of the rows as CSV, None as NaN."""

    def filled(value: Any) -> Any:
        return float("nan") if value is None else value

    io.write_table(path, {name: [filled(row[name]) for row in rows] for name in columns})
