"""The parts that networks are made of: embeddings, self-attention, and three kinds of convolution block.

A block is Block(before, after, style), called as block(x, e): x (B, before, H, W) -> (B, after, H, W),
e the Embedded noise level and context.
"""

import math
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F


class Style(NamedTuple):
    """What all blocks of one network share."""

    norm: str = "group"  # a key of NORMS
    groups: int = 8  # of the group norm
    embedding: int = 0  # length of the embeddings that blocks see, 0 for none
    dropout: float = 0.0
    residual: bool = True  # context blocks: with or without the short cut


NORMS = {
    "group": lambda channels, groups: nn.GroupNorm(groups, channels),
    "batch": lambda channels, groups: nn.BatchNorm2d(channels),
    "batch_plain": lambda channels, groups: nn.BatchNorm2d(channels, affine=False),
}  # no learned scale and shift


def norm_layer(style, channels):
    """The norm layer of a style for so many channels."""
    return NORMS[style.norm](channels, style.groups)


def zeroed(layer):
    """The layer with all weights at zero, so that its block starts as the identity."""
    for p in layer.parameters():
        nn.init.zeros_(p)
    return layer


# Embeddings ---------------------------------------------------------------------------------------


class Embedded(NamedTuple):
    """Noise level and context as vectors (B, width); the context is None in a network that takes none."""

    noise: torch.Tensor
    context: torch.Tensor | None

    @property
    def sum(self):
        """Both as one vector (B, width)."""
        return self.noise if self.context is None else self.noise + self.context


class FourierEmbedding(nn.Module):
    """c_noise (B,) -> sines and cosines of it at geometric frequencies (B, width)."""

    def __init__(self, width, lowest=1.0, highest=100.0):
        super().__init__()
        frequencies = torch.exp(torch.linspace(math.log(lowest), math.log(highest), width // 2))
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, c_noise):
        phase = c_noise[:, None] * self.frequencies  # (B, width / 2)
        return torch.cat([phase.sin(), phase.cos()], dim=1)


class Embedding(nn.Module):
    """Noise level (B,) and context (B, K) through two layers each; no context is a learned null vector."""

    def __init__(self, width, context=0):
        super().__init__()
        self.noise = nn.Sequential(
            FourierEmbedding(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.context = (
            nn.Sequential(nn.Linear(context, width), nn.SiLU(), nn.Linear(width, width))
            if context
            else None
        )
        self.null = nn.Parameter(torch.zeros(width)) if context else None

    def forward(self, c_noise, context=None):
        t = self.noise(c_noise)  # (B, width)
        if self.context is None:
            return Embedded(t, None)
        if context is None:
            return Embedded(t, self.null.expand_as(t))
        dropped = context.isnan().any(1, keepdim=True)  # rows of NaN: dropped
        return Embedded(t, torch.where(dropped, self.null, self.context(context.nan_to_num())))


# Attention ----------------------------------------------------------------------------------------


class SelfAttention(nn.Module):
    """Self-attention with several heads (Vaswani et al. 2017, arXiv:1706.03762): tokens (B, N, C) -> (B, N, C)."""

    def __init__(self, channels, heads=4):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = (
            self.qkv(x).view(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        )  # (B, heads, N, c)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c))


class Attention(nn.Module):
    """Self-attention over the pixels of a map, as a residual (B, C, H, W).

    side : a larger map is averaged down to at most side x side before it attends, and what comes
    out is repeated; None for never.
    """

    def __init__(self, channels, heads=4, side=None):
        super().__init__()
        self.side = side
        self.norm = nn.GroupNorm(8, channels)
        self.attend = SelfAttention(channels, heads)
        zeroed(self.attend.out)

    def forward(self, x):
        b, c, h, w = x.shape
        shrink = math.ceil(max(h, w) / self.side) if self.side else 1
        small = F.avg_pool2d(self.norm(x), shrink)  # (B, C, h, w)
        out = self.attend(small.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(small.shape)
        return x + (F.interpolate(out, (h, w)) if shrink > 1 else out)


# Blocks -------------------------------------------------------------------------------------------


class ResidualBlock(nn.Module):
    """Norm, SiLU, convolution, twice; the embedding scales and shifts in between (Dhariwal & Nichol 2021, arXiv:2105.05233)."""

    def __init__(self, before, after, style):
        super().__init__()
        self.first = nn.Sequential(
            norm_layer(style, before), nn.SiLU(), nn.Conv2d(before, after, 3, padding=1)
        )
        self.modulate = (
            nn.Sequential(nn.SiLU(), nn.Linear(style.embedding, 2 * after))
            if style.embedding
            else None
        )
        self.norm = norm_layer(style, after)
        self.second = nn.Sequential(
            nn.SiLU(), nn.Dropout(style.dropout), zeroed(nn.Conv2d(after, after, 3, padding=1))
        )
        self.skip = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x, e):
        h = self.norm(self.first(x))
        if self.modulate:
            scale, shift = self.modulate(e.sum)[:, :, None, None].chunk(
                2, dim=1
            )  # (B, after, 1, 1)
            h = h * (1 + scale) + shift
        return self.skip(x) + self.second(h)


class ContextBlock(nn.Module):
    """Convolution, norm, ReLU, twice, as a residual or plain; it sees no embedding: `ScaleShift` brings it in."""

    def __init__(self, before, after, style):
        super().__init__()

        def layer(a, b):
            return nn.Sequential(nn.Conv2d(a, b, 3, padding=1), norm_layer(style, b), nn.ReLU())

        self.first = layer(before, after)
        self.second = layer(after, after)
        self.residual = style.residual
        self.dropout = nn.Dropout(style.dropout)

    def forward(self, x, e):
        h = self.first(x)
        kept = (
            x if x.shape == h.shape else h
        )  # the short cut spans both layers where the width allows
        h = self.second(self.dropout(h))
        return (kept + h) / math.sqrt(2) if self.residual else h


class ScaleShift(nn.Module):
    """c * h + t: the context scales the map, the noise level shifts it (B, C, H, W)."""

    def __init__(self, channels, style, context):
        super().__init__()

        def layer():
            return nn.Sequential(nn.SiLU(), nn.Linear(style.embedding, channels))

        self.shift = layer()
        self.scale = layer() if context else None

    def forward(self, h, e):
        h = h if self.scale is None else h * (1 + self.scale(e.context))[:, :, None, None]
        return h + self.shift(e.noise)[:, :, None, None]


class ShuffleBlock(nn.Module):
    """ShuffleNet v2 unit (Ma et al. 2018, arXiv:1807.11164, fig. 3): half of the channels pass, half are convolved.

    Where the width changes, the passing half gets its own depthwise convolution. A time MLP is added over the map.
    """

    def __init__(self, before, after, style):
        super().__init__()
        a = before // 2
        b = after // 2

        def mixed(a, b):
            return nn.Sequential(nn.Conv2d(a, b, 1, bias=False), norm_layer(style, b), nn.ReLU())

        def depthwise(a):
            return nn.Sequential(
                nn.Conv2d(a, a, 3, padding=1, groups=a, bias=False), norm_layer(style, a)
            )

        self.left = nn.Identity() if a == b else nn.Sequential(depthwise(a), mixed(a, b))
        self.right = nn.Sequential(
            mixed(a, b), depthwise(b), mixed(b, b), nn.Dropout(style.dropout)
        )
        self.time = (
            nn.Sequential(nn.SiLU(), nn.Linear(style.embedding, after)) if style.embedding else None
        )

    def forward(self, x, e):
        left, right = x.chunk(2, dim=1)  # (B, before / 2, H, W)
        h = torch.cat([self.left(left), self.right(right)], dim=1)
        h = h.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)  # channel shuffle, two groups
        return F.relu(h + self.time(e.sum)[:, :, None, None]) if self.time else h


BLOCKS = {"residual": ResidualBlock, "context": ContextBlock, "shuffle": ShuffleBlock}
