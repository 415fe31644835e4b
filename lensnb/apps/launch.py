"""Training alone, without notebooks, in one process or in many.

    lensnb train params/gpu.yaml --set train.batch=256
    accelerate launch --num_processes 4 -m lensnb train params/gpu.yaml

In a notebook:

    accelerate.notebook_launcher(lensnb.apps.launch.launch, ("params/gpu.yaml",), num_processes=4)

The batch of the recipe is the batch of all processes together. So the learning rate needs no
change.
"""

from typing import Any

from lensnb import pipeline
from lensnb.recipes.recipe import load_recipe
from lensnb.runs import artefact
from lensnb.runs.run_folder import Run
from lensnb.training.accelerator import make_accelerator


def launch(recipe: str, overrides: str = "") -> None:
    """Make the data of a recipe if they are missing, and train its generators.

    Every process calls this; the first one writes to the run folder.
    """
    params = load_recipe(recipe, overrides)
    run = pipeline.open_run(params)
    on = make_accelerator(params.device)
    if on.is_main_process:
        pipeline.make_data(run)
    on.wait_for_everyone()
    for stage in run.stages("02_train"):
        together(run, stage.removeprefix("models/"), on)


def together(run: Run, name: str, on: Any) -> None:
    """Train a generator. The first process builds its stage; all take their share of each batch."""
    stage = f"models/{name}"
    if on.is_main_process and run.offered(stage):
        pipeline.train_model(run, name)  # takes it from another run
    on.wait_for_everyone()
    is_stale = not run.is_current(stage)
    on.wait_for_everyone()
    if on.is_main_process:
        pipeline.train_model(run, name)
    elif is_stale:
        folder = artefact.partial(run.folder(stage))
        start = pipeline.start_of(run, name)
        pipeline.train_generator(name, run.params, pipeline.load_data(run), folder, start)
    on.wait_for_everyone()
