"""The lens finder: does an image show a gravitational lens at all?

A network of LensNet's shape that tells lenses of the broad prior, of all classes, from images
without lensing (nonlenses.py). Its weights ship with the package, so that two people's shares can
be compared. `python -m tools.train_finder FOLDER` trains it again.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lensnb import io
from lensnb.evaluation.lensnet import LensNet, ToUnits, outputs, with_weights

WEIGHTS = Path(__file__).parents[1] / "weights" / "finder.safetensors"


class Finder(LensNet):
    """LensNet's body with one number at its end: the log odds that an image shows a lens.

    The odds are for a sample with as many non-lenses as lenses.
    """

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(self.FEATURES, 1)

    def odds(self, x: torch.Tensor) -> torch.Tensor:
        """Log odds (N,) of images (N, 1, H, W) in the prior's units."""
        return self.head(self(x))[:, 0]


def card() -> dict[str, Any]:
    """What is known of the shipped finder: recipe, sha256, threshold, held-out results."""
    return io.read_json(WEIGHTS.with_suffix(".json"))


def load(device: str | torch.device = "cpu") -> Finder:
    """The shipped finder on a device, see `lensnet.with_weights`."""
    return with_weights(Finder(), WEIGHTS).to(device)


def log_odds(
    images: Any, units: ToUnits = torch.from_numpy, net: Finder | None = None
) -> np.ndarray:
    """Log odds (N,), float64, that images (N, C, H, W) show lenses.

    units : the comparison's `lensnet.Units`; by default the images are in the prior's units.
    """
    net = net or load()
    odds: np.ndarray = torch.cat(outputs(images, units, net, net.odds)).cpu().double().numpy()
    return odds


def found(images: Any, units: ToUnits, net: Finder | None = None) -> np.ndarray:
    """Whether each of the images (N, C, H, W) is found to be a lens, (N,) bool.

    The threshold misses 1 % of the real lenses of the broad prior.
    """
    return log_odds(images, units, net) > card()["held_out"]["threshold"]
