"""From a network to `denoise(x, sigma, context) -> x0`, the one contract that samplers know.

A network sees an input of bounded scale and the noise level; what it predicts and how that becomes
a clean image is decided here, as a thin preconditioning around any network (Karras et al. 2022,
arXiv:2206.00364, eq. 7): x0 = c_skip x + c_out F(c_in x, c_noise).
"""

import torch
from torch import nn

from lensnb.networks.dit import DiT
from lensnb.unet import UNet

NETWORKS = {"unet": UNet, "dit": DiT}


# What the network predicts: (sigma, sigma_data) -> c_skip, c_out, c_in ------------------------------


def noise(sigma, sigma_data):
    """The noise (Ho et al. 2020): x0 = x - sigma F; the input is the variance-preserving state."""
    return torch.ones_like(sigma), -sigma, 1 / (1 + sigma**2).sqrt()


def v(sigma, sigma_data):
    """v = (noise - sigma x0) / sqrt(1 + sigma^2) (Salimans & Ho 2022, arXiv:2202.00512, written in sigma)."""
    return 1 / (1 + sigma**2), -sigma / (1 + sigma**2).sqrt(), 1 / (1 + sigma**2).sqrt()


def x0(sigma, sigma_data):
    """The clean image itself."""
    return torch.zeros_like(sigma), torch.ones_like(sigma), 1 / (1 + sigma**2).sqrt()


def edm(sigma, sigma_data):
    """Input and target at unit variance, errors amplified least (Karras et al. 2022, table 1)."""
    total = (sigma**2 + sigma_data**2).sqrt()
    return sigma_data**2 / total**2, sigma * sigma_data / total, 1 / total


def velocity(sigma, sigma_data):
    """noise - x0, the velocity along z = (1 - t) x0 + t noise with t = sigma / (1 + sigma) (Lipman et al. 2023, arXiv:2210.02747)."""
    return 1 / (1 + sigma), -sigma / (1 + sigma), 1 / (1 + sigma)


PREDICTIONS = {"noise": noise, "v": v, "x0": x0, "edm": edm, "velocity": velocity}

# What the network is told of the noise level, and the weight of each level in the loss -------------

LEVELS = {
    "log_sigma": lambda sigma: sigma.log() / 4,
    "variance": lambda sigma: sigma**2 / (1 + sigma**2),
}

WEIGHTS = {  # of a squared error in x0: (sigma, sigma_data, c_out) -> weight
    "plain": lambda sigma, sigma_data, c_out: (
        1 / c_out**2
    ),  # the network's own output, all levels alike
    "min_snr": lambda sigma, sigma_data, c_out: (1 / sigma**2).clamp(
        max=5
    ),  # Hang et al. 2023, arXiv:2303.09556, gamma = 5
    "clamped_snr": lambda sigma, sigma_data, c_out: (1 / sigma**2).clamp(
        1, 5
    ),  # and large sigma keeps a weight
    "edm": lambda sigma, sigma_data, c_out: (
        1 / sigma**2 + 1 / sigma_data**2
    ),  # Karras et al. 2022, table 1
}


class Denoiser(nn.Module):
    """A network with its parameterisation: x (B, C, H, W), sigma (B,) or scalar -> x0 (B, C, H, W).

    prediction, level : keys of PREDICTIONS and LEVELS; sigma_data : standard deviation of the scaled images
    """

    def __init__(self, net, prediction="v", sigma_data=0.5, level="log_sigma"):
        super().__init__()
        self.net = net
        self.sigma_data = sigma_data
        self.coefficients = PREDICTIONS[prediction]
        self.level = LEVELS[level]

    def forward(self, x, sigma, context=None):
        sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(len(x))  # (B,)
        c_skip, c_out, c_in = self.coefficients(
            sigma[:, None, None, None], self.sigma_data
        )  # (B, 1, 1, 1)
        return c_skip * x + c_out * self.net(c_in * x, self.level(sigma), context)

    def weight(self, sigma, weighting="min_snr"):
        """Weight (B,) of a squared error in x0 at noise levels sigma (B,)."""
        return WEIGHTS[weighting](
            sigma, self.sigma_data, self.coefficients(sigma, self.sigma_data)[1]
        )


def loss(denoise, x0, sigma, noise, weight, context=None):
    """Mean of weight (B,) times the squared error of the denoised x0 + sigma noise; x0 (B, C, H, W), sigma (B,); a scalar."""

    def wide(values):
        return values[:, None, None, None]

    return (wide(weight) * (denoise(x0 + wide(sigma) * noise, sigma, context) - x0) ** 2).mean()


def guided(denoise, context=None, scale=1.0):
    """denoise(x, sigma) with a context (B, K), exaggerated by classifier-free guidance.

    x0 = null + scale (given - null): 1 is the plain conditional model and costs one evaluation, 0
    ignores the context (Ho & Salimans 2022, arXiv:2207.12598, eq. 6, scale = 1 + w).
    """
    if context is None or scale == 1:
        return lambda x, sigma: denoise(x, sigma, context)

    def both(x, sigma):
        twice = torch.cat([context, torch.full_like(context, torch.nan)])  # rows of NaN: dropped
        given, null = denoise(torch.cat([x, x]), sigma, twice).chunk(2)
        return null + scale * (given - null)

    return both


def clipped(denoise, low, high):
    """denoise(x, sigma) with every predicted x0 clipped to [low, high]."""
    return lambda x, sigma: denoise(x, sigma).clamp(low, high)
