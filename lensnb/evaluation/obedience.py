"""Does an image show what was asked for? LensNet's readings against the asked physics and class."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lensnb.datasets.conditions import PHYSICS
from lensnb.datasets.dataset import Dataset
from lensnb.evaluation import uncertainty
from lensnb.evaluation.regressors import LEAST_SKILL
from lensnb.lensing.priors import CLASSES, PRIORS

Columns = Mapping[str, np.ndarray]  # name -> (n,)


def known_of(dataset: Dataset, rows: np.ndarray) -> dict[str, np.ndarray]:
    """What is known of these rows of a dataset: class and physics, name -> (n,)."""
    found = {k: np.asarray(v)[rows] for k, v in dataset.truth.items() if k in PHYSICS}
    return found if dataset.labels is None else {"class": dataset.labels[rows], **found}


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
    the pixel scale is known. Images whose value is missing do not count.
    """
    scale = factors(dataset)
    found: dict[str, Any] = {}
    for name in PHYSICS:
        if name in asked and name in scale and told[name].dtype.kind in "fiub":
            gap = scale[name] * read[name] - told[name]
            if np.isfinite(gap).sum() >= 2:
                found[name] = uncertainty.bias_and_scatter(gap[np.isfinite(gap)])
    if "class" not in asked or dataset.labels is None:
        return found
    numbers = np.array([CLASSES.index(name) if name in CLASSES else -1 for name in dataset.classes])
    if (numbers < 0).any():
        return found
    return found | {"class": uncertainty.share(read["class"] == numbers[told["class"]])}


def without_the_unread(found: Mapping[str, Any], known: Columns) -> dict[str, Any]:
    """The comparisons of both sides, without columns that LensNet does not read off real images.

    found : "generated" and "real" -> column -> what `compared` says; known : of the real images.
    A column of this name may mean something else, such as the slope of a mass profile.
    """

    def is_read(name: str) -> bool:
        told = found["real"][name]
        if "share" in told:
            most = np.unique(known[name], return_counts=True)[1].max() / len(known[name])
            return told["share"] - most >= LEAST_SKILL * (1 - most)
        left = told["bias"] ** 2 + told["scatter"] ** 2
        return bool(left <= (1 - LEAST_SKILL) * np.nanvar(known[name]))

    kept = [name for name in found["real"] if name in found["generated"] and is_read(name)]
    return {whose: {name: side[name] for name in kept} for whose, side in found.items()}
