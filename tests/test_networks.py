"""U-Net, denoiser and GAN: contracts, closed forms, gradients."""

import math

import pytest
import torch
from torch import nn

from lensnb import gan
from lensnb.denoiser import Denoiser, loss
from lensnb.unet import Attention, Embedding, UNet

SIGMAS = torch.tensor([0.01, 0.3, 1.0, 7.0, 500.0], dtype=torch.float64)


def randomised(net):
    """The net with every weight random, so that zero-initialised layers do not hide what lies before them."""
    torch.manual_seed(3)
    for p in net.parameters():
        nn.init.normal_(p, std=0.2)
    return net


@pytest.mark.parametrize("patch, channels, size, multipliers, blocks, attention", [
    (4, 1, 64, (1, 2), 1, (1,)), (2, 3, 32, (1, 2, 2), 2, (1, 2)), (1, 1, 28, (1, 2, 2), 1, ()), (1, 1, 8, (1,), 2, (0,))])
def test_unet_keeps_the_shape_and_reaches_every_weight(patch, channels, size, multipliers, blocks, attention):
    net = randomised(UNet(channels, patch, 16, multipliers, blocks, attention, heads=2, context=3))
    x = torch.randn(2, channels, size, size)
    out = net(x, torch.tensor([0.1, -1.0]), torch.tensor([[1.0, 0, 0], [math.nan] * 3]))
    assert out.shape == x.shape
    (out**2).sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())


def test_a_fresh_unet_puts_out_zero():
    assert UNet(width=16)(torch.randn(2, 1, 64, 64), torch.zeros(2)).abs().max() == 0


def test_images_of_a_batch_do_not_touch_each_other():
    net = randomised(UNet(width=16)).eval()
    x, c = torch.randn(3, 1, 64, 64), torch.tensor([0.0, 1.0, -1.0])
    alone = torch.cat([net(x[i:i + 1], c[i:i + 1]) for i in range(3)])
    assert (net(x, c) - alone).abs().max() < 1e-4 * alone.abs().max()


def test_attention_equals_torchs_own():
    ours = randomised(Attention(16, heads=4)).eval()
    theirs = nn.MultiheadAttention(16, 4, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.qkv[1].weight[..., 0, 0])
        theirs.in_proj_bias.copy_(ours.qkv[1].bias)
        theirs.out_proj.weight.copy_(ours.out.weight[..., 0, 0])
        theirs.out_proj.bias.copy_(ours.out.bias)
    x = torch.randn(2, 16, 5, 7)
    tokens = ours.qkv[0](x).flatten(2).transpose(1, 2)
    expected = x + theirs(tokens, tokens, tokens)[0].transpose(1, 2).view_as(x)
    assert (ours(x) - expected).abs().max() < 1e-5


def test_a_dropped_context_is_the_same_as_none():
    embed = randomised(Embedding(16, context=3))
    c = torch.tensor([0.5, 0.5])
    rows = torch.tensor([[math.nan] * 3, [0.0, 1.0, 0.0]])
    out = embed(c, rows)
    assert torch.equal(out[0], embed(c, None)[0]) and not torch.equal(out[1], out[0])


class Known(nn.Module):
    """A network that puts out the exact target of its parameterisation for one known pair (x0, noise)."""

    def __init__(self, prediction, x0, noise):
        super().__init__()
        self.prediction, self.x0, self.noise = prediction, x0, noise

    def forward(self, x, c_noise, context):
        sigma = (4 * c_noise).exp()[:, None, None, None]
        v = (self.noise - sigma * self.x0) / (1 + sigma**2).sqrt()      # alpha eps - sigma_vp x0
        return {"noise": self.noise, "v": v}[self.prediction]


@pytest.mark.parametrize("prediction", ["noise", "v"])
def test_a_perfect_network_gives_the_clean_image_and_no_loss(prediction):
    x0, noise = torch.randn(2, 5, 1, 4, 4, dtype=torch.float64)
    denoise = Denoiser(Known(prediction, x0, noise), prediction)
    x = x0 + SIGMAS[:, None, None, None] * noise
    assert (denoise(x, SIGMAS) - x0).abs().max() < 1e-9
    assert loss(denoise, x0, SIGMAS, noise, weighting="plain") < 1e-18


def test_the_network_sees_the_variance_preserving_state():
    class Spy(nn.Module):
        def forward(self, x, c_noise, context):
            self.x, self.c_noise = x, c_noise
            return torch.zeros_like(x)

    spy, x = Spy(), torch.randn(1, 1, 4, 4, dtype=torch.float64)
    Denoiser(spy)(x, 2.0)
    alpha_bar = 1 / (1 + 2.0**2)
    assert (spy.x - alpha_bar**0.5 * x).abs().max() < 1e-12 and abs(spy.c_noise.item() - math.log(2) / 4) < 1e-12


def test_first_loss_is_one_for_noise_prediction_and_min_snr_weights_are_those_of_the_paper():
    x0 = torch.randn(64, 1, 32, 32, dtype=torch.float64)
    noise, net = torch.randn_like(x0), UNet(width=16).double()
    sigma = torch.full((64,), 0.2, dtype=torch.float64)                 # SNR = 25
    assert abs(loss(Denoiser(net, "noise"), x0, sigma, noise, weighting="plain").item() - (noise**2).mean()) < 1e-12
    weighted = loss(Denoiser(net, "noise"), x0, sigma, noise, weighting="min_snr")
    assert abs(weighted / (5 / 25 * (noise**2).mean()) - 1) < 1e-12     # min(SNR, 5) / SNR on the noise
    v = (noise - sigma[0] * x0) / (1 + sigma[0] ** 2) ** 0.5
    weighted = loss(Denoiser(net, "v"), x0, sigma, noise, weighting="min_snr")
    assert abs(weighted / (5 / (25 + 1) * (v**2).mean()) - 1) < 1e-12   # min(SNR, 5) / (SNR + 1) on v


def test_gan_networks_have_the_published_parts():
    made, judge = gan.Generator(64, 1, 16, 8, low=-0.7, high=3.0), gan.Discriminator(1, 8)
    kinds = [type(m) for m in made.modules()]
    assert kinds.count(nn.ConvTranspose2d) == kinds.count(nn.BatchNorm2d) == 4 and Attention in kinds
    images = made(100 * torch.randn(4, 16))
    assert images.shape == (4, 1, 64, 64) and -0.7 <= images.min() and images.max() <= 3.0
    assert judge(images).shape == (4, 1, 8, 8)
    for conv in (m for m in judge.modules() if isinstance(m, nn.Conv2d) and hasattr(m, "parametrizations")):
        for _ in range(50):
            conv.weight                                                 # power iterations of training mode
        assert abs(torch.linalg.matrix_norm(conv.weight.flatten(1), 2) - 1) < 0.02


def test_smoothed_loss_is_the_cross_entropy_with_its_labels():
    logits = torch.tensor([[-1.0, 0.5, 3.0]])
    p = logits.sigmoid()
    expected = -(0.9 * p.log() + 0.1 * (1 - p).log()).mean()
    assert abs(gan.smoothed(logits, True, 0.1) - expected) < 1e-6
    assert abs(gan.smoothed(-logits, False, 0.1) - expected) < 1e-6     # symmetric


