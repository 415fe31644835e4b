"""Noise schedules: which sigmas to train on, which list of sigmas to sample along.

Inside lensnb the noise level is sigma alone, x = x0 + sigma * noise. The variance-preserving
quantities of the papers (beta, alpha_bar, t) live in this file and are converted here:
sigma^2 = (1 - alpha_bar) / alpha_bar.
"""

import math

import torch


def linear_betas(timesteps=1000, beta_1=1e-4, beta_T=0.02):
    """Betas of Ho et al. 2020 (arXiv:2006.11239, section 4); float64 (T,)."""
    return torch.linspace(beta_1, beta_T, timesteps, dtype=torch.float64)


def cosine_betas(timesteps=1000, offset=0.008, largest=0.999):
    """Betas of Nichol & Dhariwal 2021 (arXiv:2102.09672, eq. 17); float64 (T,).

    `largest` keeps alpha_bar_T above zero, so that the last sigma is finite.
    """
    t = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
    alpha_bar = torch.cos((t + offset) / (1 + offset) * math.pi / 2) ** 2
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=largest)


class Schedule:
    """A discrete variance-preserving schedule of T noise levels, all float64 of shape (T,).

    betas, alpha_bar : as in the papers; sigmas : rising, in units of the scaled image.
    """

    def __init__(self, betas):
        self.betas = betas
        self.alpha_bar = torch.cumprod(1 - betas, 0)
        self.sigmas = ((1 - self.alpha_bar) / self.alpha_bar).sqrt()

    @classmethod
    def from_params(cls, diffusion):
        """The schedule that a recipe's `diffusion` section names."""
        if diffusion.schedule == "linear":
            return cls(linear_betas(diffusion.timesteps, diffusion.beta_1, diffusion.beta_T))
        return cls(cosine_betas(diffusion.timesteps))

    def __len__(self):
        return len(self.betas)

    def train_sigmas(self, n, generator=None):
        """n random noise levels, one from each n-th of the schedule; float32 (n,).

        Stratifying over the batch lowers the variance of the loss (Kingma et al. 2021,
        arXiv:2107.00630, appendix I.1) and leaves its mean as it is.
        """
        device = generator.device if generator else "cpu"
        u = (torch.arange(n, device=device) + torch.rand(n, generator=generator, device=device)) / n
        return self.sigmas.float().to(device)[(u * len(self)).long().clamp(max=len(self) - 1)]

    def timesteps(self, steps):
        """The `steps` indices t that are sampled along, falling; trailing spacing, so T - 1 is first.

        Lin et al. 2024 (arXiv:2305.08891, table 2).
        """
        if not 1 <= steps <= len(self):
            raise ValueError(f"{steps} steps asked of a schedule of {len(self)}")
        return (torch.arange(steps, 0, -1, dtype=torch.float64) * len(self) / steps).round().long() - 1

    def sample_sigmas(self, steps):
        """Falling noise levels to sample along, ending in 0; float64 (steps + 1,)."""
        return torch.cat([self.sigmas[self.timesteps(steps)], torch.zeros(1, dtype=torch.float64)])
