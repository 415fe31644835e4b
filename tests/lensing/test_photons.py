"""Noise of the simulator: the law of counts against scipy, and each image's own numbers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import special, stats

from lensnb.lensing import photons, priors, truth_tables

PROBABILITIES = (np.arange(50_000) + 0.5) / 50_000


def quantiles(mean):
    """The exact Poisson quantiles of PROBABILITIES."""
    k = np.arange(int(mean + 12 * np.sqrt(mean) + 30))
    return np.searchsorted(stats.poisson.cdf(k, mean), PROBABILITIES)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_counts_are_the_quantiles_of_the_poisson_law(dtype):
    z = torch.tensor(special.ndtri(PROBABILITIES), dtype=dtype)
    means = [0.0, 1e-3, 0.3, 2.0, 4.99, 5.0, 8.0, 13.0, 40.0, 300.0, 3000.0]
    counts = photons.poisson(torch.tensor(means, dtype=dtype)[:, None].expand(-1, len(z)), z)
    for mean, found in zip(means, counts.numpy(), strict=True):
        apart = found - quantiles(mean)
        few = 1e-4 if mean < photons.FEW else 1 / 600
        assert np.abs(apart).max() <= 1 and (apart != 0).mean() <= few, mean


def test_no_number_makes_a_hot_or_a_negative_pixel():
    """The largest and smallest normal numbers there are, at every small mean."""
    mean = torch.linspace(0, 12, 2401)
    high, low = (photons.poisson(mean, torch.full_like(mean, z)) for z in (6.77, -6.77))
    assert low.min() == 0 and low.max() <= 1 and (high.diff() >= -1).all()
    m = mean.double().numpy()
    exact = stats.poisson.isf(special.ndtr(-6.77), m)
    assert (high.numpy() <= exact + (m >= photons.FEW)).all()
    assert (high.numpy() >= stats.poisson.isf(5e-6, m)).all()


@pytest.mark.parametrize("name", ["broad", "deeplensesim-1"])
def test_each_image_has_noise_of_its_own(name):
    truth = truth_tables.draw_truth(5, name, seed=3)
    image = torch.full((5, 20, 30), 0.2)
    noisy = photons.add_noise(image, truth, priors.PRIORS[name])
    order = np.array([3, 0])
    some = {column: values[order] for column, values in truth.items()}
    again = photons.add_noise(image[:2], some, priors.PRIORS[name])
    assert torch.equal(again, noisy[order])
    other = photons.add_noise(image, truth | {"seed": truth["seed"] + 1}, priors.PRIORS[name])
    assert (other != noisy).float().mean() > 0.9


def test_noise_has_the_variance_of_sky_and_photons():
    prior = replace(priors.PRIORS["broad"], background=0.5)
    truth = truth_tables.draw_truth(3, prior)
    truth["exposure"] = np.array([0.5, 4.0, np.inf])
    image = torch.full((3, 60, 60), 3.0)
    variance = 0.25 + 3 / truth["exposure"]
    z = (photons.add_noise(image, truth, prior) - 3).numpy() / np.sqrt(variance)[:, None, None]
    assert min(stats.kstest(one.ravel(), "norm").pvalue for one in z) > 1e-3
    assert photons.add_noise(image, truth, replace(prior, background=0.0)) is image


def test_counts_of_an_exposed_image_have_twice_the_photons_variance():
    """Once from the added noise, once from the counting: as DeepLenseSim's set 1 has it."""
    prior = priors.PRIORS["deeplensesim-1"]
    truth = truth_tables.draw_truth(3, prior) | {"exposure": np.full(3, 2000.0)}
    counts = photons.add_noise(torch.full((3, 60, 60), 0.2), truth, prior).numpy()
    assert (counts == counts.round()).all() and counts.min() >= 0
    n = counts.size
    variance = (2000 * 0.01) ** 2 + 400 + 400
    assert counts.mean() == pytest.approx(400, abs=4 * np.sqrt(variance / n))
    assert counts.var() == pytest.approx(variance, rel=4 * np.sqrt(2 / n))
