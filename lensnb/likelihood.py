"""How probable a prior finds an image: log p(x) by the probability flow, with its error.

The flow dx / d sigma = (x - D) / sigma carries an image to noise (Song et al. 2021,
arXiv:2011.13456, section 4.3). On the way log p changes by the trace of the flow's Jacobian, which
is estimated from random signs (Hutchinson; Grathwohl et al. 2019, arXiv:1810.01367, section 3.1).
The density is that of images with noise of the smallest level added, a fiftieth of their spread.
"""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lensnb.devices import with_doubles
from lensnb.errors import InputError
from lensnb.operators import dot
from lensnb.prior import Prior, differentiable, slope_of
from lensnb.sampler import ImageNoise
from lensnb.seeds import Purpose, image_seeds


class LogDensity(NamedTuple):
    """Log-densities of N images in nats; `error` is one standard error, of the random signs alone.

    value : log p of the image in the user's units, a density by the unit of each pixel
    scaled : log p of the scaled image, which the prior knows
    """

    value: np.ndarray  # (N,)
    scaled: np.ndarray  # (N,)
    error: np.ndarray  # (N,)


def log_density(
    prior: Any, images: Any, steps: int = 30, probes: int = 4, seed: int = 0, batch: int = 32
) -> LogDensity:
    """log p of images (N, C, H, W) in the user's units.

    prior : a Prior, or a generator that has one; steps : of Heun's method, two evaluations each
    probes : random signs for each image, 2 or more; each costs one gradient an evaluation
    Image i depends on (seed, i) alone. The error of the steps is not in `error`: take twice as many
    to see it. Raises InputError for images of another shape, and for fewer than two probes.
    """
    prior = prior if isinstance(prior, Prior) else prior.prior()
    if probes < 2 or steps < 2:
        raise InputError(f"log_density: two probes and steps at least, found {probes} and {steps}")
    given = torch.as_tensor(np.array(images))
    if given.shape[1:] != prior.shape:
        raise InputError(
            f"images: found the shape {tuple(given.shape)}, the prior's are (N, "
            f"{', '.join(map(str, prior.shape))})"
        )
    parts = []
    for at in range(0, len(given), batch):
        u = given[at : at + batch].to(prior.device, prior.dtype)
        noise = ImageNoise(image_seeds(seed, at, len(u), Purpose.TRACE))
        signs = torch.stack([noise.like(u).sign() for _ in range(probes)])  # (P, B, C, H, W)
        x = prior.scaling.forward(u)
        with torch.no_grad():
            scaled = _along_the_flow(prior, x, steps, signs)  # (P, B)
        stretch = slope_of(prior.scaling.forward, u).abs().log().flatten(1).sum(1)
        stretch = stretch.to(scaled.device).double()
        error = scaled.std(0) / math.sqrt(probes)
        parts.append(torch.stack([scaled.mean(0) + stretch, scaled.mean(0), error]).cpu())
    value, scaled, error = torch.cat(parts, dim=1).double().numpy()
    return LogDensity(value, scaled, error)


def _along_the_flow(prior: Prior, x: Tensor, steps: int, signs: Tensor) -> Tensor:
    """log p of scaled images x (B, C, H, W) for each row of signs (P, B, C, H, W): (P, B).

    With t = log(sigma) the flow is dx/dt = x - D, and its divergence d - tr dD/dx. A step is exact
    for a D that is straight in t; the end of the line is predicted first, as in Heun's method.
    """
    low, high = prior.bounds()
    h = math.log(high / low) / steps
    growth = math.expm1(h)
    total = torch.zeros(signs.shape[:2], dtype=torch.float64, device=with_doubles(x.device))
    x0, divergence = _at(prior, x, low, signs)
    for step in range(1, steps + 1):
        sigma = low * math.exp(step * h)
        ahead = x + growth * (x - x0)
        bend = (growth - h) / h * (prior.denoise(ahead, sigma) - x0)
        x = ahead - bend
        before = divergence
        x0, divergence = _at(prior, x, sigma, signs)
        total += h / 2 * (before + divergence)
    variance = high**2 + prior.spread**2
    exact = x.to(total.device).double()
    squares = dot(exact, exact).flatten()
    pixels = x[0].numel()
    return total - squares / (2 * variance) - pixels / 2 * math.log(2 * math.pi * variance)


def _at(prior: Prior, x: Tensor, sigma: float, signs: Tensor) -> tuple[Tensor, Tensor]:
    """The prediction D, and the estimates (P, B) of the flow's divergence, float64."""
    x0, pull = differentiable(prior.denoise, x, sigma)
    traces = torch.stack([dot(z, pull(z)).flatten() for z in signs])
    traces = traces.to(with_doubles(x.device)).double()
    return x0, x[0].numel() - traces


# Images that are not of the prior -----------------------------------------------------------------


class Flags(NamedTuple):
    """Which images are not of the prior.

    p : share of reference images that are at least as far from their median density, two-sided
    flagged : p below the level
    """

    p: np.ndarray  # (N,)
    flagged: np.ndarray  # (N,)


def flag(log_p: Iterable[float], reference: Iterable[float], level: float = 0.01) -> Flags:
    """Flags for images by their log-density, beside the log-densities of images of the prior.

    Both sides count: an image that is smoother than all others is too probable (Nalisnick et al.
    2019, arXiv:1906.02994). reference : of images that the prior was not trained on
    Raises InputError for fewer reference images than the level needs.
    """
    values, known = np.asarray(list(log_p), float), np.asarray(list(reference), float)
    if not 0 < level < 1 or len(known) + 1 < 1 / level:
        raise InputError(
            f"flag: the level {level:g} needs {math.ceil(1 / level) - 1} reference images or more, "
            f"found {len(known)}"
        )
    middle = np.median(known)
    off = np.abs(known - middle)
    farther = (off[None, :] >= np.abs(values - middle)[:, None]).sum(1)
    p = (1 + farther) / (1 + len(known))
    return Flags(p, p < level)
