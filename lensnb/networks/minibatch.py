"""What a GAN's discriminator may see of a whole group of images, not of one image alone."""

import math

import torch
from torch import nn

GROUP = 4  # images whose spread is one number


class MinibatchStatistics(nn.Module):
    """Maps (B, C, H, W) -> (B, C + 1, H, W): the last channel says how much neighbours differ.

    Each GROUP neighbours in the batch share one number, the standard deviation over the group,
    averaged over channels and pixels. A generator whose images are all alike is found out by it
    (Karras et al. 2018, arXiv:1710.10196, section 3). If GROUP does not divide the batch, groups
    are smaller.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, _, h, w = x.shape
        groups = x.float().unflatten(0, (-1, math.gcd(b, GROUP)))  # (B / G, G, C, H, W)
        # The gradient of a root at 0 is infinite, and equal images have the variance 0.
        spread = (groups.var(1, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3))  # (B / G,)
        maps = spread.repeat_interleave(groups.shape[1], output_size=b)[:, None, None, None]
        return torch.cat([x, maps.to(x.dtype).expand(b, 1, h, w)], dim=1)
