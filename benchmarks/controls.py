"""Which strength of which fault is seen at which n: real images with a planted fault, judged.

    python benchmarks/controls.py [n ...]

Simulates real lenses of the broad prior, and lenses with each fault in FAULTS. The rows of all
measures are computed once. Then n faulty images are compared with n real ones, REPEATS times with
other images; 4 n other real images give the floor (n is 60, 256 and 1,000 by default). Prints for
each fault the largest z among all measures and whose it is: the median of the repeats. A fault is
seen if that z passes the threshold that is corrected for the number of measures. Writes
outputs/benchmarks/controls.csv and the figure beside it. What is there already is not made again.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.ndimage
import scipy.stats
import torch

from lensnb import io
from lensnb.display import figures
from lensnb.evaluation import compare, uncertainty
from lensnb.evaluation.measures import MEASURES
from lensnb.evaluation.rows import Fitted, Reference, all_rows, fit
from lensnb.lensing.priors import PRIORS
from lensnb.lensing.simulate import render, simulate
from lensnb.lensing.truth_tables import altered, draw_truth
from lensnb.recipes.recipe import Params

BROAD = PRIORS["broad"]
SIZES = (60, 256, 1000)
REPEATS = 3
SEED = 31
FALSE = 0.01  # chance that any measure alarms for a clean set
SLOW = ("told_apart",)  # a classifier for each floor
Tables = Mapping[str, np.ndarray]
# images (n, 1, H, W), their truth, the strength and a random generator -> images with a fault
Fault = Callable[[np.ndarray, Tables, float, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Planted:
    """A fault, its strengths from weak to strong, and how a strength is told."""

    plant: Fault
    strengths: tuple[float, ...]
    told: str


def clean(x, truth, strength, rng):
    """The images themselves."""
    return x


def blurred(x, truth, pixels, rng):
    """Images blurred by a Gaussian."""
    return scipy.ndimage.gaussian_filter(x, (0, 0, pixels, pixels))


def noisier(x, truth, factor, rng):
    """Noise of the sky times a factor: the sky's own and more, in quadrature."""
    return x + rng.normal(0, (factor**2 - 1) ** 0.5, x.shape).astype(np.float32)


def sky(x, truth, level, rng):
    """A constant added, in units of the sky noise."""
    return x + np.float32(level)


def gradient(x, truth, edge, rng):
    """A sky that rises from -edge to +edge across the field."""
    return x + np.linspace(-edge, edge, x.shape[-1], dtype=np.float32)


def checkerboard(x, truth, height, rng):
    """A pattern of +-height from pixel to pixel."""
    rows, columns = np.indices(x.shape[-2:])
    return x + np.float32(height) * (1 - 2 * ((rows + columns) % 2)).astype(np.float32)


def brighter(x, truth, factor, rng):
    """All pixels times a factor."""
    return np.float32(factor) * x


def off_centre(x, truth, pixels, rng):
    """All lenses moved along x."""
    step = pixels * BROAD.pixel_scale
    return render(truth | {name: truth[name] + step for name in ("x", "source_x")}).numpy()


def ring(x, truth, factor, rng):
    """The same lenses with a larger ring."""
    return render(truth | {k: truth[k] * factor for k in ("theta_E", "theta_E_smooth")}).numpy()


def wider_psf(x, truth, factor, rng):
    """The same lenses through a wider PSF."""
    return render(truth, replace(BROAD, psf_fwhm=factor * BROAD.psf_fwhm)).numpy()


def one_angle(x, truth, share, rng):
    """A share of the lenses at one position angle."""
    same = rng.random(len(x)) < share
    return render(altered(truth, BROAD, phi=np.where(same, 0.3, truth["phi"]))).numpy()


def one_side(x, truth, share, rng):
    """A share of the sources to the right of their lens, so that arcs open to one side."""
    offset = truth["source_x"] - truth["x"]
    moved = np.where(rng.random(len(x)) < share, abs(offset), offset)
    return render(truth | {"source_x": truth["x"] + moved}).numpy()


def correlated(x, truth, strength, rng):
    """Axis ratio and Einstein radius, independent in truth, correlated by ranks."""
    order = np.argsort(
        strength * _scores(truth["theta_E"]) + rng.normal(size=len(x)) * (1 - strength**2) ** 0.5
    )
    q = np.empty(len(x))
    q[order] = np.sort(truth["q"])
    return render(altered(truth, BROAD, q=q)).numpy()


def _scores(values):
    return scipy.stats.norm.ppf((scipy.stats.rankdata(values) - 0.5) / len(values))


def less_substructure(x, truth, share, rng):
    """A share of the lenses smooth, with the same ring."""
    smooth = rng.random(len(x)) < share
    nothing = {n: np.where(smooth, 0, truth[n]) for n in ("class", "subhalos", "vortex_mass")}
    return render(
        truth
        | nothing
        | {"theta_E_smooth": np.where(smooth, truth["theta_E"], truth["theta_E_smooth"])}
    ).numpy()


def few_distinct(x, truth, share, rng):
    """A share of the images, repeated at random."""
    return x[rng.integers(max(2, round(share * len(x))), size=len(x))]


def mixed(x, truth, share, rng):
    """A share of the images with the right half of another."""
    other = np.roll(x, 3, axis=0)
    middle = x.shape[-1] // 2
    joint = np.concatenate([x[..., :middle], other[..., middle:]], axis=-1)
    return np.where(rng.random((len(x), 1, 1, 1)) < share, joint, x)


FAULTS: dict[str, Planted] = {
    "none": Planted(clean, (0,), "{}"),
    "blur": Planted(blurred, (0.25, 0.35, 0.5), "{} px"),
    "noise": Planted(noisier, (1.02, 1.05, 1.2), "x {}"),
    "sky": Planted(sky, (0.02, 0.05, 0.1), "+{}"),
    "gradient": Planted(gradient, (0.1, 0.3), "+-{}"),
    "checkerboard": Planted(checkerboard, (0.05, 0.1), "+-{}"),
    "flux": Planted(brighter, (1.02, 1.1), "x {}"),
    "centre": Planted(off_centre, (0.25, 0.5), "+{} px"),
    "ring": Planted(ring, (1.01, 1.03, 1.1), "x {}"),
    "PSF": Planted(wider_psf, (1.1, 1.3), "x {}"),
    "one position angle": Planted(one_angle, (0.3, 1.0), "share {}"),
    "arcs to one side": Planted(one_side, (0.5, 1.0), "share {}"),
    "q with theta_E": Planted(correlated, (0.3, 0.6), "r {}"),
    "no substructure": Planted(less_substructure, (0.2, 1.0), "share {}"),
    "few distinct": Planted(few_distinct, (0.5, 0.1), "share {}"),
    "mixed halves": Planted(mixed, (0.1, 1.0), "share {}"),
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
        make = FAULTS[name].plant
        return self.kept(
            f"{name} {strength}",
            lambda: make(self.images, self.source, strength, rng),
            self.source["class"],
        )

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
            for key, tree in ({name: trees} if isinstance(measure.unit, str) else trees).items():
                larger = measure.larger_is_better
                side = larger[key] if isinstance(larger, Mapping) else larger
                found[key] = compare.badness(tree | {"larger_is_better": side})
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
            "metric": f"{row['fault']} {FAULTS[row['fault']].told.format(row['strength'])}",
            "method": f"n = {row['n']:.0f}",
            "z": float(row["z"]),
            "larger_is_better": False,
        }
        for row in rows
    ]
    figures.save(figures.z_values(cells), folder, "controls")


def main(*sizes: str) -> None:
    """Print a row for each fault, strength and n, and keep the table."""
    torch.set_num_threads(Params().threads)
    chosen = sorted(map(int, sizes)) or list(SIZES)
    folder = io.home() / "outputs" / "benchmarks"
    bench = Bench(chosen[-1], folder / f"controls-{chosen[-1]}")
    path = folder / "controls.csv"
    table = io.read_table(path) if path.is_file() else {}
    rows = [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]
    done = {(row["fault"], float(row["strength"]), int(row["n"])) for row in rows}
    for name, fault in FAULTS.items():
        for strength in fault.strengths:
            for n in chosen:
                if (name, float(strength), n) not in done:
                    rows.append(row_of(bench, name, strength, n))
                    print(*rows[-1].values(), flush=True)
            io.write_rows(path, rows)
    picture(rows, folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
