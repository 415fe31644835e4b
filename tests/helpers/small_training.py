"""Trainings of a few steps, for the tests of the training."""

from lensnb import pipeline
from lensnb.recipes.recipe import validate
from lensnb.runs import artefact


class Cut(Exception):
    pass


def recipe(**changes):
    tree = {
        "device": "cpu",
        "data": {"size": 32},
        "model": {"width": 16, "dropout": 0.2, "context": "class"},
        "train": {
            "steps": 7,
            "batch": 8,
            "warmup": 3,
            "log_every": 3,
            "checkpoint_every": 2,
            "watch_every": 0,
        },
        "gan": {
            "steps": 7,
            "batch": 8,
            "width": 8,
            "latent": 8,
            "log_every": 3,
            "checkpoint_every": 2,
            "watch_every": 0,
        },
    }
    for key, section in changes.items():
        tree[key] = tree.get(key, {}) | section
    return validate(tree, "test")


def trained(folder, dataset, name="diffusion", **changes):
    return artefact.build(
        folder,
        {},
        lambda unfinished: pipeline.train_generator(name, recipe(**changes), dataset, unfinished),
    )
