"""The parts that networks are made of: norms, embeddings, self-attention, convolution blocks.

A block is a class in BLOCKS: Block(before, after, style), called as block(x, e) with
x (B, before, H, W) and e, the Embedded noise level and context; it returns (B, after, H, W).
A norm is a function in NORMS: norm(channels, groups) -> layer.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lensnb.networks.polar import CircularConv2d
from lensnb.registry import Registry

Border = Literal["zeros", "reflect"]  # what convolutions of images see beyond the edge

BLOCKS: Registry[Callable[..., nn.Module]] = Registry("block")
NORMS: Registry[Callable[[int, int], nn.Module]] = Registry("norm")


class Style(NamedTuple):
    """What all blocks of one network share.

    norm : a key of NORMS; groups : of the group norm
    embedding : length of the embeddings that blocks see, 0 for none
    dropout : probability; residual : whether context blocks have a short cut
    polar : whether maps are of radius and angle, see polar.py
    border : what 3x3 convolutions of images see beyond the edge: zeros, or the image mirrored
        (reflect); polar maps are circular instead
    """

    norm: str = "group"
    groups: int = 8
    embedding: int = 0
    dropout: float = 0.0
    residual: bool = True
    polar: bool = False
    border: Border = "zeros"


@NORMS.register("group")
def group_norm(channels: int, groups: int) -> nn.Module:
    """Group norm (Wu & He 2018, arXiv:1803.08494)."""
    return nn.GroupNorm(groups, channels)


@NORMS.register("batch")
def batch_norm(channels: int, groups: int) -> nn.Module:
    """Batch norm (Ioffe & Szegedy 2015, arXiv:1502.03167); it has no groups."""
    return nn.BatchNorm2d(channels)


@NORMS.register("batch_plain")
def plain_batch_norm(channels: int, groups: int) -> nn.Module:
    """Batch norm without learned scale and shift."""
    return nn.BatchNorm2d(channels, affine=False)


def norm_layer(style: Style, channels: int) -> nn.Module:
    """The norm layer of a style for this number of channels."""
    return NORMS.find(style.norm)(channels, style.groups)


def conv3(style: Style, before: int, after: int, **options: Any) -> nn.Module:
    """A 3x3 convolution of a style that keeps the size of the map; options : of nn.Conv2d."""
    if style.polar:
        return CircularConv2d(before, after, 3, padding=1, **options)
    layer = MirroredConv2d if style.border == "reflect" else nn.Conv2d
    return layer(before, after, 3, padding=1, padding_mode=style.border, **options)


class MirroredConv2d(nn.Conv2d):
    """A 3x3 convolution that sees the mirrored image beyond the edge."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if min(x.shape[2:]) > 1:
            return super().forward(x)
        # one pixel has no neighbour to mirror; the coarsest map of a small image may be one pixel
        x = F.pad(x, (1, 1, 1, 1), mode="replicate")
        return F.conv2d(x, self.weight, self.bias, groups=self.groups)


def zeroed(layer: nn.Module) -> nn.Module:
    """The layer with all weights at zero, so that its block starts as the identity."""
    for p in layer.parameters():
        nn.init.zeros_(p)
    return layer


def run_block(block: nn.Module, x: torch.Tensor, e: Any, twice: bool) -> torch.Tensor:
    """block(x, e); `twice` : the backward pass computes the activations again, to save memory."""
    out: torch.Tensor
    if twice and torch.is_grad_enabled():
        out = checkpoint(block, x, e, use_reentrant=False)
    else:
        out = block(x, e)
    return out


def doubled(x: torch.Tensor) -> torch.Tensor:
    """Map (B, C, H, W) -> (B, C, 2 H, 2 W): each pixel becomes four."""
    if not torch.compiler.is_compiling():
        return F.interpolate(x, scale_factor=2.0, mode="nearest")
    # Compiled, `interpolate` picks pixels by index: its gradient is a scattered sum, and both lose
    # the channels-last order. This writes the map in the order of its memory instead.
    pixels = x.permute(0, 2, 3, 1)  # (B, H, W, C)
    b, h, w, c = pixels.shape
    twice = pixels[:, :, None, :, None].expand(b, h, 2, w, 2, c)
    return twice.reshape(b, 2 * h, 2 * w, c).permute(0, 3, 1, 2)


# Embeddings --------------------------------------------------------------------------------------


class Embedded(NamedTuple):
    """Noise level and context as vectors (B, width).

    The context is None in a network that takes none.
    """

    noise: torch.Tensor
    context: torch.Tensor | None

    @property
    def sum(self) -> torch.Tensor:
        """Noise level and context as one vector (B, width)."""
        return self.noise if self.context is None else self.noise + self.context


class FourierEmbedding(nn.Module):
    """c_noise (B,) -> its sines and cosines at geometric frequencies (B, width)."""

    frequencies: torch.Tensor

    def __init__(self, width: int, lowest: float = 1.0, highest: float = 100.0) -> None:
        super().__init__()
        frequencies = torch.exp(torch.linspace(math.log(lowest), math.log(highest), width // 2))
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, c_noise: torch.Tensor) -> torch.Tensor:
        phase = c_noise[:, None] * self.frequencies  # (B, width / 2)
        return torch.cat([phase.sin(), phase.cos()], dim=1)


class Embedding(nn.Module):
    """Noise level (B,) and context (B, K) through two layers each -> Embedded.

    Rows of the context that hold NaN are dropped: a learned null vector takes their place, as it
    does when no context is given.
    """

    def __init__(self, width: int, context: int = 0) -> None:
        super().__init__()
        self.noise = nn.Sequential(
            FourierEmbedding(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.context: nn.Module | None = None
        self.null: nn.Parameter | None = None
        if context:
            self.context = nn.Sequential(
                nn.Linear(context, width), nn.SiLU(), nn.Linear(width, width)
            )
            self.null = nn.Parameter(torch.zeros(width))

    def forward(self, c_noise: torch.Tensor, context: torch.Tensor | None = None) -> Embedded:
        t = self.noise(c_noise)  # (B, width)
        if self.context is None or self.null is None:
            return Embedded(t, None)
        if context is None:
            return Embedded(t, self.null.expand_as(t))
        dropped = context.isnan().any(1, keepdim=True)  # (B, 1)
        return Embedded(t, torch.where(dropped, self.null, self.context(context.nan_to_num())))


# Attention ---------------------------------------------------------------------------------------


class SelfAttention(nn.Module):
    """Self-attention with several heads: tokens (B, N, C) -> (B, N, C).

    Vaswani et al. 2017, arXiv:1706.03762.
    """

    def __init__(self, channels: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, c = x.shape
        qkv = self.qkv(x).view(b, n, 3, self.heads, c // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, heads, N, c)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c))


class Attention(nn.Module):
    """Self-attention over the pixels of a map, as a residual (B, C, H, W).

    side : a larger map is averaged down to at most side x side pixels before attention, and the
    result is repeated to the full size. None: never.
    """

    def __init__(self, channels: int, heads: int = 4, side: int | None = None) -> None:
        super().__init__()
        self.side = side
        self.norm = nn.GroupNorm(8, channels)
        self.attend = SelfAttention(channels, heads)
        zeroed(self.attend.out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h, w = x.shape[2:]
        shrink = math.ceil(max(h, w) / self.side) if self.side else 1
        small = F.avg_pool2d(self.norm(x), shrink) if shrink > 1 else self.norm(x)  # (B, C, h, w)
        out = self.attend(small.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(small.shape)
        return x + (F.interpolate(out, (h, w)) if shrink > 1 else out)


# Blocks ------------------------------------------------------------------------------------------


@BLOCKS.register("residual")
class ResidualBlock(nn.Module):
    """Norm, SiLU, convolution, twice; the embedding scales and shifts the map in between.

    Dhariwal & Nichol 2021, arXiv:2105.05233.
    """

    def __init__(self, before: int, after: int, style: Style) -> None:
        super().__init__()
        self.first = nn.Sequential(
            norm_layer(style, before), nn.SiLU(), conv3(style, before, after)
        )
        self.modulate = (
            nn.Sequential(nn.SiLU(), nn.Linear(style.embedding, 2 * after))
            if style.embedding
            else None
        )
        self.norm = norm_layer(style, after)
        self.second = nn.Sequential(
            nn.SiLU(), nn.Dropout(style.dropout), zeroed(conv3(style, after, after))
        )
        self.skip = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x: torch.Tensor, e: Embedded) -> torch.Tensor:
        h = self.norm(self.first(x))
        if self.modulate:
            both = self.modulate(e.sum)[:, :, None, None]
            scale, shift = both.chunk(2, dim=1)  # (B, after, 1, 1)
            h = h * (1 + scale) + shift
        return self.skip(x) + self.second(h)


class FinePath(nn.Module):
    """A light path at full resolution: what a coarse trunk cannot carry, such as pixel noise.

    Called with the trunk's maps (B, MAPS, H, W), the network's input (B, C, H, W) and the embedding
    (B, embedding), it returns (B, C, H, W): three convolutions of `width` channels, of which the
    first is scaled and shifted by the embedding. The last starts at zero.
    """

    MAPS = 8

    def __init__(self, channels: int, width: int, embedding: int, border: Border = "zeros") -> None:
        super().__init__()
        style = Style(border=border)
        self.first = conv3(style, self.MAPS + channels, width)
        self.modulate = nn.Sequential(nn.SiLU(), nn.Linear(embedding, 2 * width))
        self.rest = nn.Sequential(
            nn.SiLU(),
            conv3(style, width, width),
            nn.SiLU(),
            zeroed(conv3(style, width, channels)),
        )

    def forward(self, maps: torch.Tensor, x: torch.Tensor, e: torch.Tensor) -> torch.Tensor:
        scale, shift = self.modulate(e)[:, :, None, None].chunk(2, dim=1)  # (B, width, 1, 1)
        h = self.first(torch.cat([maps, x], dim=1))
        out: torch.Tensor = self.rest(h * (1 + scale) + shift)
        return out


@BLOCKS.register("context")
class ContextBlock(nn.Module):
    """Convolution, norm, ReLU, twice, as a residual or plain.

    It sees no embedding: `ScaleShift` brings the embedding in between the levels.
    """

    def __init__(self, before: int, after: int, style: Style) -> None:
        super().__init__()

        def layer(a: int, b: int) -> nn.Module:
            return nn.Sequential(conv3(style, a, b), norm_layer(style, b), nn.ReLU())

        self.first = layer(before, after)
        self.second = layer(after, after)
        self.residual = style.residual
        self.dropout = nn.Dropout(style.dropout)

    def forward(self, x: torch.Tensor, e: Embedded) -> torch.Tensor:
        h = self.first(x)
        # the short cut spans both layers if the width stays, and the second one otherwise
        kept = x if x.shape == h.shape else h
        h = self.second(self.dropout(h))
        return (kept + h) / math.sqrt(2) if self.residual else h


class ScaleShift(nn.Module):
    """c * h + t: the context scales the map, the noise level shifts it (B, C, H, W)."""

    def __init__(self, channels: int, style: Style, context: int) -> None:
        super().__init__()

        def layer() -> nn.Module:
            return nn.Sequential(nn.SiLU(), nn.Linear(style.embedding, channels))

        self.shift = layer()
        self.scale = layer() if context else None

    def forward(self, h: torch.Tensor, e: Embedded) -> torch.Tensor:
        h = h if self.scale is None else h * (1 + self.scale(e.context))[:, :, None, None]
        return h + self.shift(e.noise)[:, :, None, None]


@BLOCKS.register("shuffle")
class ShuffleBlock(nn.Module):
    """ShuffleNet v2 unit: half of the channels pass, half are convolved.

    Ma et al. 2018, arXiv:1807.11164, fig. 3. If the width changes, the passing half gets a
    depthwise convolution of its own. A projection of the embedding is added to the map.
    """

    def __init__(self, before: int, after: int, style: Style) -> None:
        super().__init__()
        a = before // 2
        b = after // 2

        def mixed(a: int, b: int) -> nn.Module:
            return nn.Sequential(nn.Conv2d(a, b, 1, bias=False), norm_layer(style, b), nn.ReLU())

        def depthwise(a: int) -> nn.Module:
            return nn.Sequential(conv3(style, a, a, groups=a, bias=False), norm_layer(style, a))

        self.left = nn.Identity() if a == b else nn.Sequential(depthwise(a), mixed(a, b))
        self.right = nn.Sequential(
            mixed(a, b), depthwise(b), mixed(b, b), nn.Dropout(style.dropout)
        )
        self.time = (
            nn.Sequential(nn.SiLU(), nn.Linear(style.embedding, after)) if style.embedding else None
        )

    def forward(self, x: torch.Tensor, e: Embedded) -> torch.Tensor:
        left, right = x.chunk(2, dim=1)  # (B, before / 2, H, W)
        h = torch.cat([self.left(left), self.right(right)], dim=1)
        h = h.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)  # channel shuffle, two groups
        return F.relu(h + self.time(e.sum)[:, :, None, None]) if self.time else h
