"""The published GAN's networks: generator (latent, context) -> image, discriminator (image, context) -> logits.

After the DeepLense GAN: transposed convolutions with batch norm and self-attention against a patch
discriminator with spectral norm (Zhang et al. 2019, arXiv:1805.08318; Miyato et al. 2018,
arXiv:1802.05957). A context (B, K) is appended to the latent vector, and judged by its projection on
the last features (Miyato & Koyama 2018, arXiv:1802.05637).
"""

import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from lensnb.networks.blocks import Attention

BLOCKS = 4  # doublings between the first map and the image


class Generator(nn.Module):
    """Latent (B, latent) and context (B, K) or None -> image (B, channels, size, size) within [low, high]."""

    def __init__(self, size=64, channels=1, latent=64, width=32, context=0, low=-1.0, high=1.0):
        super().__init__()
        widths = [8 * width, 4 * width, 2 * width, width, width // 2]
        # shapes: what is drawn for an image
        self.shapes = ((latent,),)
        self.first = (widths[0], size // 2**BLOCKS, size // 2**BLOCKS)
        self.project = nn.Linear(latent + context, self.first[0] * self.first[1] * self.first[2])
        blocks = [self._block(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True)]
        self.body = nn.Sequential(
            *blocks[:2],
            Attention(widths[2], heads=1),
            *blocks[2:],
            nn.Conv2d(widths[4], channels, 3, padding=1),
        )
        self.middle = (high + low) / 2
        self.half = (high - low) / 2

    @staticmethod
    def _block(before, after):
        return nn.Sequential(
            nn.ConvTranspose2d(before, after, 4, 2, 1), nn.BatchNorm2d(after), nn.ReLU()
        )

    def forward(self, z, context=None):
        z = z if context is None else torch.cat([z, context], dim=1)
        return self.middle + self.half * torch.tanh(
            self.body(self.project(z).view(-1, *self.first))
        )


class Discriminator(nn.Module):
    """Image (B, channels, size, size) and context (B, K) or None -> one logit for each patch (B, 1, h, w)."""

    def __init__(self, size=64, channels=1, width=32, context=0):
        super().__init__()

        def conv(a, b, k, s):
            return spectral_norm(nn.Conv2d(a, b, k, s, padding=1))

        widths = [channels, width, 2 * width, 4 * width]
        stages = [
            nn.Sequential(conv(a, b, 4, 2), nn.LeakyReLU(0.2))
            for a, b in zip(widths[:-1], widths[1:], strict=True)
        ]
        self.body = nn.Sequential(*stages[:2], Attention(widths[2], heads=1), *stages[2:])
        self.head = conv(widths[3], 1, 3, 1)
        self.embed = spectral_norm(nn.Linear(context, widths[3])) if context else None

    def forward(self, x, context=None):
        h = self.body(x)
        fits = (
            0
            if context is None
            else (h * self.embed(context)[:, :, None, None]).sum(1, keepdim=True)
        )  # (B, 1, h, w)
        return self.head(h) + fits
