"""A prior of images: a denoiser with the scaling and the noise levels that belong to it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from lensnb.errors import InputError
from lensnb.operators import Linear
from lensnb.sampler import Denoise
from lensnb.schedule import karras


class Scaling(Protocol):
    """The map between the user's units and a prior's; `datasets.dataset.Scaling` is one."""

    @property
    def low(self) -> float:
        """The least scaled training pixel."""

    @property
    def high(self) -> float:
        """The largest scaled training pixel."""

    def forward(self, x: Any) -> Any:
        """Scaled images from images in the user's units."""

    def inverse(self, y: Any) -> Any:
        """Images in the user's units from scaled images."""


@dataclass(frozen=True)
class Prior:
    """A denoiser as a prior of images.

    denoise(x, sigma) -> x0 : in scaled images; shape : of one image (C, H, W)
    scaling : between the user's units and scaled images
    spread : standard deviation of the scaled training pixels
    """

    denoise: Denoise
    shape: tuple[int, ...]
    scaling: Scaling
    spread: float = 0.5
    device: str | torch.device = "cpu"
    dtype: torch.dtype = torch.float32

    def bounds(self) -> tuple[float, float]:
        """The least and the largest noise level.

        The least is a fiftieth of the spread: less than the noise that images hold. At the largest
        a mode of all pixels of an image together is lost in noise, too.
        """
        return self.spread / 50, 160 * self.spread

    def sigmas(self, steps: int) -> Tensor:
        """The noise levels of `steps` steps, falling to 0; float64 (steps + 1,)."""
        levels = karras(steps, *self.bounds(), 7.0)
        return torch.cat([levels, torch.zeros(1, dtype=torch.float64)])

    def variance(self, sigma: float) -> float:
        """The variance of a pixel of x0 given x, if pixels were independent and Gaussian."""
        return sigma**2 * self.spread**2 / (sigma**2 + self.spread**2)


def differentiable(denoise: Denoise, x: Tensor, sigma: float) -> tuple[Tensor, Linear]:
    """x0 = denoise(x, sigma), and the product of its transposed Jacobian with images."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        x0 = denoise(x, sigma)
    if not x0.requires_grad:
        raise InputError("denoise: cannot be differentiated; posteriors need its gradient")
    return x0.detach(), lambda v: torch.autograd.grad(x0, x, v, retain_graph=True)[0]


def slope_of(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The derivative of a function of single numbers, at every number of x."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return torch.autograd.grad(function(x).sum(), x)[0]
