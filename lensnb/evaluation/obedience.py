"""Does an image show what was asked for? LensNet's readings against the asked physics and class."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lensnb.datasets.conditions import PHYSICS
from lensnb.datasets.dataset import Dataset
from lensnb.evaluation import uncertainty
from lensnb.lensing.priors import CLASSES, PRIORS

Columns = Mapping[str, np.ndarray]  # name -> (n,)


def known_of(dataset: Dataset, rows: np.ndarray) -> dict[str, np.ndarray]:
    """What is known of these rows of a dataset with labels: class and physics, name -> (n,)."""
    if dataset.labels is None:
        raise ValueError("expected images with labels")
    physics = {k: np.asarray(v)[rows] for k, v in dataset.truth.items() if k in PHYSICS}
    return {"class": dataset.labels[rows], **physics}


def factors(dataset: Dataset) -> dict[str, float]:
    """What turns each reading that can be compared into the unit of the truth: name -> number.

    LensNet takes every image for one in the field of view of the broad prior, so
    theta_E is left out without a pixel scale.
    """
    found = dict.fromkeys(PHYSICS, 1.0)
    del found["theta_E"]
    if dataset.pixel_scale:
        broad = PRIORS["broad"]
        size = dataset.images.shape[-1]
        found["theta_E"] = dataset.pixel_scale * size / (broad.pixel_scale * broad.size)
    return found


def compared(read: Columns, told: Columns, dataset: Dataset, asked: Columns) -> dict[str, Any]:
    """Readings of images against what they were told to be, for the columns of `asked`.

    Returns column -> bias, scatter and n, and the share of right classes. Classes are compared by
    name: there is no share if LensNet does not know one of them. A length is compared only where
    the pixel scale is known.
    """
    scale = factors(dataset)
    found: dict[str, Any] = {
        name: uncertainty.bias_and_scatter(scale[name] * read[name] - told[name])
        for name in PHYSICS
        if name in asked and name in scale
    }
    numbers = np.array([CLASSES.index(name) if name in CLASSES else -1 for name in dataset.classes])
    if (numbers < 0).any():
        return found
    return found | {"class": uncertainty.share(read["class"] == numbers[told["class"]])}
