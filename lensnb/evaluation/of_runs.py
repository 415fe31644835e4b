"""Several finished runs beside each other: recipes, differences with errors, histories, costs.

Nothing is trained or drawn: all is read from the folders of the runs. The first run is the one that
the others are compared with.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lensnb import io
from lensnb.evaluation import compare, lensnet
from lensnb.recipes.differences import differences
from lensnb.runs import artefact
from lensnb.runs.run_folder import Run

Row = dict[str, Any]
APART = 2  # errors of the difference; what is less apart is called equal


def collected(runs: Sequence[Run]) -> dict[str, Any]:
    """All that is shown of some runs: rows, differences, recipes, footing, histories and costs.

    Raises InputError for a run whose comparison is missing or out of date.
    """
    rows = compare.compare_runs(runs)
    return {
        "runs": [run.params.run for run in runs],
        "rows": rows,
        "differences": against_first(runs, rows),
        "recipes": differences([run.tree for run in runs]),
        "footing": [footing(runs[0], run) for run in runs[1:]],
        "histories": {run.params.run: histories(run) for run in runs},
        "costs": {run.params.run: compare.costs(run) for run in runs},
    }


def against_first(runs: Sequence[Run], rows: Sequence[Row]) -> list[Row]:
    """How much worse each run is than the first, by every method and metric that both have.

    The keys are run, method, metric, first and value (with first_error and error), worse (positive:
    farther from real images than the first run), worse_error, z and paired. If two runs were
    measured with the same resamplings of the same held-out images, the error is that of the paired
    difference, else the errors of both are added in quadrature.
    """
    found = []
    place = {(row["run"], row["method"], row["metric"]): row for row in rows}
    first, *others = runs
    for run in others:
        for (name, method, metric), row in place.items():
            base = place.get((first.params.run, method, metric))
            if name == run.params.run and base:
                deviations = _deviations(first, run, method)
                found.append(_difference(base, row, deviations))
    return found


def _difference(base: Row, row: Row, deviations: Mapping[str, Any]) -> Row:
    """One row of `against_first`; deviations: run -> metric -> resampled values, if paired."""
    one, other = ({**r, "method": r["run"]} for r in (base, row))
    worse, error = compare.gap(one, other, deviations)
    return {
        "run": row["run"],
        "method": row["method"],
        "metric": row["metric"],
        "first": base["value"],
        "first_error": base["error"],
        "value": row["value"],
        "error": row["error"],
        "worse": worse,
        "worse_error": error,
        "z": worse / error if error else math.copysign(math.inf, worse) if worse else 0.0,
        "paired": all(row["metric"] in deviations.get(r, {}) for r in (base["run"], row["run"])),
    }


def _deviations(one: Run, other: Run, method: str) -> dict[str, dict[str, np.ndarray]]:
    """Run -> metric -> resampled values, or nothing where the two were not resampled alike."""
    if one.params.seed != other.params.seed or not same_images(one, other):
        return {}
    if lensnet_version(one) != lensnet_version(other):
        return {}
    found = {
        run.params.run: io.read_table(run.need(f"evaluation/{method}") / "deviations.csv")
        for run in (one, other)
    }
    lengths = {len(column) for table in found.values() for column in table.values()}
    return found if len(lengths) == 1 else {}


def same_images(one: Run, other: Run) -> bool:
    """Whether two runs are judged by the same held-out images."""
    return _judged_by(one) == _judged_by(other)


def lensnet_version(run: Run) -> str:
    """The version of LensNet behind a run's numbers; of several, all that there are."""
    methods = run.params.sample.methods
    trees = [io.read_json(run.need(f"evaluation/{m}") / "metrics.json") for m in methods]
    return " and ".join(sorted({str(lensnet.version_of(tree["lensnet"])) for tree in trees}))


def _judged_by(run: Run) -> tuple[Any, ...]:
    most = min(run.params.evaluate.n, run.params.sample.n)
    return artefact.digest(run.need("data")), run.params.data_seed, most


def footing(first: Run, run: Run) -> str:
    """One sentence: whether two runs can be compared number by number, and with which error."""
    names = f"{first.params.run} and {run.params.run}"
    versions = lensnet_version(first), lensnet_version(run)
    if versions[0] != versions[1]:
        return (
            f"{names} were measured with LensNet {versions[0]} and {versions[1]}: do not compare "
            "them by any measure of its features or readings; judge both again with one version."
        )
    if not same_images(first, run):
        return (
            f"{names} are judged by different held-out images: compare the ratios to the floor "
            "rather than the values; errors of differences are added in quadrature."
        )
    if first.params.seed != run.params.seed:
        return (
            f"{names} are judged by the same held-out images, resampled differently (another "
            "seed): errors of differences are added in quadrature."
        )
    return (
        f"{names} are judged by the same held-out images, resampled alike: the error of a "
        "difference is that of the paired difference."
    )


def histories(run: Run) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """Generator -> "history" and, if it was watched, "watch" -> columns."""
    found: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    for stage in run.stages("02_train"):
        folder = run.need(stage)
        tables = {name: folder / f"{name}.csv" for name in ("history", "watch")}
        found[stage.partition("/")[2]] = {
            name: io.read_table(path) for name, path in tables.items() if path.is_file()
        }
    return found
