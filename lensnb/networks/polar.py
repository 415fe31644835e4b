"""Polar coordinates for images that are centred on one object, such as a lens.

A ring is a straight line on a map of radius and angle, and a turn of the image is a shift of the
map. A network whose convolutions are circular in the angle treats all position angles alike.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


class CircularConv2d(nn.Conv2d):
    """A 3x3 convolution of polar maps (B, C, radii, angles), of the same size.

    It is circular in the angle; beyond the least and the largest radius are zeros.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.pad(x, (1, 1, 0, 0), mode="circular")
        return F.conv2d(x, self.weight, self.bias, padding=(1, 0), groups=self.groups)


def map_shape(side: int, multiple: int) -> tuple[int, int]:
    """(radii, angles) of the polar map of a square image: multiples of `multiple`.

    A radius for each pixel of half the side. The angles are as far apart as pixels are at half of
    the largest radius.
    """
    radii = math.ceil(side / 2 / multiple) * multiple
    angles = math.ceil(1.5 * side / multiple) * multiple
    return radii, angles


def to_polar(x: torch.Tensor, multiple: int = 1) -> torch.Tensor:
    """Square images (B, C, H, H) -> polar maps (B, C, radii, angles), see `map_shape`.

    Radii are the middles of equal steps from the centre to the edge. The angle rises from +x
    towards +y and begins at 0. Bicubic.
    """
    side = x.shape[-1]
    grid = polar_grid(side, *map_shape(side, multiple), x.device).to(x.dtype)
    grid = grid.expand(x.shape[0], -1, -1, -1)
    return F.grid_sample(x, grid, mode="bicubic", padding_mode="border", align_corners=False)


def to_pixels(polar: torch.Tensor, side: int) -> torch.Tensor:
    """Polar maps (B, C, radii, angles) -> images (B, C, side, side). Bicubic.

    Pixels in the corners, beyond the largest radius, repeat the edge of the map. In half precision
    the coordinates would be rounded to 0.1 pixel, so such maps are read in single precision.
    """
    if polar.dtype in (torch.bfloat16, torch.float16):
        polar = polar.float()
    grid = pixel_grid(side, *polar.shape[2:], polar.device).to(polar.dtype)
    grid = grid.expand(polar.shape[0], -1, -1, -1)
    wrapped = F.pad(polar, (WRAP, WRAP, 0, 0), mode="circular")
    return F.grid_sample(wrapped, grid, mode="bicubic", padding_mode="border", align_corners=False)


WRAP = 2  # columns that are repeated beyond the first and the last angle: bicubic reads two


def kept(grid: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The function with a cache, which torch.compile does not see: it warns of every cache."""
    cached = functools.lru_cache(maxsize=8)(grid)

    @functools.wraps(grid)
    def call(*args: Any) -> torch.Tensor:
        return grid(*args) if torch.compiler.is_compiling() else cached(*args)

    return call


@kept
def polar_grid(side: int, radii: int, angles: int, device: torch.device) -> torch.Tensor:
    """Where each point of a polar map lies in the image, in units of half the side.

    (1, radii, angles, 2): x, y
    """
    with torch.inference_mode(False):  # the cache serves trainings, too
        radius = (torch.arange(radii, device=device) + 0.5) / radii
        angle = torch.arange(angles, device=device) * (2 * math.pi / angles)
        points = torch.stack([angle.cos(), angle.sin()], dim=-1)  # (angles, 2)
        return (radius[:, None, None] * points)[None]


@kept
def pixel_grid(side: int, radii: int, angles: int, device: torch.device) -> torch.Tensor:
    """Where each pixel lies in the polar map that `to_pixels` has wrapped, in units of its half.

    (1, side, side, 2): angle, radius
    """
    with torch.inference_mode(False):
        axis = (torch.arange(side, device=device) + 0.5) * 2 / side - 1
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        row = torch.hypot(x, y) * radii - 0.5
        column = torch.remainder(torch.atan2(y, x), 2 * math.pi) * angles / (2 * math.pi) + WRAP
        u = (2 * column + 1) / (angles + 2 * WRAP) - 1
        v = (2 * row + 1) / radii - 1
        return torch.stack([u, v], dim=-1)[None]
