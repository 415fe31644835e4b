"""Training from the command line, in one process or in many.

    python -m lensnb.apps.launch params/gpu.yaml --set "train.batch=256"
    accelerate launch --num_processes 4 -m lensnb.apps.launch params/gpu.yaml

or, inside a notebook, accelerate.notebook_launcher(lensnb.apps.launch.launch, ("params/gpu.yaml",), num_processes=4).
The batch of the recipe is that of all processes together, so the rate needs no change.
"""

import argparse
import sys

from lensnb import pipeline
from lensnb.errors import told
from lensnb.recipes.recipe import load_recipe
from lensnb.runs import artefact
from lensnb.training.accelerator import make_accelerator


def launch(recipe, overrides=""):
    """Make the data of a recipe, where they are missing, and train its generators in its run folder; the first process writes."""
    given = load_recipe(recipe, overrides)
    run = pipeline.open_run(given)
    on = make_accelerator(given.device)
    if on.is_main_process:
        pipeline.make_data(run)
    on.wait_for_everyone()
    for stage in run.stages("02_train"):
        together(run, stage.removeprefix("models/"), on)


def together(run, name, on):
    """Train a generator: the first process builds its stage, the others take their share of each batch."""
    stale = not run.is_current(f"models/{name}")
    on.wait_for_everyone()
    if on.is_main_process:
        pipeline.train_model(run, name)
    elif stale:
        pipeline.train_generator(
            name,
            run.params,
            pipeline.load_data(run),
            artefact.partial(run.folder(f"models/{name}")),
        )
    on.wait_for_everyone()


def main(arguments=None):
    """The command line; an InputError becomes one line on stderr and exit status 2."""
    parser = argparse.ArgumentParser(description="Train the generators of a recipe.")
    parser.add_argument("recipe")
    parser.add_argument(
        "--set", default="", dest="overrides", help='such as "train.steps=2000 data.n=500"'
    )
    given = parser.parse_args(arguments)
    try:
        return told(lambda: launch(given.recipe, given.overrides))
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
