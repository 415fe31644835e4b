"""Schedules against closed forms and against diffusers."""

import diffusers
import numpy as np
import pytest
import torch

from lensnb.schedule import Schedule, cosine_betas, linear_betas


def test_linear_schedule_is_that_of_diffusers():
    theirs = diffusers.DDPMScheduler(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear")
    ours = Schedule(linear_betas(1000, 1e-4, 0.02))
    assert (ours.alpha_bar - theirs.alphas_cumprod.double()).abs().max() < 1e-6     # theirs is float32


def test_cosine_schedule_is_that_of_diffusers():
    theirs = diffusers.DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2")
    assert (cosine_betas(1000) - theirs.betas.double()).abs().max() < 1e-7


def test_cosine_alpha_bar_is_the_closed_form_up_to_the_clipped_end():
    t = np.arange(1, 1000) / 1000
    closed = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    assert np.abs(Schedule(cosine_betas(1000)).alpha_bar[:-1].numpy() - closed).max() < 1e-12


@pytest.mark.parametrize("betas", [linear_betas(), cosine_betas()], ids=["linear", "cosine"])
def test_forward_noising_has_the_variance_of_the_chain_of_single_steps(betas):
    """x_t = sqrt(1 - beta) x_{t-1} + sqrt(beta) noise, step by step, for a point x0 = 1."""
    schedule, mean, variance = Schedule(betas), 1.0, 0.0
    for beta, alpha_bar, sigma in zip(betas.tolist(), schedule.alpha_bar.tolist(), schedule.sigmas.tolist(), strict=True):
        mean, variance = (1 - beta) ** 0.5 * mean, (1 - beta) * variance + beta
        assert abs(mean - alpha_bar**0.5) < 1e-10
        assert abs(variance**0.5 - (1 - alpha_bar) ** 0.5) < 1e-10      # sqrt(1 - alpha_bar), not 1 - sqrt(alpha_bar)
        assert abs(sigma * mean / variance**0.5 - 1) < 1e-6
    assert torch.isfinite(schedule.sigmas).all() and (schedule.sigmas.diff() > 0).all()


@pytest.mark.parametrize("steps", [1, 7, 10, 30, 50, 100, 999, 1000])
def test_sampling_steps_are_the_trailing_ones_of_diffusers(steps):
    theirs = diffusers.DDIMScheduler(num_train_timesteps=1000, timestep_spacing="trailing")
    theirs.set_timesteps(steps)
    schedule = Schedule(linear_betas())
    assert schedule.timesteps(steps).tolist() == theirs.timesteps.tolist()
    sigmas = schedule.sample_sigmas(steps)
    assert len(sigmas) == steps + 1 and sigmas[-1] == 0 and (sigmas.diff() < 0).all()
    assert sigmas[0] == schedule.sigmas[-1]


@pytest.mark.parametrize("steps", [0, 1001])
def test_impossible_numbers_of_steps_are_refused(steps):
    with pytest.raises(ValueError, match="1000"):
        Schedule(linear_betas()).sample_sigmas(steps)


def test_training_levels_cover_the_schedule_evenly():
    schedule = Schedule(cosine_betas(100))
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([schedule.train_sigmas(32, generator) for _ in range(2000)])
    counts = (drawn[:, None] == schedule.sigmas.float()[None]).sum(0)
    assert counts.sum() == 64000                                     # every level drawn is one of the schedule
    assert (counts / 640 - 1).abs().max() < 0.15                     # 640 +- 25 expected: 6 sigma


def test_training_levels_of_one_batch_are_stratified():
    schedule = Schedule(linear_betas(1000))
    t = torch.searchsorted(schedule.sigmas.float(), schedule.train_sigmas(100, torch.Generator().manual_seed(1)))
    assert (t // 10).tolist() == list(range(100))
