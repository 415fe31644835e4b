"""Samplers against diffusers on the same noise, and against the exact solution for Gaussian data."""

import math

import diffusers
import pytest
import torch

from lensnb import sampler
from lensnb.schedule import Schedule, cosine_betas, linear_betas

MEAN, STD = 0.3, 0.5        # of Gaussian data, whose denoiser is known


def gaussian_denoiser(x, sigma):
    """The exact posterior mean of x0 for x0 ~ N(MEAN, STD^2)."""
    return (STD**2 * x + sigma**2 * MEAN) / (STD**2 + sigma**2)


def wiggly(x, sigma):
    """A denoiser without symmetry, so that a wrong coefficient shows."""
    return torch.sin(x / (1 + sigma**2) ** 0.5) * 0.7 + 0.1 * math.tanh(sigma)


class Tape:
    """The noise that both sides draw, in order."""

    def __init__(self, draws):
        self.draws = iter(draws)

    def like(self, x):
        return next(self.draws)


def theirs(scheduler, schedule, steps, z, tape, options):
    """Samples of a diffusers scheduler, in its variance-preserving variable, from the same denoiser and noise."""
    scheduler.betas, scheduler.alphas, scheduler.alphas_cumprod = schedule.betas, 1 - schedule.betas, schedule.alpha_bar
    scheduler.one = scheduler.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    scheduler.set_timesteps(steps)
    for i, t in enumerate(scheduler.timesteps):
        alpha_bar = scheduler.alphas_cumprod[t]
        sigma = ((1 - alpha_bar) / alpha_bar).sqrt()
        x0 = wiggly(z / alpha_bar.sqrt(), sigma.item())
        noise = (z - alpha_bar.sqrt() * x0) / (1 - alpha_bar).sqrt()
        z = scheduler.step(noise, t, z, **options(tape[i])).prev_sample
    return z


@pytest.mark.parametrize("betas, name", [(linear_betas(), "linear"), (cosine_betas(), "squaredcos_cap_v2")],
                         ids=["linear", "cosine"])
@pytest.mark.parametrize("steps", [10, 50, 1000])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_equals_diffusers(betas, name, steps, eta):
    scheduler = diffusers.DDIMScheduler(1000, 1e-4, 0.02, name, clip_sample=False, timestep_spacing="trailing",
                                        set_alpha_to_one=True)
    schedule = Schedule(scheduler.alphas_cumprod.double().new_tensor(scheduler.betas.tolist()))
    assert (schedule.betas - betas).abs().max() < 1e-7
    compare(schedule, scheduler, steps, lambda *a: sampler.ddim(*a, eta=eta), lambda draw: {"eta": eta, "variance_noise": draw})


@pytest.mark.parametrize("steps", [10, 100, 1000])
def test_ddpm_equals_diffusers(steps, monkeypatch):
    scheduler = diffusers.DDPMScheduler(1000, 1e-4, 0.02, "linear", clip_sample=False, timestep_spacing="trailing",
                                        variance_type="fixed_small")
    draws = []
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *a, **k: draws[-1])
    schedule = Schedule(torch.tensor(scheduler.betas.tolist(), dtype=torch.float64))
    compare(schedule, scheduler, steps, sampler.ddpm, lambda draw: draws.append(draw) or {})


def compare(schedule, scheduler, steps, ours, options):
    torch.manual_seed(steps)
    tape = [torch.randn(3, 1, 4, 4, dtype=torch.float64) for _ in range(steps)]
    z = torch.randn(3, 1, 4, 4, dtype=torch.float64)
    sigmas = schedule.sample_sigmas(steps)
    x = z * (1 + sigmas[0] ** 2).sqrt()
    *_, end = ours(wiggly, sigmas, x, Tape(tape))
    assert (end.x - theirs(scheduler, schedule, steps, z, tape, options)).abs().max() < 1e-8      # they add 1e-10 of noise at the end


def draw_gaussian(ours, schedule, steps, n=20000):
    noise = sampler.ImageNoise([steps])
    shape = (n, 1, 1)
    x = sampler.start(schedule.sample_sigmas(steps), shape, noise, torch.float64)
    *_, end = ours(gaussian_denoiser, schedule.sample_sigmas(steps), x, noise)
    return end.x


@pytest.mark.parametrize("steps", [10, 100])
def test_ddpm_ends_with_the_mean_and_variance_of_its_recursion(steps):
    """With the exact denoiser of Gaussian data every step is affine, so mean and variance follow by hand."""
    schedule = Schedule(cosine_betas())
    sigmas = schedule.sample_sigmas(steps).tolist()
    mean, variance = 0.0, 1 + sigmas[0] ** 2
    for s, after in zip(sigmas[:-1], sigmas[1:], strict=True):
        shrink, r = STD**2 / (STD**2 + s**2), (after / s) ** 2
        a, b = (1 - r) * shrink + r, (1 - r) * (1 - shrink) * MEAN
        mean, variance = a * mean + b, a**2 * variance + after**2 * (1 - r)
    x = draw_gaussian(sampler.ddpm, schedule, steps)
    assert abs(x.mean() - mean) < 5 * (variance / 20000) ** 0.5
    assert abs(x.var() / variance - 1) < 5 * (2 / 20000) ** 0.5


def test_ddim_converges_to_the_exact_flow_with_order_one():
    """The exact probability flow keeps (x - MEAN) / sqrt(STD^2 + sigma^2); DDIM is Euler's method on it."""
    x = torch.tensor([[[[1.7]]]], dtype=torch.float64) * 80
    errors = []
    for n in (64, 128, 256, 512):
        sigmas = torch.cat([torch.logspace(math.log10(80), -3, n, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)])
        *_, end = sampler.ddim(gaussian_denoiser, sigmas, x, None)
        exact = MEAN + (x - MEAN) * STD / (STD**2 + 80**2) ** 0.5
        errors.append((end.x - exact).abs().item())
    orders = [math.log2(a / b) for a, b in zip(errors[:-1], errors[1:], strict=True)]
    assert all(abs(order - 1) < 0.1 for order in orders), orders


@pytest.mark.parametrize("ours", [sampler.ddpm, sampler.ddim])
def test_an_image_is_the_same_in_any_batch(ours):
    schedule = Schedule(cosine_betas())
    sigmas = schedule.sample_sigmas(20)

    def last(seeds):
        noise = sampler.ImageNoise(seeds)
        x = sampler.start(sigmas, (1, 8, 8), noise)
        return [s for s in ours(wiggly, sigmas, x, noise)][-1].x

    together = last([5, 6, 7, 8])
    assert torch.equal(last([7])[0], together[2]) and torch.equal(last([8, 5])[1], together[0])
    assert not torch.equal(together[0], together[1])


def test_states_tell_the_true_steps_and_end_without_noise():
    sigmas = Schedule(linear_betas()).sample_sigmas(7)
    x = torch.ones(2, 1, 4, 4, dtype=torch.float64)
    states = list(sampler.ddim(wiggly, sigmas, x, None))
    assert [s.step for s in states] == list(range(1, 8))
    assert [s.sigma for s in states] == sigmas[1:].tolist()
    assert torch.equal(states[-1].x, states[-1].x0)         # at sigma = 0 the image is the prediction itself


def test_clipping_bounds_every_prediction():
    sigmas = Schedule(linear_betas()).sample_sigmas(10)
    x = 100 * torch.randn(2, 1, 4, 4, dtype=torch.float64)
    states = list(sampler.ddpm(lambda x, s: 10 * x, sigmas, x, sampler.ImageNoise([0, 1]), clip=(-1, 2)))
    assert all(s.x0.min() >= -1 and s.x0.max() <= 2 for s in states)


def test_derived_seeds_differ_for_all_keys():
    seeds = {sampler.derived_seed(a, b, c) for a in range(10) for b in range(10) for c in range(10)}
    assert len(seeds) == 1000 and all(0 <= s < 2**63 for s in seeds)
