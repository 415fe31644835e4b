"""How often clean real images raise an alarm: z of every measure for sets without a fault.

    python benchmarks/false_alarms.py [sets] [n ...]

Simulates POOL lenses of the broad prior and measures the rows of each once. Each of `sets` (200)
clean sets draws n images as generated ones, n as the reference and 4 n others, all different, and
measures all distances (n is 60, 256 and 1,000). Measures that train a classifier are SLOW: they see
every tenth set only. So do, beyond FEW images, those that compare all pairs of images. Prints for
each n the mean and scatter of z, the share of alarms above 3 and 5, and the highest z. Writes
outputs/benchmarks/false_alarms.csv, a row for each n, set and measure. What is there already is not
measured again, so several short calls make one table.
"""

import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from lensnb import io
from lensnb.evaluation import compare, uncertainty
from lensnb.evaluation.measures import MEASURES, Measure
from lensnb.evaluation.rows import Fitted, Reference, all_rows, fit
from lensnb.lensing.simulate import simulate

POOL = 12_000
UNITS = 2000  # the first images of the pool, which fix units and bins
SEED = 21
SIZES = (60, 256, 1000)
SLOW = ("told_apart",)
PAIRS = ("kid", "neighbours", "pqmass")  # slow beyond FEW images
FEW = 256
FOLDER = io.home() / "outputs" / "benchmarks"

Row = dict[str, Any]


def measures_of(reference: Reference) -> dict[str, Measure]:
    """The measures that compare rows of these images."""
    return {
        name: measure
        for name, measure in MEASURES.items()
        if measure.rows is not None and measure.available(reference)
    }


def pool() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Rows (POOL, d) and distance of each measure; the first UNITS images fix units and bins."""
    path = FOLDER / f"false_alarms-{POOL}.npz"
    images, truth = simulate(UNITS if path.is_file() else POOL, "broad", seed=SEED)
    reference = Reference(images[:UNITS])
    used = measures_of(reference)
    if path.is_file():
        rows = dict(np.load(path))
    else:
        distinct = {measure.rows: fit(measure.rows, reference) for measure in used.values()}
        makers = {name: distinct[measure.rows] for name, measure in used.items()}
        networks = {n for n, m in used.items() if isinstance(m.rows, Fitted) and m.rows.on_device}
        rows = all_rows(makers, networks, images, reference)
        rows["class"] = np.asarray(truth["class"])
        io.make_folder(FOLDER)
        np.savez(path, **rows)
    return rows, {name: fit(measure.distance, reference) for name, measure in used.items()}


def z_of_set(rows: Mapping[str, np.ndarray], distances: Mapping[str, Any], n: int, trial: int):
    """key -> z of one clean set, counted so that positive is worse; too good counts, too."""
    order = np.random.default_rng([SEED, n, trial]).permutation(POOL)
    sides = order[:n], order[n : 2 * n], order[2 * n : 6 * n]
    found = {}
    for name, distance in distances.items():
        slow = name in SLOW or (name in PAIRS and n > FEW)
        if slow and trial % 10:
            continue
        measure = MEASURES[name]
        labels = [rows["class"][side] for side in sides] if measure.by_class else None
        made, real, others = (rows[name][side] for side in sides)
        trees = uncertainty.measure(
            distance,
            made,
            real,
            others,
            measure.unit,
            times=2,  # the error has no part in z
            seed=trial,
            labels=labels,
            **measure.options,
        )
        for key, tree in measure.trees(name, trees).items():
            found[key] = compare.badness(tree)
    return found


def summary(rows: list[Row]) -> Row:
    """Mean, scatter and tail of z over some rows."""
    z = np.array([row["z"] for row in rows])
    highest = max(rows, key=lambda row: row["z"])
    return {
        "sets": len({row["set"] for row in rows}),
        "values": len(z),
        "mean": z.mean(),
        "scatter": z.std(),
        "above 3": np.mean(z > 3),
        "above 5": np.mean(z > 5),
        "highest": highest["z"],
        "of": highest["metric"],
    }


def made_before(path: Any) -> list[Row]:
    """The rows of an earlier table."""
    table = io.read_table(path) if path.is_file() else {}
    return [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]


def main(sets: str = "200", *sizes: str) -> None:
    """Measure what is missing, keep it and print the tails, in all and of the worst measures."""
    rows, distances = pool()
    path = FOLDER / "false_alarms.csv"
    found = made_before(path)
    for n in map(int, sizes or SIZES):
        done = {row["set"] for row in found if row["n"] == n}
        start = time.perf_counter()
        for trial in set(range(int(sets))) - done:
            z = z_of_set(rows, distances, n, trial)
            found += [{"n": n, "set": trial, "metric": key, "z": z[key]} for key in z]
            if trial % 10 == 9:
                io.write_rows(path, found)
        io.write_rows(path, found)
        here = [row for row in found if row["n"] == n]
        print(n, summary(here), f"{time.perf_counter() - start:.0f} s", flush=True)
        for key in {row["metric"] for row in here}:
            own = summary([row for row in here if row["metric"] == key])
            if own["above 3"]:
                print("   ", key, own["above 3"], own["highest"], flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
