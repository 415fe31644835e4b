"""Which metric sees which fault: degraded real images against real ones, as the verdict would judge them.

    python benchmarks/controls.py [n]

Simulates n held-out images and 4 n others of the broad prior (n is 2000 by default) and judges n images
of each fault in FAULTS, fresh ones twice. Prints a row for each, by how many deviations of chance it lies on the
wrong side of the real-vs-real floor, and writes outputs/benchmarks/controls.csv and a heat map of it. Rows that
are there already are not made again.
"""

import sys
import time
from dataclasses import replace

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

# few will do: faults lie far out
BROAD = PRIORS["broad"]
FITTED = 32
BOOTSTRAP = 50


def anew(**factors):
    """The same lenses and noise, simulated with some columns of the truth multiplied."""
    return lambda x, truth, rng: render(
        truth | {name: truth[name] * factor for name, factor in factors.items()}
    ).numpy()


def ring(factor):
    """Lenses with a larger ring."""
    return anew(theta_E=factor, theta_E_smooth=factor)


def without_substructure(x, truth, rng):
    """The same ring, all of its mass smooth."""
    return render(
        truth
        | {
            "class": 0 * truth["class"],
            "subhalos": 0 * truth["subhalos"],
            "vortex_mass": 0 * truth["vortex_mass"],
            "theta_E_smooth": truth["theta_E"],
        }
    ).numpy()


def noisier(x, truth, rng):
    """Noise 1.2 times that of the sky: the sky's own and 0.66 more, in quadrature."""
    return x + rng.normal(0, (1.2**2 - 1) ** 0.5, x.shape).astype(np.float32)


def phases_random(x, truth, rng):
    """Each image's power spectrum with the phases of noise."""
    phase = np.fft.fft2(rng.normal(size=x.shape))
    return np.fft.ifft2(np.abs(np.fft.fft2(x)) * phase / np.abs(phase)).real.astype(np.float32)


def cut_and_mixed(x, truth, rng):
    """The left half of one image and the right half of the next."""
    middle = x.shape[-1] // 2
    return np.concatenate([x[..., :middle], np.roll(x, 1, axis=0)[..., middle:]], axis=-1)


FAULTS = {
    "fresh": lambda x, truth, rng: x,
    "fresh again": lambda x, truth, rng: simulate(len(x), "broad", seed=13)[0],
    "blur 0.5 px": lambda x, truth, rng: scipy.ndimage.gaussian_filter(x, (0, 0, 0.5, 0.5)),
    "noise x1.2": noisier,
    "ring +10 %": ring(1.1),
    "ring +3 %": ring(1.03),
    "labels shuffled": lambda x, truth, rng: x,
    "phases random": phases_random,
    "substructure left out": without_substructure,
    "halves cut and mixed": cut_and_mixed,
    "only 10 % distinct": lambda x, truth, rng: x[rng.integers(len(x) // 10, size=len(x))],
    "flux x1.1": lambda x, truth, rng: 1.1 * x,
    "PSF +30 %": lambda x, truth, rng: render(
        truth, replace(BROAD, psf_fwhm=1.3 * BROAD.psf_fwhm)
    ).numpy(),
}


def judge_of(n, folder):
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


def sigmas(judge, name, x, truth):
    """One row of the table: fault, sigma of each metric, seconds without and of the lens-model fit."""
    rng = np.random.default_rng(0)
    images = FAULTS[name](x, truth, rng)
    labels = np.asarray(truth["class"])
    labels = rng.permutation(labels) if name == "labels shuffled" else labels
    start = time.perf_counter()
    found = judge.measured(images, {"class": labels})
    between = time.perf_counter()
    found["lens_fit"] = judge.lens_fit(images)
    seconds = {"seconds": between - start, "seconds_fit": time.perf_counter() - between}
    return (
        {"fault": name, "n": judge.n}
        | {key: round(compare.badness(tree), 1) for key, tree in found.items()}
        | seconds
    )


def picture(rows, folder):
    """Save the table as a heat map, controls.png and controls.pdf."""
    skipped = ("fault", "n", "seconds", "seconds_fit")
    cells = [
        {"method": row["fault"], "metric": key, "z": float(row[key]), "larger_is_better": False}
        for row in rows
        for key in row
        if key not in skipped
    ]
    figures.save(figures.z_values(cells), folder, "controls")


def main(n="2000"):
    """Print a row for each fault and keep the table."""
    torch.set_num_threads(Params().threads)
    folder = io.home() / "outputs" / "benchmarks"
    start = time.perf_counter()
    judge = judge_of(int(n), folder / f"controls-{n}")
    print(f"real images measured in {time.perf_counter() - start:.0f} s", flush=True)
    path = folder / "controls.csv"
    table = io.read_table(path) if path.is_file() else {}
    rows = [
        row
        for row in (
            dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)
        )
        if row["n"] == judge.n
    ]
    x, truth = simulate(judge.n, "broad", seed=12)
    for name in (name for name in FAULTS if name not in {row["fault"] for row in rows}):
        rows.append(sigmas(judge, name, x, truth))
        io.write_rows(path, rows)
        print(
            name,
            {
                key: value
                for key, value in rows[-1].items()
                if key.startswith("seconds") or key not in ("fault", "n") and value > 3
            },
            flush=True,
        )
    picture(rows, folder)
    fresh = [
        row[key]
        for row in rows
        if row["fault"].startswith("fresh")
        for key in row
        if key not in ("fault", "n", "seconds", "seconds_fit")
    ]
    alarms = int(np.sum(np.array(fresh) > 3))
    print(f"fresh images: {alarms} of {len(fresh)} metrics above 3 sigma")
    assert alarms <= 2


if __name__ == "__main__":
    main(*sys.argv[1:])
