"""One command of a user's in a process of its own, forked from a server that has imported torch already."""

import ctypes
import os
import struct
import sys

PRELOAD = [
    "lensnb.apps.execute",
    "lensnb.apps.launch",
    "lensnb.generator",
    "lensnb.evaluation.judge",
    "PIL.Image",
    "torch._dynamo",
]  # the last by the first optimiser
MEMORY = 2**30  # bytes that a child may take beyond what it begins with
SECONDS = 10  # of work, after which the system ends it; a case takes a thirtieth of that


def stage(name):
    """What a notebook calls for a stage such as "samples/ddim", with the exit status of a command line."""

    def call(recipe, overrides):
        from lensnb import pipeline
        from lensnb.errors import told
        from lensnb.recipes.recipe import load_recipe

        kind, _, of = name.partition("/")
        make = {
            "data": pipeline.make_data,
            "models": pipeline.train_model,
            "samples": pipeline.draw_samples,
            "evaluation": pipeline.evaluate_method,
        }[kind]
        return told(
            lambda: make(pipeline.open_run(load_recipe(recipe, overrides)), *([of] if of else []))
        )

    return call


def step(recipe, overrides):
    """python -m lensnb.apps.execute, as far as it goes before it starts a kernel."""
    from lensnb.apps.execute import main

    return main(["01_data", "--recipe", recipe, "--set", overrides])


def launch(recipe, overrides):
    """python -m lensnb.apps.launch"""
    from lensnb.apps import launch

    return launch.main([recipe, "--set", overrides])


COMMANDS = {
    "step": step,
    "launch": launch,
    "data": stage("data"),
    "train": stage("models/diffusion"),
    "sample": stage("samples/ddim"),
    "evaluate": stage("evaluation/ddim"),
}


def unprivileged():
    """Root without the right to read and write everything, so that a closed file is closed to it too."""
    if sys.platform == "linux":
        ctypes.CDLL(None).capset(struct.pack("II", 0x20080522, 0), bytes(24))


def main(folder, command, overrides, largest):
    """Run `command` in `folder`; its output goes to the files `stdout` and `stderr` beside the folder."""
    import resource

    import psutil

    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(f"{folder}.{name}", os.O_WRONLY | os.O_CREAT), number)
    os.chdir(folder)
    os.environ["LENSNB_OUTPUTS"] = os.path.join(folder, "outputs")
    unprivileged()
    resource.setrlimit(resource.RLIMIT_DATA, (psutil.Process().memory_info().data + MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    if largest is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    status = COMMANDS[command]("recipe.yaml", overrides)
    sys.stdout.flush()
    sys.exit(status)
