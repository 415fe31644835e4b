"""Posterior samplers: images x given data y = A(u) + noise, with a denoiser as the prior.

Each is a generator function like the samplers of `sampler`. It takes `denoise(x, sigma) -> x0`,
falling `sigmas` which end in 0, the start `x` (B, C, H, W), a source of noise and an `Observation`
of B rows. It yields the State after every step. None of them knows a network.

Bayes' rule at the noise level sigma: E[x0 | x, y] = D + sigma^2 grad log p(y | x), where D is the
prior's prediction. The samplers differ in how they guess p(y | x), and `smc` mends its guess.
`draw` brings draws in the user's units. A sampler is added by `@register` above its function.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lensnb import sampler
from lensnb.errors import InputError, did_you_mean
from lensnb.observation import Observation, observe
from lensnb.operators import Operator, dot, identity
from lensnb.prior import Prior, differentiable
from lensnb.registry import Registry
from lensnb.sampler import Denoise, ImageNoise, State, States, pairs, start
from lensnb.seeds import Purpose, derived_seed

# The registry -------------------------------------------------------------------------------------

Run = Callable[..., States]


@dataclass(frozen=True)
class Posterior:
    """One posterior sampler.

    run(denoise, sigmas, x, noise, observation, **options) : yields States
    label : its name in texts and figures; options : the keywords that it takes
    together : whether the rows are one population, so that draw i depends on the others
    """

    run: Run
    label: str
    options: tuple[str, ...] = ()
    together: bool = False


POSTERIORS: Registry[Posterior] = Registry("posterior sampler")


def register(name: str, label: str, **properties: Any) -> Callable[[Run], Run]:
    """A decorator that enters a generator function as the Posterior `name`.

    properties : `options` and `together` of the Posterior. The function is returned unchanged.
    """

    def enter(run: Run) -> Run:
        POSTERIORS.add(name, Posterior(run, label, **properties))
        return run

    return enter


# Parts of the samplers ----------------------------------------------------------------------------


def _walk(
    bayes: Denoise,
    denoise: Denoise,
    sigmas: Tensor,
    x: Tensor,
    noise: Any,
    observation: Observation,
    eta: float,
) -> States:
    """SDE-DPM-Solver++ with the posterior's mean `bayes`, then a draw of x0 given x and y.

    At the last level x0 given x is taken as Gaussian with independent pixels. A draw of it is moved
    to the data, which have noise of their own (Matheron's rule; Wilson et al. 2020,
    arXiv:2002.09309, eq. 9). Its mean alone would lack the scatter below the last level.
    """
    for state in sampler.dpmpp_2m_sde(bayes, sigmas[:-1], x, noise, eta):
        x = state.x
        yield state
    sigma = float(sigmas[-2])
    flat = observation.prior.variance(sigma)
    x0 = denoise(x, sigma).detach()
    at = observation.linearised(x0)
    drawn = flat**0.5 * noise.like(x0)
    seen = observation.operator(at.slope * drawn) + at.variance**0.5 * noise.like(observation.y)
    missed = at.residual - observation.seen * seen
    x = x0 + drawn + flat * observation.gain_of(at, missed, lambda u: flat * u, flat, 50)
    yield State(len(sigmas) - 1, 0.0, x, x0)


# The samplers -------------------------------------------------------------------------------------


@register("dps", "DPS", options=("scale",))
def dps(
    denoise: Denoise,
    sigmas: Tensor,
    x: Tensor,
    noise: Any,
    observation: Observation,
    scale: float = 1.0,
) -> States:
    """Diffusion posterior sampling (Chung et al. 2023, arXiv:2209.14687, algorithm 1).

    DDPM with a step of the length `scale` down the gradient of the distance between data and
    prediction, both scaled as images. The noise's size is not used; `scale` decides how close the
    data are met, and the right one depends on data and steps.
    """
    forward = observation.prior.scaling.forward
    for step, sigma, after in pairs(sigmas):
        x0, pull = differentiable(denoise, x, sigma)
        with torch.enable_grad():
            clean = x0.requires_grad_()
            noiseless = observation.operator(observation.image(clean))
            off = (forward(observation.y) - forward(noiseless)) * observation.seen
            distance = (dot(off, off) + 1e-20).sqrt().sum()  # finite slope at 0
        downhill = pull(torch.autograd.grad(distance, clean)[0])
        x0 = x0.detach()
        shrink = (after / sigma) ** 2
        x = x0 + shrink * (x - x0)
        if after > 0:
            x = x + after * (1 - shrink) ** 0.5 * noise.like(x)
        # the paper's step is in x / sqrt(1 + sigma^2)
        x = x - scale * ((1 + after**2) * (1 + sigma**2)) ** 0.5 * downhill
        yield State(step, after, x, x0)


@register("pigdm", "PiGDM", options=("eta", "iterations"))
def pigdm(
    denoise: Denoise,
    sigmas: Tensor,
    x: Tensor,
    noise: Any,
    observation: Observation,
    eta: float = 1.0,
    iterations: int = 20,
) -> States:
    """Pseudo-inverse guidance (Song et al. 2023, ICLR, eq. 7 and 8): one gradient a step.

    x0 given x is taken as Gaussian with independent pixels of the variance r^2, where
    1 / r^2 = 1 / sigma^2 + 1 / spread^2. The gradient has Tweedie's weight sigma^2; the paper's own
    is r^2.
    """

    def bayes(x: Tensor, sigma: float) -> Tensor:
        x0, pull = differentiable(denoise, x, sigma)
        at = observation.linearised(x0)
        flat = observation.prior.variance(sigma)
        gain = observation.gain_of(at, at.residual, lambda u: flat * u, flat, iterations)
        return x0 + sigma**2 * pull(gain)

    return _walk(bayes, denoise, sigmas, x, noise, observation, eta)


@register("mmps", "MMPS", options=("eta", "iterations"))
def mmps(
    denoise: Denoise,
    sigmas: Tensor,
    x: Tensor,
    noise: Any,
    observation: Observation,
    eta: float = 1.0,
    iterations: int = 3,
) -> States:
    """Moment matching (Rozet et al. 2024, arXiv:2405.13712, eq. 11 to 14).

    x0 given x is taken as Gaussian with the covariance sigma^2 dD/dx, which is that of an exact
    denoiser. Exact for a Gaussian prior and a linear scaling, up to the steps.
    iterations : of conjugate gradients a step, each with one gradient of the denoiser
    """

    def bayes(x: Tensor, sigma: float) -> Tensor:
        x0, pull = differentiable(denoise, x, sigma)
        at = observation.linearised(x0)
        flat = observation.prior.variance(sigma)

        def covariance(u: Tensor) -> Tensor:
            return sigma**2 * pull(u)

        return x0 + covariance(observation.gain_of(at, at.residual, covariance, flat, iterations))

    return _walk(bayes, denoise, sigmas, x, noise, observation, eta)


@register("smc", "twisted SMC", options=("resample",), together=True)
def smc(
    denoise: Denoise,
    sigmas: Tensor,
    x: Tensor,
    noise: Any,
    observation: Observation,
    resample: float = 0.5,
) -> States:
    """The twisted diffusion sampler (Wu et al. 2023, arXiv:2306.17775, algorithm 1).

    All rows are particles of one observation. They follow DDPM led by a guess of p(y | x), and
    carry the weights that mend the guess. With many particles the draws are those of DDPM's own
    images given y, whatever the guess. They are drawn again when the effective number falls below
    the share `resample`, and at the end, so that some come twice.
    """
    now = _twisted(denoise, observation, x, float(sigmas[0]))
    log_weights = now.log_guess
    for step, sigma, after in pairs(sigmas):
        share = log_weights.softmax(0)
        if 1 / (share**2).sum() < resample * len(x):
            kept = _resampled(share, noise, x)
            x, now = x[kept], Twisted(*(part[kept] for part in now))
            log_weights = torch.zeros_like(log_weights)
        shrink = (after / sigma) ** 2
        x0, log_guess = now.x0, now.log_guess
        plain = x0 + shrink * (x - x0)
        if after > 0:
            variance = after**2 * (1 - shrink)
            led = plain + (1 - shrink) * sigma**2 * now.gradient
            x = led + variance**0.5 * noise.like(x)
            log_ratio = (dot(x - led, x - led) - dot(x - plain, x - plain)) / (2 * variance)
            now = _twisted(denoise, observation, x, after)
            log_weights = log_weights + log_ratio.flatten() + now.log_guess - log_guess
        else:
            exact = observation.log_likelihood(plain)
            x = plain[_resampled((log_weights + exact - log_guess).softmax(0), noise, x)]
        yield State(step, after, x, x0)


class Twisted(NamedTuple):
    """Of particles: the prediction x0, the guess of log p(y | x), and its gradient by x."""

    x0: Tensor
    log_guess: Tensor  # (B,)
    gradient: Tensor


def _twisted(denoise: Denoise, observation: Observation, x: Tensor, sigma: float) -> Twisted:
    """log p(y | x) guessed as if pixels of x0 were independent, given x, and so were data."""
    x0, pull = differentiable(denoise, x, sigma)
    wider = observation.prior.variance(sigma) * observation.linearised(x0).gain
    with torch.enable_grad():
        clean = x0.requires_grad_()
        log_guess = observation.log_likelihood(clean, wider)
        total = log_guess.sum()
    gradient = pull(torch.autograd.grad(total, clean)[0])
    return Twisted(x0.detach(), log_guess.detach(), gradient)


def _resampled(share: Tensor, noise: Any, x: Tensor) -> Tensor:
    """Indices of as many particles, drawn by their shares with one random number (systematic)."""
    one = torch.special.ndtr(noise.like(x).flatten()[0]).to(share)
    places = (torch.arange(len(share)).to(share) + one) / len(share)
    return torch.searchsorted(share.cumsum(0), places).clamp(max=len(share) - 1)


# Draws in the user's units ------------------------------------------------------------------------


class Draws(NamedTuple):
    """Draws of posteriors.

    images : (n, C, H, W) in the user's units, or (N, n, C, H, W) for data of N images
    chi2 : squared residuals in units of the noise, a datum, (n,) or (N, n); about 1 is right
    """

    images: np.ndarray
    chi2: np.ndarray


def draw(
    prior: Any,
    y: Any,
    operator: Operator = identity,
    noise: Any = None,
    n: int = 64,
    method: str = "mmps",
    steps: int = 20,
    seed: int = 0,
    batch: int = 64,
    seen: Any = None,
    **options: Any,
) -> Draws:
    """n draws of the posterior of each image that was observed.

    prior : a Prior, or a generator that has one, such as lensnb.load("reference")
    y, operator, noise, seen : as for `observation.observe`
    method, options : a posterior sampler and its keywords; steps : noise levels
    batch : draws at a time; memory grows with it. `smc` takes all n draws at a time.
    Draw k of image m depends on (seed, m, k) alone, but for `smc`.
    Raises InputError for an unknown method or option, for data as `observe` does, and for draws
    that are not finite.
    """
    prior = prior if isinstance(prior, Prior) else prior.prior()
    found = POSTERIORS.find(method)
    _check(method, found, options, n, batch, steps)
    observation = observe(prior, y, operator, noise, seen)
    numbers = [(m, k) for m in range(len(observation.y)) for k in range(n)]
    size = n if found.together else batch
    images, chi2 = [], []
    for at in range(0, len(numbers), size):
        part = numbers[at : at + size]
        *_, last = states(prior, observation, part, method, steps, seed, **options)
        u = observation.image(last.x)
        images.append(u.float().cpu())
        chi2.append(observation.rows([m for m, _ in part]).chi2(u).float().cpu())
    made = Draws(
        torch.cat(images).view(-1, n, *prior.shape).numpy(), torch.cat(chi2).view(-1, n).numpy()
    )
    if not np.isfinite(made.images).all():
        raise InputError(f"{method}: draws are not finite; take more steps or fewer iterations")
    alone = np.ndim(y) < observation.y.ndim
    return Draws(made.images[0], made.chi2[0]) if alone else made


def _check(
    method: str, found: Posterior, options: Iterable[str], n: int, batch: int, steps: int
) -> None:
    for option in options:
        if option not in found.options:
            hint = did_you_mean(option, found.options)
            raise InputError(f"{method} has no option {option!r}; {hint}")
    if n < 1 or batch < 1 or steps < 2:
        raise InputError(
            f"draw: expected n and batch of 1 or more and 2 steps or more, found n {n}, "
            f"batch {batch} and {steps} steps"
        )


@torch.no_grad()  # only while it runs: between its steps the caller's gradients are on
def states(
    prior: Prior,
    observation: Observation,
    numbers: Sequence[tuple[int, int]],
    method: str = "mmps",
    steps: int = 20,
    seed: int = 0,
    **options: Any,
) -> States:
    """The States of draws, given by numbers (image of the observation, draw), in scaled images."""
    sigmas = prior.sigmas(steps)
    noise = ImageNoise(derived_seed(seed, Purpose.POSTERIOR, m, k) for m, k in numbers)
    x = start(sigmas, prior.shape, noise, prior.dtype, prior.device)
    rows = observation.rows([m for m, _ in numbers])
    yield from POSTERIORS.find(method).run(prior.denoise, sigmas, x, noise, rows, **options)
