"""One U-Net skeleton; its blocks, norms, attention and the place of its embedding are chosen, not copied.

net(x, c_noise, context) : x (B, C, H, W), c_noise (B,), context (B, K) or None -> (B, C, H, W).
"""

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lensnb.networks.blocks import (
    BLOCKS,
    Attention,
    Embedding,
    ScaleShift,
    Style,
    norm_layer,
    zeroed,
)


class Level(nn.Module):
    """The blocks at one resolution, each followed by attention where asked for.

    enter : what the map passes on the way up before it meets the skips, such as a ScaleShift, or None
    """

    def __init__(self, block, widths_in, width, style, attention=None, enter=None):
        super().__init__()
        self.enter = enter
        self.blocks = nn.ModuleList(block(w, width, style) for w in widths_in)
        self.attention = nn.ModuleList(
            attention(width) if attention else nn.Identity() for _ in widths_in
        )
        self.checkpointing = False

    def forward(self, x, e, skips=None):
        """Way down (no skips): also returns what each block put out. Way up: takes them from the end."""
        x = self.enter(x, e) if self.enter else x
        kept = []
        for block, attention in zip(self.blocks, self.attention, strict=True):
            if skips is not None:
                x = torch.cat([x, skips.pop()], dim=1)
            x = attention(self._recomputed(block, x, e))
            kept.append(x)
        return x if skips is not None else (x, kept)

    def _recomputed(self, block, x, e):
        """block(x, e); with checkpointing its activations are computed again on the way back, not kept."""
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(block, x, e, use_reentrant=False)
        return block(x, e)


class UNet(nn.Module):
    """The skeleton (Ronneberger et al. 2015; Ho et al. 2020): stem, way down, middle, way up, head.

    patch : the stem folds patch x patch pixels into channels, the head unfolds them (pixel unshuffle)
    width, multipliers : channels of each level; blocks : blocks a level; block : a key of blocks.BLOCKS
    attention : levels that attend (the middle does where any does); side : see blocks.Attention
    embed : "block", every block sees noise level and context, or "input", they join the stem's output only
    context : length K of the context vector, 0 for none; the others are those of blocks.Style
    """

    def __init__(
        self,
        channels=1,
        patch=4,
        width=48,
        multipliers=(1, 2),
        blocks=1,
        block="residual",
        norm="group",
        groups=8,
        residual=True,
        attention=(1,),
        heads=4,
        side=None,
        dropout=0.0,
        embed="block",
        context=0,
        checkpointing=False,
    ):
        super().__init__()
        widths = [width * m for m in multipliers]
        embedding = width if embed == "input" else 4 * width
        style = Style(norm, groups, embedding if embed == "block" else 0, dropout, residual)
        self.embed = Embedding(embedding, context)
        self.at_input = embed == "input"
        self.stem = nn.Sequential(
            nn.PixelUnshuffle(patch), nn.Conv2d(channels * patch**2, width, 3, padding=1)
        )

        def attend(i):
            return (lambda w: Attention(w, heads, side)) if i in attention else None

        def enter(w):
            return (
                ScaleShift(w, style, context) if block == "context" and embed == "block" else None
            )

        def make(inputs, i, entry=None):
            return Level(BLOCKS[block], inputs, widths[i], style, attend(i), entry)

        before = [width * (1 + self.at_input), *widths[:-1]]
        self.down = nn.ModuleList(
            make([before[i]] + [w] * (blocks - 1), i) for i, w in enumerate(widths)
        )
        self.middle = Level(
            BLOCKS[block],
            [widths[-1]],
            widths[-1],
            style,
            attend(attention[0]) if attention else None,
        )
        after = [*widths[1:], widths[-1]]
        self.up = nn.ModuleList(
            make([after[i] + w] + [2 * w] * (blocks - 1), i, enter(after[i]))
            for i, w in enumerate(widths)
        )
        self.head = nn.Sequential(
            norm_layer(style, width),
            nn.SiLU(),
            zeroed(nn.Conv2d(width, channels * patch**2, 3, padding=1)),
            nn.PixelShuffle(patch),
        )
        for level in (*self.down, self.middle, *self.up):
            level.checkpointing = checkpointing

    def forward(self, x, c_noise, context=None):
        e = self.embed(c_noise, context)
        h = self.stem(x)
        skips = []
        if self.at_input:
            h = torch.cat([h, e.sum[:, :, None, None].expand(-1, -1, *h.shape[2:])], dim=1)
        for i, level in enumerate(self.down):
            h, kept = level(h if i == 0 else F.avg_pool2d(h, 2), e)
            skips += kept
        h, _ = self.middle(h, e)
        for i, level in reversed(list(enumerate(self.up))):
            h = level(h, e, skips)
            h = h if i == 0 else F.interpolate(h, scale_factor=2.0, mode="nearest")
        return self.head(h)
