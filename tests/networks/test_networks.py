"""U-Net, transformer and the networks of the GANs: contracts, closed forms, gradients."""

import inspect
import math

import numpy as np
import pytest
import torch
from torch import nn

from lensnb import generator
from lensnb.datasets.dataset import Scaling
from lensnb.lensing.simulate import simulate
from lensnb.networks import NETWORKS, dit, gan_deeplense, gan_r3
from lensnb.networks.blocks import (
    Attention,
    Embedding,
    ScaleShift,
    ShuffleBlock,
    Style,
    conv3,
)
from lensnb.networks.dit import DiT
from lensnb.recipes.recipe import validate
from lensnb.training.average import Average
from lensnb.unet import UNet

ANY = ["residual", "context", "shuffle"]


def randomised(net):
    """The net with every weight random.

    Layers that start at zero would hide what lies before them.
    """
    torch.manual_seed(3)
    for p in net.parameters():
        nn.init.normal_(p, std=0.2)
    return net


SHAPES = {  # options, channels, size
    "quick": ({}, 1, 64),
    "rgb": ({"patch": 2, "multipliers": (1, 2, 2), "blocks": 2, "attention": (1, 2)}, 3, 32),
    "mnist": ({"patch": 1, "multipliers": (1, 2, 2), "attention": ()}, 1, 28),
    "8x8": ({"patch": 1, "multipliers": (1,), "blocks": 2, "attention": (0,)}, 1, 8),
    "side": ({"patch": 2, "attention": (0, 1), "side": 8}, 1, 64),
    "checkpointing": ({"checkpointing": True}, 1, 32),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "block, norm, embed",
    [
        ("residual", "group", "block"),
        ("residual", "batch_plain", "input"),
        ("context", "batch", "block"),
        ("context", "group", "input"),
        ("shuffle", "batch", "block"),
        ("shuffle", "batch", "input"),
    ],
)
def test_every_unet_keeps_the_shape_and_reaches_every_weight(shape, block, norm, embed):
    options, channels, size = SHAPES[shape]
    net = randomised(
        UNet(channels, width=16, heads=2, context=3, block=block, norm=norm, embed=embed, **options)
    )
    x = torch.randn(2, channels, size, size)
    out = net(x, torch.tensor([0.1, -1.0]), torch.tensor([[1.0, 0, 0], [math.nan] * 3]))
    assert out.shape == x.shape
    (out**2).sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())


@pytest.mark.parametrize("channels, size, patch", [(1, 64, 4), (3, 32, 2), (1, 28, 2), (1, 8, 1)])
def test_the_transformer_keeps_the_shape_and_reaches_every_weight(channels, size, patch):
    net = randomised(DiT(channels, patch, width=32, blocks=2, context=3))
    x = torch.randn(2, channels, size, size)
    out = net(x, torch.tensor([0.1, -1.0]), torch.tensor([[1.0, 0, 0], [math.nan] * 3]))
    assert out.shape == x.shape
    (out**2).sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())


def count(net):
    return sum(p.numel() for p in net.parameters())


def test_parameter_counts_follow_from_the_formulas():
    w = 16
    e = 64

    def conv(a, b, k):
        return a * b * k * k + b

    def linear(a, b):
        return a * b + b

    def group(c):
        return 2 * c

    embedding = 2 * linear(e, e)

    def residual(a, b):
        return (
            group(a)
            + conv(a, b, 3)
            + linear(e, 2 * b)
            + group(b)
            + conv(b, b, 3)
            + (conv(a, b, 1) if a != b else 0)
        )

    def attention(c):
        return group(c) + linear(c, 3 * c) + linear(c, c)

    levels = (
        residual(w, w)
        + residual(w, 2 * w)
        + attention(2 * w)
        + residual(2 * w, 2 * w)
        + attention(2 * w)
    )
    levels += residual(4 * w, 2 * w) + attention(2 * w) + residual(3 * w, w)
    stem = conv(16, w, 3)
    head = group(w) + conv(w, 16, 3)
    assert count(UNet(width=w, attention=(1,))) == embedding + stem + levels + head
    assert count(UNet(width=w, attention=(1,), norm="batch_plain")) < count(
        UNet(width=w, attention=(1,))
    )
    block = linear(w, 3 * w) + linear(w, w) + linear(w, 4 * w) + linear(4 * w, w) + linear(w, 6 * w)
    assert count(DiT(width=w, blocks=3)) == 2 * linear(w, w) + conv(16, w, 1) + 3 * block + linear(
        w, 2 * w
    ) + linear(w, 16)


def test_checkpointing_changes_memory_and_nothing_else():
    x = torch.randn(2, 1, 32, 32)
    c = torch.tensor([0.5, -0.5])
    kept = []
    gradients = []
    for net in (UNet, DiT):
        for checkpointing in (False, True):
            made = randomised(net(width=16, blocks=2, dropout=0.1, checkpointing=checkpointing))
            saved = 0

            def pack(tensor):
                nonlocal saved
                saved += tensor.numel()
                return tensor

            torch.manual_seed(0)
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
                value = (made(x, c) ** 2).sum()
            value.backward()
            kept.append(saved)
            gradients.append(torch.cat([p.grad.flatten() for p in made.parameters()]))
        assert (gradients[-1] - gradients[-2]).abs().max() < 1e-5 * gradients[
            -1
        ].abs().max() and kept[-1] < 0.6 * kept[-2]


def test_the_context_scales_and_the_noise_level_shifts():
    layer = randomised(ScaleShift(4, Style(embedding=8), context=3)).eval()
    h = torch.randn(2, 4, 3, 3)
    e = Embedding(8, context=3)(torch.tensor([0.2, 0.4]), torch.randn(2, 3))
    c = 1 + layer.scale(e.context)
    t = layer.shift(e.noise)
    assert (layer(h, e) - (c[:, :, None, None] * h + t[:, :, None, None])).abs().max() < 1e-6


def test_a_shuffle_unit_lets_half_of_the_channels_pass_and_mixes_the_halves():
    unit = ShuffleBlock(8, 8, Style("batch")).eval()
    x = torch.randn(2, 8, 5, 5)
    out = unit(x, None)
    assert torch.equal(out[:, 0::2], x[:, :4])  # the passing half, now every other channel
    assert (
        out - nn.ChannelShuffle(2)(torch.cat([x[:, :4], unit.right(x[:, 4:])], dim=1))
    ).abs().max() < 1e-6
    groups = [m.groups for m in unit.right.modules() if isinstance(m, nn.Conv2d)]
    assert groups == [1, 4, 1]  # pointwise, depthwise, pointwise


def test_attention_on_a_smaller_map_is_attention_on_its_means():
    ours = randomised(Attention(16, heads=2, side=4)).eval()
    small = torch.randn(1, 16, 4, 4)
    # the 2x2 means of x are `small`, also after the norm
    x = small.repeat_interleave(2, 2).repeat_interleave(2, 3)
    full = randomised(Attention(16, heads=2)).eval()
    expected = (full(small) - small).repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert (ours(x) - x - expected).abs().max() < 1e-4


def test_positions_are_the_sines_and_cosines_of_the_paper():
    table = dit.positions(3, 5, 8)
    assert table.shape == (15, 8)
    for i in range(15):
        row, column = divmod(i, 5)
        for place, f in ((row, 0), (column, 4)):
            expected = [
                math.sin(place),
                math.sin(place / 100),
                math.cos(place),
                math.cos(place / 100),
            ]
            assert (table[i, f : f + 4] - torch.tensor(expected)).abs().max() < 1e-6


@pytest.mark.parametrize(
    "net",
    [*(UNet(width=16, block=kind) for kind in ANY), UNet(width=16, embed="input"), DiT(width=16)],
)
def test_a_fresh_network_puts_out_zero(net):
    assert net(torch.randn(2, 1, 64, 64), torch.zeros(2)).abs().max() == 0


@pytest.mark.parametrize(
    "net",
    [*(UNet(width=16, block=kind, norm="batch") for kind in ANY), UNet(width=16), DiT(width=16)],
)
def test_images_of_a_batch_do_not_touch_each_other(net):
    net = randomised(net).eval()
    x = torch.randn(3, 1, 64, 64)
    c = torch.tensor([0.0, 1.0, -1.0])
    alone = torch.cat([net(x[i : i + 1], c[i : i + 1]) for i in range(3)])
    assert (net(x, c) - alone).abs().max() < 1e-4 * alone.abs().max()


def test_attention_equals_torchs_own():
    ours = randomised(Attention(16, heads=4)).eval()
    theirs = nn.MultiheadAttention(16, 4, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.attend.qkv.weight)
        theirs.in_proj_bias.copy_(ours.attend.qkv.bias)
        theirs.out_proj.weight.copy_(ours.attend.out.weight)
        theirs.out_proj.bias.copy_(ours.attend.out.bias)
    x = torch.randn(2, 16, 5, 7)
    tokens = ours.norm(x).flatten(2).transpose(1, 2)
    expected = x + theirs(tokens, tokens, tokens)[0].transpose(1, 2).view_as(x)
    assert (ours(x) - expected).abs().max() < 1e-5


def test_a_dropped_context_is_the_same_as_none():
    embed = randomised(Embedding(16, context=3))
    c = torch.tensor([0.5, 0.5])
    rows = torch.tensor([[math.nan] * 3, [0.0, 1.0, 0.0]])
    out = embed(c, rows).sum
    assert torch.equal(out[0], embed(c, None).sum[0]) and not torch.equal(out[1], out[0])


@pytest.mark.parametrize("network", ["unet", "dit"])
def test_a_recipe_makes_its_denoiser(network):
    p = validate(
        {
            "model": {"network": network, "width": 16, "patch": 8, "checkpointing": True},
            "diffusion": {"prediction": "edm"},
            "data": {"size": 32},
        },
        "test",
    )
    made = generator.denoiser_of(p, channels=3, sigma_data=0.7, context=4)
    x = torch.randn(2, 3, 32, 32)
    assert made(x, torch.tensor([1.0, 2.0]), torch.randn(2, 4)).shape == x.shape
    plain = NETWORKS[network](channels=3, **NETWORKS[network].options(p.network))
    without_context = generator.denoiser_of(p, channels=3, sigma_data=0.7)
    assert count(without_context) == count(plain) < count(made)
    c_skip = 0.49 / (4 + 0.49)  # of EDM with this sigma_data
    assert (made(x, 2.0) - c_skip * x).abs().max() < 1e-6


def test_gan_networks_have_the_published_parts():
    made = gan_deeplense.Generator(64, 1, 16, 8, low=-0.7, high=3.0)
    judge = gan_deeplense.Discriminator(64, 1, 8)
    kinds = [type(m) for m in made.modules()]
    assert (
        kinds.count(nn.ConvTranspose2d) == kinds.count(nn.BatchNorm2d) == 4 and Attention in kinds
    )
    images = made(100 * torch.randn(4, 16))
    assert images.shape == (4, 1, 64, 64) and images.min() >= -0.7 and images.max() <= 3.0
    assert judge(images).shape == (4, 1, 8, 8)
    for conv in (
        m for m in judge.modules() if isinstance(m, nn.Conv2d) and hasattr(m, "parametrizations")
    ):
        for _ in range(50):
            _ = conv.weight  # each access is a power iteration in training mode
        assert abs(torch.linalg.matrix_norm(conv.weight.flatten(1), 2) - 1) < 0.02


@pytest.mark.parametrize("nets", [gan_deeplense, gan_r3], ids=["published", "modern"])
@pytest.mark.parametrize("size, channels, context", [(64, 1, 0), (32, 3, 4)])
def test_gans_take_any_size_and_follow_a_context(nets, size, channels, context):
    torch.manual_seed(0)
    made = nets.Generator(size, channels, 16, 8, context, -0.7, 3.0).eval()
    judge = nets.Discriminator(size, channels, 8, context).eval()
    drawn = [torch.randn(6, *shape) for shape in made.shapes]
    told = torch.randn(6, context) if context else None
    images = made(*drawn, context=told)
    assert (
        images.shape == (6, channels, size, size) and images.min() >= -0.7 and images.max() <= 3.0
    )
    logits = judge(images, told)
    assert logits.shape[0] == 6 and torch.allclose(
        judge(images[2:3], None if told is None else told[2:3]), logits[2:3], atol=1e-5
    )
    if context:
        other = told.roll(1, 0)
        assert (made(*drawn, context=other) - images).abs().max() > 1e-4 and (
            judge(images, other) - logits
        ).abs().max() > 1e-4


def test_the_border_of_a_generator_is_what_the_recipe_says():
    modern, published = gan_r3.Generator, gan_deeplense.Generator
    for border in ("zeros", "reflect"):
        net = modern(32, 1, 8, 8, border=border)
        wide = [m for m in net.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
        assert len(wide) == 8 and {m.padding_mode for m in wide} == {border}
    assert "border" not in inspect.signature(published).parameters


def test_a_map_of_one_pixel_has_itself_beyond_the_edge():
    """As the coarsest map of the smallest images is."""
    layer = conv3(Style(border="reflect"), 3, 2)
    x = torch.randn(4, 3, 1, 1)
    expected = torch.einsum("bi,oihw->bo", x[:, :, 0, 0], layer.weight) + layer.bias
    assert (layer(x)[:, :, 0, 0] - expected).abs().max() < 1e-5
    net = UNet(patch=2, width=16, multipliers=(1, 2, 2), heads=2, border="reflect")
    assert net(torch.randn(2, 1, 8, 8), torch.randn(2)).shape == (2, 1, 8, 8)


def test_the_smallest_images_of_the_modern_gan_are_not_flat():
    """Their first map is one pixel: only zeros beyond the edge tell where a pixel is."""
    torch.manual_seed(0)
    made = gan_r3.Generator(16, 1, 8, 8, border="reflect")
    z, noise = torch.randn(4, 8), torch.zeros(4, 1, 16, 16)
    assert made(z, noise).std((1, 2, 3)).min() > 1e-3


def test_the_noise_of_pixels_is_measured_and_drawn():
    """Oracle: images of smooth light with Gaussian noise of a known law."""
    rng = torch.Generator().manual_seed(0)
    place = torch.linspace(-1, 1, 64)
    light = (
        torch.exp(-3 * (place[:, None] ** 2 + place**2))
        * torch.linspace(0.5, 2, 60)[:, None, None, None]
    )

    def law(x):
        return torch.exp(-2 - 0.8 * x + 0.1 * x * x)

    def told(coefficients, x):
        return torch.exp(sum(c * x**k for k, c in enumerate(coefficients)))

    found = gan_r3.noise_law(light + law(light) * torch.randn(light.shape, generator=rng))
    x = torch.linspace(0.1, 1.8, 20)
    assert (told(found[:, 0], x) / law(x) - 1).abs().max() < 0.12
    made = gan_r3.Generator(64, 1, 8, 8).eval()
    made.grain.copy_(found[:, :, None, None])
    z = torch.randn(1, 8, generator=rng).repeat(400, 1)
    images = made(z, torch.randn(400, 1, 64, 64, generator=rng))
    (dark,) = made(z[:1], torch.zeros(1, 1, 64, 64))
    expected = told(found[:, 0], dark)
    assert (images.std(0) / expected - 1).abs().mean() < 0.05


@pytest.mark.parametrize("softening", [1.0, 3.0])
def test_the_law_is_right_where_most_pixels_are(softening):
    """Oracle: the noise of the sky of lenses, 1, through the slope of the stretch."""
    images, _ = simulate(300, "broad", seed=3)
    scaling = Scaling.fit(images, "asinh", softening=softening)
    level, slope, bend, twist = gan_r3.noise_law(scaling.forward(torch.from_numpy(images)))[:, 0]
    sky = scaling.forward(torch.zeros(1))
    law = torch.exp(level + slope * sky + bend * sky**2 + twist * sky**3)
    assert abs(law * scaling.softening * scaling.scale - 1) < 0.01


def test_weights_without_the_cubic_term_draw_as_they_did():
    old = torch.tensor([-2.0, -0.3, -0.1])[:, None, None, None]
    made = gan_r3.Generator(64, 1, 8, 8)
    average = Average(gan_r3.Generator(64, 1, 8, 8), 0.1)  # has the generator's names after a dot
    for net, prefix in ((made, ""), (average, "module.")):
        net.load_state_dict(net.state_dict() | {f"{prefix}grain": old})
    for net in (made, average.module):
        z, noise = torch.randn(2, 8), torch.randn(2, 1, 64, 64)
        light = net(z, torch.zeros_like(noise))
        strength = torch.exp(old[0] + old[1] * light + old[2] * light * light)
        expected = (light + strength * noise).clamp(net.low, net.high)
        assert (net(z, noise) - expected).abs().max() < 1e-6


@pytest.mark.parametrize("kind", ["linear", "range", "asinh"])
def test_a_few_bright_stars_do_not_bend_the_law(kind):
    images, _ = simulate(200, "broad", seed=3)
    offset = np.arange(64) - 20
    star = np.exp(-(offset[:, None] ** 2 + offset**2) / 3)
    images[::8, 0] += 1000 * star
    scaling = Scaling.fit(images, kind)
    law = gan_r3.noise_law(scaling.forward(torch.from_numpy(images)))[:, 0].double()
    brightness = torch.linspace(scaling.low, scaling.high, 50, dtype=torch.float64)
    strength = torch.exp(brightness[:, None] ** torch.arange(4) @ law)
    assert strength.max() < (scaling.high - scaling.low) / 10


def test_where_most_pixels_have_no_noise_none_is_drawn():
    images = torch.full((50, 1, 32, 32), -1.0)
    images[:, :, 8:12, 6:20] = 1.0
    assert gan_r3.noise_law(images)[:, 0].tolist() == [gan_r3.NO_NOISE, 0, 0, 0]
