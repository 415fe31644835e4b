"""Trainings of a few steps, for the tests of the training."""

import safetensors.torch
import torch

from lensnb import pipeline
from lensnb.generator import untrained
from lensnb.kinds import KINDS
from lensnb.recipes.recipe import validate
from lensnb.runs import artefact

# What `recipe` leaves out, because it takes half the time of a step: the default's polar trunk with
# its light path.
POLAR = {"grid": "polar", "fine": 16}


class Cut(Exception):
    pass


def recipe(**changes):
    tree = {
        "device": "cpu",
        "data": {"size": 32},
        "model": {
            "width": 16,
            "dropout": 0.2,
            "context": "class",
            "grid": "cartesian",
            "fine": 0,
        },
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
    tree["consistency"] = tree["train"] | {"stages": 3}
    for key, section in changes.items():
        tree[key] = tree.get(key, {}) | section
    return validate(tree, "test")


def start(name, p, dataset, folder):
    """Weights that the training of the generator `name` starts from; None: it starts from none."""
    before = KINDS[name].starts_from
    if not before:
        return None
    torch.manual_seed(5)
    net = untrained(before, p, dataset)
    with torch.no_grad():  # the last layer of an untrained network is zero
        for weights in net.parameters():
            weights += 0.02 * torch.randn_like(weights)
    safetensors.torch.save_file(net.state_dict(), folder / "start.safetensors")
    return folder / "start.safetensors"


def trained(folder, dataset, name="diffusion", **changes):
    return artefact.build(
        folder,
        {},
        lambda unfinished: pipeline.train_generator(name, recipe(**changes), dataset, unfinished),
    )
