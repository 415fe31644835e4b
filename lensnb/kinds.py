"""The kinds of generator: what a diffusion model and a GAN have in common, and where they differ.

A kind is registered once, here. `generator.py` adds how it draws, `training/<kind>_task.py` how it
learns. All other modules ask this registry and know no kind by name.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lensnb.registry import Registry


@dataclass
class Kind:
    """One kind of generator.

    label : its name in figures and messages
    section : the section of a recipe that trains it
    reads : the sections and keys, such as "model.context", that decide what it becomes, beside its
        own section
    sampled : whether a sampler walks it along noise levels; its methods then need `sampler` and
        `steps`
    multiple : the image size must be a multiple of this
    best : whether the weights with the least kernel distance are kept, or the last ones
    untrained : (recipe, dataset) -> the untrained network that draws; set in generator.py
    drawer : class with images(seeds, context) and frames(seeds, count, context); set in
        generator.py
    task : class of the training task, a `training.task.Task`; set in training/
    """

    label: str
    section: str
    reads: tuple[str, ...] = ()
    sampled: bool = False
    multiple: int = 1
    best: bool = False
    untrained: Callable[..., Any] | None = None
    drawer: Any = None
    task: Any = None


KINDS: Registry[Kind] = Registry("generator")
KINDS.add("diffusion", Kind("diffusion", "train", reads=("model", "diffusion"), sampled=True))
# Four levels of the GAN's networks double the size of the maps: 2^4 = 16.
KINDS.add("gan", Kind("GAN", "gan", reads=("model.context",), multiple=16, best=True))
