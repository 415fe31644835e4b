"""The kinds of generator: what they have in common, and where they differ.

A kind is registered once, here. `generator.py` adds how it draws, `training/<kind>_task.py` how it
learns. All other modules ask this registry and know no kind by name.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lensnb.registry import Registry


@dataclass
class Kind:
    """One kind of generator.

    label : its name in figures and messages
    section : the section of a recipe that trains it
    reads : what decides its weights beside its own section: sections, or keys such as
        "model.context"
    sampled : whether a sampler draws from it along noise levels; its methods then need `sampler`
        and `steps`
    own_steps : the most steps of a kind that draws in steps without a sampler; its methods then
        need `steps` alone
    starts_from : the kind whose trained weights a training starts from; "" for none
    multiple : the image size must be a multiple of this
    accumulates : whether its section has `accumulate`, which cuts a batch into pieces
    caps : knobs of its section, and the largest value of each in a smoke run
    place : its place in the palette of the figures; None: its methods have places of their own
    best : whether the weights with the least kernel distance are kept, or the last ones
    untrained : (recipe, dataset) -> the untrained network that draws; set in generator.py
    drawer : class of what draws from it, a `generator.Drawer`; set in generator.py
    task : class of the training task, a `training.task.Task`; set in training/
    """

    label: str
    section: str
    reads: tuple[str, ...] = ()
    sampled: bool = False
    own_steps: int = 0
    starts_from: str = ""
    multiple: int = 1
    accumulates: bool = False
    caps: Mapping[str, int] = field(default_factory=dict)
    place: int | None = None
    best: bool = False
    untrained: Callable[..., Any] | None = None
    drawer: Any = None
    task: Any = None


KINDS: Registry[Kind] = Registry("generator")
KINDS.add(
    "diffusion",
    Kind(
        label="diffusion",
        section="train",
        reads=("model", "diffusion"),
        sampled=True,
        accumulates=True,
        caps={"steps": 4, "batch": 8, "accumulate": 2},
    ),
)
KINDS.add(
    "gan",
    Kind(
        label="GAN",
        section="gan",
        reads=("model.context",),
        multiple=16,  # four levels of its networks double the size of the maps
        caps={"steps": 4, "batch": 8, "width": 8},
        place=2,
        best=True,
    ),
)
KINDS.add(
    "consistency",
    Kind(
        label="consistency model",
        section="consistency",
        reads=("model", "diffusion"),
        own_steps=2,
        starts_from="diffusion",
        accumulates=True,
        caps={"steps": 4, "batch": 8, "accumulate": 2},
        place=4,
    ),
)


def trained_for(kinds: Iterable[str]) -> list[str]:
    """The kinds that are trained so that these can draw, each after the one it starts from."""
    found: dict[str, None] = {}
    for name in kinds:
        before = KINDS[name].starts_from
        found |= dict.fromkeys([*(trained_for([before]) if before else []), name])
    return list(found)
