"""The published GAN's networks, after the DeepLense GAN.

The generator has transposed convolutions with batch norm and self-attention (Zhang et al. 2019,
arXiv:1805.08318). The discriminator scores patches and has spectral norm (Miyato et al. 2018,
arXiv:1802.05957). A context (B, K) is appended to the latent vector. The discriminator compares it
with the last features by a projection (Miyato & Koyama 2018, arXiv:1802.05637).
"""

import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from lensnb.networks.blocks import Attention
from lensnb.networks.minibatch import MinibatchStatistics
from lensnb.networks.registries import GAN_NETWORKS, GanNetworks

DOUBLINGS = 4  # between the first map and the image


class Generator(nn.Module):
    """Latent (B, latent) and context (B, K) or None -> image within [low, high].

    The image has the shape (B, channels, size, size).
    shapes : of the noise that an image is made of
    """

    def __init__(
        self,
        size: int = 64,
        channels: int = 1,
        latent: int = 64,
        width: int = 32,
        context: int = 0,
        low: float = -1.0,
        high: float = 1.0,
    ) -> None:
        super().__init__()
        widths = [8 * width, 4 * width, 2 * width, width, width // 2]
        self.shapes = ((latent,),)
        self.first = (widths[0], size // 2**DOUBLINGS, size // 2**DOUBLINGS)
        self.project = nn.Linear(latent + context, self.first[0] * self.first[1] * self.first[2])
        blocks = [self._block(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True)]
        self.body = nn.Sequential(
            *blocks[:2],
            Attention(widths[2], heads=1),
            *blocks[2:],
            nn.Conv2d(widths[4], channels, 3, padding=1),
        )
        self.middle = (high + low) / 2
        self.half_range = (high - low) / 2

    @staticmethod
    def _block(before: int, after: int) -> nn.Module:
        return nn.Sequential(
            nn.ConvTranspose2d(before, after, 4, 2, 1), nn.BatchNorm2d(after), nn.ReLU()
        )

    def forward(self, z: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        z = z if context is None else torch.cat([z, context], dim=1)
        light = self.body(self.project(z).view(-1, *self.first))
        return self.middle + self.half_range * torch.tanh(light)


class Discriminator(nn.Module):
    """Image (B, channels, size, size) and context (B, K) or None -> a logit for each patch.

    The logits have the shape (B, 1, h, w).
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

        def conv(a: int, b: int, k: int, s: int) -> nn.Module:
            return spectral_norm(nn.Conv2d(a, b, k, s, padding=1))

        widths = [channels, width, 2 * width, 4 * width]
        stages = [
            nn.Sequential(conv(a, b, 4, 2), nn.LeakyReLU(0.2))
            for a, b in zip(widths[:-1], widths[1:], strict=True)
        ]
        self.body = nn.Sequential(*stages[:2], Attention(widths[2], heads=1), *stages[2:])
        self.spread = MinibatchStatistics() if statistics else nn.Identity()
        self.head = conv(widths[3] + statistics, 1, 3, 1)
        self.embed = spectral_norm(nn.Linear(context, widths[3])) if context else None

    def forward(self, x: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        h = self.body(x)
        if context is None or self.embed is None:
            return self.head(self.spread(h))
        fits = (h * self.embed(context)[:, :, None, None]).sum(1, keepdim=True)  # (B, 1, h, w)
        return self.head(self.spread(h)) + fits


GAN_NETWORKS.add("published", GanNetworks(Generator, Discriminator))
