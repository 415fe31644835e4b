"""Posterior samplers against closed forms, and what they promise about draws and data."""

import math

import numpy as np
import pytest
import torch

import lensnb
from lensnb import noise, operators, posterior
from lensnb.datasets.dataset import Scaling
from lensnb.errors import InputError
from lensnb.mixture import Mixture
from lensnb.observation import observe
from lensnb.prior import Prior

SHAPE = (1, 3, 3)
PIXELS = 9
NOISE = 0.1
PLAIN = Scaling("linear", 1.0, 0.0, 1.0, -10.0, 10.0)
ASINH = Scaling("asinh", 9.0, 0.2, 1.0, -0.8, 3.0)

places = torch.cartesian_prod(torch.arange(3), torch.arange(3)).double()
smooth = 0.25 * torch.exp(-((torch.cdist(places, places) / 2) ** 2) / 2)
smooth = smooth + 0.01 * torch.eye(PIXELS)
row, column = places.T
GAUSSIAN = Mixture([1.0], torch.full((1, PIXELS), 0.3), smooth[None], SHAPE)
MIXTURE = Mixture(
    [0.5, 0.5],
    torch.stack([0.6 * row.cos(), 0.3 * column - 0.5]),
    torch.stack([0.3 * smooth, 0.15 * smooth]),
    SHAPE,
)
HOLE = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 1]])
OPERATORS = {
    "noise": operators.identity,
    "mask": operators.mask(HOLE),
    "blur": operators.blur([[0.1, 0.2, 0.0], [0.2, 0.8, 0.1], [0.0, 0.3, 0.3]]),
    "larger pixels": operators.downsample(3),
    "own": operators.linear(lambda u: u[..., 0] - 2 * u[..., 2], SHAPE),
}
each_operator = pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)


class Bulk:
    """Noise from one seed, whatever the batch: quick for thousands of small images."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def like(self, x):
        return torch.randn(x.shape, generator=self.generator, dtype=x.dtype)


def prior_of(mixture, scaling=PLAIN):
    return Prior(mixture.denoise, mixture.shape, scaling, dtype=torch.float64)


def matrix(operator):
    return operator(torch.eye(PIXELS).double().view(PIXELS, *SHAPE)).flatten(1).T


def data_of(mixture, operator, seed=1, noise=NOISE, scaling=PLAIN):
    y = operator(scaling.inverse(mixture.draw(1, seed)))
    return y + noise * Bulk(seed).like(y)


def drawn(prior, y, operator, method, n, steps, seed=0, noise=NOISE, **options):
    """Scaled draws (n, d)."""
    rows = observe(prior, y, operator, noise).rows([0] * n)
    source = Bulk(seed)
    sigmas = prior.sigmas(steps)
    x = sigmas[0] * source.like(torch.empty(n, *prior.shape).double())
    run = posterior.POSTERIORS[method].run
    *_, last = run(prior.denoise, sigmas, x, source, rows, **options)
    return last.x.flatten(1)


def errors(mixture, operator, method, n=4000, steps=20, seed=1, **options):
    """Error of the mean in units of the scatter (d,), and scatter over the exact one (d,)."""
    y = data_of(mixture, operator, seed)
    a = matrix(operator)
    exact = mixture.posterior(a, y.flatten(), torch.full((len(a),), NOISE**2))
    x = drawn(prior_of(mixture), y, operator, method, n, steps, **options)
    scatter = exact.covariance().diagonal().sqrt()
    return (x.mean(0) - exact.mean()) / scatter, x.std(0) / scatter


# The prior with closed forms ----------------------------------------------------------------------


def test_the_mixtures_denoiser_is_tweedies_formula_for_its_density():
    x = MIXTURE.draw(5, 2).requires_grad_()
    (score,) = torch.autograd.grad(MIXTURE.log_density(x, 0.4).sum(), x)
    assert (MIXTURE.denoise(x, 0.4) - x - 0.16 * score).abs().max() < 1e-12


def test_the_mixtures_posterior_is_bayes_rule_on_weighted_draws():
    operator = OPERATORS["mask"]
    y = data_of(MIXTURE, operator, noise=0.5).flatten()
    many = MIXTURE.draw(200_000, 3)
    expected = many.flatten(1) @ matrix(operator).T
    weights = (-((y - expected) ** 2) / (2 * 0.25)).sum(1).softmax(0)
    exact = MIXTURE.posterior(matrix(operator), y, torch.full((PIXELS,), 0.25))
    assert (weights @ many.flatten(1) - exact.mean()).abs().max() < 0.02
    assert (
        weights @ many.flatten(1) ** 2 - exact.mean() ** 2 - exact.covariance().diagonal()
    ).abs().max() < 0.02


def test_a_mixture_of_wrong_shapes_is_refused():
    with pytest.raises(InputError, match="do not fit"):
        Mixture([1.0], torch.zeros(1, 4), torch.eye(4)[None], (1, 3, 3))
    with pytest.raises(InputError, match="not positive definite"):
        Mixture([1.0], torch.zeros(1, 4), -torch.eye(4)[None], (1, 2, 2))


# Means and scatters -------------------------------------------------------------------------------


@each_operator
def test_mmps_draws_a_gaussian_posterior(operator):
    mean, scatter = errors(GAUSSIAN, operator, "mmps", iterations=9)
    assert mean.abs().max() < 0.1  # chance: 4 / sqrt(4000) = 0.06
    assert scatter.min() > 0.96 and scatter.max() < 1.14  # the steps: 20 inflate by up to 10 %


def test_more_steps_make_mmps_exact_for_a_gaussian():
    mean, scatter = errors(GAUSSIAN, OPERATORS["mask"], "mmps", steps=80, iterations=9)
    assert mean.abs().max() < 0.08 and (scatter - 1).abs().max() < 0.06


def test_the_covariance_of_mmps_is_the_posteriors():
    operator = OPERATORS["mask"]
    y = data_of(GAUSSIAN, operator)
    exact = GAUSSIAN.posterior(matrix(operator), y.flatten(), torch.full((PIXELS,), NOISE**2))
    x = drawn(prior_of(GAUSSIAN), y, operator, "mmps", 4000, 40, iterations=9)
    wrong = torch.cov(x.T) - exact.covariance()
    assert wrong.norm() < 0.12 * exact.covariance().norm()


def test_pigdm_draws_nearly_a_gaussian_posterior():
    """It takes pixels as independent, so that it is biased where they are not."""
    mean, scatter = errors(GAUSSIAN, OPERATORS["mask"], "pigdm")
    assert 0.1 < mean.abs().max() < 0.4
    assert scatter.min() > 0.95 and scatter.max() < 1.25


def test_dps_is_led_by_the_data():
    operator = OPERATORS["mask"]
    y = data_of(GAUSSIAN, operator)
    led = drawn(prior_of(GAUSSIAN), y, operator, "dps", 500, 100)
    free = drawn(prior_of(GAUSSIAN), y, operator, "dps", 500, 100, scale=0.0)
    seen = HOLE.flatten().bool()
    off = [(x.mean(0) - y.flatten())[seen].abs().max() for x in (led, free)]
    assert off[0] < 0.2 < off[1]
    assert (free.mean(0) - 0.3).abs().max() < 0.1  # without the data it is the prior


@pytest.mark.parametrize("method", ["mmps", "pigdm"])
def test_gaussian_guesses_are_near_for_a_mixture(method):
    mean, scatter = errors(MIXTURE, OPERATORS["mask"], method, seed=2)
    assert mean.abs().max() < 0.35 and scatter.min() > 0.85 and scatter.max() < 1.45


def test_smc_is_right_in_the_limit_of_many_particles():
    """The mean's error falls with the particles, to what its steps leave."""
    operator = OPERATORS["mask"]
    found = {}
    for n in (30, 2000):
        off = [errors_again(operator, n, seed) for seed in (1, 2, 3)]
        found[n] = torch.stack(off).square().mean().sqrt().item()
    assert found[2000] < 0.5 * found[30] and found[2000] < 0.12


def errors_again(operator, n, seed):
    """The error of the mean of SMC, by another seed for the same data."""
    y = data_of(MIXTURE, operator, 2)
    a = matrix(operator)
    exact = MIXTURE.posterior(a, y.flatten(), torch.full((len(a),), NOISE**2))
    x = drawn(prior_of(MIXTURE), y, operator, "smc", n, 80, seed)
    return (x.mean(0) - exact.mean()) / exact.covariance().diagonal().sqrt()


def test_smc_mends_a_wrong_guess(monkeypatch):
    """The guess leads the particles, and the weights take it back: a poor one changes no mean."""
    operator = OPERATORS["mask"]
    plain = posterior._twisted

    def timid(*arguments):
        x0, log_guess, gradient = plain(*arguments)
        return posterior.Twisted(x0, 0.7 * log_guess, 0.5 * gradient)

    monkeypatch.setattr(posterior, "_twisted", timid)
    mean, scatter = errors(MIXTURE, operator, "smc", 6000, 100, seed=2)
    assert mean.abs().max() < 0.3 and scatter.min() > 0.8 and scatter.max() < 1.15


# Scalings that are not linear ---------------------------------------------------------------------


def test_linearised_data_have_the_gradient_of_the_likelihood():
    """Whatever stretch residual and variance are taken along."""
    for operator in OPERATORS.values():
        y = data_of(MIXTURE, operator, noise=1.0, scaling=ASINH)
        seen = observe(prior_of(MIXTURE, ASINH), y, operator, 1.0)
        x0 = MIXTURE.draw(1, 8).requires_grad_()
        (gradient,) = torch.autograd.grad(seen.log_likelihood(x0).sum(), x0)
        at = seen.linearised(x0)
        assert (at.slope * seen.back(at.residual / at.variance) - gradient).abs().max() < 1e-9


def test_masked_data_are_linear_along_the_stretch():
    """Solving the linearised data gives the image itself, from any start: no overshoot."""
    u = torch.tensor([[[0.1, 60.0, 3.0], [90.0, -1.0, 20.0], [5.0, 0.0, 33.0]]]).double()
    seen = observe(prior_of(MIXTURE, ASINH), u, operators.identity, 1.0)
    start = torch.full((1, *SHAPE), -0.5).double()
    at = seen.linearised(start)
    assert (start + at.residual / at.slope - ASINH.forward(u)).abs().max() < 1e-9


@pytest.mark.parametrize("what", ["mask", "larger pixels"])
def test_draws_under_an_asinh_scaling_agree_with_weighted_draws_of_the_prior(what):
    operator = OPERATORS[what]
    y = data_of(MIXTURE, operator, 1, 3.0, ASINH)
    prior = prior_of(MIXTURE, ASINH)
    many = MIXTURE.draw(300_000, 4)
    seen = observe(prior, y, operator, 3.0)
    weights = seen.rows([0] * len(many)).log_likelihood(many).softmax(0)
    assert 1 / weights.square().sum() > 300
    flat = many.flatten(1)
    mean = weights @ flat
    scatter = (weights @ (flat - mean) ** 2).sqrt()
    x = drawn(prior, y, operator, "mmps", 3000, 20, noise=3.0)
    assert ((x.mean(0) - mean) / scatter).abs().max() < 0.3
    assert (x.std(0) / scatter).min() > 0.85 and (x.std(0) / scatter).max() < 1.3


# Equations ----------------------------------------------------------------------------------------


def test_conjugate_gradients_solve_each_row_and_stop_at_a_negative_direction():
    torch.manual_seed(0)
    root = torch.randn(3, 6, 6).double()
    positive = root @ root.mT
    variance = torch.rand(3, 6).double() + 0.5
    b = torch.randn(3, 6).double()

    def covariance(v):
        return (positive @ v[..., None])[..., 0]

    v = operators.conjugate_gradients(covariance, variance, b, variance, 50)
    exact = torch.linalg.solve(positive + torch.diag_embed(variance), b)
    assert (v - exact).abs().max() < 2e-3 * exact.abs().max()
    alone = operators.conjugate_gradients(
        lambda u: (positive[1:2] @ u[..., None])[..., 0], variance[1:2], b[1:2], variance[1:2], 50
    )
    assert torch.equal(alone[0], v[1])
    stopped = operators.conjugate_gradients(lambda v: -2 * v, variance, b, variance, 50)
    assert (stopped == 0).all()


# Draws --------------------------------------------------------------------------------------------


def test_a_draw_depends_on_its_seed_image_and_number_alone():
    prior = prior_of(MIXTURE)
    ys = torch.cat([data_of(MIXTURE, operators.identity, seed) for seed in (1, 2)])

    def made(y, **options):
        return posterior.draw(prior, y, noise=NOISE, steps=5, **options).images

    both = made(ys, n=5, seed=3)
    assert both.shape == (2, 5, *SHAPE)
    assert np.abs(both - made(ys, n=5, seed=3, batch=3)).max() < 1e-12
    assert np.abs(both[:, :2] - made(ys, n=2, seed=3, batch=1)).max() < 1e-12
    assert np.abs(both[0] - made(ys[0], n=5, seed=3)).max() < 1e-12
    assert np.abs(both[0] - made(ys, n=5, seed=4)[0]).min() > 0
    assert np.abs(both[0, 0] - both[0, 1]).min() > 0
    assert np.array_equal(both, made(ys, n=5, seed=3))


@pytest.mark.parametrize("method", posterior.POSTERIORS)
def test_no_noise_is_used_twice(method, monkeypatch):
    """Neither by two draws nor by two steps: each call has another number or another seed."""
    used = []
    plain = noise.normals

    def noted(seeds, count, step, precision):
        used.extend((int(low), int(high), step) for low, high in seeds.T)
        return plain(seeds, count, step, precision)

    monkeypatch.setattr(noise, "normals", noted)
    ys = torch.cat([data_of(MIXTURE, operators.identity, seed) for seed in (1, 2)])
    made = posterior.draw(prior_of(MIXTURE), ys, noise=NOISE, n=3, method=method, steps=4, batch=2)
    assert len(used) == len(set(used)) >= 2 * 3 * 4
    if method != "smc":  # whose resampling may take one particle twice
        assert len({image.tobytes() for image in made.images.reshape(6, -1)}) == 6


def test_missing_data_are_nan_or_masked_and_are_not_looked_at():
    prior = prior_of(MIXTURE)
    y = data_of(MIXTURE, operators.identity)[0]
    blank = torch.where(HOLE.bool(), y, torch.nan)
    wild = torch.where(HOLE.bool(), y, 4.0)

    def made(y, operator=operators.identity, **options):
        return posterior.draw(prior, y, operator, NOISE, n=3, steps=5, **options)

    first = made(blank)
    for other in (made(wild, seen=HOLE), made(wild, operators.mask(HOLE))):
        assert np.array_equal(first.images, other.images)
        assert np.abs(first.chi2 - other.chi2).max() < 1e-6


def test_a_map_of_the_noise_gives_the_weights():
    prior = prior_of(GAUSSIAN)
    y = data_of(GAUSSIAN, operators.identity)[0]
    noise = torch.full(SHAPE, 0.1)
    noise[0, 0] = 1e3
    made = posterior.draw(prior, y, noise=noise, n=400, steps=20).images
    exact = GAUSSIAN.posterior(torch.eye(PIXELS), y.flatten(), noise.flatten() ** 2)
    scatter = exact.covariance().diagonal().sqrt().numpy()
    flat = made.reshape(400, -1)
    assert np.abs((flat.mean(0) - exact.mean().numpy()) / scatter).max() < 0.25
    assert np.abs(flat.std(0) / scatter - 1).max() < 0.2
    assert abs(made[:, 0, 0, 0].mean() - y[0, 0, 0]) > 0.5 * scatter[0]  # it is not looked at


def test_counted_light_is_noisier_where_it_is_brighter():
    variance = operators.poisson(2.0, 10.0)
    assert variance(torch.tensor([-5.0, 0.0, 10.0])).tolist() == [4.0, 4.0, 5.0]
    prior = prior_of(MIXTURE, ASINH)
    u = ASINH.inverse(MIXTURE.draw(1, 3))
    y = u + 1.0
    made = observe(prior, y, noise=operators.poisson(2.0, 10.0))
    expected = (1 / (4 + u.clamp(min=0) / 10)).mean()
    assert abs(made.chi2(u).item() - expected.item()) < 1e-12


def test_chi2_of_the_truth_is_one_a_datum():
    prior = prior_of(MIXTURE)
    u = MIXTURE.draw(3000, 5)
    y = u[..., :2] + NOISE * Bulk(3).like(u[..., :2])
    chi2 = observe(prior, y, lambda x: x[..., :2], NOISE).chi2(u)
    assert abs(chi2.mean().item() - 1) < 4 * math.sqrt(2 / 6 / 3000)


def test_data_are_met_at_the_level_of_their_noise():
    """The draws of a right posterior have the residuals of the truth, on average over data."""
    u = GAUSSIAN.draw(300, 5)
    y = u + NOISE * Bulk(3).like(u)
    made = posterior.draw(prior_of(GAUSSIAN), y, noise=NOISE, n=1, steps=60, batch=300)
    assert abs(made.chi2.mean() - 1) < 0.1  # chance: 0.03; the steps add 0.03


def test_the_states_of_a_draw_end_with_it():
    prior = prior_of(MIXTURE)
    y = data_of(MIXTURE, operators.identity)
    for method in posterior.POSTERIORS:
        made = posterior.draw(prior, y, noise=NOISE, n=3, method=method, steps=6, seed=2)
        seen = observe(prior, y, noise=NOISE)
        way = []
        for state in posterior.states(prior, seen, [(0, 0), (0, 1), (0, 2)], method, 6, 2):
            assert torch.is_grad_enabled() and not state.x.requires_grad
            way.append(state)
        assert [state.step for state in way] == [1, 2, 3, 4, 5, 6] and way[-1].sigma == 0
        assert np.abs(way[-1].x.numpy() - made.images[0]).max() < 1e-6


def test_single_precision_gives_the_draws_of_double():
    y = data_of(MIXTURE, OPERATORS["blur"])

    def made(dtype):
        prior = Prior(MIXTURE.denoise, SHAPE, PLAIN, dtype=dtype)
        observation = observe(prior, y, OPERATORS["blur"], NOISE)
        sigmas = prior.sigmas(8)
        source = Bulk(1)

        class Same:
            def like(self, x):
                return source.like(x.double()).to(x.dtype)

        x = (sigmas[0] * source.like(torch.empty(1, *SHAPE).double())).to(dtype)
        *_, last = posterior.mmps(prior.denoise, sigmas, x, Same(), observation)
        assert last.x.dtype == dtype
        return last.x.double()

    assert (made(torch.float32) - made(torch.float64)).abs().max() < 1e-3


# The reference ------------------------------------------------------------------------------------


def test_the_reference_fills_in_pixels_at_the_level_of_the_noise():
    truth = lensnb.simulate(1, seed=91)[0, 0]
    rng = np.random.default_rng(1)
    y = truth + rng.normal(size=truth.shape)
    y[rng.random(y.shape) < 1 / 3] = np.nan
    made = lensnb.posterior.draw(lensnb.load("reference"), y, noise=1.0, n=4)
    assert made.images.shape == (4, 1, 64, 64) and made.images.dtype == np.float32
    # chance: sqrt(2 / 2769) = 0.027 from the data, and as much from each of 4 draws; 4 deviations
    assert abs(made.chi2.mean() - 1) < 4 * math.sqrt(2 / 2769 * (1 + 1 / 4))
    missing = np.isnan(y)
    off = made.images.mean((0, 1)) - truth
    empty = np.full(truth.shape, np.median(truth)) - truth
    assert np.std(off[missing]) < 0.4 * np.std(empty[missing])


def test_a_gan_is_no_prior():
    with pytest.raises(InputError, match="a GAN has no denoiser"):
        lensnb.load("reference", "gan").prior()


# Bad input ----------------------------------------------------------------------------------------

GOOD = {"y": np.zeros((3, 3)) + np.eye(3), "noise": 0.1, "n": 2, "steps": 3}
NAN = np.full((3, 3), np.nan)
BAD = {
    "another shape": ({"y": np.ones((4, 4))}, "y: has the shape (4, 4), expected (3, 3)"),
    "no images": ({"y": np.ones((0, 1, 3, 3))}, "y: has the shape (0, 1, 3, 3)"),
    "text": ({"y": np.array([["a"] * 3] * 3)}, "y: found <U1, expected real numbers"),
    "no noise": ({"noise": None}, "noise: not given; its standard deviation must be known"),
    "negative noise": ({"noise": -1.0}, "noise: expected standard deviations above 0"),
    "no number": ({"noise": np.nan}, "noise: expected standard deviations above 0"),
    "another map": ({"noise": np.ones((2, 2))}, "noise: has the shape (2, 2)"),
    "a zero in the map": ({"noise": 1 - np.eye(3)}, "noise: expected standard deviations above 0"),
    "nothing finite": ({"y": NAN}, "y: no datum is seen; the mask is 0, or the data are NaN"),
    "nothing seen": ({"seen": np.zeros((3, 3))}, "y: no datum is seen; the mask is 0"),
    "one of two": (
        {"y": np.stack([np.eye(3), NAN])[:, None]},
        "y: no datum of image 1 is seen",
    ),
    "another mask": ({"seen": np.ones((2, 3))}, "mask: has the shape (2, 3)"),
    "bright units": ({"y": 1e6 * np.eye(3)}, "bring the data to the units of the prior"),
    "faint units": ({"y": 1e-6 * np.eye(3)}, "y: its values lie between 0 and 1e-06, and the"),
    "unknown sampler": ({"method": "mpms"}, "no posterior sampler 'mpms'; did you mean mmps?"),
    "unknown option": ({"iteration": 3}, "mmps has no option 'iteration'; did you mean iter"),
    "no draws": ({"n": 0}, "draw: expected n and batch of 1 or more and 2 steps or more"),
    "one step": ({"steps": 1}, "draw: expected n and batch of 1 or more and 2 steps or more"),
}


@pytest.mark.parametrize("given, said", BAD.values(), ids=BAD)
def test_bad_data_are_refused_in_one_sentence(given, said):
    scaling = Scaling("linear", 1.0, 0.0, 1.0, -1.0, 2.0)
    prior = Prior(MIXTURE.denoise, SHAPE, scaling, dtype=torch.float64)
    assert posterior.draw(prior, **GOOD).images.shape == (2, *SHAPE)
    with pytest.raises(InputError) as refused:
        posterior.draw(prior, **(GOOD | given))
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_data_that_are_noisy_are_not_taken_for_other_units():
    scaling = Scaling("linear", 1.0, 0.0, 1.0, -1.0, 2.0)
    prior = Prior(MIXTURE.denoise, SHAPE, scaling, dtype=torch.float64)
    y = 30 * np.random.default_rng(0).normal(size=(3, 3))
    assert observe(prior, y, noise=30.0).y.shape == (1, *SHAPE)
    with pytest.raises(InputError, match="units"):
        observe(prior, y, noise=1.0)


def test_a_denoiser_without_a_gradient_is_refused():
    prior = Prior(lambda x, sigma: x.detach(), SHAPE, PLAIN, dtype=torch.float64)
    with pytest.raises(InputError, match="cannot be differentiated"):
        posterior.draw(prior, **GOOD)


def test_draws_that_are_not_finite_are_refused():
    prior = Prior(lambda x, sigma: x / 0, SHAPE, PLAIN, dtype=torch.float64)
    with pytest.raises(InputError, match="not finite"):
        posterior.draw(prior, **GOOD)
