"""Noise schedules: which sigmas to train on, which list of sigmas to sample along.

Inside lensnb the noise level is sigma alone, x = x0 + sigma * noise. The variance-preserving
quantities of the papers (beta, alpha_bar, t) live in this file and are converted here:
sigma^2 = (1 - alpha_bar) / alpha_bar.
"""

import math

import torch

SIGMA_MAX = 1e4  # stands for infinity: an image at this level is noise to single precision


# Betas and alpha_bar of the papers -----------------------------------------------------------------


def linear_betas(timesteps=1000, beta_1=1e-4, beta_T=0.02):
    """Betas of Ho et al. 2020 (arXiv:2006.11239, section 4); float64 (T,)."""
    return torch.linspace(beta_1, beta_T, timesteps, dtype=torch.float64)


def betas_of(alpha_bar, largest=0.999):
    """Betas (T,) of alpha_bar at t = 0, 1, .. T; `largest` keeps alpha_bar_T above zero, so that the last sigma is finite."""
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=largest)


def cosine_betas(timesteps=1000, offset=0.008):
    """Betas of Nichol & Dhariwal 2021 (arXiv:2102.09672, eq. 17); float64 (T,)."""
    t = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
    return betas_of(torch.cos((t + offset) / (1 + offset) * math.pi / 2) ** 2)


def sigmoid_betas(timesteps=1000, start=-3.0, end=3.0):
    """Betas of the sigmoid schedule of Jabri et al. 2022 (arXiv:2212.11972, algorithm 2; temperature 1); float64 (T,)."""
    t = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
    falling = torch.sigmoid(-(start + t * (end - start)))
    return betas_of(falling - falling[-1])  # a factor of alpha_bar leaves the betas as they are


def zero_terminal_snr(betas):
    """Betas shifted so that the last level is noise alone (Lin et al. 2024, arXiv:2305.08891, algorithm 1); float64 (T,).

    The last alpha_bar is not 0 but that of SIGMA_MAX, or a quarter of the one before where that is
    below already, so that nothing becomes infinite.
    """
    root = torch.cumprod(1 - betas, 0).sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    alpha_bar = root**2
    alpha_bar[-1] = min(1 / (1 + SIGMA_MAX**2), alpha_bar[-2].item() / 4)
    return torch.cat([betas[:1], 1 - alpha_bar[1:] / alpha_bar[:-1]])


# Schedules -----------------------------------------------------------------------------------------


class Schedule:
    """A schedule as `at(u)`: the sigma at the place u in [0, 1] of training, rising; float64.

    Sampling goes along at(1), at(1 - 1/steps), .. unless a subclass knows better.
    """

    def __init__(self, at):
        self.at = at

    def train_sigmas(self, n, generator):
        """n random noise levels, one from each n-th of the schedule; float32 (n,).

        Stratifying over the batch lowers the variance of the loss (Kingma et al. 2021,
        arXiv:2107.00630, appendix I.1) and leaves its mean as it is.
        """
        device = generator.device
        u = (torch.arange(n, device=device) + torch.rand(n, generator=generator, device=device)) / n
        return (
            self.at(u.cpu().double()).float().to(device)
        )  # in float64, which not every device has

    def levels(self, steps):
        """The noise levels that `steps` evaluations are made at, falling; float64 (steps,)."""
        return self.at(1 - torch.arange(steps, dtype=torch.float64) / steps)

    def sample_sigmas(self, steps):
        """Falling noise levels to sample along, ending in 0; float64 (steps + 1,)."""
        return torch.cat([self.levels(steps), torch.zeros(1, dtype=torch.float64)])


class Discrete(Schedule):
    """T variance-preserving noise levels, all float64 of shape (T,).

    betas, alpha_bar : as in the papers; sigmas : rising, in units of the scaled image.
    """

    def __init__(self, betas):
        self.betas = betas
        self.alpha_bar = torch.cumprod(1 - betas, 0)
        self.sigmas = ((1 - self.alpha_bar) / self.alpha_bar).sqrt()
        super().__init__(lambda u: self.sigmas[(u * len(self)).long().clamp(max=len(self) - 1)])

    def __len__(self):
        return len(self.betas)

    def timesteps(self, steps):
        """The `steps` indices t that are sampled along, falling; trailing spacing, so T - 1 is first.

        Lin et al. 2024 (arXiv:2305.08891, table 2).
        """
        if not 1 <= steps <= len(self):
            raise ValueError(f"{steps} steps asked of a schedule of {len(self)}")
        return (
            torch.arange(steps, 0, -1, dtype=torch.float64) * len(self) / steps
        ).round().long() - 1

    def levels(self, steps):
        return self.sigmas[self.timesteps(steps)]


def signal_rate(high, low):
    """Continuous time: the share of the signal falls as a cosine from `high` to `low` (Keras' DDIM example)."""
    first = math.acos(high)
    last = math.acos(low)
    return Schedule(lambda u: torch.tan(first + u * (last - first)))


def flow():
    """The straight path z = (1 - t) x0 + t noise, t uniform (Lipman et al. 2023, arXiv:2210.02747): sigma = t / (1 - t)."""
    smallest = 1e-3
    largest = SIGMA_MAX / (1 + SIGMA_MAX)
    return Schedule(lambda u: u.clamp(smallest, largest) / (1 - u.clamp(smallest, largest)))


def karras(steps, sigma_min, sigma_max, rho):
    """Falling noise levels, dense at the small end (Karras et al. 2022, arXiv:2206.00364, eq. 5); float64 (steps,)."""
    high = sigma_max ** (1 / rho)
    low = sigma_min ** (1 / rho)
    return torch.linspace(high, low, steps, dtype=torch.float64) ** rho


class EDM(Schedule):
    """Trained on log-normal levels, sampled along `karras` (Karras et al. 2022, table 1)."""

    def __init__(self, mean, std, sigma_min, sigma_max, rho):
        super().__init__(
            lambda u: torch.exp(mean + std * torch.special.ndtri(u.clamp(1e-6, 1 - 1e-6)))
        )
        self.levels = lambda steps: karras(steps, sigma_min, sigma_max, rho)


def from_params(diffusion):
    """The schedule that a recipe's `diffusion` section names."""
    d = diffusion
    if d.schedule in ("linear", "cosine", "sigmoid"):
        betas = {
            "linear": lambda: linear_betas(d.timesteps, d.beta_1, d.beta_T),
            "cosine": lambda: cosine_betas(d.timesteps),
            "sigmoid": lambda: sigmoid_betas(d.timesteps),
        }[d.schedule]()
        return Discrete(zero_terminal_snr(betas) if d.zero_snr else betas)
    return {
        "signal_rate": lambda: signal_rate(d.signal_high, d.signal_low),
        "flow": flow,
        "edm": lambda: EDM(d.edm_mean, d.edm_std, d.sigma_min, d.sigma_max, d.rho),
    }[d.schedule]()
