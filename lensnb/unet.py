"""One U-Net skeleton, its blocks and embeddings.

net(x, c_noise, context) : x (B, C, H, W), c_noise (B,), context (B, K) or None -> (B, C, H, W).
"""

import math

import torch
from torch import nn
from torch.nn import functional as F


def zeroed(layer):
    """The layer with all weights at zero, so that its block starts as the identity."""
    for p in layer.parameters():
        nn.init.zeros_(p)
    return layer


class FourierEmbedding(nn.Module):
    """c_noise (B,) -> sines and cosines of it at geometric frequencies (B, width)."""

    def __init__(self, width, lowest=1.0, highest=100.0):
        super().__init__()
        frequencies = torch.exp(torch.linspace(math.log(lowest), math.log(highest), width // 2))
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, c_noise):
        phase = c_noise[:, None] * self.frequencies                             # (B, width / 2)
        return torch.cat([phase.sin(), phase.cos()], dim=1)


class Embedding(nn.Module):
    """Noise level and context as one vector (B, width); a context of None is a learned null vector."""

    def __init__(self, width, context=0):
        super().__init__()
        self.noise = nn.Sequential(FourierEmbedding(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.context = nn.Sequential(nn.Linear(context, width), nn.SiLU(), nn.Linear(width, width)) if context else None
        self.null = nn.Parameter(torch.zeros(width)) if context else None

    def forward(self, c_noise, context=None):
        h = self.noise(c_noise)                                                 # (B, width)
        if self.context is None:
            return h
        if context is None:
            return h + self.null
        dropped = context.isnan().any(1, keepdim=True)                          # rows of NaN: dropped
        return h + torch.where(dropped, self.null, self.context(context.nan_to_num()))


class ResidualBlock(nn.Module):
    """Norm, SiLU, convolution, twice; the embedding scales and shifts in between (B, C, H, W)."""

    def __init__(self, before, after, embedding, dropout=0.0):
        super().__init__()
        self.first = nn.Sequential(nn.GroupNorm(8, before), nn.SiLU(), nn.Conv2d(before, after, 3, padding=1))
        self.modulate = nn.Sequential(nn.SiLU(), nn.Linear(embedding, 2 * after))
        self.norm = nn.GroupNorm(8, after)
        self.second = nn.Sequential(nn.SiLU(), nn.Dropout(dropout), zeroed(nn.Conv2d(after, after, 3, padding=1)))
        self.skip = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x, e):
        scale, shift = self.modulate(e)[:, :, None, None].chunk(2, dim=1)       # (B, after, 1, 1)
        h = self.norm(self.first(x)) * (1 + scale) + shift
        return self.skip(x) + self.second(h)


class Attention(nn.Module):
    """Self-attention over all pixels (Vaswani et al. 2017), as a residual (B, C, H, W)."""

    def __init__(self, channels, heads=4):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Sequential(nn.GroupNorm(8, channels), nn.Conv2d(channels, 3 * channels, 1))
        self.out = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x, e=None):
        b, c, h, w = x.shape
        qkv = self.qkv(x).permute(0, 2, 3, 1).reshape(b, h * w, 3, self.heads, c // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)                                    # (B, heads, HW, c), c contiguous:
        attended = F.scaled_dot_product_attention(q, k, v)                      # the fused kernels ask for it
        return x + self.out(attended.transpose(1, 2).reshape(b, h, w, c).permute(0, 3, 1, 2))


class Level(nn.Module):
    """The blocks at one resolution: residual blocks, each followed by attention where asked for."""

    def __init__(self, widths_in, width, embedding, attend, heads, dropout):
        super().__init__()
        self.blocks = nn.ModuleList(ResidualBlock(w, width, embedding, dropout) for w in widths_in)
        self.attention = nn.ModuleList(Attention(width, heads) if attend else nn.Identity() for _ in widths_in)

    def forward(self, x, e, skips=None):
        """Way down (no skips): also returns what each block put out. Way up: takes them from the end."""
        kept = []
        for block, attention in zip(self.blocks, self.attention, strict=True):
            if skips is not None:
                x = torch.cat([x, skips.pop()], dim=1)
            x = attention(block(x, e))
            kept.append(x)
        return x if skips is not None else (x, kept)


class UNet(nn.Module):
    """The skeleton (Ronneberger et al. 2015; Ho et al. 2020): stem, way down, middle, way up, head.

    patch : the stem folds patch x patch pixels into channels, the head unfolds them (pixel unshuffle)
    width, multipliers : channels of each level; blocks : residual blocks a level
    attention : levels that attend; context : length K of the context vector, 0 for none
    """

    def __init__(self, channels=1, patch=4, width=48, multipliers=(1, 2), blocks=1, attention=(1,), heads=4,
                 dropout=0.0, context=0):
        super().__init__()
        widths, embedding = [width * m for m in multipliers], 4 * width
        level = lambda inputs, i: Level(inputs, widths[i], embedding, i in attention, heads, dropout)
        self.embed = Embedding(embedding, context)
        self.stem = nn.Sequential(nn.PixelUnshuffle(patch), nn.Conv2d(channels * patch**2, width, 3, padding=1))
        before = [width, *widths[:-1]]
        self.down = nn.ModuleList(level([before[i]] + [w] * (blocks - 1), i) for i, w in enumerate(widths))
        self.middle = Level([widths[-1]], widths[-1], embedding, True, heads, dropout)
        after = [*widths[1:], widths[-1]]
        self.up = nn.ModuleList(level([after[i] + w] + [2 * w] * (blocks - 1), i) for i, w in enumerate(widths))
        self.head = nn.Sequential(nn.GroupNorm(8, width), nn.SiLU(),
                                  zeroed(nn.Conv2d(width, channels * patch**2, 3, padding=1)), nn.PixelShuffle(patch))

    def forward(self, x, c_noise, context=None):
        e = self.embed(c_noise, context)
        h, skips = self.stem(x), []
        for i, level in enumerate(self.down):
            h, kept = level(h if i == 0 else F.avg_pool2d(h, 2), e)
            skips += kept
        h, _ = self.middle(h, e)
        for i, level in reversed(list(enumerate(self.up))):
            h = level(h, e, skips)
            h = h if i == 0 else F.interpolate(h, scale_factor=2.0, mode="nearest")
        return self.head(h)
