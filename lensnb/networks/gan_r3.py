"""The modern GAN's networks, after R3GAN (Huang et al. 2024, arXiv:2501.05441), small enough for a CPU.

Both are residual blocks without norm, and most of their work is done on maps of 1/16 to 1/4 of the
size: the discriminator begins with a pixel-unshuffle, and the generator ends in two bilinear doublings.
The generator makes the light; the pixel noise is drawn and added, as a detector does, with a
strength that was measured on the training images (`noise_law`).
"""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

STEM = 4  # the discriminator's first map is 1 / STEM of the image
HIDDEN = 128  # length of the style and of the discriminator's last vector


def act(x):
    """The one activation of both networks."""
    return F.leaky_relu(x, 0.2)


def he(layer, gain=1.0):
    """The layer with normal weights (He et al. 2015, arXiv:1502.01852) times gain, biases zero."""
    nn.init.kaiming_normal_(layer.weight, a=0.2)
    layer.weight.data.mul_(gain)
    nn.init.zeros_(layer.bias)
    return layer


def conv(before, after, gain=1.0):
    """A 3x3 convolution that keeps the size."""
    return he(nn.Conv2d(before, after, 3, padding=1), gain)


def doubled(x):
    """Map (B, C, H, W) -> (B, C, 2 H, 2 W), bilinear: transposed convolutions and pixel shuffles leave checkerboards."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def halved(x):
    """Map (B, C, H, W) -> (B, C, H / 2, W / 2) by means."""
    return F.avg_pool2d(x, 2)


class PlainBlock(nn.Module):
    """x + conv(act(conv(act(x)))) on x (B, before, H, W) brought to another size and width; a style (B, HIDDEN) scales the middle."""

    def __init__(self, before, after, resize=None, styled=False):
        super().__init__()
        self.resize = resize or nn.Identity()
        self.skip = he(nn.Conv2d(before, after, 1), 0.7) if before != after else nn.Identity()
        # no norm: depth must not add variance
        self.first = conv(after, after)
        self.second = conv(after, after, 0.3)
        self.scale = nn.Linear(HIDDEN, after) if styled else None

    def forward(self, x, style=None):
        x = self.skip(self.resize(x))  # (B, after, H', W')
        h = act(self.first(act(x)))
        if self.scale is not None:
            h = h * (1 + self.scale(style))[:, :, None, None]
        return x + self.second(h)


class Generator(nn.Module):
    """Latent (B, latent), white noise (B, channels, size, size), context (B, K) or None -> image like the noise, within [low, high]."""

    def __init__(self, size=64, channels=1, latent=64, width=32, context=0, low=-1.0, high=1.0):
        super().__init__()
        # shapes: what is drawn for an image
        self.shapes = ((latent,), (channels, size, size))
        self.first = (4 * width, size // 16, size // 16)
        self.low = low
        self.high = high

        def layer(before):
            return nn.Sequential(he(nn.Linear(before, HIDDEN)), nn.LeakyReLU(0.2))

        self.style = nn.Sequential(layer(latent + context), layer(HIDDEN))
        self.project = he(nn.Linear(HIDDEN, math.prod(self.first)))
        self.blocks = nn.ModuleList(
            [
                PlainBlock(4 * width, 4 * width, styled=True),
                PlainBlock(4 * width, 2 * width, doubled, styled=True),
                PlainBlock(2 * width, width, doubled, styled=True),
            ]
        )
        self.fine = conv(width, width // 2)
        self.light = conv(width // 2, channels, 0.3)
        self.register_buffer(
            "grain", torch.tensor([-20.0, 0, 0])[:, None, None, None].repeat(1, channels, 1, 1)
        )  # of `noise_law`; e^-20: none

    def forward(self, z, noise, context=None):
        style = self.style(z if context is None else torch.cat([z, context], dim=1))  # (B, HIDDEN)
        h = self.project(style).view(-1, *self.first).contiguous(memory_format=torch.channels_last)
        for block in self.blocks:
            h = block(h, style)  # (B, width, size / 4, size / 4)
        h = self.fine(doubled(act(h)))
        light = torch.tanh(self.light(doubled(act(h))))  # (B, channels, size, size)
        light = (self.high + self.low) / 2 + (self.high - self.low) / 2 * light
        return (light + self._strength(light) * noise).clamp(self.low, self.high)

    def _strength(self, light):
        """Standard deviation of the noise of each pixel (B, channels, size, size)."""
        level, slope, bend = self.grain
        return torch.exp(level + light * (slope + light * bend))


def noise_law(images, bins=12):
    """Coefficients (3, C) of log(white noise) = level + slope x + bend x^2 at a pixel of brightness x, from images (N, C, H, W).

    Measured, as the discriminator is all but blind to it: left to training, the noise of bright pixels grew to five
    times the truth. By the difference of differences (Immerkaer 1996), which is blind to planes, in even bins of the 3x3 mean.
    """
    edge = torch.tensor([1.0, -2.0, 1.0])
    detail = F.conv2d(
        images.transpose(0, 1).flatten(0, 1)[:, None], torch.outer(edge, edge)[None, None] / 6
    )  # (C N, 1, H - 2, W - 2)
    light = F.avg_pool2d(images.transpose(0, 1).flatten(0, 1)[:, None], 3, stride=1)

    def rows(x):
        return x.reshape(images.shape[1], -1)

    return torch.stack(
        [_parabola(d, x, bins) for d, x in zip(rows(detail).abs(), rows(light), strict=True)], dim=1
    )


def _parabola(detail, light, bins, least=100):
    """Weightless least squares (3,) of the log scaled median of detail (P,) against light (P,), in bins that hold enough pixels."""
    which = torch.bucketize(light, torch.linspace(light.min(), light.max(), bins + 1)[1:-1])
    full = [which == i for i in range(bins) if (which == i).sum() >= least]
    x = [light[some].double().mean().item() for some in full]
    y = [math.log(max(1.4826 * detail[some].median().item(), 1e-6)) for some in full]
    found = np.polyfit(x, y, min(2, len(x) - 1))[
        ::-1
    ]  # in float64: LAPACK's last bits depend on where arrays lie
    return torch.tensor([*found, 0, 0][:3]).float()


class Discriminator(nn.Module):
    """Image (B, channels, size, size), context (B, K) or None -> logit (B, 1)."""

    def __init__(self, size=64, channels=1, width=32, context=0):
        super().__init__()
        self.stem = conv(channels * STEM**2, width)
        self.blocks = nn.Sequential(
            PlainBlock(width, width),
            PlainBlock(width, 2 * width, halved),
            PlainBlock(2 * width, 4 * width, halved),
        )
        self.read = he(nn.Linear(4 * width * (size // 16) ** 2, HIDDEN))
        self.logit = he(nn.Linear(HIDDEN, 1), 0.5)
        self.context = nn.Linear(context, HIDDEN) if context else None

    def forward(self, x, context=None):
        h = self.stem(F.pixel_unshuffle(x, STEM).contiguous(memory_format=torch.channels_last))
        h = act(self.read(act(self.blocks(h)).flatten(1)))  # (B, HIDDEN)
        if context is None:
            return self.logit(h)
        agrees = (h * self.context(context)).sum(1, keepdim=True) / math.sqrt(
            HIDDEN
        )  # projection: Miyato & Koyama 2018, arXiv:1802.05637
        return self.logit(h) + agrees
