"""The lens finder: does an image show a gravitational lens at all?

A network of LensNet's shape that tells lenses of the broad prior, of all classes, from what is not
lensed (nonlenses.py). Its weights ship with the package, so that the shares of two people compare.
`python -m tools.train_finder FOLDER` trains it anew.
"""

from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from lensnb import io
from lensnb.errors import InputError
from lensnb.evaluation.lensnet import LensNet

WEIGHTS = Path(__file__).parents[1] / "weights" / "finder.safetensors"


class Finder(LensNet):
    """LensNet's body with one number at its end: the log odds of a lens among as many non-lenses."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(self.FEATURES, 1)

    def odds(self, x):
        """Log odds (N,) of images (N, 1, H, W) in the prior's units."""
        return self.head(self(x))[:, 0]


def card():
    """What is known of the shipped finder: recipe, sha256, threshold and figures on held-out images."""
    return io.read_json(WEIGHTS.with_suffix(".json"))


def load():
    """The shipped finder in evaluation mode; refuses weights whose sha256 is not the published one."""
    if io.sha256(WEIGHTS) != card()["sha256"]:
        raise InputError(
            f"{WEIGHTS}: not the published weights (sha256 differs); install lensnb again"
        )
    net = Finder()
    net.load_state_dict(safetensors.torch.load_file(WEIGHTS))
    return net.eval()


@torch.inference_mode()
def log_odds(images, units=torch.from_numpy, net=None, batch=256):
    """Log odds (N,), float64, that images (N, C, H, W) show lenses; `units` is the comparison's `features.Units`."""
    net = net or load()
    return (
        torch.cat([net.odds(units(images[i : i + batch])) for i in range(0, len(images), batch)])
        .double()
        .numpy()
    )


def found(images, units, net=None):
    """Whether each of the images (N, C, H, W) is found to be a lens, (N,) bool; 1 % of the real ones of the broad prior are not."""
    return log_odds(images, units, net) > card()["held_out"]["threshold"]
