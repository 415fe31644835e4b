"""Schedules against closed forms and against diffusers."""

import diffusers
import numpy as np
import pytest
import scipy.stats
import torch

from lensnb import schedule
from lensnb.recipes.schema import Diffusion
from lensnb.schedule import Discrete, cosine_betas, linear_betas, sigmoid_betas


def test_linear_schedule_is_that_of_diffusers():
    theirs = diffusers.DDPMScheduler(
        num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear"
    )
    ours = Discrete(linear_betas(1000, 1e-4, 0.02))
    assert (ours.alpha_bar - theirs.alphas_cumprod.double()).abs().max() < 1e-6  # theirs is float32


def test_cosine_schedule_is_that_of_diffusers():
    theirs = diffusers.DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2")
    assert (cosine_betas(1000) - theirs.betas.double()).abs().max() < 1e-7


def test_cosine_alpha_bar_is_the_closed_form_up_to_the_clipped_end():
    t = np.arange(1, 1000) / 1000
    closed = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    assert np.abs(Discrete(cosine_betas(1000)).alpha_bar[:-1].numpy() - closed).max() < 1e-12


@pytest.mark.parametrize(
    "betas",
    [
        linear_betas(),
        cosine_betas(),
        sigmoid_betas(),
        schedule.zero_terminal_snr(linear_betas()),
        linear_betas(1500),
        linear_betas(128, 7.8e-4, 0.156),
    ],
    ids=["linear", "cosine", "sigmoid", "zero_snr", "T1500", "T128"],
)
def test_forward_noising_has_the_variance_of_the_chain_of_single_steps(betas):
    """x_t = sqrt(1 - beta) x_{t-1} + sqrt(beta) noise, step by step, for a point x0 = 1."""
    made = Discrete(betas)
    mean = 1.0
    variance = 0.0
    for beta, alpha_bar, sigma in zip(
        betas.tolist(), made.alpha_bar.tolist(), made.sigmas.tolist(), strict=True
    ):
        mean = (1 - beta) ** 0.5 * mean
        variance = (1 - beta) * variance + beta
        assert abs(mean - alpha_bar**0.5) < 1e-10
        # sqrt(1 - alpha_bar), not 1 - sqrt(alpha_bar)
        assert abs(variance**0.5 - (1 - alpha_bar) ** 0.5) < 1e-10
        assert abs(sigma * mean / variance**0.5 - 1) < 1e-6
    assert torch.isfinite(made.sigmas).all() and (made.sigmas.diff() > 0).all()


@pytest.mark.parametrize("steps", [1, 7, 10, 30, 50, 100, 999, 1000])
def test_sampling_steps_are_the_trailing_ones_of_diffusers(steps):
    theirs = diffusers.DDIMScheduler(num_train_timesteps=1000, timestep_spacing="trailing")
    theirs.set_timesteps(steps)
    made = Discrete(linear_betas())
    assert made.timesteps(steps).tolist() == theirs.timesteps.tolist()
    sigmas = made.sample_sigmas(steps)
    assert len(sigmas) == steps + 1 and sigmas[-1] == 0 and (sigmas.diff() < 0).all()
    assert sigmas[0] == made.sigmas[-1]


@pytest.mark.parametrize("steps", [0, 1001])
def test_impossible_numbers_of_steps_are_refused(steps):
    with pytest.raises(ValueError, match=f"^{steps} steps asked of a schedule of 1000"):
        Discrete(linear_betas()).sample_sigmas(steps)


def test_training_levels_cover_the_schedule_evenly():
    made = Discrete(cosine_betas(100))
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([made.train_sigmas(32, generator) for _ in range(2000)])
    counts = (drawn[:, None] == made.sigmas.float()[None]).sum(0)
    assert counts.sum() == 64000  # every level drawn is one of the schedule
    assert (counts / 640 - 1).abs().max() < 0.15  # 640 +- 25 expected: 6 sigma


def test_training_levels_of_one_batch_are_stratified():
    made = Discrete(linear_betas(1000))
    t = torch.searchsorted(
        made.sigmas.float(), made.train_sigmas(100, torch.Generator().manual_seed(1))
    )
    assert (t // 10).tolist() == list(range(100))


def test_sigmoid_alpha_bar_is_the_closed_form_up_to_the_clipped_end():
    t = np.arange(1, 1000) / 1000

    def logistic(x):
        return 1 / (1 + np.exp(-x))

    # Jabri et al., algorithm 2
    closed = (logistic(3.0) - logistic(-3 + 6 * t)) / (logistic(3.0) - logistic(-3.0))
    assert np.abs(Discrete(sigmoid_betas()).alpha_bar[:-1].numpy() - closed).max() < 1e-12


def test_zero_terminal_snr_is_that_of_diffusers_but_for_the_last_level():
    theirs = diffusers.DDIMScheduler(
        1000, 1e-4, 0.02, "linear", rescale_betas_zero_snr=True
    ).alphas_cumprod.double()
    ours = Discrete(schedule.zero_terminal_snr(linear_betas()))
    assert (ours.alpha_bar[:-1] - theirs[:-1]).abs().max() < 1e-6 and theirs[-1] < 1e-7
    # the level before the last is above SIGMA_MAX already
    assert ours.alpha_bar[-2] < 4e-8 and abs(ours.alpha_bar[-1] / ours.alpha_bar[-2] - 1 / 4) < 1e-6
    short = Discrete(schedule.zero_terminal_snr(linear_betas(50, 1e-3, 0.2)))
    assert short.alpha_bar[-2] > 4e-8 and abs(short.sigmas[-1] / 1e4 - 1) < 1e-9
    assert (
        of(schedule="linear", zero_snr=True).sigmas[-1]
        > 9e3
        > 1e3
        > of(schedule="linear").sigmas[-1]
    )


def of(**section):
    return schedule.from_params(Diffusion(**section))


def test_the_signal_rate_falls_as_a_cosine_between_its_ends():
    made = of(schedule="signal_rate")
    steps = 10

    def rate(sigma):
        return 1 / (1 + sigma**2).sqrt()  # signal rate at unit variance

    time = torch.linspace(0, 1, 11, dtype=torch.float64)
    expected = torch.cos(np.arccos(0.95) + time * (np.arccos(0.02) - np.arccos(0.95)))
    assert (rate(made.at(time)) - expected).abs().max() < 1e-12
    assert (rate(made.sample_sigmas(steps)[:-1]) - expected.flip(0)[:-1]).abs().max() < 1e-12
    drawn = torch.cat([made.train_sigmas(50, torch.Generator().manual_seed(i)) for i in range(100)])
    angle = (drawn.double().atan() - np.arccos(0.95)) / (np.arccos(0.02) - np.arccos(0.95))
    assert scipy.stats.kstest(angle.numpy(), "uniform").pvalue > 1e-3


def test_edm_trains_on_log_normal_levels_and_samples_along_those_of_the_paper():
    made = of(schedule="edm", edm_mean=-1.2, edm_std=1.2)
    drawn = torch.cat([made.train_sigmas(50, torch.Generator().manual_seed(i)) for i in range(100)])
    assert (
        scipy.stats.kstest(drawn.double().log().numpy(), scipy.stats.norm(-1.2, 1.2).cdf).pvalue
        > 1e-3
    )
    theirs = diffusers.EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, rho=7.0)
    theirs.set_timesteps(18)
    assert (made.sample_sigmas(18) / theirs.sigmas.double() - 1)[
        :-1
    ].abs().max() < 1e-5 and made.sample_sigmas(18)[-1] == 0
    assert abs(made.sample_sigmas(1)[0] - 80) < 1e-9
    # a normal distribution has no ends, so it is cut off
    ends = np.exp(scipy.stats.norm.ppf([1e-6, 1 - 1e-6], -1.2, 1.2))
    assert np.abs(made.at(torch.tensor([0.0, 1.0]).double()).numpy() / ends - 1).max() < 1e-9


def test_the_flow_is_the_straight_path():
    made = of(schedule="flow", prediction="velocity")
    t = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    assert (made.at(t) - t / (1 - t)).abs().max() < 1e-12
    ends = made.at(torch.tensor([0.0, 1.0]).double())  # of a path that has none
    assert abs(ends[0] - 1e-3 / (1 - 1e-3)) < 1e-12 and abs(ends[1] / 1e4 - 1) < 1e-9
    sigmas = made.sample_sigmas(5)
    assert (sigmas[1:-1] - torch.tensor([4, 1.5, 2 / 3, 0.25]).double()).abs().max() < 1e-6
    assert 5e3 < sigmas[0] < 2e4 and torch.isfinite(sigmas).all()


def test_times_of_the_flow_are_uniform_or_logit_normal():
    """Drawn times against scipy's laws: stratified draws of 4096 lie within 1/4096 of them."""
    laws = {
        "uniform": scipy.stats.uniform.cdf,
        "logit_normal": lambda t: scipy.stats.norm.cdf(np.log(t / (1 - t)), 0.3, 0.8),
    }
    for times, law in laws.items():
        made = of(schedule="flow", prediction="velocity", times=times, edm_mean=0.3, edm_std=0.8)
        sigma = made.train_sigmas(4096, torch.Generator().manual_seed(0)).double().numpy()
        # in single precision; uniform times are cut off below 1e-3
        assert scipy.stats.kstest(sigma / (1 + sigma), law).statistic < 1.5e-3, times
        even = of(schedule="flow", prediction="velocity").sample_sigmas(9)
        assert torch.equal(made.sample_sigmas(9), even)


def test_times_belong_to_the_flow():
    with pytest.raises(ValueError, match="times logit_normal are those of the flow schedule"):
        of(schedule="edm", times="logit_normal")


@pytest.mark.parametrize("name", ["linear", "cosine", "sigmoid", "signal_rate", "edm", "flow"])
def test_every_schedule_answers_both_questions(name):
    made = of(schedule=name, prediction="v")
    for steps in (1, 2, 10, 50, 1000):
        sigmas = made.sample_sigmas(steps)
        assert sigmas.shape == (steps + 1,) and sigmas.dtype == torch.float64
        assert (sigmas.diff() < 0).all() and sigmas[-1] == 0 and torch.isfinite(sigmas).all()
    drawn = made.train_sigmas(64, torch.Generator().manual_seed(0))
    assert (
        drawn.shape == (64,)
        and drawn.dtype == torch.float32
        and (drawn > 0).all()
        and (drawn.diff() >= 0).all()
    )


@pytest.mark.parametrize("name", ["linear", "cosine", "sigmoid"])
@pytest.mark.parametrize("zero_snr", [False, True])
def test_schedules_by_plain_arguments_are_those_of_recipes(name, zero_snr):
    made = getattr(schedule, name)(timesteps=100, zero_snr=zero_snr)
    recipe = of(schedule=name, timesteps=100, zero_snr=zero_snr, prediction="v")
    assert len(made.sigmas) == 100 and torch.equal(made.sigmas, recipe.sigmas)
    assert torch.equal(made.sample_sigmas(7), recipe.sample_sigmas(7))


@pytest.mark.parametrize("name", ["signal_rate", "edm", "flow"])
def test_continuous_schedules_by_plain_arguments_are_the_defaults_of_recipes(name):
    made = getattr(schedule, name)()
    recipe = of(schedule=name, prediction="v")
    u = torch.linspace(0, 1, 50, dtype=torch.float64)
    assert torch.equal(made.at(u), recipe.at(u))
    assert torch.equal(made.sample_sigmas(7), recipe.sample_sigmas(7))
