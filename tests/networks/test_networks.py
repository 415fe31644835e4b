"""U-Net, transformer, denoiser and GAN: contracts, closed forms, gradients."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from lensnb import denoiser, gan, generator, pipeline
from lensnb.datasets.dataset import load_dataset, prepare_dataset
from lensnb.denoiser import Denoiser, loss
from lensnb.networks import NETWORKS, dit, gan_deeplense, gan_r3
from lensnb.networks.blocks import Attention, Embedding, ScaleShift, ShuffleBlock, Style
from lensnb.networks.dit import DiT
from lensnb.recipes.recipe import validate
from lensnb.recipes.schema import Data, Sample
from lensnb.training import loop
from lensnb.training.accelerator import make_accelerator
from lensnb.unet import UNet

SIGMAS = torch.tensor([0.01, 0.3, 1.0, 7.0, 500.0], dtype=torch.float64)
ANY = ["residual", "context", "shuffle"]


def randomised(net):
    """The net with every weight random, so that zero-initialised layers do not hide what lies before them."""
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
    assert [m.groups for m in unit.right.modules() if isinstance(m, nn.Conv2d)] == [
        1,
        4,
        1,
    ]  # pointwise, depthwise, pointwise


def test_attention_on_a_smaller_map_is_attention_on_its_means():
    ours = randomised(Attention(16, heads=2, side=4)).eval()
    small = torch.randn(1, 16, 4, 4)
    x = small.repeat_interleave(2, 2).repeat_interleave(
        2, 3
    )  # its 2x2 means are `small`; its norm's as well
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


class Known(nn.Module):
    """A network that puts out the exact target of its parameterisation for one known pair (x0, noise)."""

    def __init__(self, prediction, x0, noise):
        super().__init__()
        self.prediction = prediction
        self.x0 = x0
        self.noise = noise

    def forward(self, x, c_noise, context):
        sigma = (4 * c_noise).exp()[:, None, None, None]
        data = 0.5
        # of the variance-preserving state
        alpha = 1 / (1 + sigma**2).sqrt()
        spread = sigma / (1 + sigma**2).sqrt()
        edm = (
            (self.x0 - data**2 / (sigma**2 + data**2) * (self.x0 + sigma * self.noise))
            * (sigma**2 + data**2).sqrt()
            / (sigma * data)
        )
        return {
            "noise": self.noise,
            "v": alpha * self.noise - spread * self.x0,
            "x0": self.x0,
            "edm": edm,
            "velocity": self.noise - self.x0,
        }[self.prediction]


@pytest.mark.parametrize("prediction", ["noise", "v", "x0", "edm", "velocity"])
def test_a_perfect_network_gives_the_clean_image_and_no_loss(prediction):
    x0, noise = torch.randn(2, 5, 1, 4, 4, dtype=torch.float64)
    denoise = Denoiser(Known(prediction, x0, noise), prediction, sigma_data=0.5)
    x = x0 + SIGMAS[:, None, None, None] * noise
    assert (denoise(x, SIGMAS) - x0).abs().max() < 1e-9
    assert loss(denoise, x0, SIGMAS, noise, denoise.weight(SIGMAS, "plain")) < 1e-18


class Spy(nn.Module):
    """A network that remembers what it saw, and puts out zero."""

    def forward(self, x, c_noise, context):
        self.x = x
        self.c_noise = c_noise
        self.context = context
        return torch.zeros_like(x)


@pytest.mark.parametrize(
    "prediction, scale",
    [
        ("noise", 10**-0.5),
        ("v", 10**-0.5),
        ("x0", 10**-0.5),
        ("edm", 9.25**-0.5),
        ("velocity", 1 / 4),
    ],
)
def test_the_network_sees_the_state_of_its_paper(prediction, scale):
    spy = Spy()
    x = torch.randn(1, 1, 4, 4, dtype=torch.float64)
    Denoiser(spy, prediction)(x, 3.0)  # sigma_data is that of EDM, 1/2
    assert (spy.x - scale * x).abs().max() < 1e-12 and abs(
        spy.c_noise.item() - math.log(3) / 4
    ) < 1e-12
    Denoiser(spy, prediction, level="variance")(x, 3.0)
    assert abs(spy.c_noise.item() - 9 / 10) < 1e-12  # variance of the noise at unit total variance


@pytest.mark.parametrize("prediction", ["noise", "edm", "v", "velocity"])
def test_the_first_loss_is_one(prediction):
    """A fresh network puts out zero, and its target has unit variance where the data has that of sigma_data (v: 1)."""
    data = {"edm": 0.5, "v": 1.0}.get(prediction, 0.5)
    x0 = data * torch.randn(64, 1, 32, 32, dtype=torch.float64)
    noise = torch.randn(64, 1, 32, 32, dtype=torch.float64)
    denoise = Denoiser(UNet(width=16).double(), prediction, sigma_data=data)
    sigma = torch.logspace(-2, 3, 64, dtype=torch.float64)
    first = loss(denoise, x0, sigma, noise, denoise.weight(sigma, "plain")).item()
    assert abs(first - (1 + data**2 if prediction == "velocity" else 1)) < 0.02
    if prediction == "noise":
        assert abs(first - (noise**2).mean()) < 1e-9


def test_loss_weights_are_those_of_the_papers():
    sigma = torch.tensor([0.2, 3.0], dtype=torch.float64)  # SNR = 25 and 1/9
    snr = 1 / sigma**2
    on_noise = (
        Denoiser(Spy(), "noise").weight(sigma, "min_snr") * sigma**2
    )  # an error in x0 is sigma times one in noise
    assert (on_noise - snr.clamp(max=5) / snr).abs().max() < 1e-12  # min(SNR, 5) / SNR on the noise
    on_v = Denoiser(Spy(), "v").weight(sigma, "min_snr") * sigma**2 / (1 + sigma**2)
    assert (on_v - snr.clamp(max=5) / (snr + 1)).abs().max() < 1e-12  # min(SNR, 5) / (SNR + 1) on v
    weight = Denoiser(Spy(), "edm", sigma_data=0.5).weight(sigma, "edm")
    assert (
        weight - (sigma**2 + 0.25) / (0.5 * sigma) ** 2
    ).abs().max() < 1e-12  # Karras et al., table 1
    assert (
        Denoiser(Spy(), "edm", sigma_data=0.5).weight(sigma, "plain") - weight
    ).abs().max() < 1e-12
    clamped = Denoiser(Spy(), "v").weight(
        torch.tensor([0.2, 0.7, 3.0], dtype=torch.float64), "clamped_snr"
    )
    assert (clamped - torch.tensor([5, 1 / 0.49, 1])).abs().max() < 1e-6


def test_guidance_goes_from_the_null_context_through_the_given_one():
    class Told(nn.Module):
        def forward(self, x, sigma, context):
            return (
                x * 0 + context.nan_to_num(-1.0).sum(1)[:, None, None, None]
            )  # -2 for a dropped pair

    x = torch.zeros(3, 1, 2, 2)
    context = torch.tensor([[1.0, 0.0], [0.0, 3.0], [2.0, 2.0]])
    for scale in (0.0, 1.0, 2.5):
        out = denoiser.guided(Told(), context, scale)(x, 1.0)[:, 0, 0, 0]
        assert (out - (-2 + scale * (context.sum(1) + 2))).abs().max() < 1e-6
    spy = Spy()
    denoiser.guided(lambda x, sigma, c: spy(x, sigma, c), context)(x, 1.0)
    assert spy.x.shape == x.shape  # a scale of 1, the default, costs one evaluation
    denoiser.guided(lambda x, sigma, c: spy(x, sigma, c), None, 1.0)(x, 1.0)
    assert spy.context is None


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
    plain = NETWORKS[network](channels=3, **NETWORKS[network].options(p.model))
    assert (
        count(generator.denoiser_of(p, channels=3, sigma_data=0.7)) == count(plain) < count(made)
    )  # without a context
    assert (
        made(x, 2.0) - 0.49 / (4 + 0.49) * x
    ).abs().max() < 1e-6  # c_skip of EDM with this sigma_data


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
            conv.weight  # power iterations of training mode
        assert abs(torch.linalg.matrix_norm(conv.weight.flatten(1), 2) - 1) < 0.02


def test_smoothed_loss_is_the_cross_entropy_with_its_labels():
    logits = torch.tensor([[-1.0, 0.5, 3.0]])
    p = logits.sigmoid()
    expected = -(0.9 * p.log() + 0.1 * (1 - p).log()).mean()
    assert abs(gan.smoothed(logits, True, 0.1) - expected) < 1e-6
    assert abs(gan.smoothed(-logits, False, 0.1) - expected) < 1e-6  # symmetric


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


def test_pairing_is_the_cross_entropy_of_the_difference():
    a, b = torch.randn(2, 7, 1)
    assert (
        abs(
            gan.pairing(a, b)
            - torch.nn.functional.binary_cross_entropy_with_logits(a - b, torch.ones(7, 1))
        )
        < 1e-6
    )


def test_steepness_is_the_squared_gradient_in_closed_form():
    """Logit w.x + (v.x)^2: its gradient is w + 2 (v.x) v."""
    w = torch.randn(12)
    v = torch.randn(12)
    x = torch.randn(5, 1, 3, 4, requires_grad=True)
    flat = x.flatten(1)
    found = gan.steepness(flat @ w + (flat @ v) ** 2, x)
    expected = ((w + 2 * (flat @ v)[:, None] * v) ** 2).sum()
    assert (
        abs(found / expected - 1) < 1e-5 and found.requires_grad
    )  # it is differentiated once more


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

    found = gan_r3.noise_law(light + law(light) * torch.randn(light.shape, generator=rng))
    x = torch.linspace(0.1, 1.8, 20)
    assert (
        torch.exp(found[0, 0] + found[1, 0] * x + found[2, 0] * x * x) / law(x) - 1
    ).abs().max() < 0.12
    made = gan_r3.Generator(64, 1, 8, 8).eval()
    made.grain.copy_(found[:, :, None, None])
    z = torch.randn(1, 8, generator=rng).repeat(400, 1)
    images = made(z, torch.randn(400, 1, 64, 64, generator=rng))
    (dark,) = made(z[:1], torch.zeros(1, 1, 64, 64))
    expected = torch.exp(found[0, 0] + found[1, 0] * dark + found[2, 0] * dark * dark)
    assert (images.std(0) / expected - 1).abs().mean() < 0.05


def test_the_discriminator_sees_generated_images_as_they_are(tmp_path, monkeypatch):
    """Turned ones would hide a generator whose images all lie in the same way."""
    np.save(
        tmp_path / "images.npy",
        np.random.default_rng(0).normal(size=(40, 16, 16)).astype(np.float32),
    )
    prepare_dataset(Data(path=str(tmp_path / "images.npy"), size=16), 0, tmp_path / "data")
    p = validate(
        {
            "device": "cpu",
            "data": {"size": 16},
            "gan": {"steps": 4, "batch": 8, "width": 8, "latent": 8},
        },
        "test",
    )
    task = loop.task("gan", p, load_dataset(tmp_path / "data"), make_accelerator("cpu"))
    made = []
    seen = []
    task.generator.register_forward_hook(lambda net, given, out: made.append(out.detach()))
    task.discriminator.register_forward_hook(lambda net, given, out: seen.append(given[0].detach()))
    task.step(0, torch.randn(8, 1, 16, 16), None, torch.Generator().manual_seed(0))
    assert len(made) == 1 and torch.equal(seen[0][8:], made[0]) and torch.equal(seen[1], made[0])


@pytest.mark.parametrize("kind", ["published", "modern"])
def test_a_gan_learns_where_the_light_is(kind, tmp_path):
    """Images of one bright spot at a fixed place and a random strength: after some hundred updates the generator's light is there."""
    rng = np.random.default_rng(0)
    place = np.arange(16) - 7.5
    spot = np.exp(-((place[:, None] - 3) ** 2 + (place + 3) ** 2) / 8)
    np.save(
        tmp_path / "images.npy",
        (rng.uniform(1, 3, (100, 1, 1)) * spot + rng.normal(0, 0.05, (100, 16, 16))).astype(
            np.float32
        ),
    )
    prepare_dataset(Data(path=str(tmp_path / "images.npy"), size=16), 0, tmp_path / "data")
    dataset = load_dataset(tmp_path / "data")
    p = validate(
        {
            "device": "cpu",
            "threads": 1,
            "data": {"size": 16},
            "gan": {
                "kind": kind,
                "steps": 250,
                "batch": 16,
                "width": 8,
                "latent": 8,
                "flips": "none",
                "watch_every": 0,
                "log_every": 50,
                "rate": 1e-3,
            },
        },
        "test",
    )
    (tmp_path / "run").mkdir()
    pipeline.train_generator("gan", p, dataset, tmp_path / "run")
    images = generator.load_generator(
        p.model_copy(update={"sample": Sample(methods={"gan": {"model": "gan"}})}),
        "gan",
        dataset,
        tmp_path / "run/model.safetensors",
    ).draw(50)
    mean = images.mean((0, 1))
    assert np.corrcoef(mean.ravel(), spot.ravel())[0, 1] > 0.9
    assert 0.5 < mean.max() / 2 < 1.5
