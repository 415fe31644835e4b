"""From a network to `denoise(x, sigma, context) -> x0`, the one contract that samplers know.

A network sees an input of bounded scale and the noise level. What it predicts, and how the clean
image follows from it, is decided here. This is a thin preconditioning around any network (Karras et
al. 2022, arXiv:2206.00364, eq. 7): x0 = c_skip x + c_out F(c_in x, c_noise).
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

import lensnb.unet  # noqa: F401 - registers the U-Net
from lensnb.errors import InputError
from lensnb.registry import Registry
from lensnb.sampler import Denoise, ImageNoise
from lensnb.seeds import Purpose, image_seeds

Coefficients = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

# What the network predicts: (sigma, sigma_data) -> c_skip, c_out, c_in ----------------------------

PREDICTIONS: Registry[Callable[[torch.Tensor, float], Coefficients]] = Registry("prediction")


@PREDICTIONS.register("noise")
def noise(sigma: torch.Tensor, sigma_data: float) -> Coefficients:
    """The noise (Ho et al. 2020): x0 = x - sigma F; the input is the variance-preserving state."""
    return torch.ones_like(sigma), -sigma, 1 / (1 + sigma**2).sqrt()


@PREDICTIONS.register("v")
def v(sigma: torch.Tensor, sigma_data: float) -> Coefficients:
    """v = (noise - sigma x0) / sqrt(1 + sigma^2).

    Salimans & Ho 2022 (arXiv:2202.00512), written in sigma.
    """
    return 1 / (1 + sigma**2), -sigma / (1 + sigma**2).sqrt(), 1 / (1 + sigma**2).sqrt()


@PREDICTIONS.register("x0")
def x0(sigma: torch.Tensor, sigma_data: float) -> Coefficients:
    """The clean image itself."""
    return torch.zeros_like(sigma), torch.ones_like(sigma), 1 / (1 + sigma**2).sqrt()


@PREDICTIONS.register("edm")
def edm(sigma: torch.Tensor, sigma_data: float) -> Coefficients:
    """The remainder after the best linear guess of x0, scaled to unit variance.

    Input and target have unit variance, and errors of the network are amplified least (Karras et
    al. 2022, table 1).
    """
    total = (sigma**2 + sigma_data**2).sqrt()
    return sigma_data**2 / total**2, sigma * sigma_data / total, 1 / total


@PREDICTIONS.register("velocity")
def velocity(sigma: torch.Tensor, sigma_data: float) -> Coefficients:
    """noise - x0, the velocity along z = (1 - t) x0 + t noise with t = sigma / (1 + sigma).

    Lipman et al. 2023 (arXiv:2210.02747).
    """
    return 1 / (1 + sigma), -sigma / (1 + sigma), 1 / (1 + sigma)


# How the network sees the noise level: sigma -> c_noise -------------------------------------------

LEVELS: Registry[Callable[[torch.Tensor], torch.Tensor]] = Registry("level")


@LEVELS.register("log_sigma")
def log_sigma(sigma: torch.Tensor) -> torch.Tensor:
    """log(sigma) / 4 (Karras et al. 2022, table 1)."""
    return sigma.log() / 4


@LEVELS.register("variance")
def variance(sigma: torch.Tensor) -> torch.Tensor:
    """The variance of the noise in the variance-preserving state, within (0, 1)."""
    return sigma**2 / (1 + sigma**2)


# Weight of a squared error in x0: (sigma, sigma_data, c_out) -> weight ----------------------------

WEIGHTINGS: Registry[Callable[[torch.Tensor, float, torch.Tensor], torch.Tensor]] = Registry(
    "weighting"
)


@WEIGHTINGS.register("min_snr")
def min_snr(sigma: torch.Tensor, sigma_data: float, c_out: torch.Tensor) -> torch.Tensor:
    """The signal-to-noise ratio, at most gamma = 5 (Hang et al. 2023, arXiv:2303.09556)."""
    return (1 / sigma**2).clamp(max=5)


@WEIGHTINGS.register("plain")
def plain(sigma: torch.Tensor, sigma_data: float, c_out: torch.Tensor) -> torch.Tensor:
    """1 for the squared error of the network's own output, at every level."""
    return 1 / c_out**2


@WEIGHTINGS.register("clamped_snr")
def clamped_snr(sigma: torch.Tensor, sigma_data: float, c_out: torch.Tensor) -> torch.Tensor:
    """`min_snr`, but at least 1, so that large sigma keeps a weight."""
    return (1 / sigma**2).clamp(1, 5)


@WEIGHTINGS.register("edm")
def edm_weight(sigma: torch.Tensor, sigma_data: float, c_out: torch.Tensor) -> torch.Tensor:
    """The weight of Karras et al. 2022, table 1."""
    return 1 / sigma**2 + 1 / sigma_data**2


# The denoiser -------------------------------------------------------------------------------------


class Denoiser(nn.Module):
    """A network with its parameterisation: denoise(x, sigma, context) -> x0.

    prediction, level : keys of PREDICTIONS and LEVELS
    sigma_data : standard deviation of the scaled images
    """

    def __init__(
        self,
        net: nn.Module,
        prediction: str = "v",
        sigma_data: float = 0.5,
        level: str = "log_sigma",
    ) -> None:
        super().__init__()
        self.net = net
        self.sigma_data = sigma_data
        self.coefficients = PREDICTIONS.find(prediction)
        self.level = LEVELS.find(level)

    def forward(
        self,
        x: torch.Tensor,
        sigma: float | torch.Tensor,
        context: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The clean images (B, C, H, W), of the type of x.

        x (B, C, H, W), context (B, K) or None : of any float type; sigma : a number, or a tensor of
        any float type, () or (B,). The coefficients are computed in single precision at least, the
        network in its own.
        """
        precise = torch.promote_types(x.dtype, torch.float32)
        if not torch.is_tensor(sigma):  # filled on the device, so that nothing waits
            sigma = torch.full((), float(sigma), dtype=precise, device=x.device)
        sigma = sigma.to(x.device, precise).expand(x.shape[0])  # (B,)
        at_pixels = sigma[:, None, None, None]  # (B, 1, 1, 1)
        c_skip, c_out, c_in = self.coefficients(at_pixels, self.sigma_data)
        own = self._network_type(precise)
        if context is not None:
            context = context.to(own)
        out: torch.Tensor = self.net((c_in * x).to(own), self.level(sigma).to(own), context)
        clean: torch.Tensor = c_skip * x + c_out * out
        return clean.to(x.dtype)

    def _network_type(self, other: torch.dtype) -> torch.dtype:
        """The float type of the network's weights, or `other` if it has none."""
        first = next(self.net.parameters(), None)
        return other if first is None else first.dtype

    def weight(self, sigma: torch.Tensor, weighting: str = "min_snr") -> torch.Tensor:
        """Weight (B,) of a squared error in x0 at noise levels sigma (B,)."""
        c_out = self.coefficients(sigma, self.sigma_data)[1]
        return WEIGHTINGS.find(weighting)(sigma, self.sigma_data, c_out)


def loss(
    denoise: Callable[..., torch.Tensor],
    x0: torch.Tensor,
    sigma: torch.Tensor,
    noise: torch.Tensor,
    weight: torch.Tensor,
    context: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean of weight times the squared error of the denoised x0 + sigma noise; a scalar.

    x0, noise (B, C, H, W); sigma, weight (B,); context (B, K) or None.
    """
    noisy = x0 + sigma[:, None, None, None] * noise
    error = denoise(noisy, sigma, context) - x0
    return (weight[:, None, None, None] * error**2).mean()


def guided(
    denoise: Callable[..., torch.Tensor],
    context: torch.Tensor | None = None,
    scale: float = 1.0,
    low: float = 0.0,
    high: float = math.inf,
    guide: Callable[..., torch.Tensor] | None = None,
) -> Denoise:
    """denoise(x, sigma) with a context (B, K), exaggerated by guidance.

    x0 = null + scale (given - null), where null is the prediction without context (classifier-free
    guidance, Ho & Salimans 2022, arXiv:2207.12598, eq. 6, scale = 1 + w). With `guide`, a worse
    model of the same kind, null is its prediction with the same context (autoguidance, Karras et
    al. 2024, arXiv:2406.02507, eq. 3). A scale of 1 is the plain model and costs one evaluation; 0
    is the null alone.
    low, high : only where low < sigma <= high (Kynkaanniemi et al. 2024, arXiv:2404.07724)
    """

    def plainly(x: torch.Tensor, sigma: float) -> torch.Tensor:
        return denoise(x, sigma, context)

    def both(x: torch.Tensor, sigma: float) -> tuple[torch.Tensor, torch.Tensor]:
        if guide is not None:
            return denoise(x, sigma, context), guide(x, sigma, context)
        assert context is not None
        dropped = torch.full_like(context, torch.nan)  # rows of NaN stand for a dropped context
        twice = torch.cat([context, dropped])
        given, null = denoise(torch.cat([x, x]), sigma, twice).chunk(2)
        return given, null

    def exaggerated(x: torch.Tensor, sigma: float) -> torch.Tensor:
        if not low < sigma <= high:
            return plainly(x, sigma)
        given, null = both(x, sigma)
        return null + scale * (given - null)

    nothing_to_guide = context is None and guide is None
    return plainly if nothing_to_guide or scale == 1 else exaggerated


def clipped(denoise: Denoise, low: float, high: float) -> Denoise:
    """denoise(x, sigma) with every predicted x0 clipped to [low, high]."""
    return lambda x, sigma: denoise(x, sigma).clamp(low, high)


def add_noise(images: Any, sigma: Any, seed: int = 0) -> Any:
    """Noisy images x0 + sigma * noise, an array or tensor like the images.

    images : array or tensor (N, C, H, W); whole numbers become float32
    sigma : a number, or one for each image (N,)
    seed : image i gets the noise of (seed, i), however many images there are
    Raises InputError for a sigma that is negative, not finite or of another shape.
    """
    clean = torch.as_tensor(images)
    if not clean.is_floating_point():
        clean = clean.float()
    precise = torch.promote_types(clean.dtype, torch.float32)
    levels = torch.as_tensor(sigma, dtype=precise, device=clean.device)
    if levels.shape not in ((), clean.shape[:1]):
        raise InputError(
            f"sigma: expected a number or {len(clean)} of them, found shape {tuple(levels.shape)}"
        )
    if not bool((torch.isfinite(levels) & (levels >= 0)).all()):
        raise InputError("sigma: expected noise levels of 0 or more, found others")
    noise = ImageNoise(image_seeds(seed, 0, len(clean), Purpose.NOISE))
    levels = levels.expand(len(clean)).view(-1, *[1] * (clean.ndim - 1))  # (N, 1, 1, 1)
    noisy = (clean + levels * noise(clean.shape[1:], device=clean.device)).to(clean.dtype)
    return noisy.numpy() if isinstance(images, np.ndarray) else noisy
