"""Measures on images against analytic maps."""

import numpy as np
import pytest
from scipy.stats import binned_statistic, median_abs_deviation

from lensnb.evaluation import image_stats, morphology, rows, sky_stats

SIZE = 64


def test_white_noise_has_a_flat_spectrum_of_its_variance():
    noise = np.random.default_rng(0).normal(0, 3, (400, 1, SIZE, SIZE))
    # ring 1 holds 8 modes: 400 * 8 draws
    assert np.abs(image_stats.power_spectrum(noise).mean(0) / 9 - 1).max() < 0.06


def test_a_plane_wave_has_its_power_in_its_ring():
    y, x = np.mgrid[:SIZE, :SIZE]
    for k in (3, 10, 25):
        spectrum = image_stats.power_spectrum(np.cos(2 * np.pi * k * x / SIZE)[None, None])[0]
        assert (
            spectrum.argmax() == k - 1 and spectrum[k - 1] > 1e6 * np.delete(spectrum, k - 1).max()
        )
    in_arcsec = image_stats.frequencies(SIZE, 0.1)[[2, 9]]  # cycles/arcsec
    assert np.abs(in_arcsec - [3 / 6.4, 10 / 6.4]).max() < 1e-12


def test_spectrum_of_a_gaussian_is_its_closed_form():
    offset = np.arange(SIZE) - SIZE / 2
    image = np.exp(-(offset[:, None] ** 2 + offset**2) / (2 * 3.0**2))
    k = np.hypot(*np.meshgrid(*[np.fft.fftfreq(SIZE)] * 2))
    power = (2 * np.pi * 9 * np.exp(-2 * np.pi**2 * 9 * k**2)) ** 2 / SIZE**2
    expected = binned_statistic(
        (k * SIZE).ravel(), power.ravel(), bins=np.arange(1, 11) - 0.5
    ).statistic
    assert np.abs(image_stats.power_spectrum(image[None, None])[0, :9] / expected - 1).max() < 1e-6


def test_each_ring_of_the_spectrum_has_its_frequency():
    for size in (8, 27, SIZE):
        assert image_stats.power_spectrum(np.ones((2, 1, size, size))).shape == (2, size // 2 - 1)
        in_pixels = [k / size for k in range(1, size // 2)]  # cycles/pixel
        assert image_stats.frequencies(size).tolist() == in_pixels


def test_an_empty_image_has_a_finite_log_power():
    assert (
        image_stats.log_power(np.zeros((1, 1, SIZE, SIZE))) == np.log10(np.finfo(float).tiny)
    ).all()
    images = np.random.default_rng(0).normal(size=(2, 1, 16, 16))
    assert (
        np.abs(10 ** image_stats.log_power(images) / image_stats.power_spectrum(images) - 1).max()
        < 1e-12
    )


def test_radial_profile_is_the_mean_in_rings_about_the_centre():
    offset = np.arange(SIZE) - (SIZE - 1) / 2
    radius = np.hypot(offset[:, None], offset)
    image = np.random.default_rng(0).normal(size=(SIZE, SIZE)) + radius
    expected = binned_statistic(
        radius.ravel(), image.ravel(), bins=np.arange(SIZE // 2 + 1)
    ).statistic
    assert np.abs(image_stats.radial_profile(image[None, None])[0] - expected).max() < 1e-10


def test_channels_are_averaged():
    image = np.random.default_rng(0).normal(size=(2, 3, 16, 16))
    assert np.allclose(
        image_stats.radial_profile(image),
        image_stats.radial_profile(image.mean(1, keepdims=True)),
        atol=1e-12,
    )


def test_cumulative_shares_are_the_empirical_distribution():
    images = np.arange(16.0).reshape(1, 1, 4, 4)
    edges = np.array([-1.0, 0, 3.5, 15, 20])
    assert (
        np.abs(image_stats.cumulative_shares(images, edges)[0] - [0, 1 / 16, 4 / 16, 1, 1]).max()
        < 1e-12
    )
    beyond = image_stats.cumulative_shares(images, np.array([3.5, 9, 14]))[0]
    assert np.abs(beyond - [4 / 16, 10 / 16, 1]).max() < 1e-12


@pytest.mark.parametrize("bins", [1000, 40])
def test_edges_are_even_quantiles_and_reach_ten_times_the_span_beyond(bins):
    pixels = np.sort(np.random.default_rng(0).gamma(0.5, size=4001))
    edges = image_stats.intensity_edges(pixels.reshape(1, 1, 1, -1), *[bins] * (bins != 1000))
    assert (
        len(edges) == bins + 201 and np.abs(edges[100:-100] - pixels[:: 4000 // bins]).max() < 1e-12
    )
    tails = np.ptp(pixels) * 10 ** np.linspace(-2, 1, 100)
    assert (
        np.abs(pixels[0] - edges[99::-1] - tails).max() < 1e-9
        and np.abs(edges[-100:] - pixels[-1] - tails).max() < 1e-9
    )
    ties = image_stats.intensity_edges(pixels.clip(np.median(pixels)).reshape(1, 1, 1, -1), bins)
    assert len(ties) == bins // 2 + 201 and (np.diff(ties) > 0).all()  # are one edge


def test_a_measure_in_chunks_sees_each_image_once_and_in_order():
    seen = []

    @image_stats.in_chunks(3)
    def first_pixel(images, factor=1):
        """What it measures."""
        seen.append(len(images))
        return images[:, 0, 0, :1] * factor

    images = np.random.default_rng(0).normal(size=(7, 1, 4, 4))
    assert np.array_equal(first_pixel(images, factor=2), 2 * images[:, 0, 0, :1]) and seen == [
        3,
        3,
        1,
    ]
    assert first_pixel.__doc__ == "What it measures."


def bump(width=3.0, height=100.0, size=SIZE):
    offset = np.arange(size) - (size - 1) / 2
    return height * np.exp(-(offset[:, None] ** 2 + offset**2) / (2 * width**2))


@pytest.mark.parametrize("size, w", [(SIZE, 8), (15, 1), (6, 1)])
def test_sky_is_the_median_and_mad_of_the_frame(size, w):
    image = np.random.default_rng(0).normal(3, 2, (2, size, size)) + bump(size=size)
    for one, level, scatter in zip(image, *image_stats.sky(image), strict=True):
        frame = np.concatenate(
            [one[:w].ravel(), one[-w:].ravel(), one[w:-w, :w].ravel(), one[w:-w, -w:].ravel()]
        )
        assert abs(level.item() - np.median(frame)) < 1e-12
        assert abs(scatter.item() / median_abs_deviation(frame, scale="normal") - 1) < 1e-4


@pytest.mark.parametrize("sigma", [0.01, 1, 30])
def test_noise_level_is_that_of_white_noise_under_a_smooth_lens_and_a_slope(sigma):
    rng = np.random.default_rng(1)
    ramp = np.add.outer(np.arange(SIZE), 3.0 * np.arange(SIZE))
    noise = rng.normal(0, sigma, (200, 1, SIZE, SIZE))
    for lens in (0, sigma * bump(), sigma * ramp):
        levels = image_stats.noise_level(noise + lens)
        assert abs(levels.mean() / sigma - 1) < 0.01 and levels.std() < 0.05 * sigma


def test_noise_level_is_that_of_the_sky_where_a_third_of_the_pixels_is_noisier():
    images = np.random.default_rng(2).normal(size=(200, 1, SIZE, SIZE))
    disc = bump(width=1000, height=1) > np.exp(-(SIZE**2) / 3 / np.pi / 2e6)  # a third of the image
    images = images * np.where(disc, 5, 1) + 100 * disc
    assert 0.3 < disc.mean() < 0.37 and abs(image_stats.noise_level(images).mean() - 1) < 0.03


@pytest.mark.parametrize("sigma", [0.1, 1, 30])
def test_light_detail_is_the_noise_of_the_brightest_twentieth(sigma):
    images = np.random.default_rng(3).normal(size=(200, 1, SIZE, SIZE))
    disc = bump(width=1000, height=1) > np.exp(-(SIZE**2) / 12 / np.pi / 2e6)  # a twelfth
    assert 0.08 < disc.mean() < 0.09
    for detail in (0.5, 4):
        found = image_stats.light_detail(sigma * (images * np.where(disc, detail, 1) + 100 * disc))
        assert abs(found.mean() / sigma / detail - 1) < 0.02 and found.std() < 0.13 * sigma * detail


def test_total_flux_is_that_of_a_gaussian_whatever_lies_behind():
    flux = image_stats.total_flux(
        np.stack([bump(), bump(height=10) + 7, bump(width=4) - 50])[:, None]
    )[:, 0]
    assert np.abs(flux / (2 * np.pi * np.array([900, 90, 1600])) - 1).max() < 1e-3


def test_total_flux_has_the_error_of_its_sky():
    noisy = image_stats.total_flux(
        bump() + np.random.default_rng(3).normal(size=(300, 1, SIZE, SIZE))
    )
    assert abs(noisy.mean() - 2 * np.pi * 900) < 25 and 80 < noisy.std() < 120


def test_measures_of_the_same_images_share_what_they_have_in_common(monkeypatch):
    makers = [
        *(sky_stats.sky_level, sky_stats.sky_gradient, sky_stats.sky_stripes),
        *(image_stats.total_flux, image_stats.noise_level, morphology.peak_counts),
        *(morphology.ring_radius, morphology.multipoles, morphology.ellipticity),
    ]
    images = bump() + np.random.default_rng(0).normal(size=(300, 1, SIZE, SIZE))
    alone = [make(images) for make in makers]
    seen = []
    sky = image_stats.sky

    def counted(maps):
        seen.append(len(maps))
        return sky(maps)

    for module in (image_stats, morphology):
        monkeypatch.setattr(module, "sky", counted)
    together = rows.rows_of(makers, images)
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))
    assert seen == [256, 256, 44, 44]  # of the images and of their smoothed maps
    changed = images + 1  # what was shared is forgotten
    assert np.abs(sky_stats.sky_level(changed) - alone[0] - 1).max() < 1e-9
    monkeypatch.setattr(rows, "SHARED", 0)  # large images share nothing
    apart = rows.rows_of(makers, images)
    assert all(np.array_equal(a, b) for a, b in zip(alone, apart, strict=True))
