"""Polar maps and the light path: closed forms, turns of the image, gradients, refusals."""

import math

import pytest
import torch
from torch import nn

from lensnb.errors import InputError
from lensnb.networks.blocks import FinePath
from lensnb.networks.polar import CircularConv2d, map_shape, to_pixels, to_polar
from lensnb.recipes.recipe import validate
from lensnb.unet import UNet


def arcs(x, y):
    """A smooth ring of radius 0.55 with two arcs and one bright side."""
    radius = torch.hypot(x, y)
    angle = torch.atan2(y, x)
    ring = torch.exp(-(((radius - 0.55) / 0.12) ** 2))
    return ring * (1 + 0.6 * torch.cos(2 * angle) + 0.3 * torch.sin(angle))


def image(side):
    axis = (torch.arange(side) + 0.5) * 2 / side - 1
    return arcs(axis[None, :], axis[:, None])[None, None]


def randomised(net):
    torch.manual_seed(3)
    for p in net.parameters():
        nn.init.normal_(p, std=0.2)
    return net


@pytest.mark.parametrize("side", [64, 33])
def test_a_map_holds_the_function_at_its_radii_and_angles(side):
    made = to_polar(image(side), 8)
    radii, angles = map_shape(side, 8)
    assert made.shape == (1, 1, radii, angles) and radii % 8 == angles % 8 == 0
    radius = (torch.arange(radii) + 0.5) / radii
    angle = torch.arange(angles) * 2 * math.pi / angles
    exact = arcs(radius[:, None] * angle.cos(), radius[:, None] * angle.sin())
    assert (made[0, 0] - exact).abs().max() < 0.03  # half a pixel off: 0.2


def test_to_the_map_and_back_gives_the_image():
    x = image(64)
    assert (to_pixels(to_polar(x, 8), 64) - x).abs().max() < 0.04  # half a pixel off: 0.2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_map_in_half_precision_is_read_at_the_same_places(dtype):
    polar = to_polar(image(64), 8).to(dtype)
    exact = to_pixels(polar.double(), 64)
    assert (to_pixels(polar, 64) - exact).abs().max() < 1e-5  # at rounded places: 0.02


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_quarter_turn_of_an_image_shifts_its_map(turns):
    x = torch.randn(2, 3, 64, 64)
    turned = torch.rot90(x, turns, (3, 2))  # from +x towards +y
    quarter = map_shape(64, 8)[1] // 4
    assert (to_polar(turned, 8) - to_polar(x, 8).roll(turns * quarter, 3)).abs().max() < 1e-4
    polar = torch.randn(2, 3, *map_shape(64, 8))
    shifted = to_pixels(polar.roll(turns * quarter, 3), 64)
    assert (shifted - torch.rot90(to_pixels(polar, 64), turns, (3, 2))).abs().max() < 1e-4


def test_the_convolution_is_circular_in_the_angle_alone():
    torch.manual_seed(0)
    conv = CircularConv2d(2, 3, 3, padding=1)
    x = torch.randn(1, 2, 8, 12)
    tiled = nn.functional.conv2d(x.repeat(1, 1, 1, 3), conv.weight, conv.bias, padding=1)
    assert (conv(x) - tiled[..., 12:24]).abs().max() < 1e-6


BLOCKS = [("residual", "group"), ("context", "batch"), ("shuffle", "batch")]


@pytest.mark.parametrize("block, norm", BLOCKS)
def test_the_trunk_turns_with_its_map_by_one_step_of_its_coarsest_level(block, norm):
    net = UNet(width=16, heads=2, block=block, norm=norm, fine=8, grid="polar")
    net = randomised(net).double().eval()
    polar = torch.randn(2, 1, *map_shape(64, net.multiple), dtype=torch.double)
    e = net.embed(torch.tensor([0.1, -1.0], dtype=torch.double))
    out = net.trunk(polar, e)
    step = net.multiple
    assert (net.trunk(polar.roll(step, 3), e) - out.roll(step, 3)).abs().max() < 1e-10
    assert (net.trunk(polar.roll(step, 2), e) - out.roll(step, 2)).abs().max() > 1e-3


SHAPES = [(1, 64, 4), (3, 32, 2), (2, 33, 4), (5, 64, 8)]  # channels, size, patch


@pytest.mark.parametrize("grid", ["cartesian", "polar"])
@pytest.mark.parametrize("channels, size, patch", SHAPES)
@pytest.mark.parametrize("embed", ["block", "input"])
def test_a_net_with_a_light_path_keeps_the_shape_and_reaches_every_weight(
    grid, channels, size, patch, embed
):
    size = size if grid == "polar" else 32
    net = randomised(UNet(channels, patch, 16, heads=2, context=3, embed=embed, fine=8, grid=grid))
    x = torch.randn(2, channels, size, size)
    out = net(x, torch.tensor([0.1, -1.0]), torch.tensor([[1.0, 0, 0], [math.nan] * 3]))
    assert out.shape == x.shape
    (out**2).sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())


@pytest.mark.parametrize("grid", ["cartesian", "polar"])
@pytest.mark.parametrize("border, flat", [("reflect", True), ("zeros", False)])
def test_nothing_but_zeros_beyond_the_edge_tells_where_the_corners_are(grid, border, flat):
    torch.manual_seed(1)
    path = FinePath(2, 8, 4, border)
    for p in path.parameters():
        nn.init.normal_(p, 0, 0.3)
    out = path(torch.ones(1, path.MAPS, 16, 16), torch.ones(1, 2, 16, 16), torch.ones(1, 4))
    spread = (out.amax((2, 3)) - out.amin((2, 3))).abs().max().item()
    assert spread < 1e-5 if flat else spread > 0.1
    net = UNet(width=16, heads=2, fine=8, grid=grid, border=border)
    assert {m.padding_mode for m in net.fine.modules() if isinstance(m, nn.Conv2d)} == {border}
    trunk = {m.padding_mode for m in net.down.modules() if isinstance(m, nn.Conv2d)} - {"zeros"}
    assert trunk == ({"reflect"} if flat and grid == "cartesian" else set())


def test_maps_cached_while_drawing_serve_a_training():
    net = randomised(UNet(width=16, heads=2, fine=8, grid="polar"))
    x = torch.randn(1, 1, 40, 40)
    with torch.inference_mode():
        net(x, torch.zeros(1))
    net(x, torch.zeros(1)).sum().backward()


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ({"grid": "polar", "fine": 0}, "grid polar needs the light path"),
        ({"network": "dit", "fine": 16}, "network dit has neither fine nor grid"),
    ],
)
def test_what_does_not_go_together_is_refused(model, sentence):
    with pytest.raises(InputError, match=sentence):
        validate({"model": model}, "x")
