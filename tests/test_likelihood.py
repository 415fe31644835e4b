"""log p(x) by the probability flow against Gaussian mixtures, and the flags made of it."""

import numpy as np
import pytest
import torch

from lensnb import likelihood
from lensnb.datasets.dataset import Scaling
from lensnb.errors import InputError
from lensnb.mixture import Mixture
from lensnb.prior import Prior

SHAPE = (1, 3, 3)
PLAIN = Scaling("linear", 1.0, 0.0, 1.0, -10.0, 10.0)
torch.manual_seed(1)
root = 0.15 * torch.randn(2, 9, 9).double()
MIXTURE = Mixture(
    [0.6, 0.4],
    torch.randn(2, 9).double() / 2,
    root @ root.mT + 0.04 * torch.eye(9),
    SHAPE,
)


def prior(scaling=PLAIN):
    return Prior(MIXTURE.denoise, SHAPE, scaling, dtype=torch.float64)


def exact(x):
    """The log-density at the least noise level."""
    return MIXTURE.log_density(x, prior().bounds()[0]).numpy()


def test_the_density_is_the_mixtures_within_its_error():
    x = MIXTURE.draw(60, 2)
    found = likelihood.log_density(prior(), x.numpy(), probes=16)
    off = found.value - exact(x)
    assert np.array_equal(found.value, found.scaled)
    assert np.abs(off.mean()) < 0.25  # the mean over images hardly sees the signs
    assert 0.7 < (off / found.error).std() < 1.4
    assert found.error.mean() < 1.5


def test_more_signs_give_less_error():
    x = MIXTURE.draw(30, 3).numpy()
    few, many = (likelihood.log_density(prior(), x, probes=p).error.mean() for p in (4, 36))
    assert 0.2 < many / few < 0.5  # 1 / 3


def test_more_steps_change_nothing():
    """With the same signs, twice the steps move the density by less than a tenth of a nat."""
    x = MIXTURE.draw(20, 4).numpy()
    coarse, fine = (likelihood.log_density(prior(), x, steps=s).value for s in (30, 60))
    assert np.abs(coarse - fine).max() < 0.3 and abs((coarse - fine).mean()) < 0.1


def test_units_of_the_user_include_the_stretch_of_the_scaling():
    """p(u) du = p(x) dx: the logarithm of the derivative is added, pixel by pixel."""
    scaling = Scaling("asinh", 3.0, 0.1, 0.7, -2.0, 2.0)
    x = MIXTURE.draw(4, 5)
    u = scaling.inverse(x).numpy()
    found = likelihood.log_density(prior(scaling), u)
    assert np.abs(found.scaled - likelihood.log_density(prior(), x.numpy()).scaled).max() < 1e-6
    step = 1e-6
    derivative = (scaling.forward(u + step) - scaling.forward(u - step)) / (2 * step)
    assert np.abs(found.value - found.scaled - np.log(derivative).sum((1, 2, 3))).max() < 1e-6


def test_an_image_has_its_density_in_any_batch():
    x = MIXTURE.draw(5, 6).numpy()
    together = likelihood.log_density(prior(), x, steps=5)
    cut = likelihood.log_density(prior(), x, steps=5, batch=2)
    assert np.abs(together.value - cut.value).max() < 1e-9
    other = likelihood.log_density(prior(), x, steps=5, seed=1)
    assert np.abs(other.value - together.value).max() > 0


def test_images_of_another_prior_are_flagged_on_both_sides():
    known = likelihood.log_density(prior(), MIXTURE.draw(120, 7).numpy(), steps=10).value
    fresh = likelihood.log_density(prior(), MIXTURE.draw(60, 8).numpy(), steps=10).value
    assert likelihood.flag(fresh, known).flagged.mean() < 0.07
    wild = likelihood.log_density(prior(), 3 * MIXTURE.draw(10, 9).numpy(), steps=10).value
    assert likelihood.flag(wild, known).flagged.mean() > 0.8
    too_probable = MIXTURE.means.view(2, *SHAPE).numpy()  # of all images, the likeliest
    smooth = likelihood.log_density(prior(), too_probable, steps=10).value
    assert (smooth > np.median(known)).all()


def test_both_sides_of_the_median_count():
    reference = np.arange(-50.0, 51.0) ** 3  # 101 numbers, median 0
    made = likelihood.flag([0.0, 48.5**3, -(51.0**3), 51.0**3], reference)
    assert np.abs(made.p - np.array([102, 5, 1, 1]) / 102).max() < 1e-12
    assert made.flagged.tolist() == [False, False, True, True]


def test_p_is_the_share_of_reference_images_that_are_as_far_off():
    known = np.arange(99.0)  # median 49
    flags = likelihood.flag([49.0, 98.0, 0.0, 200.0], known)
    assert flags.p.tolist() == [1.0, 0.03, 0.03, 0.01]
    assert likelihood.flag([200.0, 98.0], known, level=0.02).flagged.tolist() == [True, False]


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda: likelihood.log_density(prior(), np.ones((2, 1, 4, 4))), "images: found the shape"),
        (lambda: likelihood.log_density(prior(), np.ones((2, *SHAPE)), probes=1), "two probes"),
        (lambda: likelihood.flag([1.0], np.ones(50)), "needs 99 reference images or more"),
    ],
)
def test_bad_input_is_one_sentence(call, said):
    with pytest.raises(InputError) as refused:
        call()
    assert said in str(refused.value)
