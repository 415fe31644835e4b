"""Quality against the number of network evaluations, for every sampler on one trained model.

    python benchmarks/samplers.py [run] [n]

Reads the diffusion model of outputs/<run> (quick by default), draws n images for each sampler and
number of evaluations, and writes outputs/benchmarks/samplers.csv and samplers.png. Points that are
there already are not drawn again, so that a broken-off benchmark goes on.
"""

import sys
import time

import numpy as np
import torch

from lensnb import generator, io, pipeline
from lensnb.display import figures
from lensnb.evaluation import uncertainty
from lensnb.evaluation.judge import Judge
from lensnb.recipes.recipe import load_recipe
from lensnb.recipes.schema import Method

EVALUATIONS = (5, 10, 15, 20, 50, 100)
LONG = {"ddpm": (1000,)}  # what all others are compared to
METHODS = {  # along the schedule's own levels; and along others, chosen against training images
    "ddpm": {"sampler": "ddpm"},
    "ddpm_large": {"sampler": "ddpm", "variance": "large"},
    "ddim": {"sampler": "ddim"},
    "heun karras": {"sampler": "heun", "spacing": "karras", "sigma_min": 0.1},
    "dpmpp_2m": {"sampler": "dpmpp_2m"},
    "dpmpp_3m": {"sampler": "dpmpp_3m"},
    "unipc": {"sampler": "unipc"},
    "dpmpp_2m karras": {"sampler": "dpmpp_2m", "spacing": "karras", "sigma_min": 0.1},
    "unipc karras": {
        "sampler": "unipc",
        "spacing": "karras",
        "sigma_min": 0.1,
        "sigma_max": 400,
        "rho": 20,
    },
}


def points():
    """(name, evaluations, Method), the cheap ones first."""
    for nfe in (*EVALUATIONS, 1000):
        for name, method in METHODS.items():
            if nfe in (*EVALUATIONS, *LONG.get(name, ())):
                steps = (nfe + 1) // 2 if method["sampler"] == "heun" else nfe
                yield name, nfe, Method(steps=steps, **method)


MEASURED = ("frechet_lensnet", "intensity", "spectrum", "profile")


def measured(run, method, judge):
    """Some metrics of images of a method, with the seconds that these took."""
    recipe = run.params.model_copy(
        update={"sample": run.params.sample.model_copy(update={"methods": {"it": method}})}
    )
    weights = run.need("models/diffusion") / "model.safetensors"
    start = time.perf_counter()
    images = generator.load_generator(recipe, "it", judge.dataset, weights).draw(
        judge.n, seed=recipe.seed
    )
    row = {"seconds_per_image": (time.perf_counter() - start) / judge.n}
    for key in MEASURED:
        found = uncertainty.measure(
            judge.distances[key],
            judge.makers[key](images),
            judge.real[key],
            judge.others[key],
            judge.measures[key].unit,
            100,
            20,
            recipe.seed,
        )
        row |= {key: found["value"], f"{key}_error": found["error"], f"{key}_floor": found["floor"]}
    return row


def main(name="quick", n="256"):
    """Print a row for each point, keep the table and draw the figure."""
    torch.set_num_threads(2)
    run = pipeline.open_run(load_recipe(io.home() / "outputs" / name / "recipe.yaml"))
    settings = run.params.evaluate.model_copy(update={"n": int(n)})
    judge = Judge(run.params.model_copy(update={"evaluate": settings}), pipeline.load_data(run))
    path = run.outputs / "benchmarks" / "samplers.csv"
    io.make_folder(path.parent)
    table = io.read_table(path) if path.is_file() else {}
    rows = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    done = {(row["sampler"], row["nfe"]) for row in rows}
    for sampler, nfe, method in points():
        if (sampler, nfe) in done:
            continue
        rows.append({"sampler": sampler, "nfe": nfe, "n": judge.n} | measured(run, method, judge))
        io.write_rows(path, rows)
        print(
            f"{sampler:16s}{nfe:6d}",
            *(f"{key} {rows[-1][key]:.3f} +- {rows[-1][key + '_error']:.3f}" for key in MEASURED),
            flush=True,
        )
    figures.save(figures.quality_against_evaluations(rows), path.parent, "samplers")
    best = min((row for row in rows if row["nfe"] == 10), key=lambda row: row["frechet_lensnet"])
    longest = next(row for row in rows if row["sampler"] == "ddpm" and row["nfe"] == 1000)
    print(
        f"at 10 evaluations {best['sampler']} comes closest: frechet_lensnet {best['fld'] / longest['fld']:.2f} times that of DDPM along 1000"
    )
    assert np.isfinite([row["frechet_lensnet"] for row in rows]).all()


if __name__ == "__main__":
    main(*sys.argv[1:])
