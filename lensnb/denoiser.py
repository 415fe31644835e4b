"""From a network to `denoise(x, sigma, context) -> x0`, the one contract that samplers know.

The network sees an input of bounded scale and c_noise = log(sigma) / 4; what it predicts (noise or
v) and how that becomes a clean image is decided here, as a thin preconditioning around any network
(Karras et al. 2022, arXiv:2206.00364, eq. 7).
"""

import torch
from torch import nn


def noise_coefficients(sigma):
    """c_skip, c_out of a network that predicts the noise: x0 = x - sigma F."""
    return torch.ones_like(sigma), -sigma


def v_coefficients(sigma):
    """c_skip, c_out for v = (noise - sigma x0) / sqrt(1 + sigma^2): x0 = (x - sigma sqrt(1 + sigma^2) v) / (1 + sigma^2).

    Salimans & Ho 2022 (arXiv:2202.00512), written in sigma.
    """
    return 1 / (1 + sigma**2), -sigma / (1 + sigma**2).sqrt()


COEFFICIENTS = {"noise": noise_coefficients, "v": v_coefficients}


class Denoiser(nn.Module):
    """A network with its parameterisation: x (B, C, H, W), sigma (B,) or scalar -> x0 (B, C, H, W)."""

    def __init__(self, net, prediction="v"):
        super().__init__()
        self.net = net
        self.coefficients = COEFFICIENTS[prediction]

    def forward(self, x, sigma, context=None):
        c_skip, c_out, F = self.raw(x, sigma, context)
        return c_skip * x + c_out * F

    def raw(self, x, sigma, context=None):
        """(c_skip, c_out, F), F being what the network itself puts out."""
        sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(len(x))  # (B,)
        wide = sigma[:, None, None, None]                                              # (B, 1, 1, 1)
        c_in = 1 / (1 + wide**2).sqrt()       # the variance-preserving state of the papers
        F = self.net(c_in * x, sigma.log() / 4, context)                               # (B, C, H, W)
        return *self.coefficients(wide), F


def loss(denoiser, x0, sigma, noise, context=None, weighting="min_snr"):
    """Mean squared error of the network's own output, weighted by noise level; a scalar.

    plain weighs all levels alike; min_snr divides an error in x0 by max(sigma^2, 1/5)
    (Hang et al. 2023, arXiv:2303.09556, gamma = 5).
    """
    wide = sigma[:, None, None, None]
    x = x0 + wide * noise
    c_skip, c_out, F = denoiser.raw(x, sigma, context)
    error = (F - (x0 - c_skip * x) / c_out) ** 2            # against the target in F's own terms
    if weighting == "min_snr":
        error = error * c_out**2 * (1 / wide**2).clamp(max=5)
    return error.mean()
