"""Noise schedules: which sigmas to train on, which list of sigmas to sample along.

Inside lensnb sigma is the only noise level: x = x0 + sigma * noise. The variance-preserving
quantities of the papers (beta, alpha_bar, t) live in this file and are converted here:
sigma^2 = (1 - alpha_bar) / alpha_bar.

A schedule is made by plain arguments, `cosine(timesteps=1000)`, or by a recipe, `from_params`.
SCHEDULES holds what a recipe may name: name -> builder(the recipe's diffusion section) -> Schedule.
`register` enters a builder there.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from lensnb.registry import Registry

SIGMA_MAX = 1e4  # stands for infinity: an image at this level is noise to single precision


# Betas and alpha_bar of the papers ----------------------------------------------------------------


def linear_betas(timesteps: int = 1000, beta_1: float = 1e-4, beta_T: float = 0.02) -> torch.Tensor:
    """Betas of Ho et al. 2020 (arXiv:2006.11239, section 4); float64 (T,)."""
    return torch.linspace(beta_1, beta_T, timesteps, dtype=torch.float64)


def cosine_betas(timesteps: int = 1000, offset: float = 0.008) -> torch.Tensor:
    """Betas of Nichol & Dhariwal 2021 (arXiv:2102.09672, eq. 17); float64 (T,)."""
    t = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
    return betas_of(torch.cos((t + offset) / (1 + offset) * math.pi / 2) ** 2)


def sigmoid_betas(timesteps: int = 1000, start: float = -3.0, end: float = 3.0) -> torch.Tensor:
    """Betas of the sigmoid schedule; float64 (T,).

    Jabri et al. 2022 (arXiv:2212.11972, algorithm 2) with temperature 1.
    """
    t = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
    falling = torch.sigmoid(-(start + t * (end - start)))
    return betas_of(falling - falling[-1])  # a constant factor of alpha_bar does not change betas


def betas_of(alpha_bar: torch.Tensor, largest: float = 0.999) -> torch.Tensor:
    """Betas (T,) of alpha_bar (T + 1,) at t = 0, 1, .. T.

    largest : upper bound of the betas; it keeps alpha_bar_T above zero and the last sigma finite.
    """
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=largest)


def zero_terminal_snr(betas: torch.Tensor) -> torch.Tensor:
    """Betas (T,) changed so that the last level is pure noise; float64 (T,).

    Lin et al. 2024 (arXiv:2305.08891, algorithm 1). Their last alpha_bar is 0, which makes sigma
    infinite. Here it is the alpha_bar of SIGMA_MAX or a quarter of the alpha_bar before it,
    whichever is smaller.
    """
    root = torch.cumprod(1 - betas, 0).sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    alpha_bar = root**2
    alpha_bar[-1] = min(1 / (1 + SIGMA_MAX**2), alpha_bar[-2].item() / 4)
    return torch.cat([betas[:1], 1 - alpha_bar[1:] / alpha_bar[:-1]])


# Schedules ----------------------------------------------------------------------------------------


class Schedule:
    """A noise schedule. at(u) : the sigma at the place u in [0, 1], rising with u; float64.

    Training draws u at random. Sampling takes at(1), at(1 - 1/steps), ..., unless a subclass
    overrides `levels`.
    """

    def __init__(self, at: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.at = at

    def train_sigmas(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """n random noise levels, one from each n-th of the schedule; float32 (n,).

        Stratifying over the batch lowers the variance of the loss and leaves its mean unchanged
        (Kingma et al. 2021, arXiv:2107.00630, appendix I.1).
        """
        device = generator.device
        u = (torch.arange(n, device=device) + torch.rand(n, generator=generator, device=device)) / n
        if device.type == "mps":  # it has no float64
            return self.at(u.cpu().double()).float().to(device)
        return self.at(u.double()).float()

    def levels(self, steps: int) -> torch.Tensor:
        """The noise levels of `steps` sampling steps, falling; float64 (steps,)."""
        return self.at(1 - torch.arange(steps, dtype=torch.float64) / steps)

    def sample_sigmas(self, steps: int) -> torch.Tensor:
        """Falling noise levels to sample along, ending in 0; float64 (steps + 1,)."""
        return torch.cat([self.levels(steps), torch.zeros(1, dtype=torch.float64)])


class Discrete(Schedule):
    """T variance-preserving noise levels, all float64 of shape (T,).

    betas, alpha_bar : as in the papers; sigmas : rising, in units of the scaled image.
    """

    def __init__(self, betas: torch.Tensor) -> None:
        self.betas = betas
        self.alpha_bar = torch.cumprod(1 - betas, 0)
        self.sigmas = ((1 - self.alpha_bar) / self.alpha_bar).sqrt()
        self._sigmas_on = {self.sigmas.device: self.sigmas}
        super().__init__(self._level)

    def _level(self, u: torch.Tensor) -> torch.Tensor:
        """The level at the place u in [0, 1], looked up on the device of u."""
        if u.device not in self._sigmas_on:
            self._sigmas_on[u.device] = self.sigmas.to(u.device)
        return self._sigmas_on[u.device][(u * len(self)).long().clamp(max=len(self) - 1)]

    def __len__(self) -> int:
        return len(self.betas)

    def timesteps(self, steps: int) -> torch.Tensor:
        """The `steps` indices t to sample along, falling; (steps,).

        Trailing spacing, so the first is T - 1 (Lin et al. 2024, arXiv:2305.08891, table 2).
        Raises ValueError for more steps than levels.
        """
        if not 1 <= steps <= len(self):
            raise ValueError(f"{steps} steps asked of a schedule of {len(self)}")
        places = torch.arange(steps, 0, -1, dtype=torch.float64) * len(self) / steps
        return places.round().long() - 1

    def levels(self, steps: int) -> torch.Tensor:
        """The levels at `timesteps(steps)`, falling; float64 (steps,)."""
        return self.sigmas[self.timesteps(steps)]


class EDM(Schedule):
    """Trained on log-normal levels, sampled along `karras` (Karras et al. 2022, table 1)."""

    def __init__(
        self, mean: float, std: float, sigma_min: float, sigma_max: float, rho: float
    ) -> None:
        super().__init__(functools.partial(log_normal, mean=mean, std=std))
        self.sampling = (sigma_min, sigma_max, rho)

    def levels(self, steps: int) -> torch.Tensor:
        """The levels of `karras`, falling; float64 (steps,)."""
        return karras(steps, *self.sampling)


def log_normal(u: torch.Tensor, mean: float, std: float) -> torch.Tensor:
    """Quantiles at u in [0, 1] of a sigma whose logarithm is normal, cut off at 1e-6 each side."""
    return torch.exp(mean + std * torch.special.ndtri(u.clamp(1e-6, 1 - 1e-6)))


def karras(steps: int, sigma_min: float, sigma_max: float, rho: float) -> torch.Tensor:
    """Falling noise levels, dense at the small end; float64 (steps,).

    Karras et al. 2022 (arXiv:2206.00364, eq. 5).
    """
    high = sigma_max ** (1 / rho)
    low = sigma_min ** (1 / rho)
    return torch.linspace(high, low, steps, dtype=torch.float64) ** rho


# Builders, by plain arguments and for recipes -----------------------------------------------------


SCHEDULES: Registry[Callable[[Any], Schedule]] = Registry("schedule")

Build = TypeVar("Build", bound=Callable[..., Schedule])


def register(name: str, *fields: str) -> Callable[[Build], Build]:
    """A decorator that lets a recipe name a builder.

    fields : of the recipe's diffusion section; they are the builder's arguments, in order
    """

    def enter(build: Build) -> Build:
        SCHEDULES.add(name, lambda section: build(*(getattr(section, field) for field in fields)))
        return build

    return enter


@register("cosine", "timesteps", "zero_snr")
def cosine(timesteps: int = 1000, zero_snr: bool = False) -> Discrete:
    """The cosine schedule of T levels; zero_snr : the last level is pure noise."""
    return _discrete(cosine_betas(timesteps), zero_snr)


@register("linear", "timesteps", "beta_1", "beta_T", "zero_snr")
def linear(
    timesteps: int = 1000, beta_1: float = 1e-4, beta_T: float = 0.02, zero_snr: bool = False
) -> Discrete:
    """The linear schedule of T levels; zero_snr : the last level is pure noise."""
    return _discrete(linear_betas(timesteps, beta_1, beta_T), zero_snr)


@register("sigmoid", "timesteps", "zero_snr")
def sigmoid(timesteps: int = 1000, zero_snr: bool = False) -> Discrete:
    """The sigmoid schedule of T levels; zero_snr : the last level is pure noise."""
    return _discrete(sigmoid_betas(timesteps), zero_snr)


def _discrete(betas: torch.Tensor, zero_snr: bool) -> Discrete:
    return Discrete(zero_terminal_snr(betas) if zero_snr else betas)


@register("signal_rate", "signal_high", "signal_low")
def signal_rate(high: float = 0.95, low: float = 0.02) -> Schedule:
    """Continuous time: the share of the signal falls as a cosine from `high` to `low`.

    It is the schedule of Keras' DDIM example.
    """
    first = math.acos(high)
    last = math.acos(low)
    return Schedule(lambda u: torch.tan(first + u * (last - first)))


@register("edm", "edm_mean", "edm_std", "sigma_min", "sigma_max", "rho")
def edm(
    mean: float = -1.2,
    std: float = 1.2,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
) -> EDM:
    """The schedule of Karras et al. 2022 (arXiv:2206.00364, table 1).

    mean, std : of log(sigma) in training; sigma_min, sigma_max, rho : of the levels to sample along
    """
    return EDM(mean, std, sigma_min, sigma_max, rho)


@register("flow", "times", "edm_mean", "edm_std")
def flow(times: str = "uniform", mean: float = 0.0, std: float = 1.0) -> Schedule:
    """The straight path z = (1 - t) x0 + t noise, in sigma = t / (1 - t).

    Lipman et al. 2023 (arXiv:2210.02747). Sampling takes even t. t stops short of 0 and 1, so that
    sigma is positive and finite.
    times : of training; uniform, or logit_normal: log(sigma) = logit(t) is normal with `mean` and
    `std` (Esser et al. 2024, arXiv:2403.03206, eq. 19)
    """
    return Schedule(_straight) if times == "uniform" else LogitNormal(mean, std)


def _straight(t: torch.Tensor) -> torch.Tensor:
    """The sigma of the time t on the straight path."""
    t = t.clamp(1e-3, SIGMA_MAX / (1 + SIGMA_MAX))
    return t / (1 - t)


class LogitNormal(Schedule):
    """Trained on logit-normal times of the straight path, sampled along even times."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__(functools.partial(log_normal, mean=mean, std=std))

    def levels(self, steps: int) -> torch.Tensor:
        """The levels at the times 1, 1 - 1/steps, ..., falling; float64 (steps,)."""
        return Schedule(_straight).levels(steps)


def from_params(section: Any) -> Schedule:
    """The schedule that a recipe's diffusion section names."""
    return SCHEDULES.find(section.schedule, "diffusion.schedule")(section)
