"""Samplers against diffusers on the same noise, and against exact solutions for known data."""

import itertools
import math

import diffusers
import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch

from lensnb import denoiser, generator, io, sampler, schedule
from lensnb.errors import InputError
from lensnb.mixture import Mixture
from lensnb.recipes.recipe import load_recipe
from lensnb.recipes.schema import Method
from lensnb.schedule import Discrete, cosine_betas, linear_betas
from lensnb.seeds import derived_seed, image_seeds
from lensnb.unet import UNet

# Gaussian data, whose denoiser is known
MEAN = 0.3
STD = 0.5


def gaussian_denoiser(x, sigma):
    """The exact posterior mean of x0 for x0 ~ N(MEAN, STD^2)."""
    return (STD**2 * x + sigma**2 * MEAN) / (STD**2 + sigma**2)


def mixture_denoiser(x, sigma):
    """The exact posterior mean for an equal mixture of three Gaussians.

    They are N(-1, 0.3^2), N(0.4, 0.2^2) and N(1.5, 0.5^2).
    """
    centres = torch.tensor([-1.0, 0.4, 1.5]).double()
    widths = torch.tensor([0.3, 0.2, 0.5]).double()
    total = widths**2 + sigma**2
    share = (-((x[..., None] - centres) ** 2) / (2 * total) - total.log() / 2).softmax(-1)
    return (share * (widths**2 * x[..., None] + sigma**2 * centres) / total).sum(-1)


def wiggly(x, sigma):
    """A denoiser without symmetry, so that a wrong coefficient shows."""
    return torch.sin(x / (1 + sigma**2) ** 0.5) * 0.7 + 0.1 * math.tanh(sigma)


class Tape:
    """The noise that both sides draw, in order."""

    def __init__(self, draws):
        self.draws = iter(draws)

    def like(self, x):
        return next(self.draws)


# The variance-preserving schedulers of diffusers --------------------------------------------------


def theirs(scheduler, made, steps, z, options):
    """Samples of a diffusers scheduler from the same denoiser and noise.

    They are in its variance-preserving variable.
    """
    scheduler.betas = made.betas
    scheduler.alphas = 1 - made.betas
    scheduler.alphas_cumprod = made.alpha_bar
    scheduler.one = scheduler.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    scheduler.set_timesteps(steps)
    if hasattr(scheduler, "sigmas"):  # in double precision, which theirs are not
        scheduler.sigmas = made.sample_sigmas(steps)
    for i, t in enumerate(scheduler.timesteps):
        alpha_bar = made.alpha_bar[t]
        x0 = wiggly(z / alpha_bar.sqrt(), ((1 - alpha_bar) / alpha_bar).sqrt().item())
        z = scheduler.step(x0, t, z, **options(i)).prev_sample
    return z


def difference(ours, made, scheduler, steps, options=lambda draw: {}):
    """Largest difference at the end of both, from the same start and noise."""
    torch.manual_seed(steps)
    tape = [torch.randn(3, 1, 4, 4, dtype=torch.float64) for _ in range(steps)]
    tape[-1].zero_()  # theirs adds noise in the last step of a respaced list, Ho et al. do not
    z = torch.randn(3, 1, 4, 4, dtype=torch.float64)
    sigmas = made.sample_sigmas(steps)
    *_, end = ours(wiggly, sigmas, z * (1 + sigmas[0] ** 2).sqrt(), Tape(tape))
    return (
        (end.x - theirs(scheduler, made, steps, z, lambda i: options(tape[i]))).abs().max().item()
    )


def of(scheduler):
    """Our schedule with the betas of a diffusers scheduler, to the last digit."""
    return Discrete(torch.tensor(scheduler.betas.tolist(), dtype=torch.float64))


COMMON = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "timestep_spacing": "trailing",
    "prediction_type": "sample",
}
BETAS = pytest.mark.parametrize("name", ["linear", "squaredcos_cap_v2"])


@BETAS
@pytest.mark.parametrize("steps", [10, 50, 1000])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_equals_diffusers(name, steps, eta):
    scheduler = diffusers.DDIMScheduler(
        **COMMON, beta_schedule=name, clip_sample=False, set_alpha_to_one=True
    )
    betas = linear_betas() if name == "linear" else cosine_betas()
    assert (of(scheduler).betas - betas).abs().max() < 1e-7

    def ours(*a):
        return sampler.ddim(*a, eta=eta)

    assert (
        difference(
            ours, of(scheduler), scheduler, steps, lambda draw: {"eta": eta, "variance_noise": draw}
        )
        < 1e-8
    )


class Told(diffusers.DDPMScheduler):
    """Is told the share v between both variances, which a network would predict as 2 v - 1."""

    v = 0.0

    def step(self, x0, *args, **kwargs):
        told = torch.full_like(x0, 2 * self.v - 1)
        return super().step(torch.cat([x0, told], 1), *args, **kwargs)


@BETAS
@pytest.mark.parametrize("steps", [10, 100, 1000])
@pytest.mark.parametrize("variance", ["small", "large", 0.3, 0.6])
@pytest.mark.parametrize("clip", [False, True], ids=["plain", "clipped"])
def test_ddpm_equals_diffusers(name, steps, variance, clip, monkeypatch):
    fixed = isinstance(variance, str)
    scheduler = (diffusers.DDPMScheduler if fixed else Told)(
        **COMMON,
        beta_schedule=name,
        clip_sample=clip,
        clip_sample_range=0.5,
        variance_type=f"fixed_{variance}" if fixed else "learned_range",
    )
    scheduler.v = variance
    draws = []
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *a, **k: draws[-1]
    )

    def ours(denoise, *a):
        return sampler.ddpm(
            denoiser.clipped(denoise, -0.5, 0.5) if clip else denoise, *a, variance=variance
        )

    assert (
        difference(ours, of(scheduler), scheduler, steps, lambda draw: draws.append(draw) or {})
        < 1e-8
    )


@BETAS
@pytest.mark.parametrize("steps", [5, 10, 25, 100, 1000])
def test_dpm_solver_2m_equals_diffusers(name, steps):
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **COMMON,
        beta_schedule=name,
        solver_order=2,
        algorithm_type="dpmsolver++",
        final_sigmas_type="zero",
        lower_order_final=False,
    )
    # diffusers rounds to single precision at every step
    assert difference(sampler.dpmpp_2m, of(scheduler), scheduler, steps) < 1e-5


@BETAS
@pytest.mark.parametrize("steps", [5, 25, 100])
def test_sde_dpm_solver_equals_diffusers(name, steps):
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **COMMON,
        beta_schedule=name,
        solver_order=2,
        algorithm_type="sde-dpmsolver++",
        final_sigmas_type="zero",
        lower_order_final=False,
    )
    given = difference(
        sampler.dpmpp_2m_sde, of(scheduler), scheduler, steps, lambda draw: {"variance_noise": draw}
    )
    assert given < 1e-5  # diffusers rounds to single precision at every step


def test_without_noise_the_sde_solver_is_the_plain_one():
    sigmas = Discrete(cosine_betas()).sample_sigmas(12)
    x = torch.randn(3, 1, 4, 4, dtype=torch.float64)
    *_, plain = sampler.dpmpp_2m(wiggly, sigmas, x)
    *_, quiet = sampler.dpmpp_2m_sde(wiggly, sigmas, x, None, eta=0.0)
    assert (plain.x - quiet.x).abs().max() < 1e-12


@BETAS
@pytest.mark.parametrize("steps", [5, 10, 25, 100, 1000])
def test_dpm_solver_3m_equals_diffusers_but_for_their_half_of_the_curvature(
    name, steps, monkeypatch
):
    """With the second derivative halved in our step, it is theirs.

    The whole derivative makes it third order, see test_order_of_convergence.
    """
    whole = sampler._exponential_step

    def halved(x, sigma, after, known):
        if len(known) < 3:
            return whole(x, sigma, after, known)
        h = math.log(sigma / after)
        a, b, c = [at for at, _ in known]
        bend = ((known[0][1] - known[1][1]) / (a - b) - (known[1][1] - known[2][1]) / (b - c)) / (
            a - c
        )
        return whole(x, sigma, after, known) + (math.expm1(-h) + h - h**2 / 2) * bend

    monkeypatch.setattr(sampler, "_exponential_step", halved)
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **COMMON,
        beta_schedule=name,
        solver_order=3,
        algorithm_type="dpmsolver++",
        final_sigmas_type="zero",
        lower_order_final=False,
    )
    assert difference(sampler.dpmpp_3m, of(scheduler), scheduler, steps) < 1e-5


@BETAS
@pytest.mark.parametrize("steps", [5, 10, 25, 100])
@pytest.mark.parametrize("order", [2, 3])
def test_unipc_equals_diffusers(name, steps, order):
    scheduler = diffusers.UniPCMultistepScheduler(
        **COMMON,
        beta_schedule=name,
        solver_order=order,
        solver_type="bh2",
        final_sigmas_type="zero",
    )

    def ours(*a):
        return sampler.unipc(*a, order=order)

    assert difference(ours, of(scheduler), scheduler, steps) < 1e-5


# The variance-exploding ones ----------------------------------------------------------------------


@pytest.mark.parametrize("steps", [10, 50, 1000])
def test_heun_equals_diffusers(steps):
    scheduler = diffusers.HeunDiscreteScheduler(
        1000, 1e-4, 0.02, "linear", timestep_spacing="trailing", prediction_type="epsilon"
    )
    sigmas = Discrete(linear_betas()).sample_sigmas(steps)
    scheduler.set_timesteps(steps)
    scheduler.sigmas = torch.cat([sigmas[:1], sigmas[1:-1].repeat_interleave(2), sigmas[-1:]])
    torch.manual_seed(0)
    x = theirs_x = sigmas[0] * torch.randn(3, 1, 4, 4, dtype=torch.float64)
    levels = scheduler.sigmas[:-1]  # one for each of their evaluations
    for t, sigma in zip(scheduler.timesteps, levels, strict=True):
        theirs_x = scheduler.step(
            (theirs_x - wiggly(theirs_x, sigma.item())) / sigma, t, theirs_x
        ).prev_sample
    *_, end = sampler.heun(wiggly, sigmas, x, None)
    assert (end.x - theirs_x).abs().max() < 1e-8


@pytest.mark.parametrize("steps", [10, 100])
def test_ancestral_euler_equals_diffusers(steps, monkeypatch):
    scheduler = diffusers.EulerAncestralDiscreteScheduler(
        1000, 1e-4, 0.02, "linear", timestep_spacing="trailing", prediction_type="epsilon"
    )
    sigmas = Discrete(linear_betas()).sample_sigmas(steps)
    scheduler.set_timesteps(steps)
    scheduler.sigmas = sigmas
    torch.manual_seed(0)
    tape = [torch.randn(3, 1, 4, 4, dtype=torch.float64) for _ in range(steps)]
    x = theirs_x = sigmas[0] * torch.randn(3, 1, 4, 4, dtype=torch.float64)
    draws = iter(tape)
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_euler_ancestral_discrete.randn_tensor",
        lambda *a, **k: next(draws),
    )
    for i, t in enumerate(scheduler.timesteps):
        scheduler.scale_model_input(theirs_x, t)
        noise = (theirs_x - wiggly(theirs_x, sigmas[i].item())) / sigmas[i]
        theirs_x = scheduler.step(noise, t, theirs_x).prev_sample
    *_, end = sampler.euler_ancestral(wiggly, sigmas, x, Tape(tape))
    assert (end.x - theirs_x).abs().max() < 1e-5  # they round to single precision


# Exact solutions ----------------------------------------------------------------------------------


def draw_gaussian(ours, sigmas, n=20000):
    noise = sampler.ImageNoise([len(sigmas)])
    *_, end = ours(
        gaussian_denoiser, sigmas, sampler.start(sigmas, (n, 1, 1), noise, torch.float64), noise
    )
    return end.x


def test_a_start_about_the_mean_takes_the_missing_mean_back():
    """The exact flow of a Gaussian keeps (x - mean) / sqrt(s^2 + sigma^2), here of x = 0."""
    mean, s, sigma = 3.0, 0.5, 4.0
    wiener = s**2 / (s**2 + sigma**2)

    def denoise(x, sigma):
        return mean + s**2 / (s**2 + sigma**2) * (x - mean)

    sigmas = torch.cat([schedule.karras(300, 1e-3, sigma, 7), torch.zeros(1)])
    x = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    *_, plain = sampler.heun(denoise, sigmas, x)
    *_, moved = sampler.heun(denoise, sigmas, sampler.about_the_mean(denoise, sigmas, x))
    shrink = s / math.hypot(s, sigma)
    assert abs(plain.x.item() - mean * (1 - shrink)) < 1e-3  # 12 % of the mean is missing
    assert abs(moved.x.item() - mean * (1 - wiener * shrink)) < 1e-3  # 0.2 %


@pytest.mark.parametrize("steps", [10, 100])
@pytest.mark.parametrize("variance", ["small", "large"])
def test_ddpm_ends_with_the_mean_and_variance_of_its_recursion(steps, variance):
    """With the exact denoiser of Gaussian data every step is affine.

    So mean and variance follow by hand.
    """
    sigmas = Discrete(cosine_betas()).sample_sigmas(steps)
    mean = 0.0
    spread = 1 + sigmas[0].item() ** 2
    for s, after in zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True):
        shrink = STD**2 / (STD**2 + s**2)
        r = (after / s) ** 2
        a = (1 - r) * shrink + r
        b = (1 - r) * (1 - shrink) * MEAN
        fresh = (
            after**2 * (1 - r)
            if variance == "small"
            else (s**2 - after**2) * (1 + after**2) / (1 + s**2) * (after > 0)
        )
        mean = a * mean + b
        spread = a**2 * spread + fresh
    x = draw_gaussian(lambda *a: sampler.ddpm(*a, variance=variance), sigmas)
    assert abs(x.mean() - mean) < 5 * (spread / 20000) ** 0.5
    assert abs(x.var() / spread - 1) < 5 * (2 / 20000) ** 0.5


def test_the_variance_of_the_quick_recipe_keeps_the_noise_of_images():
    """Fine detail is nearly white noise of a standard deviation of 0.07 to 0.3, in scaled units.

    A hundred steps with the small variance lose 6 to 8 % of it, with the large one they add 3 to
    5 %.
    """
    method = load_recipe(io.home() / "params/quick.yaml").sample.methods["ddpm"]
    sigmas = generator.sigmas_of(method, load_recipe(io.home() / "params/quick.yaml").diffusion)

    def kept(std, variance):
        """The standard deviation of images over that of the data: each step is linear."""
        spread = sigmas[0].item() ** 2 + 1

        class Ones:
            def like(self, x):
                return torch.ones_like(x)

        class Zeros:
            def like(self, x):
                return torch.zeros_like(x)

        def denoise(x, s):
            return x * std**2 / (std**2 + s**2)

        for pair in itertools.pairwise(sigmas.tolist()):
            (moved,) = sampler.ddpm(denoise, torch.tensor(pair), torch.ones(1), Zeros(), variance)
            (noisy,) = sampler.ddpm(denoise, torch.tensor(pair), torch.ones(1), Ones(), variance)
            spread = moved.x.item() ** 2 * spread + (noisy.x - moved.x).item() ** 2
        return spread**0.5 / std

    for std in (0.07, 0.15, 0.3):
        assert abs(kept(std, method.variance) - 1) < 0.015
        assert 0.91 < kept(std, "small") < 0.95 and 1.03 < kept(std, "large") < 1.05


@pytest.mark.parametrize("name", list(sampler.SAMPLERS))
def test_every_sampler_draws_gaussian_data_from_zero_terminal_snr(name):
    """From a level that is noise alone, nothing is NaN.

    Mean and variance are the data's.
    """
    sigmas = Discrete(schedule.zero_terminal_snr(linear_betas())).sample_sigmas(250)
    x = draw_gaussian(sampler.SAMPLERS[name].run, sigmas)
    assert torch.isfinite(x).all() and sigmas[0] > 9e3
    # with so few steps the exact recursion of DDPM ends 2.8 % too narrow; 20,000 draws add 0.5 %
    assert abs(x.mean() - MEAN) < 0.02 and abs(x.std() / STD - 1) < 0.05


def exact_flow(x, sigma, after):
    """The probability flow of the mixture from sigma to `after`, by scipy's eighth-order method."""

    def slope(s, y):
        return ((torch.from_numpy(y) - mixture_denoiser(torch.from_numpy(y), s)) / s).numpy()

    done = scipy.integrate.solve_ivp(
        slope, (sigma, after), x.numpy().ravel(), method="DOP853", rtol=1e-12, atol=1e-13
    )
    return torch.from_numpy(done.y[:, -1]).view_as(x)


@pytest.mark.parametrize(
    "name, expected",
    [("ddim", 1), ("heun", 2), ("heun_flow", 2), ("dpmpp_2m", 2), ("dpmpp_3m", 3), ("unipc", 3)],
)
def test_order_of_convergence(name, expected):
    """Halving the steps in log(sigma) divides the error by 2^order."""
    # far out, where the low orders of the first steps do not count
    x = 500 * torch.linspace(-2, 2, 9, dtype=torch.float64).view(9, 1, 1, 1) + 0.3
    exact = exact_flow(x, 500.0, 0.05)
    errors = []
    for n in (100, 200, 400):
        sigmas = torch.logspace(math.log10(500), math.log10(0.05), n + 1, dtype=torch.float64)
        *_, end = sampler.SAMPLERS[name].run(mixture_denoiser, sigmas, x, None)
        errors.append((end.x - exact).abs().max().item())
    orders = [math.log2(a / b) for a, b in zip(errors[:-1], errors[1:], strict=True)]
    assert all(order > expected - 0.25 for order in orders), (orders, errors)
    assert orders[-1] < expected + 1.6


def test_a_third_order_step_is_exact_where_the_prediction_is_a_parabola():
    """With x0 = c0 + c1 l + c2 l^2 and l = -log(sigma), the flow has a closed form."""
    c = (0.3, -0.7, 0.2)
    sigmas = torch.tensor([20.0, 11.0, 6.5, 2.0, 0.9, 0.3, 0.2]).double()

    def parabola(x, sigma):
        return torch.full_like(x, np.polyval(c[::-1], -math.log(sigma)))

    def particular(s):
        solution = (c[2], c[1] - 2 * c[2], c[0] - c[1] + 2 * c[2])  # of dx/dl = x0 - x
        return np.polyval(solution, -math.log(s))

    states = list(sampler.dpmpp_3m(parabola, sigmas, torch.ones(1, 1, 1, 1).double()))
    for before, state in zip(states[1:-1], states[2:], strict=True):  # from the third step on
        exact = particular(state.sigma) + state.sigma / before.sigma * (
            before.x - particular(before.sigma)
        )
        assert (state.x - exact).abs().max() < 1e-12


@pytest.mark.parametrize("name", ["ddim", "ddpm"])
def test_mixture_data_is_drawn_with_its_shares(name):
    """Many steps with the exact denoiser: as many images near each centre as the mixture has."""
    sigmas = torch.cat([schedule.karras(200, 0.01, 80, 7), torch.zeros(1)])
    noise = sampler.ImageNoise([3])
    x = sampler.start(sigmas, (6000, 1, 1), noise, torch.float64)
    *_, end = sampler.SAMPLERS[name].run(mixture_denoiser, sigmas, x, noise)
    centres = np.array([-1.0, 0.4, 1.5])
    widths = np.array([0.3, 0.2, 0.5])
    rng = np.random.default_rng(0)
    which = rng.integers(3, size=6000)
    assert (
        scipy.stats.ks_2samp(
            end.x.flatten().numpy(), rng.normal(centres[which], widths[which])
        ).pvalue
        > 1e-3
    )


@pytest.mark.parametrize("name, steps", [("ddim", 2000), ("heun_flow", 50), ("dpmpp_2m", 100)])
def test_the_straight_path_ends_at_the_mixtures_quantiles(name, steps):
    """In one dimension a flow keeps ranks: quantiles of the start become quantiles of the data.

    The velocity is exact (`Mixture.denoise`), and the start is noise alone.
    """
    weights, means, widths = np.array([0.3, 0.7]), np.array([-1.0, 0.8]), np.array([0.3, 0.5])
    mixture = Mixture(
        *map(torch.tensor, (weights, means[:, None])), widths[:, None, None] ** 2, (1, 1, 1)
    )
    sigmas = schedule.flow().sample_sigmas(steps)

    def rank(x, sigma):
        wide = np.hypot(widths, sigma)
        return (weights * scipy.stats.norm.cdf((x.numpy().ravel()[:, None] - means) / wide)).sum(1)

    x = sigmas[0] * torch.linspace(-2, 2, 9, dtype=torch.float64).view(9, 1, 1, 1)
    *_, end = sampler.SAMPLERS[name].run(mixture.denoise, sigmas, x, None)
    assert np.abs(rank(end.x, 0) - rank(x, sigmas[0].item())).max() < 0.004


def test_euler_on_the_straight_path_is_ddim():
    sigmas = schedule.flow().sample_sigmas(6)
    z = torch.linspace(-2, 2, 9, dtype=torch.float64).view(9, 1, 1, 1)
    t = sigmas / (1 + sigmas)
    *_, end = sampler.ddim(mixture_denoiser, sigmas, (1 + sigmas[0]) * z, None)
    for sigma, now, after in zip(sigmas.tolist(), t[:-1], t[1:], strict=False):
        x0 = mixture_denoiser((1 + sigma) * z, sigma)
        noise = (z - (1 - now) * x0) / now
        z = z + (after - now) * (noise - x0)
    assert (end.x - z).abs().max() < 1e-9


# The contract -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(sampler.SAMPLERS))
def test_an_image_is_the_same_in_any_batch(name):
    sigmas = Discrete(cosine_betas()).sample_sigmas(20)

    def last(seeds):
        noise = sampler.ImageNoise(seeds)
        x = sampler.start(sigmas, (1, 8, 8), noise)
        return list(sampler.SAMPLERS[name].run(wiggly, sigmas, x, noise))[-1].x

    together = last([5, 6, 7, 8])
    assert torch.equal(last([7])[0], together[2]) and torch.equal(last([8, 5])[1], together[0])
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize("name", list(sampler.SAMPLERS))
def test_states_tell_the_true_steps_and_end_without_noise(name):
    sigmas = Discrete(linear_betas()).sample_sigmas(7)
    asked = []

    def spy(x, sigma):
        return asked.append(sigma) or wiggly(x, sigma)

    x = torch.ones(2, 1, 4, 4, dtype=torch.float64)
    states = list(sampler.SAMPLERS[name].run(spy, sigmas, x, sampler.ImageNoise([0, 1])))
    assert [s.step for s in states] == list(range(1, 8))
    assert [s.sigma for s in states] == sigmas[1:].tolist()
    # at sigma = 0 the image is the prediction itself
    assert torch.equal(states[-1].x, states[-1].x0)
    # the network sees the levels of the list and no others
    assert set(asked) == set(sigmas[:-1].tolist())
    assert len(asked) == sampler.evaluations(name, 7)


def test_clipping_bounds_every_prediction():
    sigmas = Discrete(linear_betas()).sample_sigmas(10)
    x = 100 * torch.randn(2, 1, 4, 4, dtype=torch.float64)
    states = list(
        sampler.ddpm(
            denoiser.clipped(lambda x, s: 10 * x, -1, 2), sigmas, x, sampler.ImageNoise([0, 1])
        )
    )
    assert all(s.x0.min() >= -1 and s.x0.max() <= 2 for s in states)


def test_derived_seeds_differ_for_all_keys():
    seeds = {derived_seed(a, b, c) for a in range(10) for b in range(10) for c in range(10)}
    assert len(seeds) == 1000 and all(0 <= s < 2**63 for s in seeds) and max(seeds) > 2**62


def test_the_start_has_the_variance_of_a_noisy_image_of_unit_variance():
    for sigma in (0.5, 3.0):
        sigmas = torch.tensor([sigma, 0.0]).double()
        shape = (1, 4, 4)
        x = sampler.start(sigmas, shape, sampler.ImageNoise([1, 2]))
        assert (x - (1 + sigma**2) ** 0.5 * sampler.ImageNoise([1, 2])(shape)).abs().max() < 1e-6


# Drawing in one call ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(sampler.SAMPLERS))
def test_sample_draws_gaussian_data(name):
    sigmas = schedule.cosine(1000).sample_sigmas(200)
    made = sampler.sample(gaussian_denoiser, name, sigmas, n=300, shape=(1, 8, 8), seed=1)
    assert made.dtype == np.float32 and made.shape == (300, 1, 8, 8)
    assert abs(made.mean() - MEAN) < 0.02 and abs(made.std() / STD - 1) < 0.03


@pytest.mark.parametrize("name", list(sampler.SAMPLERS))
def test_sample_goes_the_way_of_its_sampler_with_the_seeds_of_the_images(name):
    sigmas = Discrete(cosine_betas()).sample_sigmas(9)
    noise = sampler.ImageNoise(image_seeds(7, 0, 3))
    x = sampler.start(sigmas, (2, 4, 4), noise)
    *_, end = sampler.SAMPLERS[name].run(wiggly, sigmas, x, noise)
    made = sampler.sample(wiggly, name, sigmas, n=3, shape=(2, 4, 4), seed=7)
    assert np.array_equal(made, end.x.numpy())
    assert np.array_equal(
        sampler.sample(wiggly, name, sigmas.tolist(), n=5, shape=(2, 4, 4), seed=7, batch=2)[:3],
        made,
    )
    assert not np.array_equal(made, sampler.sample(wiggly, name, sigmas, 3, (2, 4, 4), seed=8))


def test_sample_hands_on_options_and_contexts():
    sigmas = Discrete(cosine_betas()).sample_sigmas(9)

    def draw(name, **options):
        return sampler.sample(wiggly, name, sigmas, 2, (1, 4, 4), **options)

    assert np.array_equal(draw("ddim", eta=0.0), draw("ddim"))
    assert np.array_equal(draw("ddim", eta=1.0), draw("euler_ancestral"))
    assert not np.array_equal(draw("ddpm", variance="large"), draw("ddpm"))

    def told(x, sigma, context):
        return x * 0 + context[:, 0, None, None, None]

    context = torch.arange(5.0)[:, None]
    made = sampler.sample(told, "ddim", sigmas, 5, (1, 2, 2), context=context, batch=2)
    assert np.array_equal(made[:, 0, 0, 0], np.arange(5))


def test_sample_evaluates_a_network_and_leaves_it_as_it_was():
    """Dropout and batch statistics would make an image depend on the batch."""
    torch.manual_seed(0)
    net = denoiser.Denoiser(UNet(width=8, heads=2, norm="batch", dropout=0.5))
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.1)
    net.net.stem.eval()
    sigmas = schedule.cosine().sample_sigmas(3)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    made = sampler.sample(net, "ddim", sigmas, 3, (1, 16, 16))
    again = sampler.sample(net, "ddim", sigmas, 3, (1, 16, 16), batch=1)
    assert np.abs(made - again).max() < 1e-4 * np.abs(made).max()
    assert net.training and net.net.head.training and not net.net.stem.training
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_sample_draws_none_if_none_is_asked():
    sigmas = schedule.cosine().sample_sigmas(3)
    assert sampler.sample(wiggly, "ddim", sigmas, 0, (1, 4, 4)).shape == (0, 1, 4, 4)


@pytest.mark.parametrize(
    "given, said",
    [
        ({"name": "dimm"}, "no sampler 'dimm'; did you mean ddim?"),
        ({"eat": 1.0}, "ddim has no option 'eat'; did you mean eta?"),
        ({"name": "heun", "eta": 1.0}, "heun has no option 'eta'; known are none"),
        ({"sigmas": [1.0, 2.0, 0.0]}, "expected two or more noise levels that fall"),
        ({"sigmas": [1.0, math.nan]}, "expected two or more noise levels that fall"),
        ({"name": "ddpm", "variance": "lrage"}, "expected small, large or 0 to 1, found 'lrage'"),
        ({"sigmas": [math.inf, 1.0]}, "expected two or more noise levels that fall"),
        ({"sigmas": [1.0, -1.0]}, "expected two or more noise levels that fall"),
        ({"sigmas": 1.0}, "expected two or more noise levels that fall"),
    ],
)
def test_sample_refuses_in_one_sentence(given, said):
    call = {"net": wiggly, "name": "ddim", "sigmas": [2.0, 1.0, 0.0], "n": 1, "shape": (1, 2, 2)}
    with pytest.raises(InputError) as refused:
        sampler.sample(**(call | given))
    assert said in str(refused.value)


def test_the_options_of_samplers_are_keys_of_a_recipes_method():
    for record in sampler.SAMPLERS.values():
        assert set(record.options) <= set(Method.model_fields)


def test_a_sampler_from_outside_is_one_function(monkeypatch):
    monkeypatch.setattr(sampler, "SAMPLERS", type(sampler.SAMPLERS)("sampler"))

    @sampler.register("guess", "Best guess", options=("eta",), evaluations=lambda steps: 1)
    def guess(denoise, sigmas, x, noise, eta=0.0):
        x0 = denoise(x, float(sigmas[0]))
        yield sampler.State(1, 0.0, x0 + eta, x0)

    made = sampler.sample(gaussian_denoiser, "guess", [1e4, 0.0], 4, (1, 2, 2), eta=0.5)
    assert np.abs(made - MEAN - 0.5).max() < 1e-3
    assert sampler.evaluations("guess", 9) == 1 and sampler.SAMPLERS["guess"].label == "Best guess"
