"""What is kept of the published quick run, so that `make test` need not train it again.

`keep` is called where the notebooks are published. It copies from the run: the weights, what was
told of their training, the first images of each method, and what the judge found. `restored` makes
the run again from there. tests/test_notebooks.py shows that today's code gives the same numbers.
"""

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from lensnb import io, pipeline
from lensnb.datasets import conditions
from lensnb.datasets.dataset import Dataset
from lensnb.errors import InputError
from lensnb.evaluation.monitor import SHOWN
from lensnb.kinds import KINDS
from lensnb.recipes.recipe import Params
from lensnb.runs import artefact
from lensnb.runs.run_folder import STAGES, Run
from lensnb.training import loader, loop
from lensnb.training.accelerator import make_accelerator

KEPT = Path(__file__).parents[1] / "tests/golden/quick"
RECIPES = "recipes.json"  # of `recipes`
IMAGES = "images.npy"
FIRST = 8  # images of each method that are kept
MODEL = ("*.safetensors", "history.csv", "watch.csv", "timing.json")  # patterns of files
EVALUATION = ("metrics.json", "curves.json", "deviations.csv")
Tree = dict[str, Any]


def keep(run: Run, folder: Path = KEPT) -> None:
    """Replace `folder` by what is kept of a finished run."""
    new = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(new, ignore_errors=True)
    for stage in run.stages("02_train"):
        _copy(run.need(stage), new / stage, MODEL)
    for stage in run.stages("03_sample"):
        (new / stage).mkdir(parents=True)
        images = np.load(run.need(stage) / IMAGES, mmap_mode="r")[:FIRST]
        np.save(new / stage / IMAGES, images, allow_pickle=False)
    for stage in run.stages("04_evaluate"):
        _copy(run.need(stage), new / stage, EVALUATION)
    io.write_json(new / RECIPES, recipes(run))
    artefact.replace(new, folder)


def _copy(old: Path, new: Path, patterns: tuple[str, ...]) -> None:
    new.mkdir(parents=True, exist_ok=True)
    for pattern in patterns:
        for path in old.glob(pattern):
            shutil.copyfile(path, new / path.name)


def recipes(run: Run) -> dict[str, Tree]:
    """The parameters that decide the content of the stages that are kept.

    What they read is left out: images that another processor simulates have other last bits.
    """
    found = {}
    for step in ("02_train", "03_sample", "04_evaluate"):
        for stage in run.stages(step):
            kind, _, name = stage.partition("/")
            found[stage] = STAGES[kind].recipe(run, name)
    plain: dict[str, Tree] = json.loads(json.dumps(found))
    return plain


def whole_methods(run: Run) -> list[str]:
    """The method of each generator with the fewest steps.

    Its images are all drawn again, and judged again. Of the other methods only the first images
    are drawn: all methods have the same judge.
    """
    methods = run.params.sample.methods
    least: dict[str, str] = {}
    for name, method in methods.items():
        other = least.get(method.model)
        if other is None or (method.steps or 1) < (methods[other].steps or 1):
            least[method.model] = name
    return list(least.values())


def restored(run: Run, folder: Path = KEPT) -> Run:
    """The run, whose data are there, with all stages up to the evaluation.

    Its weights are those in `folder`. Methods other than `whole_methods` repeat their first images,
    and have the evaluation in `folder`. Raises InputError where what is kept is of another recipe.
    """
    _refuse_another_recipe(run, folder)
    dataset = pipeline.load_data(run)
    for stage in run.stages("02_train"):
        name = stage.partition("/")[2]
        run.build(stage, functools.partial(_restore_model, run, name, folder / stage))
    whole = whole_methods(run)
    for method in run.params.sample.methods:
        kept = folder / f"evaluation/{method}"
        if method in whole:
            pipeline.draw_samples(run, method)
            pipeline.evaluate_method(run, method)
        else:
            run.build(f"samples/{method}", functools.partial(_draw_some, run, method, dataset))
            run.build(f"evaluation/{method}", lambda new, old=kept: _copy(old, new, EVALUATION))
    return run


def _refuse_another_recipe(run: Run, folder: Path) -> None:
    kept = io.read_json(folder / RECIPES)
    changed = sorted(stage for stage, tree in recipes(run).items() if kept.get(stage) != tree)
    if changed:
        raise InputError(
            f"{folder}: {changed[0]} was published with another recipe; run make notebooks"
        )


def _restore_model(run: Run, name: str, kept: Path, new: Path) -> None:
    """Copy a trained generator from `kept`.

    The images that were watched during its training are not kept. The published ones stand in for
    them: no checked output depends on them.
    """
    _copy(kept, new, MODEL)
    if not (new / "watch.csv").is_file():
        return
    images = np.load(kept.parents[1] / "samples" / _method_of(run, name) / IMAGES)
    for step in io.read_table(new / "watch.csv")["step"]:
        np.save(new / f"watch-{int(step):07d}.npy", np.resize(images, (SHOWN, *images.shape[1:])))


def _method_of(run: Run, name: str) -> str:
    return next(m for m, entry in run.params.sample.methods.items() if entry.model == name)


def _draw_some(run: Run, method: str, dataset: Dataset, new: Path) -> None:
    """Draw the first images of a method, which are repeated until there are as many as asked."""
    params = run.params
    n = params.sample.n
    some = params.model_copy(update={"sample": params.sample.model_copy(update={"n": FIRST})})
    weights = run.need(f"models/{params.sample.methods[method].model}") / "model.safetensors"
    pipeline.sample_method(some, method, dataset, weights, new)
    images = np.load(new / IMAGES)
    np.save(new / IMAGES, np.resize(images, (n, *images.shape[1:])), allow_pickle=False)
    asked = pipeline.load_generator(run, method).asked(n, params.seed)
    if asked is not None:
        io.write_table(new / "context.csv", conditions.written(asked, dataset))


# Today's code against what is kept ---------------------------------------------------------------


def first_row(params: Params, name: str, dataset: Dataset, folder: Path) -> Tree:
    """The first row of the history of a training that today's code begins in `folder`.

    dataset : the images of the run, with their split
    """
    settings, _ = pipeline.counted(getattr(params, KINDS[name].section), len(dataset.train))
    on = make_accelerator(params.device, settings.precision, section=KINDS[name].section)
    contexts = pipeline.contexts_of(params, dataset)
    source = loader.batches_of(dataset, contexts, settings, params.seed, on.device)
    task = loop.task(name, params, dataset, on)  # plans its rates for all steps
    short = settings.model_copy(update={"steps": settings.log_every})
    row: Tree = loop.fit(task, source, short, params.seed, folder, on.device)["history"][0]
    return row
