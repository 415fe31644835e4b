"""Consistency tuning, against the exact maps of Gaussians and of a mixture of them."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lensnb import consistency, sampler
from lensnb.denoiser import Denoiser
from lensnb.mixture import Mixture

SPREAD = 0.5  # standard deviation of the images
MEAN = 0.3


def ends(x, sigma, context=None):
    """The end of the probability flow through x at sigma, for the Gaussian (MEAN, SPREAD^2)."""
    sigma = torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, 1, 1, 1)
    return MEAN + (x - MEAN) * SPREAD / (SPREAD**2 + sigma**2).sqrt()


def batch(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x0, noise = torch.randn(2, n, 1, 1, 2, generator=generator, dtype=torch.float64)
    t = torch.exp(-1.1 + 1.5 * torch.randn(n, generator=generator, dtype=torch.float64))
    return MEAN + SPREAD * x0, noise, t


def test_the_map_of_a_gaussian_is_the_end_of_the_flow_of_its_denoiser():
    """The oracle itself: many small steps with the exact denoiser lead to the same images."""
    exact = Mixture([1.0], [[MEAN, MEAN]], SPREAD**2 * torch.eye(2)[None], (1, 1, 2))
    x = 5 * torch.randn(20, 1, 1, 2, generator=torch.Generator().manual_seed(1)).double()
    sigmas = torch.cat([torch.logspace(math.log10(5), -3, 400).double(), torch.zeros(1).double()])
    for state in sampler.dpmpp_2m(exact.denoise, sigmas, x):
        end = state.x
    assert (end - ends(x, 5.0)).abs().max() < 3e-3


def test_lower_levels_rise_towards_t_stage_by_stage():
    t = torch.tensor([0.01, 0.5, 3.0, 80.0])
    ratios = torch.stack([consistency.lower_levels(t, s, 2.0, 8.0, 1.0) / t for s in range(8)])
    assert (ratios[0, :2] == 0).all(), "the first stage is the denoising loss"
    assert (ratios.diff(dim=0) >= 0).all() and (ratios < 1).all()
    # 1 - (1 + 8 sigmoid(-3)) / 2^4, by hand
    assert ratios[3, 2].item() == pytest.approx(1 - (1 + 8 / (1 + math.e**3)) / 16, abs=1e-6)
    settings = SimpleNamespace(steps=100, stages=8)
    assert [consistency.stage(k, settings) for k in (0, 12, 13, 99)] == [0, 0, 1, 7]


def test_without_a_lower_level_the_target_is_the_image_and_the_loss_that_of_denoising():
    x0, noise, t = batch(6)
    net = Denoiser(Nudge(), "edm", SPREAD).double()
    aim = consistency.target(net, x0, torch.zeros_like(t), noise)
    assert torch.equal(aim, x0)
    off = net(x0 + t[:, None, None, None] * noise, t) - x0
    expected = (off.square().mean((1, 2, 3)).sqrt() / t).mean()
    found = consistency.loss(net, x0, t, noise, 1 / t, aim)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def test_no_gradient_flows_through_the_target():
    x0, noise, t = batch(4)
    net = Denoiser(Nudge(), "edm", SPREAD).double()
    aim = consistency.target(net, x0, t / 2, noise)
    assert not aim.requires_grad
    exact = net(x0 + (t / 2)[:, None, None, None] * noise, t / 2)
    assert (aim - exact).abs().max() == 0, "the same images and the same noise, at the lower level"


class Nudge(torch.nn.Module):
    """A network of one weight: it moves every image by it."""

    def __init__(self):
        super().__init__()
        self.by = torch.nn.Parameter(torch.tensor(0.1))

    def forward(self, x, level, context=None):
        return self.by * x


@pytest.mark.parametrize(
    "direction", [lambda x, t: (x - MEAN) / (1 + t), lambda x, t: (x - MEAN) / (1 + t**2)]
)
def test_at_the_exact_map_the_gradient_vanishes_as_the_gap_closes(direction):
    """Squared distance, the regime within `huber`: the slope along any change of the map."""
    x0, noise, t = batch(400_000, seed=3)

    def slope(stage):
        r = consistency.lower_levels(t, stage, 2.0, 8.0, 1.0)
        by = torch.zeros((), dtype=torch.float64, requires_grad=True)

        def changed(x, sigma, context=None):
            at = sigma[:, None, None, None]
            return ends(x, sigma) + by * at * direction(x, at)

        aim = consistency.target(ends, x0, r, noise)
        loss = consistency.loss(changed, x0, t, noise, 1 / (t - r), aim, huber=100.0)
        return torch.autograd.grad(loss * 200, by)[0].item()

    slopes = np.abs([slope(stage) for stage in (3, 5, 8, 10)])
    assert slopes[0] > 1e-3, "far apart, a mean is asked for instead of the map"
    assert slopes[-1] < 0.05 * slopes[0] + 2e-3


def test_a_small_network_learns_the_map_of_a_gaussian():
    """From zero: the largest error over three standard deviations at the level 5 is 0.1."""
    torch.manual_seed(0)
    net = Denoiser(Small(), "edm", SPREAD)
    steps = 1500
    settings = SimpleNamespace(steps=steps, stages=8)
    adam = torch.optim.Adam(net.parameters(), 3e-3)
    for k in range(steps):
        for group in adam.param_groups:
            group["lr"] = 3e-3 * min(1, 2 * (1 - k / steps))
        x0 = MEAN + SPREAD * torch.randn(256, 1, 1, 1)
        t = torch.exp(-0.5 + 1.5 * torch.randn(256))
        noise = torch.randn(x0.shape)
        r = consistency.lower_levels(t, consistency.stage(k, settings), 2.0, 8.0, 1.0)
        aim = consistency.target(net, x0, r, noise)
        loss = consistency.loss(net, x0, t, noise, 1 / (t - r), aim, huber=1e-2)
        adam.zero_grad()
        loss.backward()
        adam.step()
    x = (MEAN + 5 * torch.linspace(-3, 3, 61)).view(-1, 1, 1, 1)
    with torch.no_grad():
        error = (net(x, 5.0) - ends(x, 5.0)).abs().max().item()
        still = (MEAN + (x - MEAN) * SPREAD**2 / (SPREAD**2 + 25)) - ends(x, 5.0)
    assert error < 0.1 < 0.5 * still.abs().max().item(), "the denoiser would be far off"


class Small(torch.nn.Module):
    """Two hidden layers that see x and the level."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(2, 64),
            torch.nn.SiLU(),
            torch.nn.Linear(64, 64),
            torch.nn.SiLU(),
            torch.nn.Linear(64, 1),
        )

    def forward(self, x, level, context=None):
        return self.layers(torch.stack([x.flatten(), level], 1)).view_as(x)


def test_two_steps_add_fresh_noise_in_between_and_one_adds_none():
    asked = []

    def f(x, sigma):
        asked.append((x, sigma))
        return ends(x, sigma)

    noise = sampler.ImageNoise([1, 2])
    x = 80 * noise((1, 4, 4)).double()
    (one,) = consistency.walk(f, torch.tensor([80.0, 0.0]).double(), x, noise)
    assert torch.equal(one.x, ends(x, 80.0)) and [s for _, s in asked] == [80.0]
    asked.clear()
    drawn = list(consistency.walk(f, torch.tensor([80.0, 0.8, 0.0], dtype=torch.float64), x, noise))
    assert [s for _, s in asked] == [80.0, 0.8] and [s.step for s in drawn] == [1, 2]
    added = (asked[1][0] - one.x) / 0.8
    assert 0.6 < added.std() < 1.4 and torch.equal(drawn[-1].x, ends(asked[1][0], 0.8))


# A mixture of two Gaussians in one dimension: the flow keeps the order of its points, so that its
# exact map takes each quantile of the noisy distribution to that of the clean one.

SHARES, MIDDLES, WIDTHS = (torch.tensor(v).double() for v in ((0.3, 0.7), (-1.0, 0.6), (0.15, 0.3)))
TWO_STEPS = torch.tensor([20.0, 0.8, 0.0]).double()


def share_below(x, sigma):
    """The distribution function of the mixture with noise of level sigma at x (B,)."""
    wide = (WIDTHS**2 + sigma**2).sqrt()
    return (SHARES * torch.special.ndtr((x[:, None] - MIDDLES) / wide)).sum(1)


def quantiles(shares):
    """The values x (B,) of the mixture below which these shares (B,) lie, by halving intervals."""
    low, high = torch.full_like(shares, -6.0), torch.full_like(shares, 6.0)
    for _ in range(50):
        middle = (low + high) / 2
        below = share_below(middle, 0.0) < shares
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


def mixture_map(x, sigma):
    return quantiles(share_below(x.double().flatten(), torch.as_tensor(sigma))).view_as(x)


def mixture_denoiser(x, t):
    """The exact denoiser at x (B, 1, 1, 1) and levels t (B,)."""
    at, t = x.double().flatten()[:, None], torch.as_tensor(t).double().reshape(-1, 1)
    wide = WIDTHS**2 + t**2
    log_parts = SHARES.log() - (at - MIDDLES) ** 2 / (2 * wide) - wide.log() / 2
    ends_of_each = MIDDLES + WIDTHS**2 / wide * (at - MIDDLES)
    return (log_parts.softmax(1) * ends_of_each).sum(1).view_as(x).to(x.dtype)


class FromExact(torch.nn.Module):
    """The exact denoiser plus a network that is zero before the tuning, and at level 0."""

    def __init__(self):
        super().__init__()
        self.net = Small()
        torch.nn.init.zeros_(self.net.layers[-1].weight)
        torch.nn.init.zeros_(self.net.layers[-1].bias)

    def forward(self, x, t, context=None):
        scale = (1 + t**2).sqrt()[:, None, None, None]
        added = self.net(x / scale, t.log() / 4)
        return mixture_denoiser(x, t) + added * t[:, None, None, None] / scale


def drawn(f, n=20_000):
    """Sorted values of n images that f draws in two steps."""
    x = TWO_STEPS[0] * torch.randn(n, 1, 1, 1, generator=torch.Generator().manual_seed(8)).double()
    with torch.no_grad():
        *_, last = consistency.walk(f, TWO_STEPS, x, Fresh())
    return last.x.double().flatten().sort().values


class Fresh:
    """Noise of one seed."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(9)

    def like(self, x):
        return torch.randn(x.shape, generator=self.generator, dtype=x.dtype)


def off(values):
    """The mean distance of sorted values from the mixture's quantiles at their places."""
    places = (torch.arange(len(values)).double() + 0.5) / len(values)
    return (values - quantiles(places)).abs().mean().item()


def test_the_map_of_a_mixture_agrees_with_the_flow_and_the_denoiser_of_the_mixture():
    exact = Mixture(SHARES, MIDDLES[:, None], (WIDTHS**2)[:, None, None], (1, 1, 1))
    x = (20 * torch.linspace(-2, 2, 41)).double().view(-1, 1, 1, 1)
    near = mixture_denoiser(x / 10, torch.full((41,), 0.7)) - exact.denoise(x / 10, 0.7)
    assert near.abs().max() < 1e-7  # Mixture keeps single precision
    sigmas = torch.cat([torch.logspace(math.log10(20), -3, 600), torch.zeros(1)]).double()
    for state in sampler.dpmpp_2m(exact.denoise, sigmas, x):
        end = state.x
    assert (end - mixture_map(x, 20.0)).abs().max() < 3e-3


def test_two_steps_with_the_exact_map_draw_the_mixture():
    exact = Mixture(SHARES, MIDDLES[:, None], (WIDTHS**2)[:, None, None], (1, 1, 1))
    scatter = [off(exact.draw(20_000, seed).flatten().sort().values) for seed in range(5)]
    assert off(drawn(mixture_map)) < 2 * max(scatter) < 0.05


def test_tuning_takes_the_exact_denoiser_of_a_mixture_to_a_map_that_draws_it():
    torch.manual_seed(0)
    net, steps = FromExact(), 2000
    start = off(drawn(lambda x, sigma: mixture_denoiser(x, sigma)))
    settings = SimpleNamespace(steps=steps, stages=8)
    adam = torch.optim.Adam(net.parameters(), 3e-3)
    for k in range(steps):
        adam.param_groups[0]["lr"] = 3e-3 * min(1, 2 * (1 - k / steps))
        which = torch.multinomial(SHARES, 256, replacement=True)
        x0 = (MIDDLES[which] + WIDTHS[which] * torch.randn(256)).float().view(-1, 1, 1, 1)
        t = torch.exp(0.3 + 1.5 * torch.randn(256))
        noise = torch.randn(x0.shape)
        r = consistency.lower_levels(t, consistency.stage(k, settings), 2.0, 8.0, 1.0)
        aim = consistency.target(net, x0, r, noise)
        value = consistency.loss(net, x0, t, noise, 1 / (t - r), aim, huber=1e-2)
        adam.zero_grad()
        value.backward()
        adam.step()

    def tuned(x, sigma):
        return net(x.float(), torch.full((len(x),), float(sigma))).double()

    end = off(drawn(tuned))
    assert end < 0.09 and end < 0.3 * start
