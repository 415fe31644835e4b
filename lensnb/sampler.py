"""Samplers: plain generator functions along a falling list of sigmas.

Each takes `denoise(x, sigma) -> x0`, falling `sigmas` (steps + 1,), which mostly end in 0, the
start `x` (B, C, H, W) and a source of noise. It yields the State after every step. None of them
knows a network. With x = x0 + sigma * noise, the variance-preserving and the variance-exploding
forms of the papers are the same: a formula in (alpha, sigma) holds with alpha = 1 and
lambda = -log(sigma).

A sampler is added by `@register(name, label)` above its function. `sample` draws images.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lensnb.errors import InputError, did_you_mean
from lensnb.kinds import KINDS
from lensnb.noise import ImageNoise
from lensnb.registry import Registry
from lensnb.seeds import image_seeds

Denoise = Callable[[Tensor, float], Tensor]  # (x, sigma) -> x0
Point = tuple[float, Tensor]  # lambda = -log(sigma), and x0 as predicted there


class State(NamedTuple):
    """After `step` steps: the noisy image x at `sigma`, and x0 as predicted one step before."""

    step: int
    sigma: float
    x: Tensor  # (B, C, H, W)
    x0: Tensor  # (B, C, H, W)


States = Iterator[State]


def start(
    sigmas: Tensor,
    shape: Sequence[int],
    noise: ImageNoise,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> Tensor:
    """The start x (B, *shape): noise of the standard deviation sqrt(1 + sigmas[0]^2).

    Images of unit variance have this standard deviation at the first noise level.
    """
    return (1 + sigmas[0] ** 2).sqrt().item() * noise(shape, dtype, device)


def about_the_mean(denoise: Denoise, sigmas: Tensor, x: Tensor) -> Tensor:
    """The start x moved from zero to the mean image, as it is predicted from x: one evaluation.

    A noisy image is x0 + sigma * noise, and noise alone lacks the mean of x0. The probability flow
    keeps an offset in units of the spread: along a direction of standard deviation s the images
    end s / sigma of the mean too near to zero.
    """
    return x + denoise(x, float(sigmas[0]))


def pairs(sigmas: Tensor) -> list[tuple[int, float, float]]:
    """(step, sigma, the sigma after it), step counted from 1."""
    s = [float(sigma) for sigma in sigmas]
    return [(i + 1, s[i], s[i + 1]) for i in range(len(s) - 1)]


# The registry -------------------------------------------------------------------------------------


def once_a_step(steps: int) -> int:
    """Network evaluations of a sampler that evaluates once a step."""
    return steps


def twice_but_the_last(steps: int) -> int:
    """Network evaluations of a sampler that evaluates twice a step, and once in the last step."""
    return 2 * steps - 1


Run = Callable[..., States]


@dataclass(frozen=True)
class Sampler:
    """One sampler.

    run(denoise, sigmas, x, noise, **options) : yields States
    label : its name in texts and figures
    options : the keywords that it takes, which are fields of a recipe's method
    evaluations : steps -> number of network evaluations (NFE)
    """

    run: Run
    label: str
    options: tuple[str, ...] = ()
    evaluations: Callable[[int], int] = once_a_step


SAMPLERS: Registry[Sampler] = Registry("sampler")


def register(name: str, label: str, **properties: Any) -> Callable[[Run], Run]:
    """A decorator that enters a generator function as the Sampler `name`.

    properties : `options` and `evaluations` of the Sampler. The function is returned unchanged.
    """

    def enter(run: Run) -> Run:
        SAMPLERS.add(name, Sampler(run, label, **properties))
        return run

    return enter


# The samplers of the methods that the recipes of this project name.
METHODS = {"ddpm": "ddpm", "ddim": "ddim", "dpm": "dpmpp_2m"}


def method_name(method: str) -> str:
    """The name of a recipe's method as it is written, such as "DPM-Solver++" for "dpm".

    The methods of the recipes have the label of their sampler or of their kind of generator. Any
    other name stays as the user wrote it.
    """
    if method in KINDS:
        return KINDS[method].label
    return SAMPLERS[METHODS[method]].label if method in METHODS else method


def evaluations(name: str, steps: int) -> int:
    """Network evaluations (NFE) that the sampler `name` needs for this number of steps."""
    return SAMPLERS.find(name).evaluations(steps)


# Stochastic and first order -----------------------------------------------------------------------

VARIANCES = {"small": 0.0, "large": 1.0}


@register("ddpm", "DDPM", options=("variance",))
def ddpm(
    denoise: Denoise, sigmas: Tensor, x: Tensor, noise: Any, variance: str | float = "small"
) -> States:
    """DDPM's ancestral sampling (Ho et al. 2020, arXiv:2006.11239, eq. 6 and 7).

    No noise is added in the last step.
    variance : of the added noise; "small" is the posterior's for a single known image, "large" is
    beta, right for images that are white noise. A number v from 0 to 1 lies between them:
    log variance = (1 - v) log small + v log large (Nichol & Dhariwal 2021, arXiv:2102.09672,
    eq. 15, where a network learns v). Along all T levels this is the original algorithm, along
    fewer its respaced form (section 4 there).
    """
    v = VARIANCES.get(variance) if isinstance(variance, str) else variance
    if v is None or not 0 <= v <= 1:
        raise InputError(f"variance: expected small, large or 0 to 1, found {variance!r}")
    for step, sigma, after in pairs(sigmas):
        x0 = denoise(x, sigma)
        shrink = (after / sigma) ** 2
        x = x0 + shrink * (x - x0)
        large = (1 + after**2) * sigma**2 / (1 + sigma**2)
        fresh = after ** (2 - 2 * v) * large**v * (1 - shrink)  # variance of the fresh noise
        if after > 0:
            x = x + fresh**0.5 * noise.like(x)
        yield State(step, after, x, x0)


@register("ddim", "DDIM", options=("eta",))
def ddim(denoise: Denoise, sigmas: Tensor, x: Tensor, noise: Any, eta: float = 0.0) -> States:
    """DDIM (Song et al. 2021, arXiv:2010.02502, eq. 12 and 16).

    eta : 0 is deterministic, Euler's method on the probability flow; 1 is as noisy as DDPM
    """
    for step, sigma, after in pairs(sigmas):
        x0 = denoise(x, sigma)
        fresh = eta * after * (1 - (after / sigma) ** 2) ** 0.5  # fresh noise
        kept = (after**2 - fresh**2) ** 0.5  # noise that is kept
        x = x0 + kept / sigma * (x - x0)
        if fresh > 0:
            x = x + fresh * noise.like(x)
        yield State(step, after, x, x0)


@register("euler_ancestral", "Euler ancestral")
def euler_ancestral(denoise: Denoise, sigmas: Tensor, x: Tensor, noise: Any) -> States:
    """Euler steps to below the next level, then noise up to it.

    Written in sigma, it is DDIM with eta = 1.
    """
    return ddim(denoise, sigmas, x, noise, eta=1.0)


# Deterministic, higher order ----------------------------------------------------------------------


@register("heun", "Heun", evaluations=twice_but_the_last)
def heun(denoise: Denoise, sigmas: Tensor, x: Tensor, noise: Any = None) -> States:
    """Heun's method on the probability flow (Karras et al. 2022, arXiv:2206.00364, algorithm 1).

    Two evaluations a step, one in the last. A step is straight in sigma, so a step over a factor of
    100 overshoots by as much. The first of few steps along a cosine schedule is such a step: give
    it Karras' levels.
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


@register("heun_flow", "Heun along the straight path", evaluations=twice_but_the_last)
def heun_flow(denoise: Denoise, sigmas: Tensor, x: Tensor, noise: Any = None) -> States:
    """Heun's method on the flow z = x / (1 + sigma) in the time t = sigma / (1 + sigma).

    dz/dt = noise - x0 = (x - x0) / sigma - x0 (Lipman et al. 2023, arXiv:2210.02747). Two
    evaluations a step, one in the last. A step may start at noise alone, where `heun` overshoots.
    Euler's method on this flow is DDIM without noise.
    """
    for step, sigma, after in pairs(sigmas):
        x0 = denoise(x, sigma)
        velocity = (x - x0) / sigma - x0
        dt = after / (1 + after) - sigma / (1 + sigma)
        z = x / (1 + sigma)
        x = (1 + after) * (z + dt * velocity)
        if after > 0:
            ahead = denoise(x, after)
            velocity = (velocity + (x - ahead) / after - ahead) / 2
            x = (1 + after) * (z + dt * velocity)
        yield State(step, after, x, x0)


@register("dpmpp_2m", "DPM-Solver++")
def dpmpp_2m(denoise: Denoise, sigmas: Tensor, x: Tensor, noise: Any = None) -> States:
    """DPM-Solver++ 2M: one evaluation a step, second order.

    Lu et al. 2022 (arXiv:2211.01095, algorithm 2).
    """
    return _dpmpp(denoise, sigmas, x, order=2)


@register("dpmpp_3m", "DPM-Solver++ 3M")
def dpmpp_3m(denoise: Denoise, sigmas: Tensor, x: Tensor, noise: Any = None) -> States:
    """DPM-Solver++ multistep of third order (Lu et al. 2022, appendix A, with divided differences).

    The code in circulation takes half of the term in the second derivative. It is therefore of
    second order only.
    """
    return _dpmpp(denoise, sigmas, x, order=3)


def _dpmpp(denoise: Denoise, sigmas: Tensor, x: Tensor, order: int) -> States:
    known: list[Point] = []  # of the levels passed, the latest first
    for step, sigma, after in pairs(sigmas):
        x0 = denoise(x, sigma)
        known = [(-math.log(sigma), x0), *known[: order - 1]]
        x = x0 if after == 0 else _exponential_step(x, sigma, after, known)
        yield State(step, after, x, x0)


def _exponential_step(x: Tensor, sigma: float, after: float, known: list[Point]) -> Tensor:
    """A step from sigma to `after`, integrated exactly for a polynomial x0.

    x0 is the polynomial in lambda through the `known` points.
    """
    h = math.log(sigma / after)
    x0 = known[0][1]
    phi_1 = math.expm1(-h)
    x = after / sigma * x - phi_1 * x0
    if len(known) == 1:
        return x
    neighbours = zip(known[:-1], known[1:], strict=True)
    slopes = [(a[1] - b[1]) / (a[0] - b[0]) for a, b in neighbours]  # dx0 / dlambda
    if len(known) == 2:
        return x - phi_1 * slopes[0] * h / 2  # the paper's 2M takes the slope at the middle
    bend = (slopes[0] - slopes[1]) / (known[0][0] - known[2][0])  # half of the second derivative
    slope = slopes[0] + bend * (known[0][0] - known[1][0])
    return x + (phi_1 + h) * slope - (phi_1 + h - h**2 / 2) * 2 * bend


@register("dpmpp_2m_sde", "SDE-DPM-Solver++", options=("eta",))
def dpmpp_2m_sde(
    denoise: Denoise, sigmas: Tensor, x: Tensor, noise: Any, eta: float = 1.0
) -> States:
    """DPM-Solver++ 2M with fresh noise in every step (Lu et al. 2022, SDE-DPM-Solver++(2M)).

    eta : 0 is DPM-Solver++ 2M; 1 is as noisy as DDPM, and of second order where DDPM is of first
    """
    earlier: Point | None = None
    for step, sigma, after in pairs(sigmas):
        x0 = denoise(x, sigma)
        here = (-math.log(sigma), x0)
        if after == 0:
            x = x0
        else:
            h = math.log(sigma / after)
            middle = x0  # as expected half-way, on the line through this point and the one before
            if earlier:
                middle = x0 + h / 2 * (x0 - earlier[1]) / (here[0] - earlier[0])
            x = after / sigma * math.exp(-eta * h) * x - math.expm1(-(1 + eta) * h) * middle
            if eta > 0:
                x = x + after * (-math.expm1(-2 * eta * h)) ** 0.5 * noise.like(x)
        earlier = here
        yield State(step, after, x, x0)


@register("unipc", "UniPC")
def unipc(denoise: Denoise, sigmas: Tensor, x: Tensor, noise: Any = None, order: int = 3) -> States:
    """UniPC with B_2(h): each evaluation also corrects the step that led to it.

    Zhao et al. 2023 (arXiv:2302.04867).
    """
    known: list[Point] = []  # of the levels passed, the latest first
    earlier = None  # the step that led to this level
    for step, sigma, after in pairs(sigmas):
        x0 = denoise(x, sigma)
        here = (-math.log(sigma), x0)
        if earlier:
            x = _unified_step(*earlier, here)  # the corrector knows the prediction at its end
        # the order falls towards sigma = 0, where steps are long in lambda
        left = len(sigmas) - step if sigmas[-1] == 0 else order
        known = [here, *known][: min(order, left)]
        earlier = (x, sigma, after, known)
        x = x0 if after == 0 else _unified_step(*earlier)
        yield State(step, after, x, x0)


def _unified_step(
    x: Tensor, sigma: float, after: float, known: list[Point], arrival: Point | None = None
) -> Tensor:
    """A step of UniPC from sigma to `after` (eq. 3 and 9).

    It is the predictor, or with the point of `arrival` the corrector.
    """
    h = math.log(sigma / after)
    place, x0 = known[0]
    points = known[1:] + ([arrival] if arrival else [])
    ratios = np.array([(at - place) / h for at, _ in points])
    phi_1 = math.expm1(-h)
    change = sum(
        float(w / r) * (seen - x0)
        for w, r, (_, seen) in zip(_unified_weights(ratios, h), ratios, points, strict=True)
    )
    return after / sigma * x - phi_1 * (x0 + change)


def _unified_weights(ratios: np.ndarray, h: float) -> Sequence[float] | np.ndarray:
    """Weights of the points of a step of UniPC, at `ratios` of its length h in lambda."""
    if len(ratios) == 1:
        return [0.5]
    phi_1 = phi = math.expm1(-h)
    moments = []
    for k in range(1, len(ratios) + 1):
        phi = phi / -h - 1 / math.factorial(k)  # phi_{k+1}(-h) from phi_k
        moments.append(phi * math.factorial(k) / phi_1)
    powers = np.vander(ratios, increasing=True).T  # row k: ratios^k
    return np.linalg.solve(powers, moments)


# Drawing images -----------------------------------------------------------------------------------


@torch.inference_mode()
def sample(
    net: Callable[..., Tensor],
    name: str,
    sigmas: Any,
    n: int,
    shape: Sequence[int],
    seed: int = 0,
    context: Tensor | None = None,
    batch: int = 64,
    **options: Any,
) -> np.ndarray:
    """n images drawn by a sampler: float32 array (n, *shape) in model units.

    net : any denoise(x, sigma, context); it runs where its weights are, in evaluation mode
    name, options : the sampler and its keywords, such as "ddim" and eta=0.5
    sigmas : falling noise levels (steps + 1,); shape : of one image (C, H, W)
    context : (n, K), or None for a net that takes none; batch : images at a time
    Image i depends only on (seed, i) and its context.
    Raises InputError for an unknown sampler or option, and for sigmas that do not fall.
    """
    sampler = SAMPLERS.find(name)
    _check_options(name, sampler, options)
    levels = _falling(sigmas)
    made = np.empty((n, *shape), np.float32)
    with _evaluating(net) as device:
        for at in range(0, n, batch):
            noise = ImageNoise(image_seeds(seed, at, min(batch, n - at)))
            x = start(levels, shape, noise, device=device)
            denoise = net
            if context is not None:
                denoise = functools.partial(net, context=context[at : at + batch].to(device))
            for state in sampler.run(denoise, levels, x, noise, **options):
                x = state.x
            made[at : at + batch] = x.float().cpu().numpy()  # the one wait of a batch
    return made


def _check_options(name: str, sampler: Sampler, options: Iterable[str]) -> None:
    for option in options:
        if option not in sampler.options:
            hint = did_you_mean(option, sampler.options)
            raise InputError(f"{name} has no option {option!r}; {hint}")


def _falling(sigmas: Any) -> Tensor:
    """The noise levels as float64 (steps + 1,); raises InputError unless they fall to 0 or more."""
    levels = torch.as_tensor(sigmas, dtype=torch.float64).cpu()
    falling = levels.ndim == 1 and len(levels) > 1 and bool((levels.diff() < 0).all())
    if not falling or levels[-1] < 0 or not torch.isfinite(levels[0]):
        raise InputError("sigmas: expected two or more noise levels that fall to 0 or more")
    return levels


@contextlib.contextmanager
def _evaluating(net: Any) -> Iterator[torch.device]:
    """A context in which the network is in evaluation mode; yields its device.

    Each module gets its former mode back.
    """
    modules = list(net.modules()) if isinstance(net, nn.Module) else []
    modes = [module.training for module in modules]
    weights = next(net.parameters(), None) if modules else None
    try:
        for module in modules:
            module.training = False
        yield torch.device("cpu") if weights is None else weights.device
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
