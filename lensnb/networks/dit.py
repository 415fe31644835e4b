"""A transformer over patches under the same contract as the U-Net (Peebles & Xie 2023, arXiv:2212.09748).

net(x, c_noise, context) : x (B, C, H, W), c_noise (B,), context (B, K) or None -> (B, C, H, W).
"""

import math

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lensnb.networks.blocks import Embedding, SelfAttention, zeroed


def positions(h, w, width, device=None):
    """Sines and cosines of row and column at geometric wavelengths, one row a patch: (h w, width)."""
    frequencies = torch.exp(-math.log(1e4) * torch.arange(width // 4, device=device) / (width // 4))

    def wave(n):
        return torch.outer(
            torch.arange(n, device=device, dtype=torch.float32), frequencies
        )  # (n, width / 4)

    row = wave(h)[:, None].expand(h, w, -1)
    column = wave(w)[None].expand(h, w, -1)
    return torch.cat([row.sin(), row.cos(), column.sin(), column.cos()], dim=2).flatten(0, 1)


class Block(nn.Module):
    """Attention and a two-layer perceptron, each scaled, shifted and gated by the embedding (adaLN-Zero): (B, N, C)."""

    def __init__(self, width, heads, dropout):
        super().__init__()
        self.attend = SelfAttention(width, heads)
        self.think = nn.Sequential(
            nn.Linear(width, 4 * width),
            nn.GELU("tanh"),
            nn.Dropout(dropout),
            nn.Linear(4 * width, width),
        )
        self.modulate = nn.Sequential(nn.SiLU(), zeroed(nn.Linear(width, 6 * width)))

    def forward(self, x, e):
        scale_1, shift_1, gate_1, scale_2, shift_2, gate_2 = self.modulate(e)[:, None].chunk(
            6, dim=2
        )  # (B, 1, C)
        x = x + gate_1 * self.attend(normed(x) * (1 + scale_1) + shift_1)
        return x + gate_2 * self.think(normed(x) * (1 + scale_2) + shift_2)


def normed(x):
    """Each token (B, N, C) at mean 0 and variance 1, without learned scale and shift."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


class DiT(nn.Module):
    """Patches as tokens, `blocks` transformer blocks, patches back to pixels; starts by putting out zero.

    width : length of a token; patch : pixels on the side of a patch; context : as in the U-Net
    """

    def __init__(
        self,
        channels=1,
        patch=4,
        width=192,
        blocks=6,
        heads=4,
        dropout=0.0,
        context=0,
        checkpointing=False,
    ):
        super().__init__()
        self.embed = Embedding(width, context)
        self.checkpointing = checkpointing
        self.stem = nn.Sequential(
            nn.PixelUnshuffle(patch), nn.Conv2d(channels * patch**2, width, 1)
        )
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(blocks))
        self.modulate = nn.Sequential(nn.SiLU(), zeroed(nn.Linear(width, 2 * width)))
        self.head = zeroed(nn.Linear(width, channels * patch**2))
        self.unfold = nn.PixelShuffle(patch)

    def forward(self, x, c_noise, context=None):
        # (B, C), (B, C, h, w)
        e = self.embed(c_noise, context).sum
        h = self.stem(x)
        tokens = h.flatten(2).transpose(1, 2)  # (B, N, C)
        tokens = tokens + positions(*h.shape[2:], h.shape[1], h.device).to(h.dtype)
        for block in self.blocks:
            kept = self.checkpointing and torch.is_grad_enabled()
            tokens = checkpoint(block, tokens, e, use_reentrant=False) if kept else block(tokens, e)
        scale, shift = self.modulate(e)[:, None].chunk(2, dim=2)
        out = self.head(normed(tokens) * (1 + scale) + shift)  # (B, N, channels patch^2)
        return self.unfold(out.transpose(1, 2).unflatten(2, h.shape[2:]))
