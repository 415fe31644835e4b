"""Muon: an optimiser for the matrices of a network; AdamW updates all other weights.

Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks". The averaged gradient
of a matrix is replaced by the nearest matrix with orthonormal rows or columns. So all directions
move alike, also those that a gradient hardly shows.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

LEAST = 4096  # numbers in a matrix, at least; smaller ones cost more than they gain
# Coefficients of the quintic that brings singular values near one, as in the paper.
QUINTIC = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """Muon for weights of two or more axes; a convolution is a matrix of its output channels.

    rate : length of a step, in units of an orthonormal matrix; momentum : of the gradient
    rounds : of the iteration that makes a matrix orthonormal
    """

    def __init__(
        self,
        weights: Iterable[nn.Parameter],
        rate: float = 0.005,
        momentum: float = 0.95,
        rounds: int = 5,
    ) -> None:
        super().__init__(weights, {"lr": rate, "momentum": momentum, "rounds": rounds})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update all weights that have a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, group)

    def _update(self, p: nn.Parameter, group: dict[str, Any]) -> None:
        gradient = p.grad
        assert gradient is not None
        state = self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(p)
        state["momentum"].lerp_(gradient, 1 - group["momentum"])
        ahead = gradient.lerp(state["momentum"], group["momentum"])  # Nesterov
        matrix = ahead.reshape(len(p), -1)
        scale = max(1, matrix.shape[0] / matrix.shape[1]) ** 0.5
        change = orthonormal(matrix, group["rounds"])
        p.add_(change.reshape(p.shape).to(p.dtype), alpha=-group["lr"] * scale)


def orthonormal(matrix: torch.Tensor, rounds: int = 5) -> torch.Tensor:
    """Nearly U V^T of the matrix (m, n) = U S V^T: singular values of about 0.7 to 1.2.

    In bfloat16 on a GPU, whose rounding does no harm here; in single precision elsewhere.
    """
    a, b, c = QUINTIC
    x = matrix.bfloat16() if matrix.is_cuda else matrix.float()
    x = x / (x.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.mT if tall else x
    for _ in range(rounds):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x


class Together:
    """Several optimisers as one, each for weights of its own."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        self.parts = parts

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of all parts."""
        return [group for part in self.parts for group in part.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear all gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none)

    def step(self) -> None:
        """Update all weights."""
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """The states of all parts."""
        return {str(i): part.state_dict() for i, part in enumerate(self.parts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the states of all parts back."""
        for i, part in enumerate(self.parts):
            part.load_state_dict(state[str(i)])


def matrices(net: nn.Module) -> list[nn.Parameter]:
    """The weights that Muon updates: large matrices, but not those of the embeddings."""
    return [
        p
        for name, p in net.named_parameters()
        if p.requires_grad and p.ndim >= 2 and p.numel() >= LEAST and "embed" not in name
    ]
