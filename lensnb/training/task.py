"""What the training loop asks of a task: one optimiser step of one kind of generator."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch

from lensnb.training.average import Average
from lensnb.training.compiling import Compiler

Losses = dict[str, Any]  # name -> scalar tensor or number, all that one step reports


class Task(Protocol):
    """One kind of generator in training. The constructor takes (params, dataset, accelerator).

    parts : name -> everything that has a state_dict; together they are the checkpoint
    model : the averaged network, whose weights are kept
    compiler : compiles parts of the step, or none of them
    nets : the trained networks, the one that draws first
    pieces : how many micro-batches a batch is cut into

    `loop.fit` can train a task with `parts` and `step` alone, as long as no weights are kept on the
    way and nothing is watched. A step never waits for a GPU: what it reports stays there.
    """

    parts: Mapping[str, Any]
    model: Average
    compiler: Compiler
    nets: tuple[torch.nn.Module, ...]
    pieces: int

    def step(
        self,
        k: int,
        x0: torch.Tensor,
        context: torch.Tensor | None,
        generator: torch.Generator,
    ) -> Losses:
        """Update once with the images x0 (B, C, H, W) of step k; returns the losses."""
        ...
