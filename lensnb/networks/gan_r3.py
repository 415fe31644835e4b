"""The modern GAN's networks, after R3GAN (Huang et al. 2024, arXiv:2501.05441).

They are small enough for a CPU. Both are residual blocks without norm. Most of their work is done
on maps of 1/16 to 1/4 of the image size: the discriminator begins with a pixel-unshuffle, and the
generator ends in two bilinear doublings. The generator makes the light. Pixel noise is drawn and
added to it, as in a detector, with a strength measured on the training images (`noise_law`).
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from lensnb.networks.blocks import Border
from lensnb.networks.minibatch import MinibatchStatistics
from lensnb.networks.registries import GAN_NETWORKS, GanNetworks

STEM = 4  # the discriminator's first map is 1 / STEM of the image
HIDDEN = 128  # length of the discriminator's last vector
NO_NOISE = -20.0  # log of a strength that is negligible in any image
SMALLEST = 1e-6  # strength of noise, below which there is none
FAR = 3.0  # factor by which a law may leave the noise that was measured


def act(x: torch.Tensor) -> torch.Tensor:
    """The one activation of both networks."""
    return F.leaky_relu(x, 0.2)


def he(layer: nn.Conv2d | nn.Linear, gain: float = 1.0) -> nn.Conv2d | nn.Linear:
    """The layer with normal weights (He et al. 2015, arXiv:1502.01852) times gain, biases zero."""
    nn.init.kaiming_normal_(layer.weight, a=0.2)
    layer.weight.data.mul_(gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def conv(before: int, after: int, gain: float = 1.0, border: Border = "zeros") -> nn.Module:
    """A 3x3 convolution that keeps the size; border : what it sees beyond the edge."""
    return he(nn.Conv2d(before, after, 3, padding=1, padding_mode=border), gain)


def doubled(x: torch.Tensor) -> torch.Tensor:
    """Map (B, C, H, W) -> (B, C, 2 H, 2 W), bilinear.

    Transposed convolutions and pixel shuffles leave checkerboards.
    """
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def halved(x: torch.Tensor) -> torch.Tensor:
    """Map (B, C, H, W) -> (B, C, H / 2, W / 2) by means."""
    return F.avg_pool2d(x, 2)


class PlainBlock(nn.Module):
    """x + conv(act(conv(act(x)))), where x (B, before, H, W) first gets its new size and width.

    resize : `doubled`, `halved` or None
    style : length S of a style (B, S) that scales the middle, 0 for none
    border : what the convolutions see beyond the edge
    """

    def __init__(
        self,
        before: int,
        after: int,
        resize: Callable[[torch.Tensor], torch.Tensor] | None = None,
        style: int = 0,
        border: Border = "zeros",
    ) -> None:
        super().__init__()
        self.resize = resize or nn.Identity()
        self.skip = he(nn.Conv2d(before, after, 1), 0.7) if before != after else nn.Identity()
        # gains below one: without a norm, depth must not add variance
        self.first = conv(after, after, border=border)
        self.second = conv(after, after, 0.3, border)
        self.scale = nn.Linear(style, after) if style else None

    def forward(self, x: torch.Tensor, style: torch.Tensor | None = None) -> torch.Tensor:
        x = self.skip(self.resize(x))  # (B, after, H', W')
        h = act(self.first(act(x)))
        if self.scale is not None:
            h = h * (1 + self.scale(style))[:, :, None, None]
        return x + self.second(h)


class Generator(nn.Module):
    """Latent, white noise and context -> image (B, channels, size, size) within [low, high].

    The latent has the shape (B, latent), the noise the image's shape, the context (B, K) or None.
    shapes : of the noise that an image is made of
    mapping, style : layers from latent to style, and the style's length
    border : what convolutions see beyond the edge: zeros, or the image mirrored (reflect); zeros
        for images of 16 pixels
    """

    grain: torch.Tensor  # coefficients of `noise_law` (4, channels, 1, 1)

    def __init__(
        self,
        size: int = 64,
        channels: int = 1,
        latent: int = 64,
        width: int = 32,
        context: int = 0,
        low: float = -1.0,
        high: float = 1.0,
        mapping: int = 2,
        style: int = 128,
        border: Border = "zeros",
    ) -> None:
        super().__init__()
        self.shapes = ((latent,), (channels, size, size))
        self.first = (4 * width, size // 16, size // 16)
        if size < 32:
            border = "zeros"  # of one pixel, the first map, mirrored edges make flat images
        self.low = low
        self.high = high

        def layer(before: int) -> nn.Module:
            return nn.Sequential(he(nn.Linear(before, style)), nn.LeakyReLU(0.2))

        first = layer(latent + context)
        deeper = [layer(style) for _ in range(mapping - 1)]
        self.style = nn.Sequential(first, *deeper)
        self.project = he(nn.Linear(style, math.prod(self.first)))
        self.blocks = nn.ModuleList(
            [
                PlainBlock(4 * width, 4 * width, None, style, border),
                PlainBlock(4 * width, 2 * width, doubled, style, border),
                PlainBlock(2 * width, width, doubled, style, border),
            ]
        )
        self.fine = conv(width, width // 2, border=border)
        self.light = conv(width // 2, channels, 0.3, border)
        none = torch.tensor([NO_NOISE, 0, 0, 0])[:, None, None, None]
        self.register_buffer("grain", none.repeat(1, channels, 1, 1))

    def forward(
        self, z: torch.Tensor, noise: torch.Tensor, context: torch.Tensor | None = None
    ) -> torch.Tensor:
        style = self.style(z if context is None else torch.cat([z, context], dim=1))  # (B, style)
        h = self.project(style).view(-1, *self.first).contiguous(memory_format=torch.channels_last)
        for block in self.blocks:
            h = block(h, style)  # (B, width, size / 4, size / 4)
        h = self.fine(doubled(act(h)))
        light = torch.tanh(self.light(doubled(act(h))))  # (B, channels, size, size)
        light = (self.high + self.low) / 2 + (self.high - self.low) / 2 * light
        return (light + self._strength(light) * noise).clamp(self.low, self.high)

    def _strength(self, light: torch.Tensor) -> torch.Tensor:
        """Standard deviation of the noise of each pixel (B, channels, size, size)."""
        level, slope, bend, twist = self.grain
        return torch.exp(level + light * (slope + light * (bend + light * twist)))

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Take weights of earlier versions, too, whose law had no cubic term."""
        grain = state.get(f"{prefix}grain")
        if grain is not None and len(grain) == 3:
            state[f"{prefix}grain"] = torch.cat([grain, torch.zeros_like(grain[:1])])
        super()._load_from_state_dict(state, prefix, *rest)


def noise_law(images: torch.Tensor, bins: int = 12) -> torch.Tensor:
    """Coefficients (4, C) of the pixel noise in images (N, C, H, W), by brightness.

    The law is log(strength of white noise) = level + slope x + bend x^2 + twist x^3 at a pixel of
    brightness x. It is measured because the discriminator hardly sees it: left to training, the
    noise of bright pixels grew to five times the truth. The noise is estimated by the difference of
    differences (Immerkaer 1996), which is blind to planes, in even bins of the 3x3 mean.
    """
    channels = images.shape[1]
    maps = images.transpose(0, 1).flatten(0, 1)[:, None]  # (C N, 1, H, W)
    edge = torch.tensor([1.0, -2.0, 1.0])
    detail = F.conv2d(maps, torch.outer(edge, edge)[None, None] / 6)  # (C N, 1, H - 2, W - 2)
    light = F.avg_pool2d(maps, 3, stride=1)
    rows = zip(
        detail.reshape(channels, -1).abs(),
        light.reshape(channels, -1),
        images.transpose(0, 1).flatten(1),
        strict=True,
    )
    return torch.stack([_law(d, x, pixels, bins) for d, x, pixels in rows], dim=1)


def _law(
    detail: torch.Tensor, light: torch.Tensor, pixels: torch.Tensor, bins: int, least: int = 100
) -> torch.Tensor:
    """Coefficients (4,) of log(noise) against brightness, from detail (P,) and light (P,).

    A least-squares fit to the scaled medians in bins of at least `least` pixels, each with the
    weight of its pixels: most of them are sky, whose noise was 5 % wrong without. Its degree is the
    highest, up to 3, whose law stays within a factor of FAR of the medians over the range of all
    `pixels` (Q,): few bright ones must not bend it. Where most pixels have no noise there is none.
    All is done in float64: the last bits of LAPACK depend on where arrays lie in memory.
    """
    which = torch.bucketize(light, torch.linspace(light.min(), light.max(), bins + 1)[1:-1])
    full = [which == i for i in range(bins) if (which == i).sum() >= least]
    x = [light[inside].double().mean().item() for inside in full]
    noise = [1.4826 * detail[inside].median().item() for inside in full]
    weights = np.sqrt([inside.sum().item() for inside in full])
    if not full or noise[int(weights.argmax())] < SMALLEST:
        return torch.tensor([NO_NOISE, 0, 0, 0])
    y = np.log(np.maximum(noise, SMALLEST))
    everywhere = np.linspace(pixels.min().item(), pixels.max().item(), 100)
    for degree in range(min(3, len(x) - 1), -1, -1):
        fit = np.polyfit(x, y, degree, w=weights)
        law = np.polyval(fit, everywhere)
        if y.min() - np.log(FAR) < law.min() and law.max() < y.max() + np.log(FAR):
            break
    return torch.tensor([*fit[::-1], 0, 0, 0][:4]).float()  # constant term first


class Discriminator(nn.Module):
    """Image (B, channels, size, size), context (B, K) or None -> logit (B, 1).

    statistics : whether it sees how much the images of a group differ (`MinibatchStatistics`)
    """

    def __init__(
        self,
        size: int = 64,
        channels: int = 1,
        width: int = 32,
        context: int = 0,
        statistics: bool = False,
    ) -> None:
        super().__init__()
        self.stem = conv(channels * STEM**2, width)
        self.blocks = nn.Sequential(
            PlainBlock(width, width),
            PlainBlock(width, 2 * width, halved),
            PlainBlock(2 * width, 4 * width, halved),
        )
        self.spread = MinibatchStatistics() if statistics else nn.Identity()
        self.read = he(nn.Linear((4 * width + statistics) * (size // 16) ** 2, HIDDEN))
        self.logit = he(nn.Linear(HIDDEN, 1), 0.5)
        self.context = nn.Linear(context, HIDDEN) if context else None

    def forward(self, x: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        h = self.stem(F.pixel_unshuffle(x, STEM).contiguous(memory_format=torch.channels_last))
        h = self.spread(act(self.blocks(h)))  # (B, 4 width + statistics, size / 16, size / 16)
        h = act(self.read(h.flatten(1)))  # (B, HIDDEN)
        if context is None or self.context is None:
            return self.logit(h)
        # projection discriminator: Miyato & Koyama 2018, arXiv:1802.05637
        agrees = (h * self.context(context)).sum(1, keepdim=True) / math.sqrt(HIDDEN)
        return self.logit(h) + agrees


GAN_NETWORKS.add("modern", GanNetworks(Generator, Discriminator, "relativistic", penalised=True))
