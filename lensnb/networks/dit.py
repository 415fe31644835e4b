"""DiT, a transformer over patches (Peebles & Xie 2023, arXiv:2212.09748).

Its contract is the same as the U-Net's:
net(x, c_noise, context) : x (B, C, H, W), c_noise (B,), context (B, K) or None -> (B, C, H, W).
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from lensnb.networks.blocks import Embedding, SelfAttention, run_block, zeroed
from lensnb.networks.registries import NETWORKS, FromRecipe


def positions(h: int, w: int, width: int, device: torch.device | None = None) -> torch.Tensor:
    """Sines and cosines of row and column at geometric wavelengths, a row a patch: (h w, width)."""
    frequencies = torch.exp(-math.log(1e4) * torch.arange(width // 4, device=device) / (width // 4))

    def wave(n: int) -> torch.Tensor:
        places = torch.arange(n, device=device, dtype=torch.float32)
        return torch.outer(places, frequencies)  # (n, width / 4)

    row = wave(h)[:, None].expand(h, w, -1)
    column = wave(w)[None].expand(h, w, -1)
    return torch.cat([row.sin(), row.cos(), column.sin(), column.cos()], dim=2).flatten(0, 1)


class Block(nn.Module):
    """Attention and a two-layer perceptron on tokens (B, N, C) -> (B, N, C).

    The embedding (B, C) scales, shifts and gates both (adaLN-Zero).
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attend = SelfAttention(width, heads)
        self.think = nn.Sequential(
            nn.Linear(width, 4 * width),
            nn.GELU("tanh"),
            nn.Dropout(dropout),
            nn.Linear(4 * width, width),
        )
        self.modulate = nn.Sequential(nn.SiLU(), zeroed(nn.Linear(width, 6 * width)))

    def forward(self, x: torch.Tensor, e: torch.Tensor) -> torch.Tensor:
        six = self.modulate(e)[:, None].chunk(6, dim=2)  # (B, 1, C) each
        scale_1, shift_1, gate_1, scale_2, shift_2, gate_2 = six
        x = x + gate_1 * self.attend(normed(x) * (1 + scale_1) + shift_1)
        return x + gate_2 * self.think(normed(x) * (1 + scale_2) + shift_2)


def normed(x: torch.Tensor) -> torch.Tensor:
    """Each token (B, N, C) at mean 0 and variance 1, without learned scale and shift."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


@NETWORKS.register("dit")
class DiT(nn.Module, FromRecipe):
    """Patches as tokens, `blocks` transformer blocks, tokens back to pixels.

    A fresh network puts out zero.
    channels : of the images; context : length K of the context vector, 0 for none
    patch : pixels on the side of a patch; width : length of a token; heads : of the attention
    checkpointing : compute activations twice instead of keeping them
    """

    def __init__(
        self,
        channels: int = 1,
        patch: int = 4,
        width: int = 192,
        blocks: int = 6,
        heads: int = 4,
        dropout: float = 0.0,
        context: int = 0,
        checkpointing: bool = False,
    ) -> None:
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

    def forward(
        self, x: torch.Tensor, c_noise: torch.Tensor, context: torch.Tensor | None = None
    ) -> torch.Tensor:
        e = self.embed(c_noise, context).sum  # (B, C)
        h = self.stem(x)  # (B, C, h, w)
        tokens = h.flatten(2).transpose(1, 2)  # (B, N, C)
        tokens = tokens + positions(h.shape[2], h.shape[3], h.shape[1], h.device).to(h.dtype)
        for block in self.blocks:
            tokens = run_block(block, tokens, e, self.checkpointing)
        scale, shift = self.modulate(e)[:, None].chunk(2, dim=2)
        out = self.head(normed(tokens) * (1 + scale) + shift)  # (B, N, channels patch^2)
        return self.unfold(out.transpose(1, 2).unflatten(2, h.shape[2:]))
