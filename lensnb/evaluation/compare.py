"""The comparison: one table of all methods of a run. It reads files and knows no method by name."""

import math

import numpy as np

from lensnb import io

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


def table(run):
    """One row a method and metric, as a list of dicts with the keys COLUMNS."""
    rows = []
    deviations = deviations_of(run)
    for name in run.params.sample.methods:
        found = io.read_json(run.need(f"evaluation/{name}") / "metrics.json")["metrics"]
        rows += [
            {"method": name, "metric": key, **{c: value[c] for c in KEPT}}
            for key, value in found.items()
        ]
    return [
        row
        | {
            "best": row
            is clear_winner([r for r in rows if r["metric"] == row["metric"]], deviations)
        }
        for row in rows
    ]


def deviations_of(run):
    """What is behind the error of each value: method -> metric -> deviations (times,), resampled alike for all methods."""
    return {
        name: io.read_table(run.need(f"evaluation/{name}") / "deviations.csv")
        for name in run.params.sample.methods
    }


def over_seeds(run):
    """One row a method and metric over the runs of the recipe's training seeds: OVER_SEEDS, and `values`, one a seed.

    `spread` is the standard deviation of the values (None for one seed alone), `error` the mean of their own standard
    errors: where the spread is above it, another training matters more than other images. No rows without `seeds`.
    """
    found = {}
    for folders in run.evaluations().values():
        for method, folder in folders.items():
            for metric, value in io.read_json(folder / "metrics.json")["metrics"].items():
                found.setdefault((method, metric), []).append(value)
    return [
        {"method": method, "metric": metric, **_over(measured)}
        for (method, metric), measured in found.items()
    ]


def _over(measured):
    """What the trees of one metric, one a seed, have in common."""
    values, errors, floors = (
        np.array([tree[key] for tree in measured]) for key in ("value", "error", "floor")
    )
    return {
        "mean": float(values.mean()),
        "spread": float(values.std(ddof=1)) if len(values) > 1 else None,
        "seeds": len(values),
        "error": float(errors.mean()),
        "floor": float(floors.mean()),
        "values": values.tolist(),
        "is_distance": all(tree["ratio"] is not None for tree in measured),
    }


def seeds_told(rows):
    """One sentence on what the rows of `over_seeds` are worth."""
    if not rows:
        return 'This is one training seed: another may give another order. make run SEEDS="0 1 2" trains three on the same images.'
    wide = [row for row in rows if row["spread"] is not None and row["spread"] > row["error"]]
    return (
        f"Over {rows[0]['seeds']} training seeds on the same images, the values of {len(wide)} of {len(rows)} measures scatter by more than "
        "their standard error of one run: there, one training says less than its error bar does."
    )


def gap(first, second, deviations):
    """By how much `second` is worse than `first`, rows of one metric, and the standard error of that.

    Both are measured against one reference, whose own scatter cancels: the error is the scatter of the difference
    of their deviations. Where a metric has none, the errors are taken as independent.
    """
    one, other = (deviations.get(row["method"], {}).get(row["metric"]) for row in (first, second))
    apart = one is None or other is None
    error = (
        math.hypot(first["error"], second["error"])
        if apart
        else float(np.std(_side(first) * one - _side(second) * other, ddof=1))
    )
    return _loss(second) - _loss(first), error


def _side(row):
    """1 where larger is worse, -1 where smaller is; where as much as of real images is best (larger_is_better null), away from the floor."""
    if row["larger_is_better"] is None:
        return math.copysign(1, row["value"] - row["floor"])
    return -1 if row["larger_is_better"] else 1


def _loss(row):
    """What is to be small: the value, its negative, or its distance to the floor."""
    return _side(row) * (row["value"] - (row["floor"] if row["larger_is_better"] is None else 0))


def badness(row):
    """By how many deviations of chance a row lies on the wrong side of its floor; below zero on the right one."""
    z = row["z"] if row["z"] is not None else math.copysign(math.inf, row["value"] - row["floor"])
    return _side(row) * z


def clear_winner(rows, deviations):
    """The row of one metric that comes closest, if the next is behind by more than the error of that; else None."""
    ranked = sorted(rows, key=_loss)
    if len(ranked) < 2:
        return None
    behind, error = gap(*ranked[:2], deviations)
    return ranked[0] if behind > error else None


def costs(run):
    """What each method took: method -> NFE, parameters, seconds an image, training minutes, training images seen."""
    found = {}
    for name, method in run.params.sample.methods.items():
        samples = run.need(f"samples/{name}")
        model = run.need(f"models/{method.model}")
        sample = io.read_json(samples / "sample.json")
        history = io.read_table(model / "history.csv")
        found[name] = {
            "model": method.model,
            "nfe": sample["nfe"],
            "parameters": sample["parameters"],
            "images": sample["n"],
            "seconds_per_image": io.read_json(samples / "timing.json")["seconds_per_image"],
            "training_minutes": io.read_json(model / "timing.json")["seconds"] / 60,
            "training_images_seen": int(history["images"][-1]),
        }
    return found


def footing(costs, images):
    """One sentence: from how many images all have learned, and by what means each model has."""
    models = {cost["model"]: cost for cost in costs.values()}
    parts = [
        f"{name} saw {cost['training_images_seen']} in {cost['training_minutes']:.1f} minutes and draws with "
        f"{cost['parameters'] / 1e6:.2f} million parameters"
        for name, cost in models.items()
    ]
    seen = {cost["training_images_seen"] for cost in models.values()}
    equal = (
        " The number of images seen is the same for all." if len(seen) == 1 < len(models) else ""
    )
    return f"Of the same {images} training images, turned and flipped, {'; '.join(parts)}.{equal}"


def verdict(rows, deviations):
    """Three sentences made from the numbers: who comes closest, what physics says, whether it can be told from real."""
    return [
        _closest([row for row in rows if row["metric"] == "frechet_lensnet"], deviations),
        _physics([row for row in rows if row["group"] == "physics"]),
        _told_apart([row for row in rows if row["metric"] == "told_apart"]),
    ]


def _closest(rows, deviations):
    best, *rest = sorted(rows, key=lambda row: row["value"])
    text = f"By the Frechet distance (LensNet) {best['method']} comes closest, {best['ratio']:.1f} times the real-vs-real floor (n = {best['n']})"
    behind = [f"{row['method']} by {_deviations_told(*gap(best, row, deviations))}" for row in rest]
    return text + (f"; behind it are {', '.join(behind)}." if behind else ".")


def _deviations_told(behind, error):
    return (
        f"z = {behind / error:.1f}"
        if error > 0
        else "nothing"
        if behind == 0
        else "more than any error"
    )


def _physics(rows):
    parts = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = sorted((row for row in rows if row["method"] == method), key=badness)
        passed = sum(badness(row) < 3 for row in own)
        worst = (
            f", worst in {own[-1]['metric']} (z = {badness(own[-1]):.0f})"
            if passed < len(own)
            else ""
        )
        parts.append(f"{method} is within z = 3 of real images in {passed} of {len(own)}{worst}")
    return "Of the physical measures, " + "; ".join(parts) + "."


def _told_apart(rows):
    parts = [f"{row['method']} {row['value']:.3f} +- {row['error']:.3f}" for row in rows]
    return (
        f"A classifier tells generated from real images with an area under the curve of {', '.join(parts)} "
        f"(real from real: {rows[0]['floor']:.3f} +- {rows[0]['floor_error']:.3f})."
    )


def compare(run, folder):
    """Write table.csv, table.json (rows, verdict and rows over training seeds), seeds.csv where there are seeds, and the costs to `folder`."""
    rows = table(run)
    seeds = over_seeds(run)

    def filled(value):
        return float("nan") if value is None else value

    io.write_table(folder / "table.csv", {c: [filled(row[c]) for row in rows] for c in COLUMNS})
    if seeds:
        io.write_table(
            folder / "seeds.csv", {c: [filled(row[c]) for row in seeds] for c in OVER_SEEDS}
        )
    tree = {"rows": rows, "verdict": verdict(rows, deviations_of(run))} | (
        {"seeds": seeds} if seeds else {}
    )
    io.write_json(folder / "table.json", tree)
    io.write_json(folder / "timing.json", costs(run))
    return rows
