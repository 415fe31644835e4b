"""How right are the posteriors? Closed forms, coverage with the reference model, speed.

    python benchmarks/posterior.py [closed | scaling | particles | coverage | density | speed]...

Without arguments all parts run. `coverage` takes a quarter of an hour of one core, and goes on
where it was broken off. Writes outputs/benchmarks/posterior-<part>.csv, and the figure
posterior.png from `coverage`.
"""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lensnb import io, likelihood, operators, posterior, pretrained
from lensnb.datasets.dataset import Scaling
from lensnb.evaluation import coverage, lensnet
from lensnb.lensing.nonlenses import non_lenses
from lensnb.lensing.simulate import simulate
from lensnb.mixture import Mixture
from lensnb.observation import observe
from lensnb.prior import Prior
from lensnb.runs.run_folder import outputs_folder

SIDE = 4  # pixels of the images of the closed forms
DRAWS = 10_000
TRUTHS = (1, 2, 3)  # seeds of the images that were observed
NOISE = 0.1
PLAIN = Scaling("linear", 1.0, 0.0, 1.0, -10.0, 10.0)
SAMPLERS: dict[str, dict[str, Any]] = {  # name and options, with the steps of each
    "mmps": {"steps": 20},
    "pigdm": {"steps": 20},
    "dps": {"steps": 100},
    "smc": {"steps": 100},
}
LENSES = 32  # of the coverage with the reference
PER_LENS = 7  # draws of each
OPERATORS = ("missing", "seeing", "quarter")  # of the coverage

Row = dict[str, Any]


class Bulk:
    """Standard normal noise from one seed: quick for ten thousand small images."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def like(self, x: Tensor) -> Tensor:
        """Noise of the shape and type of x."""
        return torch.randn(x.shape, generator=self.generator, dtype=x.dtype)


# Closed forms -------------------------------------------------------------------------------------


def priors(side: int = SIDE) -> dict[str, Mixture]:
    """A Gaussian with correlated pixels, and a mixture of three, over images of side x side."""
    places = torch.cartesian_prod(torch.arange(side), torch.arange(side)).double()
    pixels = len(places)
    eye = torch.eye(pixels).double()
    smooth = 0.25 * torch.exp(-((torch.cdist(places, places) / 2) ** 2) / 2) + 0.01 * eye
    row, column = places.T
    means = [0.6 * row.cos(), 0.2 * column - 0.5, 0.4 * (row + column).sin()]
    shape = (1, side, side)
    covariances = torch.stack([0.3 * smooth, 0.15 * smooth, 0.1 * smooth + 0.01 * eye])
    shares = torch.tensor([0.5, 0.3, 0.2])
    return {
        "Gaussian": Mixture(torch.ones(1), torch.full((1, pixels), 0.3), smooth[None], shape),
        "mixture": Mixture(shares, torch.stack(means), covariances, shape),
    }


def instruments(side: int = SIDE) -> dict[str, operators.Operator]:
    """The operators of the closed forms."""
    seen = torch.ones(side, side)
    seen[1 : side - 1, 1:] = 0
    return {
        "noise": operators.identity,
        "mask": operators.mask(seen),
        "blur": operators.blur(operators.gaussian_psf(1.5)),
        "quarter": operators.downsample(2),
    }


def matrix(operator: operators.Operator, shape: tuple[int, ...]) -> Tensor:
    """A linear operator as a matrix (m, d)."""
    pixels = int(np.prod(shape))
    return operator(torch.eye(pixels).double().view(pixels, *shape)).flatten(1).T


def observed(operator: operators.Operator, image: Tensor, noise: float, seed: int) -> Tensor:
    """Data of one image (1, C, H, W) with noise."""
    y = operator(image)
    return y + noise * Bulk(1000 + seed).like(y)


def drawn(
    prior: Prior, y: Tensor, operator: operators.Operator, noise: float, name: str, **options: Any
) -> Tensor:
    """DRAWS scaled draws (n, d) given data y of one image."""
    steps = options.pop("steps")
    n = options.pop("n", DRAWS)
    seed = options.pop("seed", 0)
    rows = observe(prior, y, operator, noise).rows([0] * n)
    sigmas = prior.sigmas(steps)
    source = Bulk(seed)
    x = float(1 + sigmas[0] ** 2) ** 0.5 * source.like(torch.empty(n, *prior.shape).double())
    run = posterior.POSTERIORS[name].run
    *_, last = run(prior.denoise, sigmas, x, source, rows, **options)
    return last.x.flatten(1)


def closed() -> Iterator[Row]:
    """Mean and covariance of draws against the closed form, for each prior, operator, sampler."""
    for label, mixture in priors().items():
        prior = Prior(mixture.denoise, mixture.shape, PLAIN, dtype=torch.float64)
        for what, operator in instruments().items():
            a = matrix(operator, mixture.shape)
            for name, options in SAMPLERS.items():
                start = time.process_time()
                off, spread = [], []
                for seed in TRUTHS:
                    y = observed(operator, mixture.draw(1, seed), NOISE, seed)
                    exact = mixture.posterior(a, y.flatten(), torch.full((len(a),), NOISE**2))
                    x = drawn(prior, y, operator, NOISE, name, **options)
                    scatter = exact.covariance().diagonal().sqrt()
                    off.append((x.mean(0) - exact.mean()) / scatter)
                    spread.append(x.std(0) / scatter)
                seconds = time.process_time() - start
                yield {
                    "prior": label,
                    "operator": what,
                    "sampler": posterior.POSTERIORS[name].label,
                    "steps": options["steps"],
                    "mean error": torch.cat(off).square().mean().sqrt().item(),
                    "largest": torch.cat(off).abs().max().item(),
                    "scatter least": torch.cat(spread).min().item(),
                    "scatter mean": torch.cat(spread).mean().item(),
                    "scatter most": torch.cat(spread).max().item(),
                    "CPU s": seconds,
                }


# A scaling that is not linear ---------------------------------------------------------------------


def scaling() -> Iterator[Row]:
    """Draws under an asinh scaling, against a million weighted draws of the prior."""
    mixture = priors(2)["mixture"]
    asinh = pretrained.load("reference-cpu").scaling
    prior = Prior(mixture.denoise, mixture.shape, asinh, dtype=torch.float64)
    many = mixture.draw(1_000_000, seed=9)
    for what, operator in instruments(2).items():
        for noise in (1.0, 5.0):
            for name in ("mmps", "pigdm", "smc"):
                off, spread, effective = [], [], []
                for seed in TRUTHS:
                    y = observed(operator, asinh.inverse(mixture.draw(1, seed)), noise, seed)
                    seen = observe(prior, y, operator, noise)
                    weights = torch.cat(
                        [
                            seen.rows([0] * len(part)).log_likelihood(part)
                            for part in many.split(10**5)
                        ]
                    ).softmax(0)
                    effective.append(1 / weights.square().sum().item())
                    flat = many.flatten(1)
                    mean = weights @ flat
                    scatter = (weights @ (flat - mean) ** 2).sqrt()
                    x = drawn(prior, y, operator, noise, name, **SAMPLERS[name])
                    off.append((x.mean(0) - mean) / scatter)
                    spread.append(x.std(0) / scatter)
                yield {
                    "operator": what,
                    "noise": noise,
                    "sampler": posterior.POSTERIORS[name].label,
                    "mean error": torch.cat(off).square().mean().sqrt().item(),
                    "largest": torch.cat(off).abs().max().item(),
                    "scatter least": torch.cat(spread).min().item(),
                    "scatter most": torch.cat(spread).max().item(),
                    "effective": min(effective),
                }


# SMC in the limit of many particles ---------------------------------------------------------------


def particles() -> Iterator[Row]:
    """The error of SMC's mean for more and more particles and steps."""
    mixture = priors()["mixture"]
    prior = Prior(mixture.denoise, mixture.shape, PLAIN, dtype=torch.float64)
    operator = instruments()["mask"]
    a = matrix(operator, mixture.shape)
    y = observed(operator, mixture.draw(1, 2), NOISE, 2)
    exact = mixture.posterior(a, y.flatten(), torch.full((len(a),), NOISE**2))
    scatter = exact.covariance().diagonal().sqrt()
    for steps in (50, 200):
        for n in (100, 1_000, 10_000):
            off, spread, distinct = [], [], []
            for seed in range(8):
                x = drawn(prior, y, operator, NOISE, "smc", steps=steps, n=n, seed=seed)
                off.append(((x.mean(0) - exact.mean()) / scatter).square().mean())
                spread.append((x.std(0) / scatter).mean())
                distinct.append(len(torch.unique(x, dim=0)) / n)
            yield {
                "steps": steps,
                "particles": n,
                "mean error": torch.stack(off).mean().sqrt().item(),
                "scatter": torch.stack(spread).mean().item(),
                "distinct": float(np.mean(distinct)),
            }


# Coverage with the reference ----------------------------------------------------------------------


def problems() -> dict[str, operators.Operator]:
    """A third of the pixels missing, seeing of 0.7 arcsec, a quarter of the resolution."""
    seen = np.random.default_rng(7).random((64, 64)) > 1 / 3
    return {
        "missing": operators.mask(seen),
        "seeing": operators.blur(operators.gaussian_psf(7.0)),
        "quarter": operators.downsample(4),
    }


def draws_of(what: str, name: str, folder: Path) -> dict[str, np.ndarray]:
    """Draws (N, n, 1, 64, 64), truths and chi2 of one problem; a lens at a time is kept."""
    truths, _ = simulate(LENSES, seed=20_240_707)
    generator = pretrained.load("reference-cpu")
    operator = problems()[what]
    images, chi2 = [], []
    for i, truth in enumerate(truths):
        file = folder / f"{name}-{what}-{i}.npz"
        if not file.is_file():
            y = observed(operator, torch.from_numpy(truth)[None], 1.0, i)
            found = posterior.draw(
                generator, y, operator, 1.0, n=PER_LENS, method=name, seed=i, batch=PER_LENS
            )
            with io.atomic(file, "wb") as handle:
                np.savez(handle, images=found.images[0].astype(np.float16), chi2=found.chi2[0])
            print(f"{name} {what} {i}: chi2 {found.chi2.mean():.3f}", flush=True)
        kept = np.load(file)
        images.append(kept["images"].astype(np.float32))
        chi2.append(kept["chi2"])
    return {"images": np.stack(images), "chi2": np.stack(chi2), "truths": truths}


def covered() -> Iterator[Row]:
    """TARP in pixels and in the features of LensNet, calibration and residuals."""
    folder = outputs_folder() / "benchmarks" / "posterior"
    io.make_folder(folder)
    references, _ = simulate(LENSES, seed=20_240_708)
    units = lensnet.Units(references)
    curves = {}
    for what in OPERATORS:
        for name in ("mmps",):
            found = draws_of(what, name, folder)
            images, truths = found["images"], found["truths"]
            n = images.shape[1]
            flat = images.reshape(LENSES * n, *truths.shape[1:])
            spaces = {
                "pixels": (asinh(images).reshape(LENSES, n, -1), asinh(truths).reshape(LENSES, -1)),
                "LensNet": (
                    lensnet.features(flat, units).reshape(LENSES, n, -1),
                    lensnet.features(truths, units),
                ),
            }
            others = {
                "pixels": asinh(references).reshape(LENSES, -1),
                "LensNet": lensnet.features(references, units),
            }
            row: Row = {"problem": what, "sampler": name}
            for space, (draws, truth) in spaces.items():
                share = coverage.shares(draws, truth, others[space])
                curve = coverage.coverage(share, n)
                curves[what, space] = curve
                row[f"p in {space}"] = curve.p
                row[f"coverage at 0.5 in {space}"] = curve.coverage[10]
            row |= readings(images, truths, units)
            row["chi2"] = float(found["chi2"].mean())
            row["chi2 error"] = float(found["chi2"].mean(1).std(ddof=1) / LENSES**0.5)
            yield row
    figure(curves)


def asinh(images: np.ndarray) -> np.ndarray:
    """Images stretched, so that bright pixels do not decide a distance alone."""
    return np.arcsinh(images / 3)


def readings(images: np.ndarray, truths: np.ndarray, units: Any) -> Row:
    """Einstein radius and class read from the draws, beside those read from the truths."""
    n = images.shape[1]
    read = lensnet.readings(images.reshape(-1, *truths.shape[1:]), units)
    radius = read["theta_E"].reshape(-1, n)
    kind = read["class"].reshape(-1, n)
    true = lensnet.readings(truths, units)
    mean, scatter = radius.mean(1), radius.std(1, ddof=1) * (1 + 1 / n) ** 0.5
    off = (mean - true["theta_E"]) / scatter
    return {
        "theta_E bias": float((mean - true["theta_E"]).mean()),
        "theta_E scatter": float((mean - true["theta_E"]).std(ddof=1)),
        "theta_E claimed": float(np.sqrt((scatter**2).mean())),
        "theta_E pull": float(off.std(ddof=1)),
        "class agrees": float((kind == true["class"][:, None]).mean()),
    }


def figure(curves: dict[tuple[str, str], coverage.Coverage]) -> None:
    """Write posterior.png: the expected coverage of each problem, in both spaces."""
    from lensnb.display import figures

    made = figures.coverage({f"{what}, {space}": c for (what, space), c in curves.items()})
    figures.save(made, outputs_folder() / "benchmarks", "posterior")


# Log-densities ------------------------------------------------------------------------------------


def density() -> Iterator[Row]:
    """Log-densities of lenses and of other images, with the reference."""
    generator = pretrained.load("reference-cpu")
    lenses, _ = simulate(16, seed=501)
    noisier, _ = simulate(6, seed=502)
    sets = {
        "lenses": lenses,
        "no lenses": non_lenses(10, seed=3),
        "noisier": noisier + np.random.default_rng(0).normal(0, 0.5, noisier.shape),
        "brighter": 1.3 * lenses[:4],
        "drawn": generator.draw(6, seed=3),
    }
    for label, images in sets.items():
        found = likelihood.log_density(generator, images, steps=8, probes=2)
        yield {
            "images": label,
            "n": len(images),
            "least": float(found.value.min()),
            "median": float(np.median(found.value)),
            "most": float(found.value.max()),
            "error": float(found.error.mean()),
        }


# Speed --------------------------------------------------------------------------------------------


def speed() -> Iterator[Row]:
    """Seconds of 64 draws of one observation with the reference, by sampler and threads."""
    generator = pretrained.load("reference-cpu")
    truth, _ = simulate(1, seed=5)
    operator = problems()["missing"]
    y = observed(operator, torch.from_numpy(truth), 1.0, 0)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for name in ("mmps", "pigdm"):
            for n in (16, 64):
                wall, cpu = time.perf_counter(), time.process_time()
                posterior.draw(generator, y, operator, 1.0, n=n, method=name)
                yield {
                    "threads": threads,
                    "sampler": name,
                    "draws": n,
                    "s": time.perf_counter() - wall,
                    "CPU s": time.process_time() - cpu,
                }


PARTS: dict[str, Callable[[], Iterator[Row]]] = {
    "closed": closed,
    "scaling": scaling,
    "particles": particles,
    "coverage": covered,
    "density": density,
    "speed": speed,
}


def main(names: list[str]) -> None:
    """Run some parts, or all, and write a table of each."""
    torch.set_num_threads(1)
    folder = outputs_folder() / "benchmarks"
    io.make_folder(folder)
    for name in names or list(PARTS):
        rows = []
        for row in PARTS[name]():
            rows.append(row)
            print(
                "  ".join(
                    f"{k} {v:.3f}" if isinstance(v, float) else str(v) for k, v in row.items()
                ),
                flush=True,
            )
        io.write_rows(folder / f"posterior-{name}.csv", rows)


if __name__ == "__main__":
    with torch.no_grad():
        main(sys.argv[1:])
