"""Samplers: plain generator functions along a falling list of sigmas.

Each takes `denoise(x, sigma) -> x0`, `sigmas` (steps + 1,) falling, mostly to 0, the start `x`
(B, C, H, W) and a source of noise, and yields the State after every step. None of them knows a network.
In sigma, x = x0 + sigma * noise, the variance-preserving and the variance-exploding forms of the
papers are one: a formula in (alpha, sigma) holds with alpha = 1 and lambda = -log(sigma).
"""

import math
from typing import NamedTuple

import numpy as np
import torch


class State(NamedTuple):
    """After `step` steps: the noisy image x at `sigma`, and x0 as predicted from the one before."""

    step: int
    sigma: float
    x: torch.Tensor  # (B, C, H, W)
    x0: torch.Tensor  # (B, C, H, W)


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


def pairs(sigmas):
    """(step, sigma, the sigma after it), step counted from 1."""
    s = [float(sigma) for sigma in sigmas]
    return [(i + 1, s[i], s[i + 1]) for i in range(len(s) - 1)]


# Stochastic and first order ------------------------------------------------------------------------


def ddim(denoise, sigmas, x, noise, eta=0.0):
    """DDIM (Song et al. 2021, arXiv:2010.02502, eq. 12 and 16): eta 0 is deterministic, Euler's method on the flow."""
    for step, sigma, after in pairs(sigmas):
        x0 = denoise(x, sigma)
        fresh = eta * after * (1 - (after / sigma) ** 2) ** 0.5  # noise that is drawn anew
        kept = (after**2 - fresh**2) ** 0.5  # noise that is carried on
        x = x0 + kept / sigma * (x - x0)
        if fresh > 0:
            x = x + fresh * noise.like(x)
        yield State(step, after, x, x0)


def ddpm(denoise, sigmas, x, noise, variance="small"):
    """DDPM's ancestral sampling (Ho et al. 2020, arXiv:2006.11239, eq. 6 and 7); no noise is added in the last step.

    variance : "small", that of the posterior, or "large", beta itself. Along all T levels it is the
    original algorithm, along fewer its respaced form (Nichol & Dhariwal 2021, section 4).
    """
    for step, sigma, after in pairs(sigmas):
        x0 = denoise(x, sigma)
        shrink = (after / sigma) ** 2
        x = x0 + shrink * (x - x0)
        fresh = {"small": after**2, "large": (1 + after**2) * sigma**2 / (1 + sigma**2)}[
            variance
        ] * (1 - shrink)
        if after > 0:
            x = x + fresh**0.5 * noise.like(x)
        yield State(step, after, x, x0)


def euler_ancestral(denoise, sigmas, x, noise):
    """Euler steps down to less than the next level, then noise up to it: in sigma the same as DDIM with eta = 1."""
    return ddim(denoise, sigmas, x, noise, eta=1.0)


# Deterministic, higher order -----------------------------------------------------------------------


def heun(denoise, sigmas, x, noise=None):
    """Heun's method on the probability flow (Karras et al. 2022, arXiv:2206.00364, algorithm 1), two evaluations a step but the last.

    Its slopes are in sigma: where one step spans a factor of 100, as the first of few along a cosine
    schedule does, it overshoots by as much. Give it Karras' levels.
    """
    for step, sigma, after in pairs(sigmas):
        x0 = denoise(x, sigma)
        slope = (x - x0) / sigma
        euler = x + (after - sigma) * slope
        if after > 0:
            slope = (slope + (euler - denoise(euler, after)) / after) / 2
            euler = x + (after - sigma) * slope
        x = euler
        yield State(step, after, x, x0)


def dpmpp_2m(denoise, sigmas, x, noise=None):
    """DPM-Solver++ 2M (Lu et al. 2022, arXiv:2211.01095, algorithm 2): one evaluation a step, second order."""
    return _dpmpp(denoise, sigmas, x, order=2)


def dpmpp_3m(denoise, sigmas, x, noise=None):
    """DPM-Solver++ multistep of third order (Lu et al. 2022, appendix A, with divided differences).

    The code in circulation takes half of the term in the second derivative and is of second order only.
    """
    return _dpmpp(denoise, sigmas, x, order=3)


def _dpmpp(denoise, sigmas, x, order):
    known = []  # (lambda, x0) of the levels behind, the last first
    for step, sigma, after in pairs(sigmas):
        x0 = denoise(x, sigma)
        known = [(-math.log(sigma), x0), *known[: order - 1]]
        x = x0 if after == 0 else _exponential_step(x, sigma, after, known)
        yield State(step, after, x, x0)


def _exponential_step(x, sigma, after, known):
    """From sigma to `after` with x0 as a polynomial in lambda through the `known` points, integrated exactly."""
    h = math.log(sigma / after)
    x0 = known[0][1]
    phi_1 = math.expm1(-h)
    x = after / sigma * x - phi_1 * x0
    if len(known) == 1:
        return x
    slopes = [
        (a[1] - b[1]) / (a[0] - b[0]) for a, b in zip(known[:-1], known[1:], strict=True)
    ]  # dx0 / dlambda
    if len(known) == 2:
        return x - phi_1 * slopes[0] * h / 2  # the paper's 2M takes the slope at the middle
    bend = (slopes[0] - slopes[1]) / (known[0][0] - known[2][0])  # half of the second derivative
    slope = slopes[0] + bend * (known[0][0] - known[1][0])
    return x + (phi_1 + h) * slope - (phi_1 + h - h**2 / 2) * 2 * bend


def unipc(denoise, sigmas, x, noise=None, order=3):
    """UniPC (Zhao et al. 2023, arXiv:2302.04867, B_2(h)): each evaluation also corrects the step that led to it."""
    # (lambda, x0) of the levels behind, the last first; how this level was reached
    known = []
    earlier = None
    for step, sigma, after in pairs(sigmas):
        x0 = denoise(x, sigma)
        here = (-math.log(sigma), x0)
        if earlier:
            x = _unified_step(*earlier, here)  # the corrector knows where it arrives
        left = (
            len(sigmas) - step if sigmas[-1] == 0 else order
        )  # low order towards 0, where steps are long
        known = [here, *known][: min(order, left)]
        earlier = (x, sigma, after, known)
        x = x0 if after == 0 else _unified_step(*earlier)
        yield State(step, after, x, x0)


def _unified_step(x, sigma, after, known, arrival=None):
    """A step of UniPC from sigma to `after`: the predictor, or with the point of `arrival` the corrector (eq. 3 and 9)."""
    h = math.log(sigma / after)
    place, x0 = known[0]
    points = known[1:] + ([arrival] if arrival else [])
    ratios = np.array([(at - place) / h for at, _ in points])
    phi = math.expm1(-h)
    moments = []
    phi_1 = math.expm1(-h)
    for k in range(1, len(points) + 1):
        phi = phi / -h - 1 / math.factorial(k)  # phi_{k+1}(-h) from phi_k
        moments.append(phi * math.factorial(k) / phi_1)
    powers = np.vander(ratios, increasing=True).T  # row k: ratios^k
    weights = [0.5] if len(points) == 1 else np.linalg.solve(powers, moments)
    change = sum(
        float(w / r) * (seen - x0) for w, r, (_, seen) in zip(weights, ratios, points, strict=True)
    )
    return after / sigma * x - phi_1 * (x0 + change)


SAMPLERS = {f.__name__: f for f in (ddpm, ddim, euler_ancestral, heun, dpmpp_2m, dpmpp_3m, unipc)}


def evaluations(sampler, steps):
    """Network evaluations (NFE) that a sampler needs for so many steps."""
    return 2 * steps - 1 if sampler == "heun" else steps
