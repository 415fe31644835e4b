"""What a recipe would do: the recipe with all defaults, time and memory, what would be made."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
import yaml

from lensnb import pipeline
from lensnb.datasets.dataset import Dataset, load_dataset, prepare_dataset
from lensnb.kinds import KINDS, trained_for
from lensnb.recipes import selection
from lensnb.recipes.recipe import Params
from lensnb.runs import artefact, jobs
from lensnb.runs.run_folder import STEPS, Run

FEW = 120  # images that stand in for the data of a recipe while a step is measured


def check(recipe: str, overrides: str = "") -> None:
    """Print each recipe that is meant, the estimate for each generator, and what would be made.

    A recipe with training seeds means a run for each. Raises InputError for a recipe that is not
    valid, and for images that cannot be read.
    """
    for params in selection.expand([recipe], overrides):
        print(yaml.safe_dump(params.model_dump(mode="json"), sort_keys=False))
        for line in estimates(params):
            print(line)
        print()
        run = Run(params)
        for stage, state in states(run).items():
            print(f"{stage:24s} {state}")
        steps = [part for _, part in jobs.plan([params])]
        print(f"would be executed: {', '.join(steps)}" if steps else "nothing would be made")


def estimates(params: Params) -> list[str]:
    """One line a generator on size, time and memory, of one step on a few images of the recipe."""
    if params.threads:
        torch.set_num_threads(params.threads)
    models = trained_for(method.model for method in params.sample.methods.values())
    with tempfile.TemporaryDirectory() as scratch:
        dataset = _few(params, models, Path(scratch))
        images = round(params.data.n * (1 - params.data.holdout))
        return [f"{name}: {pipeline.describe(name, params, dataset, images)}" for name in models]


def _few(params: Params, models: Iterable[str], folder: Path) -> Dataset:
    """A few images of a recipe, enough for a batch of each generator."""
    batch = max(getattr(params, KINDS[name].section).batch for name in models)
    enough = max(FEW, round(1.1 * batch / (1 - params.data.holdout)) + 2)
    data = params.data.model_copy(update={"n": min(params.data.n, enough)})
    prepare_dataset(data, params.data_seed, folder)
    return load_dataset(folder)


def states(run: Run) -> dict[str, str]:
    """What would become of each stage of a run: stage -> "current", or that it would be made."""
    return {stage: _state(run, stage) for step in STEPS for stage in run.stages(step)}


def _state(run: Run, stage: str) -> str:
    if run.is_current(stage):
        return "current"
    there = artefact.is_whole(run.folder(stage))
    kept = "; what is there would be kept as another run" if there else ""
    other = run.offered(stage)
    if other:
        return f"would be taken from the run {other.relative_to(run.outputs).parts[0]}{kept}"
    return f"would be made again: not current{kept}" if there else "would be made: not there"
