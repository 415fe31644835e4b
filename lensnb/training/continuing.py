"""Whether a training that another recipe has begun can go on under a new one, to the same bits.

Only the number of steps may differ. The learning rate follows it, so the training goes on where
every step so far was the same under both numbers: on the plateau of a trapezium, never on a cosine.
"""

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from lensnb.kinds import KINDS
from lensnb.recipes.schema import Optimiser
from lensnb.runs import artefact

LENGTH = ("steps", "epochs")
Counted = Callable[[Optimiser], tuple[Optimiser, dict[int, str]]]


def goes_on(
    name: str, old: Mapping[str, Any], new: Mapping[str, Any], done: int, counted: Counted
) -> bool:
    """Whether `done` steps of the generator `name` are the same under both recipes of its stage.

    counted : the settings with `steps` spelled out, and the step and file of each kept state, as
    `pipeline.counted` gives them. There must be a step left to do.
    """
    kind = KINDS[name]
    planned = getattr(kind.task, "planned", None)
    if planned is None or not _differ_in_length_only(kind.section, old, new):
        return False
    (before, kept), (after, keeps) = (
        counted(_settings(kind.section, recipe)) for recipe in (old, new)
    )
    passed = [{k: file for k, file in files.items() if k <= done} for files in (kept, keeps)]
    if done >= min(before.steps, after.steps) or passed[0] != passed[1]:
        return False
    return all(planned(k, before) == planned(k, after) for k in range(done))


def _differ_in_length_only(section: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    def rest(recipe: Mapping[str, Any]) -> dict[str, Any]:
        own = {key: v for key, v in recipe.get(section, {}).items() if key not in LENGTH}
        return dict(recipe) | {section: own}

    return artefact.same(rest(old), rest(new))


def _settings(section: str, recipe: Mapping[str, Any]) -> Optimiser:
    from lensnb.recipes.recipe import Params

    made: Optimiser = type(getattr(Params(), section)).model_validate(recipe[section])
    return made


def steps_done(checkpoint: Path) -> int | None:
    """The number of steps in a checkpoint, or None if it cannot be read."""
    try:
        return int(torch.load(checkpoint, weights_only=True, map_location="cpu")["step"])
    except (
        OSError,
        RuntimeError,
        KeyError,
        TypeError,
        ValueError,
        EOFError,
        pickle.UnpicklingError,
    ):
        return None
