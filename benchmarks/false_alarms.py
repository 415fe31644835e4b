"""How often clean real images raise an alarm: z of every measure for sets without a fault.

    python -m benchmarks.false_alarms [sets] [n ...]

Simulates POOL lenses of the broad prior and measures the rows of each once. Each of `sets` (200)
clean sets draws n images as generated ones, n as the reference and 4 n others, all different, and
measures all distances (n is 60, 256 and 1,000); the lens fit is left out. What takes long sees a
part of the sets only, see `every`. Prints for each n the mean and scatter of z, the share of alarms
above 3 and 5, and the highest z. Writes outputs/benchmarks/false_alarms.csv, a row for each n, set
and measure. What is there already is not measured again, so several short calls make one table.
"""

import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from lensnb import io
from lensnb.evaluation import (
    compare,
    fixed_pixels,
    memorisation,
    pixel_classifier,
    uncertainty,
    usefulness,
)
from lensnb.evaluation.measures import MEASURES, Measure
from lensnb.evaluation.rows import Fitted, Reference, all_rows, fit
from lensnb.lensing.simulate import simulate

POOL = 12_000
UNITS = 2000  # the first images of the pool, which fix units and bins
SEED = 21
SIZES = (60, 256, 1000)
SLOW = ("told_apart", "usefulness", "pixels_told_apart")
PAIRS = ("kid", "neighbours", "pqmass", "copies")  # of all pairs of images: slow beyond FEW images
FEW = 256
ROWS = "intensity"  # stands for all measures that are quick
FOLDER = io.home() / "outputs" / "benchmarks"

Row = dict[str, Any]


def measures_of(reference: Reference) -> dict[str, Measure]:
    """The measures that compare rows of these images."""
    return {
        name: measure
        for name, measure in MEASURES.items()
        if measure.rows is not None and measure.available(reference)
    }


class Bench:
    """The pool: its images, the rows (POOL, d) of each measure, and the fitted distances."""

    def __init__(self) -> None:
        path = FOLDER / f"false_alarms-{POOL}.npz"
        drawn = path.with_suffix(".npy")
        if not (path.is_file() and drawn.is_file()):
            images, truth = simulate(POOL, "broad", seed=SEED)
            io.make_folder(FOLDER)
            np.save(drawn, images)
        self.images = np.load(drawn, mmap_mode="r")
        reference = Reference(np.array(self.images[:UNITS]))
        used = measures_of(reference)
        if not path.is_file():
            rows = rows_of_pool(used, self.images, reference)
            np.savez(path, **rows | {"class": np.asarray(truth["class"])})
        self.rows = dict(np.load(path))
        self.noise = float(np.median(self.rows["noise_level"][:UNITS]))
        self.distances = {name: fit(measure.distance, reference) for name, measure in used.items()}

    def sides(self, n: int, trial: int) -> list[np.ndarray]:
        """Numbers of the generated images, the reference and the others of a clean set."""
        order = np.random.default_rng([SEED, n, trial]).permutation(POOL)
        return [order[:n], order[n : 2 * n], order[2 * n : 6 * n]]

    def trees(self, name: str, n: int, trial: int) -> dict[str, Any]:
        """What a measure says of one clean set: key -> tree."""
        sides = self.sides(n, trial)
        labels = [self.rows["class"][side] for side in sides]
        features = [self.rows["frechet_lensnet"][side] for side in sides]
        if name in self.distances:
            return self._compared(name, [self.rows[name][side] for side in sides], labels, trial)
        # as the judge has them, with few resamplings: the error has no part in z
        if name == "usefulness":
            found = usefulness.measure(*features, labels, times=2, seed=trial)
        elif name == "fixed_pixels":
            made, held, train = (self.images[side] for side in sides)
            sets = made, np.append(held, train, axis=0)
            found = fixed_pixels.found_in(
                *(fixed_pixels.contrast_maps(x, self.noise) for x in sets)
            )
        elif name == "copies":
            made, held, train = (self.images[side] for side in sides)
            of = features[0], features[2], features[1]
            found = memorisation.as_measure(memorisation.memorised(made, train, held, features=of))
        else:
            made, real = (self.images[side] for side in sides[:2])
            found = pixel_classifier.told_apart(made, real, seed=trial)
        return {name: found | MEASURES[name].reading(name)}

    def _compared(self, name: str, rows: Any, labels: Any, trial: int) -> dict[str, Any]:
        measure = MEASURES[name]
        found = uncertainty.measure(
            self.distances[name],
            *rows,
            measure.unit,
            times=2,
            seed=trial,
            labels=labels if measure.by_class else None,
            **measure.options,
        )
        return measure.trees(name, found)


def rows_of_pool(used: Mapping[str, Measure], images: Any, reference: Reference) -> dict[str, Any]:
    """The rows (POOL, d) of each measure."""
    distinct = {measure.rows: fit(measure.rows, reference) for measure in used.values()}
    makers = {name: distinct[measure.rows] for name, measure in used.items()}
    networks = {n for n, m in used.items() if isinstance(m.rows, Fitted) and m.rows.on_device}
    return all_rows(makers, networks, images, reference)


def every(name: str, n: int) -> int:
    """Which sets a measure sees: one in so many."""
    if name in SLOW:
        return 10 if n < FEW or name != "pixels_told_apart" else 25
    return 10 if name in PAIRS and n > FEW else 1


def z_of_set(bench: Bench, n: int, trial: int, done: set[str]) -> dict[str, float]:
    """key -> z of one clean set, counted so that positive is worse; too good counts, too.

    done : keys that are known already
    """
    found = {}
    quick = bench.distances if ROWS not in done else ()
    for name in (*quick, "usefulness", "pixels_told_apart", "fixed_pixels", "copies"):
        if trial % every(name, n) or name in done:
            continue
        for key, tree in bench.trees(name, n, trial).items():
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
    torch.set_num_threads(1)
    bench = Bench()
    path = FOLDER / "false_alarms.csv"
    found = made_before(path)
    for n in map(int, sizes or SIZES):
        start = time.perf_counter()
        for trial in range(int(sets)):
            done = {row["metric"] for row in found if row["n"] == n and row["set"] == trial}
            z = z_of_set(bench, n, trial, done)
            found += [{"n": n, "set": trial, "metric": key, "z": z[key]} for key in z]
            if trial % 10 == 9:
                io.write_rows(path, found)
        io.write_rows(path, found)
        here = [row for row in found if row["n"] == n]
        print(n, summary(here), f"{time.perf_counter() - start:.0f} s", flush=True)
        for key in {row["metric"] for row in here}:
            own = summary([row for row in here if row["metric"] == key])
            if own["above 3"]:
                print("   ", key, own["values"], own["above 3"], own["highest"], flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
