"""The record of a measure, and the registry that holds one record for each.

A measure turns each image into a row of numbers and compares two sets of rows by a distance.
`measures.py` tells how to add one of your own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lensnb.evaluation import uncertainty
from lensnb.evaluation.rows import Fitted, Reference, Rows
from lensnb.registry import Registry

REAL_STD = "standard deviations of real images"
IMAGE_UNIT = "image unit"
LEAST = 8  # images on each side of any distance
# Images on each side, at most, for measures whose time or memory would outgrow all others.
MOST = 10_000


def always(reference: Reference) -> bool:
    """True: the measure says something about any images."""
    return True


def of_lenses(reference: Reference) -> bool:
    """Whether the reference shows lenses, which is what the measure speaks of."""
    return reference.shows_lenses


def as_they_are(rows: np.ndarray) -> np.ndarray:
    """The rows themselves: each is a column of its own."""
    return rows


Distance = Callable[..., Any]  # of two sets of rows: a number, an array, or (value, error)


@dataclass(frozen=True)
class Measure:
    """One measure: which rows it compares, by what distance, and how the result is read.

    rows : images (N, C, H, W) -> rows (N, d), or Fitted. Measures that share the same rows
        compute them once. None: the judge has a method of the measure's name instead.
    distance : of generated rows from reference rows, or Fitted
    unit : unit of the distance; or name -> unit, of a distance that returns several numbers
    group : "features", "physics" or "model"
    label : its name in figures and tables; or name -> label
    larger_is_better : True, False, or None where the value of real images is best; or name -> one
    options : `resample` and `ratio` of `uncertainty.measure`
    resampled : distance -> a faster way to its resampled values, an `uncertainty.Resampled`
    by_class : whether the distance takes the classes of both sets, too
    most : images on each side, at most; None: no limit
    mean_unit : unit of the rows, whose mean is then told beside the distance; None: no mean
    columns : name -> unit of what the rows say one by one, for `parts.parts`; empty: nothing
    of_columns : rows (N, d) -> those columns (N, len(columns))
    available : whether the measure says anything about images like the reference
    """

    rows: Rows | Fitted | None
    distance: Distance | Fitted | None
    unit: str | Mapping[str, str]
    group: str
    label: str | Mapping[str, str]
    larger_is_better: bool | None | Mapping[str, bool | None] = False
    options: Mapping[str, Any] = field(default_factory=dict)
    resampled: Callable[[Distance], uncertainty.Resampled] | None = None
    by_class: bool = False
    most: int | None = None
    mean_unit: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    of_columns: Callable[[np.ndarray], np.ndarray] = as_they_are
    available: Callable[[Reference], bool] = always

    def reading(self, key: str) -> dict[str, Any]:
        """How to read the value under a key of metrics.json: its group and its good side."""
        larger = self.larger_is_better
        side = larger[key] if isinstance(larger, Mapping) else larger
        return {"group": self.group, "larger_is_better": side}

    def trees(self, name: str, found: dict[str, Any]) -> dict[str, Any]:
        """What `uncertainty.measure` found for this measure: key of metrics.json -> its tree."""
        trees = {name: found} if isinstance(self.unit, str) else found
        return {key: tree | self.reading(key) for key, tree in trees.items()}


MEASURES: Registry[Measure] = Registry("measure")


def labels() -> dict[str, str]:
    """Key of metrics.json -> its label, for all measures."""
    found: dict[str, str] = {}
    for name, measure in MEASURES.items():
        found |= {name: measure.label} if isinstance(measure.label, str) else measure.label
    return found


def label(key: str) -> str:
    """The label of a key of metrics.json; the key itself if no measure has it."""
    return labels().get(key, key)
