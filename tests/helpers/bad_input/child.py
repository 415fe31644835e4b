"""Run one command in a process of its own, forked from a server that has imported torch."""

import ctypes
import os
import struct
import sys

PRELOAD = [
    "lensnb.apps.cli",
    "lensnb.apps.execute",
    "lensnb.apps.launch",
    "lensnb.generator",
    "lensnb.evaluation.judge",
    "PIL.Image",
    "torch._dynamo",  # the first optimiser imports it
]
MEMORY = 2**30  # bytes that a child may take beyond what it begins with
SECONDS = 10  # of CPU time, after which the system ends a child; a case takes a thirtieth of that


def stage(name):
    """The command that makes a stage such as "samples/ddim" as a notebook does.

    Like a command line it returns an exit status.
    """

    def command(recipe, overrides):
        from lensnb import pipeline
        from lensnb.errors import told
        from lensnb.recipes.recipe import load_recipe

        kind, *names = name.split("/")
        make = {
            "data": pipeline.make_data,
            "models": pipeline.train_model,
            "samples": pipeline.draw_samples,
            "evaluation": pipeline.evaluate_method,
        }[kind]

        def make_stage():
            run = pipeline.open_run(load_recipe(recipe, overrides))
            make(run, *names)

        return told(make_stage)

    return command


def step(recipe, overrides):
    """What `lensnb run RECIPE --step 01_data` does before it starts a kernel."""
    from lensnb.apps.cli import app

    changes = ["--set", overrides] if overrides else []
    return app(["run", recipe, *changes, "--step", "01_data"], standalone_mode=False) or 0


def launch(recipe, overrides):
    """What `lensnb train RECIPE` does."""
    from lensnb.apps.cli import app

    changes = ["--set", overrides] if overrides else []
    return app(["train", recipe, *changes], standalone_mode=False) or 0


COMMANDS = {
    "step": step,
    "launch": launch,
    "data": stage("data"),
    "train": stage("models/diffusion"),
    "sample": stage("samples/ddim"),
    "evaluate": stage("evaluation/ddim"),
}


def unprivileged():
    """Take root's right to read and write everything, so that a closed file is closed to it too."""
    if sys.platform == "linux":
        ctypes.CDLL(None).capset(struct.pack("II", 0x20080522, 0), bytes(24))


def main(folder, command, overrides, largest):
    """Run `command` in `folder`. Its output goes to <folder>.stdout and <folder>.stderr.

    largest : bytes of the largest file that may be written; None for any.
    """
    import resource

    import psutil

    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(f"{folder}.{name}", os.O_WRONLY | os.O_CREAT), number)
    os.chdir(folder)
    os.environ["LENSNB_OUTPUTS"] = os.path.join(folder, "outputs")
    unprivileged()
    memory = psutil.Process().memory_info().data + MEMORY
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    if largest is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    status = COMMANDS[command]("recipe.yaml", overrides)
    sys.stdout.flush()
    sys.exit(status)
