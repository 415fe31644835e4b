"""Quality against the number of network evaluations, for many samplers on one trained model.

    python benchmarks/samplers.py [run] [n]
    python benchmarks/samplers.py exact

The second prints what samplers lose themselves: see `exact`. The first reads the diffusion model of
outputs/<run> (quick by default), draws n images for each sampler and number of evaluations, and
writes outputs/benchmarks/samplers.csv and samplers.png. Points that are in the table are not drawn
again, so a broken-off benchmark goes on.
"""

import itertools
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from lensnb import generator, io, pipeline, sampler
from lensnb.display import figures
from lensnb.evaluation.judge import Judge
from lensnb.recipes.recipe import load_recipe
from lensnb.recipes.schema import Diffusion, Method
from lensnb.runs.run_folder import Run

EVALUATIONS = (5, 10, 19, 25, 50, 100)
LEVELS = {"spacing": "karras", "sigma_min": 0.014}  # a fifth of the pixel noise
MEAN = LEVELS | {"start": "mean"}
METHODS: dict[str, dict[str, Any]] = {
    # as params/quick.yaml draws, with more or fewer evaluations
    "ddpm": {"sampler": "ddpm", "variance": 0.6} | LEVELS,
    "ddim": {"sampler": "ddim"} | MEAN | {"sigma_min": 0.01, "rho": 20},
    "dpmpp_2m": {"sampler": "dpmpp_2m"} | MEAN,
    # other samplers along the same noise levels
    "dpmpp_3m": {"sampler": "dpmpp_3m"} | MEAN,
    "dpmpp_2m_sde": {"sampler": "dpmpp_2m_sde", "eta": 1} | MEAN,
    "heun": {"sampler": "heun"} | MEAN,
    "unipc": {"sampler": "unipc"} | MEAN,
    # along the noise levels of the schedule
    "dpmpp_2m schedule": {"sampler": "dpmpp_2m", "start": "mean"},
}
SPREADS = (0.07, 0.1, 0.3, 1.0, 3.0, 10.0)  # of data that an exact denoiser is drawn from
EXACT: tuple[tuple[str, dict[str, Any]], ...] = (  # name, and how its method differs
    ("DDPM, variance small", {"sampler": "ddpm", "steps": 100}),
    ("DDPM, variance 0.6", {"sampler": "ddpm", "steps": 100, "variance": 0.6}),
    ("DDPM, variance large", {"sampler": "ddpm", "steps": 100, "variance": "large"}),
    ("DDIM", {"sampler": "ddim", "steps": 50}),
    ("DDIM, rho 20, to 0.01", {"sampler": "ddim", "steps": 50, "rho": 20, "sigma_min": 0.01}),
    ("DDIM, rho 20, to 0.01", {"sampler": "ddim", "steps": 200, "rho": 20, "sigma_min": 0.01}),
    ("Heun", {"sampler": "heun", "steps": 10}),
    ("DPM-Solver++ 2M, to 0.03", {"sampler": "dpmpp_2m", "steps": 18, "sigma_min": 0.03}),
    ("DPM-Solver++ 2M, to 0.02", {"sampler": "dpmpp_2m", "steps": 18, "sigma_min": 0.02}),
    ("DPM-Solver++ 2M", {"sampler": "dpmpp_2m", "steps": 18}),
    ("DPM-Solver++ 2M", {"sampler": "dpmpp_2m", "steps": 24}),
    ("UniPC", {"sampler": "unipc", "steps": 18}),
)
MEASURED = ("frechet_lensnet", "intensity", "spectrum", "noise_level", "light_detail")

Row = dict[str, Any]


def points() -> Iterator[tuple[str, int, Method]]:
    """(name, steps, Method) with about EVALUATIONS evaluations of the network, cheap ones first."""
    for wanted, (name, given) in itertools.product(EVALUATIONS, METHODS.items()):
        own = wanted - (given.get("start") == "mean")  # which takes one evaluation
        # Heun takes two evaluations a step, but one in the last.
        steps = (own + 1) // 2 if given["sampler"] == "heun" else own
        yield name, steps, Method(steps=steps, **given)


def measured(run: Run, method: Method, judge: Judge) -> Row:
    """Some measures of images drawn by a method, and the seconds that an image took."""
    sample = run.params.sample.model_copy(update={"methods": {"it": method}})
    recipe = run.params.model_copy(update={"sample": sample})
    weights = run.need("models/diffusion") / "model.safetensors"
    start = time.perf_counter()
    drawer = generator.load_generator(recipe, "it", judge.dataset, weights)
    images = drawer.draw(judge.n, seed=recipe.seed)
    seconds = (time.perf_counter() - start) / judge.n
    row = {"nfe": drawer.nfe, "seconds_per_image": seconds}
    for key in MEASURED:
        found = judge.compared(key, judge.makers[key](images), None)[key]
        row |= {key: found["value"], f"{key}_error": found["error"], f"{key}_floor": found["floor"]}
    return row


def exact(n: int = 200_000) -> Iterator[Row]:
    """What each sampler keeps of Gaussian data, by the exact denoiser: no network errs.

    One row a sampler: the standard deviation of n numbers drawn over that of the data, for each of
    SPREADS, in units of the scaled images. Noise of the sky has 0.07, the strongest pattern of
    lenses 10. Each ratio has an error of 1 / sqrt(2 n).
    """
    for name, given in EXACT:
        method = Method.model_validate({"model": "diffusion"} | LEVELS | given)
        sigmas = generator.sigmas_of(method, Diffusion())
        run = sampler.SAMPLERS[str(method.sampler)]
        options = {key: getattr(method, key) for key in run.options}
        row: Row = {"sampler": name, "evaluations": run.evaluations(int(method.steps or 0))}
        for std in SPREADS:
            noise = sampler.ImageNoise([0])
            x = sampler.start(sigmas, (n,), noise, dtype=torch.float64)

            def denoise(x: torch.Tensor, sigma: float, std: float = std) -> torch.Tensor:
                return x * std**2 / (std**2 + sigma**2)

            *_, last = run.run(denoise, sigmas, x, noise, **options)
            row[f"{std:g}"] = float(last.x.std()) / std
        yield row


def tell(row: Row) -> None:
    """Print one point."""
    values = (f"{key} {row[key]:.3f} +- {row[key + '_error']:.3f}" for key in MEASURED)
    print(f"{row['sampler']:16s}{row['nfe']:6d}", *values, flush=True)


def main(name: str = "quick", n: str = "256") -> None:
    """Measure the points that are missing, print them, write the table and the figure."""
    torch.set_num_threads(2)
    if name == "exact":
        for row in exact():
            print(*(f"{v:.3f}" if isinstance(v, float) else v for v in row.values()), sep=" | ")
        return
    run = pipeline.open_run(load_recipe(io.home() / "outputs" / name / "recipe.yaml"))
    settings = {"n": int(n), "bootstrap": 100, "floors": 20}
    evaluate = run.params.evaluate.model_copy(update=settings)
    params = run.params.model_copy(update={"evaluate": evaluate})
    judge = Judge(params, pipeline.load_data(run))
    path = run.outputs / "benchmarks" / "samplers.csv"
    io.make_folder(path.parent)
    table = io.read_table(path) if path.is_file() else {}
    rows = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    done = {(row["sampler"], row["steps"]) for row in rows}
    for name, steps, method in points():
        if (name, steps) not in done:
            row = {"sampler": name, "steps": steps, "n": judge.n}
            rows.append(row | measured(run, method, judge))
            io.write_rows(path, rows)
            tell(rows[-1])
    figures.save(figures.quality_against_evaluations(rows), path.parent, "samplers")
    assert np.isfinite([row["frechet_lensnet"] for row in rows]).all()


if __name__ == "__main__":
    main(*sys.argv[1:])
