"""The corpus of bad input: every case by name, and how it is written into a folder.

    python tests/helpers/bad_input/make.py FOLDER [NAME ...]

writes each case that needs no finished run into a folder of its own. There it can be looked at, or
tried by hand: python -m lensnb train recipe.yaml.
"""

import os
import pickle
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

N = 32
SIZE = 16
RECIPE = {
    "run": "it",
    "device": "cpu",
    "threads": 1,
    "data": {"path": "images", "size": SIZE, "n": N, "holdout": 0.25},
    "model": {"width": 8, "context": "none"},
    "train": {
        "steps": 2,
        "batch": 4,
        "warmup": 1,
        "log_every": 1,
        "checkpoint_every": 1,
        "watch_every": 0,
    },
    "gan": {
        "steps": 2,
        "batch": 4,
        "width": 8,
        "latent": 4,
        "log_every": 1,
        "checkpoint_every": 1,
        "watch_every": 0,
    },
    "sample": {
        "n": 8,
        "batch": 8,
        "trajectory": 1,
        "frames": 2,
        "methods": {"ddim": {"sampler": "ddim", "steps": 2}, "gan": {"model": "gan"}},
    },
    "evaluate": {"n": 8, "bootstrap": 10, "floors": 2, "fit": 0},
}


class Case(NamedTuple):
    """Something bad, or something odd that is good.

    make : a function of the folder that writes it. A good recipe.yaml and good images/ are there;
    says : words of the one sentence that refuses it; none where it must work;
    command : what a user does with it, a key of `child.COMMANDS`;
    overrides : of the recipe;
    holds : a function of the folder, true afterwards where the case must work;
    finished : begin with a copy of a finished run;
    damaged : stages of that run that `make` spoils, so that they may be made again;
    largest : bytes of the largest file, as on a disk that is full beyond it.
    """

    make: object
    says: tuple = ()
    command: str = "data"
    overrides: str = ""
    holds: object = None
    finished: bool = False
    damaged: tuple = ()
    largest: int | None = None


def noise(*shape, seed=1):
    """Positive numbers, float32, that vary in every image."""
    return np.random.default_rng(seed).gamma(2.0, 2.0, shape).astype(np.float32)


def plain(folder):
    """Write a recipe and 32 images with which nothing is wrong."""
    (folder / "images").mkdir(parents=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    for i, image in enumerate(noise(N, SIZE, SIZE)):
        np.save(folder / "images" / f"{i:03}.npy", image)


def write(case, folder, finished=None):
    """Write a case into a new `folder`, on top of a copy of `finished` where it needs a run."""
    if case.finished:
        shutil.copytree(finished, folder, copy_function=shutil.copy2)
    else:
        plain(folder)
    case.make(folder)


class Payload:
    """What a pickle can hide: unpickling it creates the file `executed` in the working folder."""

    def __reduce__(self):
        return os.system, ("touch executed",)


def payload():
    """The bytes of a pickle that runs a program."""
    return pickle.dumps(Payload())


def cases():
    """Every case: name -> Case."""
    from bad_input import images, recipes, runs

    return images.CASES | recipes.CASES | runs.CASES


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from bad_input import make  # the tables of cases import this module, not the script

    top, *names = sys.argv[1:]
    for name, case in make.cases().items():
        if not case.finished and name in (names or make.cases()):
            make.write(case, Path(top) / name.replace(" ", "-").replace("/", "-"))
