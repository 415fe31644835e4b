"""Consistency tuning: a trained denoiser learns to map noise to an image in one evaluation.

A consistency function f(x, t) maps each point of a path of the probability flow to the end of the
path, a clean image. Tuning starts from the denoiser and asks f for the same image at two noise
levels r < t of one image and one noise. The gap between r and t is wide at first, with r = 0 at low
levels, which is the denoising loss; it closes stage by stage (Geng et al. 2024, "Consistency Models
Made Easy", arXiv:2406.14548).
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lensnb.registry import Registry
from lensnb.sampler import Denoise, State, States, pairs

Function = Callable[..., Tensor]  # (x, sigma, context) -> clean images

# Weight (B,) of the distance between f at t and at r, both (B,) ---------------------------------

WEIGHTS: Registry[Callable[[Tensor, Tensor], Tensor]] = Registry("weighting")


@WEIGHTS.register("gap")
def gap(t: Tensor, r: Tensor) -> Tensor:
    """1 / (t - r), as in ECT: the distance per unit of the way."""
    return 1 / (t - r)


@WEIGHTS.register("level")
def level(t: Tensor, r: Tensor) -> Tensor:
    """1 / t: the same in all stages."""
    return 1 / t


# The two noise levels ---------------------------------------------------------------------------


def stage(k: int, settings: Any) -> int:
    """The stage of step k, from 0: all stages have the same number of steps."""
    return min(k * int(settings.stages) // int(settings.steps), int(settings.stages) - 1)


def lower_levels(t: Tensor, stage: int, q: float, k: float, b: float) -> Tensor:
    """The level r (B,) below each t (B,) in a stage, counted from 0 (ECT, section 3.2).

    r / t = 1 - n(t) / q^(stage + 1) with n(t) = 1 + k sigmoid(-b t), and at least 0.
    """
    n = 1 + k * torch.sigmoid(-b * t)
    return t * (1 - n / q ** (stage + 1)).clamp(min=0)


# The loss ---------------------------------------------------------------------------------------


def noisy(x0: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
    """x0 + sigma noise (B, C, H, W) at levels sigma (B,)."""
    return x0 + sigma[:, None, None, None] * noise


@torch.no_grad()
def target(
    f: Function, x0: Tensor, r: Tensor, noise: Tensor, context: Tensor | None = None
) -> Tensor:
    """What f should give at t: f at r, of the same images and noise; at r = 0 the images x0.

    No gradient flows through it. x0, noise (B, C, H, W); r (B,).
    """
    # A network that sees log(sigma) gets a level above 0 also where its answer is not taken.
    seen = r.clamp(min=torch.finfo(torch.float32).tiny ** 0.25)
    ends = f(noisy(x0, seen, noise), seen, context)
    return torch.where(r[:, None, None, None] > 0, ends, x0)


def loss(
    f: Function,
    x0: Tensor,
    t: Tensor,
    noise: Tensor,
    weight: Tensor,
    aim: Tensor,
    context: Tensor | None = None,
    *,
    huber: float = 0.0,
) -> Tensor:
    """Mean of weight times the distance between f at t and the target `aim`; a scalar.

    The distance is sqrt(mean squared difference + huber^2) - huber (pseudo-Huber; ECT, section
    3.3). ECT sums over the pixels where this takes the mean, so that `huber` and the loss do not
    depend on the size of the images. x0, noise, aim (B, C, H, W); t, weight (B,).
    """
    off = (f(noisy(x0, t, noise), t, context) - aim).flatten(1)
    squared = off.square().mean(1)
    floor = max(huber, 1e-8) ** 2  # the square root has no slope at 0
    return (weight * ((squared + floor).sqrt() - math.sqrt(floor))).mean()


# Drawing ----------------------------------------------------------------------------------------


def walk(f: Denoise, sigmas: Tensor, x: Tensor, noise: Any) -> States:
    """States of drawing with f(x, sigma): after each evaluation fresh noise up to the next level.

    Multistep sampling of Song et al. 2023 (arXiv:2303.01469, algorithm 1). sigmas (steps + 1,) fall
    to 0; x (B, C, H, W) is noise of the first level.
    """
    for step, sigma, after in pairs(sigmas):
        x0 = f(x, sigma)
        x = x0 + after * noise.like(x) if after > 0 else x0
        yield State(step, after, x, x0)
