"""Training from the command line, in one process or in many.

    python -m lensnb.launch params/gpu.yaml --set "train.batch=256"
    accelerate launch --num_processes 4 -m lensnb.launch params/gpu.yaml

or, inside a notebook, accelerate.notebook_launcher(lensnb.launch.launch, ("params/gpu.yaml",), num_processes=4).
The batch of the recipe is that of all processes together, so the rate needs no change.
"""

import argparse
import sys

from lensnb import chain, devices, params, store, train
from lensnb.errors import told


def launch(recipe, overrides=""):
    """Make the data of a recipe, where they are missing, and train its generators in its run folder; the first process writes."""
    given = params.load(recipe, overrides)
    run, on = chain.open_run(given), devices.accelerator(given.device)
    if on.is_main_process:
        chain.make_data(run)
    on.wait_for_everyone()
    for stage in run.stages("02_train"):
        together(run, stage.removeprefix("models/"), on)


def together(run, name, on):
    """Train a generator: the first process builds its stage, the others take their share of each batch."""
    stale = not run.is_current(f"models/{name}")
    on.wait_for_everyone()
    if on.is_main_process:
        chain.train_model(run, name)
    elif stale:
        train.train(name, run.params, chain.load_data(run), store.partial(run.folder(f"models/{name}")))
    on.wait_for_everyone()


def main(arguments=None):
    """The command line; an InputError becomes one line on stderr and exit status 2."""
    parser = argparse.ArgumentParser(description="Train the generators of a recipe.")
    parser.add_argument("recipe")
    parser.add_argument("--set", default="", dest="overrides", help='such as "train.steps=2000 data.n=500"')
    given = parser.parse_args(arguments)
    try:
        return told(lambda: launch(given.recipe, given.overrides))
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
