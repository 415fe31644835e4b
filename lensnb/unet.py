"""One U-Net skeleton, whose blocks, norms and place of the embedding are chosen by name.

net(x, c_noise, context) : x (B, C, H, W), c_noise (B,), context (B, K) or None -> (B, C, H, W).
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from lensnb.networks.blocks import (
    BLOCKS,
    Attention,
    Border,
    Embedded,
    Embedding,
    FinePath,
    ScaleShift,
    Style,
    conv3,
    doubled,
    norm_layer,
    run_block,
    zeroed,
)
from lensnb.networks.polar import to_pixels, to_polar
from lensnb.networks.registries import NETWORKS, FromRecipe


class Level(nn.Module):
    """The blocks at one resolution, each followed by attention if `attention` is given.

    block : a class of blocks.BLOCKS; widths_in : channels that enter each block
    width : channels that leave each block; attention : width -> layer, or None
    enter : applied to the map on the way up before it meets the skips, such as a ScaleShift
    """

    def __init__(
        self,
        block: Callable[..., nn.Module],
        widths_in: Sequence[int],
        width: int,
        style: Style,
        attention: Callable[[int], nn.Module] | None = None,
        enter: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.enter = enter
        self.blocks = nn.ModuleList(block(w, width, style) for w in widths_in)
        self.attention = nn.ModuleList(
            attention(width) if attention else nn.Identity() for _ in widths_in
        )
        self.checkpointing = False

    def forward(
        self, x: torch.Tensor, e: Embedded, skips: list[torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The map after all blocks, and the output of each block.

        skips : on the way up, the outputs of the way down; each block takes one from the end.
        """
        x = self.enter(x, e) if self.enter else x
        kept = []
        for block, attention in zip(self.blocks, self.attention, strict=True):
            if skips is not None:
                x = torch.cat([x, skips.pop()], dim=1)
            x = attention(run_block(block, x, e, self.checkpointing))
            kept.append(x)
        return x, kept


@NETWORKS.register("unet")
class UNet(nn.Module, FromRecipe):
    """The skeleton (Ronneberger et al. 2015; Ho et al. 2020): stem, way down, middle, way up, head.

    channels : of the images; context : length K of the context vector, 0 for none
    patch : the stem folds patch x patch pixels into channels, and the head unfolds them
    width, multipliers : channels of each level are width * multiplier
    blocks : blocks a level; block : a key of blocks.BLOCKS
    norm, groups, residual, dropout : see blocks.Style
    attention : levels that attend; the middle attends if any level does
    heads, side : of the attention, see blocks.Attention
    embed : "block", every block sees noise level and context; "input", they join the stem's output
    fine : channels of a light path at full resolution beside the trunk, 0 for none (see FinePath)
    grid : "cartesian"; or "polar", the trunk works on a map of radius and angle, for square images
        that are centred on one object (see polar.py); it needs the light path
    border : what convolutions see beyond the edge, zeros or reflect, see blocks.Style
    checkpointing : compute activations twice instead of keeping them
    """

    def __init__(
        self,
        channels: int = 1,
        patch: int = 4,
        width: int = 48,
        multipliers: Sequence[int] = (1, 2),
        blocks: int = 1,
        block: str = "residual",
        norm: str = "group",
        groups: int = 8,
        residual: bool = True,
        attention: Sequence[int] = (1,),
        heads: int = 4,
        side: int | None = None,
        dropout: float = 0.0,
        embed: str = "block",
        fine: int = 0,
        grid: str = "cartesian",
        border: Border = "zeros",
        context: int = 0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.at_input = embed == "input"
        embedding = width if self.at_input else 4 * width
        self.polar = grid == "polar"
        self.multiple = patch * 2 ** (len(multipliers) - 1)  # of the sides of the trunk's map
        seen = 0 if self.at_input else embedding
        style = Style(norm, groups, seen, dropout, residual, self.polar, border)
        self.embed = Embedding(embedding, context)
        self.stem = nn.Sequential(
            nn.PixelUnshuffle(patch), conv3(style, channels * patch**2, width)
        )
        widths = [width * m for m in multipliers]
        make = BLOCKS.find(block)

        def attend(w: int) -> nn.Module:
            return Attention(w, heads, side)

        def level(i: int, first: int, later: int, enter: nn.Module | None = None) -> Level:
            """Level i: channels that enter its first block, and each block after it."""
            inputs = [first] + [later] * (blocks - 1)
            return Level(make, inputs, widths[i], style, attend if i in attention else None, enter)

        def enter(w: int) -> nn.Module | None:
            shifted = block == "context" and not self.at_input
            return ScaleShift(w, style, context) if shifted else None

        before = [width * (1 + self.at_input), *widths[:-1]]
        self.down = nn.ModuleList(level(i, before[i], w) for i, w in enumerate(widths))
        self.middle = Level(
            make, widths[-1:], widths[-1], style, attend if len(attention) else None
        )
        after = [*widths[1:], widths[-1]]
        self.up = nn.ModuleList(
            level(i, after[i] + w, 2 * w, enter(after[i])) for i, w in enumerate(widths)
        )
        self.fine = FinePath(channels, fine, embedding, border) if fine else None
        last = conv3(style, width, (FinePath.MAPS if fine else channels) * patch**2)
        self.head = nn.Sequential(
            norm_layer(style, width),
            nn.SiLU(),
            last if fine else zeroed(last),
            nn.PixelShuffle(patch),
        )
        for made in (*self.down, self.middle, *self.up):
            made.checkpointing = checkpointing

    @classmethod
    def divisor(cls, section: Any) -> int:
        """The patch, and a factor of two for each level below the first. A polar map fits any."""
        if section.grid == "polar":
            return 1
        return int(section.patch * 2 ** (len(section.multipliers) - 1))

    def forward(
        self, x: torch.Tensor, c_noise: torch.Tensor, context: torch.Tensor | None = None
    ) -> torch.Tensor:
        e = self.embed(c_noise, context)
        out = self.trunk(to_polar(x, self.multiple) if self.polar else x, e)
        if self.fine is None:
            return out
        out = to_pixels(out, x.shape[-1]) if self.polar else out
        return cast(torch.Tensor, self.fine(out, x, e.sum))

    def trunk(self, x: torch.Tensor, e: Embedded) -> torch.Tensor:
        """Stem, way down, middle, way up, head: (B, C, H, W), or with a light path its maps."""
        h: torch.Tensor = self.stem(x)
        if self.at_input:
            h = torch.cat([h, e.sum[:, :, None, None].expand(-1, -1, *h.shape[2:])], dim=1)
        skips: list[torch.Tensor] = []
        for i, level in enumerate(self.down):
            h, kept = level(h if i == 0 else F.avg_pool2d(h, 2), e)
            skips += kept
        h, _ = self.middle(h, e)
        for i, level in reversed(list(enumerate(self.up))):
            h, _ = level(h, e, skips)
            h = h if i == 0 else doubled(h)
        out: torch.Tensor = self.head(h)
        return out
