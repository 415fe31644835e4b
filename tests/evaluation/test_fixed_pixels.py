"""Pixels that are brighter or fainter in all images: against scipy, and how often by chance."""

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats

from lensnb.evaluation import fixed_pixels
from lensnb.lensing.simulate import simulate
from tools.planted import PLANTED

N = 250


@pytest.fixture(scope="module")
def lenses():
    return simulate(6 * N, "broad", seed=21)[0]


@pytest.fixture(scope="module")
def real(lenses):
    return fixed_pixels.contrast_maps(lenses[N:], 1.0)


def found(images, real):
    return fixed_pixels.found_in(fixed_pixels.contrast_maps(images, 1.0), real)


def test_the_step_of_each_pixel_is_welchs_t(lenses, real):
    cross = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]]) / 4
    around = scipy.ndimage.convolve(lenses[:, 0].astype(float), cross[None], mode="mirror")
    contrast = (lenses[:, 0] - around).clip(-5, 5)
    t, p = scipy.stats.ttest_ind(contrast[:N], contrast[N:], equal_var=False)
    made = found(lenses[:N], real)
    at = np.unravel_index(np.abs(t).argmax(), t.shape)
    assert made["pixel"] == [int(i) for i in at]
    step = made["parts"]["pixel"]
    assert abs(step["generated"]["value"] - contrast[:N].mean(0)[at]) < 1e-9
    assert abs(made["value"] / made["error"] - abs(t[at])) < 1e-9
    assert abs(scipy.stats.norm.sf(abs(step["z"])) * 2 / p[at] - 1) < 0.2  # of N - 1 freedoms


@pytest.mark.parametrize("strength", [0.5, 2.0])
def test_a_hot_pixel_is_found_where_it_is(lenses, real, strength):
    """Half of the sky noise is enough, also where the light of lenses falls."""
    images = PLANTED["hot_pixel"](lenses[:N], strength, None, None, None)
    made = found(images, real)
    assert made["pixel"] == [12, 41] and list(made["parts"]) == ["pixel"]
    assert made["z"] > 4 and abs(made["value"] - strength) < 4 * made["error"]
    dark = found(PLANTED["hot_pixel"](lenses[:N], -strength, None, None, None), real)
    assert dark["parts"]["pixel"]["z"] < -4


@pytest.mark.parametrize("level", [0.05, 0.1, 0.3])
def test_a_checkerboard_is_no_single_pixel(lenses, real, level):
    images = PLANTED["checkerboard"](lenses[:N], level, None, None, None)
    assert list(found(images, real)["parts"]) == ["grid"]


def test_clean_images_raise_no_alarm(lenses):
    z = []
    for seed in range(60):
        order = np.random.default_rng(seed).permutation(len(lenses))
        sides = lenses[order[:60]], lenses[order[60:360]]
        maps = [fixed_pixels.contrast_maps(x, 1.0) for x in sides]
        z.append(fixed_pixels.found_in(*maps)["z"])
    assert max(z) < 3 and abs(np.mean(z)) < 0.6 and 0.6 < np.std(z) < 1.4


def test_what_chance_gives_to_the_largest():
    rng = np.random.default_rng(0)
    largest = np.abs(rng.standard_normal((4000, 1000))).max(1)
    mean, scatter = fixed_pixels.largest_by_chance(1000)
    assert abs(mean - largest.mean()) < 0.03 and abs(scatter - largest.std()) < 0.05
    for z in (3.0, 4.0, 6.0, 8.0):
        any_of = -np.expm1(1000 * np.log1p(-2 * scipy.stats.norm.sf(z)))
        expected = scipy.stats.norm.isf(any_of)
        assert abs(fixed_pixels.of_the_largest(z, 1000) - expected) < 0.05
    assert 35 < fixed_pixels.of_the_largest(36.0, 4096) < 36


def test_images_that_never_change_are_no_fault(lenses):
    flat = np.ones((20, 1, 8, 8), np.float32)
    maps = fixed_pixels.contrast_maps(flat, 0.0)
    assert fixed_pixels.found_in(maps, maps)["z"] < 0
    hot = flat.copy()
    hot[:, :, 3, 3] += 1
    made = fixed_pixels.found_in(fixed_pixels.contrast_maps(hot, 0.0), maps)
    assert made["z"] is None and made["value"] > made["floor"] and made["pixel"] == [3, 3]


def test_images_are_read_a_part_at_a_time(lenses, monkeypatch):
    whole = fixed_pixels.contrast_maps(lenses[:100], 2.0)
    monkeypatch.setattr(fixed_pixels, "CHUNK", 33)
    parts = fixed_pixels.contrast_maps(lenses[:100], 2.0)
    assert max(np.abs(a - b).max() for a, b in zip(whole[1:], parts[1:], strict=True)) < 1e-12
