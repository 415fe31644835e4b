"""Measures on images against analytic maps."""

import numpy as np
from scipy.stats import binned_statistic

from lensnb import physics

SIZE = 64


def test_white_noise_has_a_flat_spectrum_of_its_variance():
    noise = np.random.default_rng(0).normal(0, 3, (400, 1, SIZE, SIZE))
    assert np.abs(physics.power_spectrum(noise).mean(0) / 9 - 1).max() < 0.06      # ring 1 holds 8 modes: 400 * 8 draws


def test_a_plane_wave_has_its_power_in_its_ring():
    y, x = np.mgrid[:SIZE, :SIZE]
    for k in (3, 10, 25):
        spectrum = physics.power_spectrum(np.cos(2 * np.pi * k * x / SIZE)[None, None])[0]
        assert spectrum.argmax() == k - 1 and spectrum[k - 1] > 1e6 * np.delete(spectrum, k - 1).max()
    assert np.abs(physics.frequencies(SIZE, 0.1)[[2, 9]] - [3 / 6.4, 10 / 6.4]).max() < 1e-12      # cycles/arcsec


def test_spectrum_of_a_gaussian_is_its_closed_form():
    offset = np.arange(SIZE) - SIZE / 2
    image = np.exp(-(offset[:, None] ** 2 + offset**2) / (2 * 3.0**2))
    k = np.hypot(*np.meshgrid(*[np.fft.fftfreq(SIZE)] * 2))
    power = (2 * np.pi * 9 * np.exp(-2 * np.pi**2 * 9 * k**2)) ** 2 / SIZE**2
    expected = binned_statistic((k * SIZE).ravel(), power.ravel(), bins=np.arange(1, 11) - 0.5).statistic
    assert np.abs(physics.power_spectrum(image[None, None])[0, :9] / expected - 1).max() < 1e-6


def test_an_empty_image_has_a_finite_log_power():
    assert np.isfinite(physics.log_power(np.zeros((1, 1, SIZE, SIZE)))).all()


def test_radial_profile_is_the_mean_in_rings_about_the_centre():
    offset = np.arange(SIZE) - (SIZE - 1) / 2
    radius = np.hypot(offset[:, None], offset)
    image = np.random.default_rng(0).normal(size=(SIZE, SIZE)) + radius
    expected = binned_statistic(radius.ravel(), image.ravel(), bins=np.arange(SIZE // 2 + 1)).statistic
    assert np.abs(physics.radial_profile(image[None, None])[0] - expected).max() < 1e-10


def test_channels_are_averaged():
    image = np.random.default_rng(0).normal(size=(2, 3, 16, 16))
    assert np.allclose(physics.radial_profile(image), physics.radial_profile(image.mean(1, keepdims=True)), atol=1e-12)


def test_cumulative_shares_are_the_empirical_distribution():
    images = np.arange(16.0).reshape(1, 1, 4, 4)
    edges = np.array([-1.0, 0, 3.5, 15, 20])
    assert np.abs(physics.cumulative_shares(images, edges)[0] - [0, 1 / 16, 4 / 16, 1, 1]).max() < 1e-12
    inner = physics.intensity_edges(images)
    assert (np.diff(inner) > 0).all() and inner[0] < 0 and inner[-1] > 15
