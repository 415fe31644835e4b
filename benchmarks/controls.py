"""Which measure sees which fault: degraded real images against real ones, as the judge sees them.

    python benchmarks/controls.py [n]

Simulates n held-out images and 4 n others of the broad prior (n is 2000 by default) and judges n
images of each fault in FAULTS, and fresh images twice. Prints a row for each fault: by how many
deviations of chance each measure lies on the wrong side of the real-vs-real floor. Writes
outputs/benchmarks/controls.csv and its heat map. Rows that exist already are not made again.
"""

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.ndimage
import torch

from lensnb import io
from lensnb.datasets.dataset import load_dataset, prepare_dataset
from lensnb.display import figures
from lensnb.evaluation import compare
from lensnb.evaluation.judge import Judge
from lensnb.lensing.priors import PRIORS
from lensnb.lensing.simulate import render, simulate
from lensnb.recipes.recipe import Params, validate

BROAD = PRIORS["broad"]
# Few images and resamplings will do, because the faults lie far out.
FITTED = 32
BOOTSTRAP = 50
ASIDE = ("fault", "n", "seconds", "seconds_fit")  # columns of the table that are no measures

# images (n, 1, H, W), their truth and a random generator -> images with a fault
Fault = Callable[[np.ndarray, Mapping[str, Any], np.random.Generator], np.ndarray]


def unchanged(x, truth, rng):
    """The images themselves."""
    return x


def fresh_again(x, truth, rng):
    """As many other lenses."""
    return simulate(len(x), "broad", seed=13)[0]


def blurred(x, truth, rng):
    """Images blurred by a Gaussian of 0.5 pixels."""
    return scipy.ndimage.gaussian_filter(x, (0, 0, 0.5, 0.5))


def ring(factor: float) -> Fault:
    """Lenses with a larger ring: the same lenses and noise, simulated anew."""

    def larger(x, truth, rng):
        columns = {name: truth[name] * factor for name in ("theta_E", "theta_E_smooth")}
        return render(truth | columns).numpy()

    return larger


def without_substructure(x, truth, rng):
    """The same ring with all of its mass smooth."""
    nothing = {name: 0 * truth[name] for name in ("class", "subhalos", "vortex_mass")}
    return render(truth | nothing | {"theta_E_smooth": truth["theta_E"]}).numpy()


def noisier(x, truth, rng):
    """Noise 1.2 times the noise of the sky: the sky's own and 0.66 more, in quadrature."""
    return x + rng.normal(0, (1.2**2 - 1) ** 0.5, x.shape).astype(np.float32)


def phases_random(x, truth, rng):
    """Each image's power spectrum with the phases of noise."""
    phase = np.fft.fft2(rng.normal(size=x.shape))
    return np.fft.ifft2(np.abs(np.fft.fft2(x)) * phase / np.abs(phase)).real.astype(np.float32)


def cut_and_mixed(x, truth, rng):
    """The left half of one image and the right half of the next."""
    middle = x.shape[-1] // 2
    return np.concatenate([x[..., :middle], np.roll(x, 1, axis=0)[..., middle:]], axis=-1)


def few_distinct(x, truth, rng):
    """A tenth of the images, repeated at random."""
    return x[rng.integers(len(x) // 10, size=len(x))]


def brighter(x, truth, rng):
    """All pixels 1.1 times as bright."""
    return 1.1 * x


def wider_psf(x, truth, rng):
    """The same lenses through a PSF 1.3 times as wide."""
    return render(truth, replace(BROAD, psf_fwhm=1.3 * BROAD.psf_fwhm)).numpy()


FAULTS: dict[str, Fault] = {
    "fresh": unchanged,
    "fresh again": fresh_again,
    "blur 0.5 px": blurred,
    "noise x1.2": noisier,
    "ring +10 %": ring(1.1),
    "ring +3 %": ring(1.03),
    "labels shuffled": unchanged,
    "phases random": phases_random,
    "substructure left out": without_substructure,
    "halves cut and mixed": cut_and_mixed,
    "only 10 % distinct": few_distinct,
    "flux x1.1": brighter,
    "PSF +30 %": wider_psf,
}


def judge_of(n: int, folder: Path) -> Judge:
    """The Judge of n held-out and 4 n other images of the broad prior, kept in `folder`."""
    recipe = validate(
        {
            "data": {"n": 5 * n, "holdout": 0.2},
            "model": {"context": "class"},
            "sample": {"n": n},
            "evaluate": {"n": n, "fit": min(FITTED, n), "bootstrap": BOOTSTRAP},
        },
        "controls",
    )
    if not (folder / "images.npy").is_file():
        io.make_folder(folder)
        prepare_dataset(recipe.data, 11, folder)
    return Judge(recipe, load_dataset(folder))


def judged(judge: Judge, name: str, x: np.ndarray, truth: Mapping[str, Any]) -> dict[str, Any]:
    """One row of the table: fault, z of each measure on the bad side of the floor, seconds.

    The seconds of the lens-model fit are a column of their own.
    """
    rng = np.random.default_rng(0)
    images = FAULTS[name](x, truth, rng)
    labels = np.asarray(truth["class"])
    labels = rng.permutation(labels) if name == "labels shuffled" else labels
    start = time.perf_counter()
    found = judge.measured(images, {"class": labels})
    between = time.perf_counter()
    found["lens_fit"] = judge.lens_fit(images)
    seconds = {"seconds": between - start, "seconds_fit": time.perf_counter() - between}
    worse = {key: round(compare.badness(tree), 1) for key, tree in found.items()}
    return {"fault": name, "n": judge.n} | worse | seconds


def picture(rows: list[dict[str, Any]], folder: Path) -> None:
    """Save the table as a heat map, controls.png and controls.pdf."""
    cells = [
        {"method": row["fault"], "metric": key, "z": float(row[key]), "larger_is_better": False}
        for row in rows
        for key in row
        if key not in ASIDE
    ]
    figures.save(figures.z_values(cells), folder, "controls")


def made_before(path: Path, n: int) -> list[dict[str, Any]]:
    """The rows of an earlier table for the same number of images."""
    table = io.read_table(path) if path.is_file() else {}
    rows = [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]
    return [row for row in rows if row["n"] == n]


def main(n: str = "2000") -> None:
    """Print a row for each fault and keep the table."""
    torch.set_num_threads(Params().threads)
    folder = io.home() / "outputs" / "benchmarks"
    start = time.perf_counter()
    judge = judge_of(int(n), folder / f"controls-{n}")
    print(f"real images measured in {time.perf_counter() - start:.0f} s", flush=True)
    path = folder / "controls.csv"
    rows = made_before(path, judge.n)
    done = {row["fault"] for row in rows}
    x, truth = simulate(judge.n, "broad", seed=12)
    for name in FAULTS:
        if name in done:
            continue
        rows.append(judged(judge, name, x, truth))
        io.write_rows(path, rows)
        seen = {k: v for k, v in rows[-1].items() if k not in ASIDE and v > 3}
        took = {k: v for k, v in rows[-1].items() if k.startswith("seconds")}
        print(name, seen | took, flush=True)
    picture(rows, folder)
    fresh = [
        row[key]
        for row in rows
        if row["fault"].startswith("fresh")
        for key in row
        if key not in ASIDE
    ]
    alarms = int(np.sum(np.array(fresh) > 3))
    print(f"fresh images: {alarms} of {len(fresh)} measures above z = 3")
    assert alarms <= 2


if __name__ == "__main__":
    main(*sys.argv[1:])
