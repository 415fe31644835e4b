"""Which strength of which fault is seen at which n: real images with a planted fault, judged.

    python -m benchmarks.controls [n ...] [fault[=strength[=strength ...]] ...]

Simulates real lenses of the broad prior, and lenses with each fault in FAULTS. The rows of all
measures are computed once. Then n faulty images are compared with n real ones, REPEATS times with
other images; 4 n other real images give the floor (n is 60, 256 and 1,000 by default, and all
FAULTS). Prints for each fault the largest z among all measures and whose it is: the median of the
repeats. A fault is seen if that z passes the threshold that is corrected for the number of
measures. With the largest n the faulty images are the same in all repeats. Writes
outputs/benchmarks/controls.csv and the figure beside it. What is there already is not made again.
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
import torch

from lensnb import io
from lensnb.display import figures
from lensnb.evaluation import compare, uncertainty
from lensnb.evaluation.measures import MEASURES
from lensnb.evaluation.rows import Fitted, Reference, all_rows, fit
from lensnb.lensing.simulate import render, simulate
from lensnb.lensing.truth_tables import draw_truth
from lensnb.recipes.recipe import Params
from tools.planted import PLANTED

SIZES = (60, 256, 1000)
REPEATS = 3
SEED = 31
FALSE = 0.01  # chance that any measure alarms for a clean set
SLOW = ("told_apart",)  # a classifier for each floor
Tables = Mapping[str, np.ndarray]
# Faults of tools/planted.py -> strengths, from weak to strong. Copies of training images are
# searched for in another way, and `lens_fit` fits images: neither compares rows.
FAULTS: dict[str, tuple[float, ...]] = {
    "none": (0.0,),
    "opening": (0.5, 1.0),
    "equal_angles": (0.3, 1.0),
    "off_centre": (0.25, 0.5, 1.0),
    "gradient": (0.05, 0.1, 0.3),
    "sky": (0.02, 0.05, 0.1),
    "stripes": (0.1, 0.2),
    "noise": (1.02, 1.05, 1.2),
    "light_detail": (1.3, 2.0),
    "checkerboard": (0.05, 0.1),
    "hot_pixel": (0.5, 1.0),
    "elliptical_psf": (0.3, 0.5),
    "mirrored": (0.1, 0.5),
    "class_shares": (0.13, 0.27),
    "ring": (0.01, 0.03, 0.1),
    "correlated": (0.3, 0.6),
    "weak_vortex": (0.5, 0.1),
    "few_subhalos": (0.5, 0.1),
}


# ---- rows, once


class Bench:
    """Real lenses, the rows of their images, and the measures that compare them.

    most : the largest n. The first `most` real images fix units, bins and levels.
    """

    def __init__(self, most: int, folder: Path) -> None:
        self.folder = folder
        io.make_folder(folder)
        images, truth = simulate(6 * most, "broad", seed=SEED)
        self.reference = Reference(images[:most])
        self.measures = {
            name: measure
            for name, measure in MEASURES.items()
            if measure.rows is not None and measure.available(self.reference) and name not in SLOW
        }
        distinct = {m.rows: fit(m.rows, self.reference) for m in self.measures.values()}
        self.makers = {name: distinct[m.rows] for name, m in self.measures.items()}
        self.distances = {n: fit(m.distance, self.reference) for n, m in self.measures.items()}
        self.real = self.kept("real", lambda: images, truth["class"])
        self.source = draw_truth(most, "broad", SEED + 1)
        self.images = render(self.source).numpy()

    def kept(self, name: str, make: Callable[[], np.ndarray], labels: Any) -> Tables:
        """The rows of images by each measure, from a file if it is there."""
        path = self.folder / f"{name}.npz"
        if not path.is_file():
            on_device = {
                n
                for n, m in self.measures.items()
                if isinstance(m.rows, Fitted) and m.rows.on_device
            }
            rows = all_rows(self.makers, on_device, make(), self.reference)
            np.savez(path, **rows, labels=labels)
        return dict(np.load(path))

    def faulty(self, name: str, strength: float) -> Tables:
        """The rows of images with a fault."""
        rng = np.random.default_rng(SEED)

        def make() -> np.ndarray:
            if name == "none":
                return self.images
            return PLANTED[name](self.images, strength, rng, self.source, self.images)

        return self.kept(f"{name} {strength}", make, self.source["class"])

    def z(self, faulty: Tables, n: int, trial: int) -> dict[str, float]:
        """Key -> z on the bad side, of n faulty images against n real ones."""
        rng = np.random.default_rng([SEED, n, trial])
        made = rng.permutation(len(faulty["labels"]))[:n]
        order = rng.permutation(len(self.real["labels"]))
        sides = order[:n], order[n : 5 * n]
        found = {}
        for name, measure in self.measures.items():
            labels = None
            if measure.by_class:
                labels = [faulty["labels"][made], *(self.real["labels"][s] for s in sides)]
            trees = uncertainty.measure(
                self.distances[name],
                faulty[name][made],
                *(self.real[name][side] for side in sides),
                measure.unit,
                times=2,
                seed=trial,
                labels=labels,
                **measure.options,
            )
            for key, tree in measure.trees(name, trees).items():
                found[key] = compare.badness(tree)
        return found


def row_of(bench: Bench, name: str, strength: float, n: int) -> dict[str, Any]:
    """One row of the table: the median over the repeats, and the measure that sees most."""
    faulty = bench.faulty(name, strength)
    trials = [bench.z(faulty, n, trial) for trial in range(REPEATS)]
    threshold = scipy.stats.norm.isf(FALSE / len(trials[0]))
    median = {key: float(np.median([trial[key] for trial in trials])) for key in trials[0]}
    by = max(median, key=median.__getitem__)
    return {
        "fault": name,
        "strength": strength,
        "n": n,
        "z": round(median[by], 1),
        "by": by,
        "seen": np.mean([max(trial.values()) > threshold for trial in trials]),
        "oriented": round(median.get("frechet_oriented", 0.0), 1),
        "measures": len(median),
    }


def picture(rows: list[dict[str, Any]], folder: Path) -> None:
    """Save the largest z of each fault (rows) at each n as a heat map, controls.png and .pdf."""
    cells = [
        {
            "metric": f"{row['fault']} {row['strength']:g}",
            "method": f"n = {row['n']:.0f}",
            "z": float(row["z"]),
            "larger_is_better": False,
        }
        for row in rows
    ]
    figures.save(figures.z_values(cells), folder, "controls")


def planted(told: list[str]) -> dict[str, tuple[float, ...]]:
    """Faults with the strengths that are told, or with those of FAULTS; all FAULTS if none is."""
    parts = [text.split("=") for text in told]
    if unknown := [name for name, *_ in parts if name not in FAULTS]:
        raise SystemExit(f"{unknown[0]}: no such fault; known are {', '.join(FAULTS)}")
    return {name: tuple(map(float, own)) or FAULTS[name] for name, *own in parts} or FAULTS


def main(*told: str) -> None:
    """Print a row for each fault, strength and n, and keep the table."""
    torch.set_num_threads(Params().threads)
    chosen = sorted(int(text) for text in told if text.isdigit()) or list(SIZES)
    faults = planted([text for text in told if not text.isdigit()])
    folder = io.home() / "outputs" / "benchmarks"
    bench = Bench(chosen[-1], folder / f"controls-{chosen[-1]}")
    path = folder / "controls.csv"
    table = io.read_table(path) if path.is_file() else {}
    rows = [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]
    done = {(row["fault"], float(row["strength"]), int(row["n"])) for row in rows}
    for name, strengths in faults.items():
        for strength in strengths:
            for n in chosen:
                if (name, float(strength), n) not in done:
                    rows.append(row_of(bench, name, strength, n))
                    print(*rows[-1].values(), flush=True)
            io.write_rows(path, rows)
    picture(rows, folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
