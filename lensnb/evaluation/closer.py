"""Which of two sets of images is closer to real ones? Measure by measure, and in words."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from scipy.stats import norm

from lensnb.evaluation.compare import Deviations, Row, gap, z_told
from lensnb.evaluation.measures import label

ALPHA = 0.05  # chance that one difference or more is called clear where there is none (Holm)
TOLD = 3  # measures that a sentence names


class Closer(NamedTuple):
    """The comparison of two sets, `one` and `other`.

    rows : one a measure: metric, behind (how much farther from real `other` is than `one`, in the
        measure's unit), error, z, p (both sides), clear (after Holm's correction over all measures)
    sentence : who is closer, by how much and in what
    """

    one: str
    other: str
    rows: list[Row]
    sentence: str


def closer(rows: Sequence[Row], deviations: Deviations, one: str, other: str) -> Closer:
    """Is `one` closer to real images than `other`?

    rows : the rows of `compare.table`; deviations : method -> metric -> (times,)
    Both sets are measured against the same real images and resampled alike, so that the scatter of
    these cancels: the error is that of the paired difference (`compare.gap`), except for measures
    whose error is their own. Measures are not independent; Holm's correction holds all the same.
    """
    place = {(row["method"], row["metric"]): row for row in rows}
    both = [m for name, m in place if name == one and (other, m) in place]
    found = []
    for metric in both:
        behind, error = gap(place[one, metric], place[other, metric], deviations)
        z = behind / error if error > 0 else math.copysign(math.inf, behind) if behind else 0.0
        p = float(2 * norm.sf(abs(z)))
        found.append({"metric": metric, "behind": behind, "error": error, "z": z, "p": p})
    clear = _holm([row["p"] for row in found])
    found = [row | {"clear": is_clear} for row, is_clear in zip(found, clear, strict=True)]
    return Closer(one, other, found, _sentence(one, other, found))


def _holm(p: Sequence[float]) -> list[bool]:
    """Which of several p-values stay below ALPHA by Holm's step-down correction."""
    order = sorted(range(len(p)), key=lambda i: p[i])
    found = [False] * len(p)
    for rank, i in enumerate(order):
        if p[i] > ALPHA / (len(p) - rank):
            break
        found[i] = True
    return found


def _sentence(one: str, other: str, rows: Sequence[Row]) -> str:
    ahead = [row for row in rows if row["clear"] and row["behind"] > 0]
    behind = [row for row in rows if row["clear"] and row["behind"] < 0]
    count = f"{len(rows)} measures, corrected for their number"
    if not ahead and not behind:
        return f"{one} and {other} cannot be told apart: none of {count}, shows a difference."
    if not behind:
        return f"{one} is closer to real images than {other}: so say {_named(ahead)} of {count}."
    if not ahead:
        return f"{other} is closer to real images than {one}: so say {_named(behind)} of {count}."
    return (
        f"It depends on what matters: of {count}, {one} is closer in {_named(ahead)}, {other} in "
        f"{_named(behind)}."
    )


def _named(rows: Sequence[Row]) -> str:
    """How many measures, and the clearest of them."""
    first = sorted(rows, key=lambda row: -abs(row["z"]))[:TOLD]
    names = [f"{label(row['metric'])}, z = {z_told(abs(row['z']), 1)}" for row in first]
    return f"{len(rows)} ({'; '.join(names)})"
