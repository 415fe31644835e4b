"""Samplers: plain generator functions along a falling list of sigmas.

Each takes `denoise(x, sigma) -> x0`, `sigmas` (steps + 1,) ending in 0, the start `x` (B, C, H, W)
and a source of noise, and yields the State after every step. None of them knows a network.
"""

from typing import NamedTuple

import numpy as np
import torch


def derived_seed(*keys):
    """An independent 63-bit seed for a tuple of whole numbers, such as (seed, purpose, step)."""
    return int(np.random.SeedSequence(keys).generate_state(1, np.uint64)[0] >> 1)


class State(NamedTuple):
    """After `step` network evaluations: the noisy image x at `sigma`, and x0 as predicted from the one before."""

    step: int
    sigma: float
    x: torch.Tensor     # (B, C, H, W)
    x0: torch.Tensor    # (B, C, H, W)


class ImageNoise:
    """Standard normal noise with a seed of its own for each image.

    Image i is the same whatever the batch that it is drawn in. Noise is drawn on the CPU, so that
    another device draws the same.
    """

    def __init__(self, seeds):
        self.generators = [torch.Generator().manual_seed(int(s)) for s in seeds]

    def __call__(self, shape, dtype=torch.float32, device="cpu"):
        """Noise of `shape` (without the batch): (B, *shape)."""
        drawn = [torch.randn(shape, generator=g, dtype=dtype) for g in self.generators]
        return torch.stack(drawn).to(device)

    def like(self, x):
        """Noise of the shape, type and device of x (B, ...)."""
        return self(x.shape[1:], x.dtype, x.device)


def start(sigmas, shape, noise, dtype=torch.float32, device="cpu"):
    """Where sampling starts: noise of the variance that a unit-variance image has at the largest sigma."""
    return (1 + sigmas[0] ** 2).sqrt().item() * noise(shape, dtype, device)


def ddim(denoise, sigmas, x, noise, eta=0.0, clip=None):
    """DDIM (Song et al. 2021, arXiv:2010.02502, eq. 12 and 16), in sigma: eta 0 is deterministic.

    clip : (low, high) to which each predicted x0 is clipped, or None.
    """
    for step, (sigma, after) in enumerate(zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True), 1):
        x0 = denoise(x, sigma)
        if clip is not None:
            x0 = x0.clamp(*clip)
        fresh = eta * after * (1 - (after / sigma) ** 2) ** 0.5         # noise that is drawn anew
        kept = (after**2 - fresh**2) ** 0.5                             # noise that is carried on
        x = x0 + kept / sigma * (x - x0)
        if fresh > 0:
            x = x + fresh * noise.like(x)
        yield State(step, after, x, x0)


def ddpm(denoise, sigmas, x, noise, clip=None):
    """DDPM's ancestral sampling with the small posterior variance (Ho et al. 2020, eq. 6 and 7).

    In sigma this is DDIM with eta = 1; along all T levels it is the original algorithm, along fewer
    it is its respaced form (Nichol & Dhariwal 2021, section 4).
    """
    return ddim(denoise, sigmas, x, noise, eta=1.0, clip=clip)
