"""Measures of the sky, the pixel grid, handedness and copies, against closed forms and faults."""

import numpy as np
import pytest
import scipy.stats

from lensnb.evaluation import image_stats, lens_fit_by_class, memorisation, pixel_classifier
from lensnb.evaluation.measures import MEASURES
from lensnb.evaluation.morphology import wasserstein_worst
from lensnb.evaluation.parts import part, parts
from lensnb.evaluation.pixel_grid import (
    brightness_map,
    corner,
    handedness,
    log_power_2d,
    mirror,
)
from lensnb.evaluation.rows import Reference, fit
from lensnb.evaluation.sky_stats import sky_gradient, sky_level, sky_stripes
from lensnb.lensing.priors import PRIORS
from lensnb.lensing.simulate import clean_images, simulate
from lensnb.lensing.truth_tables import draw_points
from tools.planted import PLANTED, USUAL


def white(n, size=64, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 1, size, size))


def test_level_and_slopes_of_a_known_sky():
    slope = np.array([0.4, -0.2])  # of the noise, from edge to edge
    steps = (np.arange(64) - 31.5) / 64
    images = 3 + 2 * (white(400) + slope[0] * steps + slope[1] * steps[:, None])
    found = sky_gradient(images)
    assert np.abs(found.mean(0) - slope).max() < 0.02 and np.abs(found.std(0) - 0.07).max() < 0.01
    assert abs(sky_level(images).mean() - 3) < 0.02


def test_stripes_raise_the_variance_of_their_own_means():
    """16 pixels a mean: rows (1 + 16 s^2) / (1 + s^2), columns 1 / (1 + s^2) for stripes of s."""
    images = white(400)
    assert np.abs(sky_stripes(images).mean(0) - 1).max() < 0.05
    striped = images + 0.5 * np.random.default_rng(1).normal(size=(400, 1, 64, 1))
    assert np.abs(sky_stripes(striped).mean(0) - [4, 0.8]).max() < 0.3


def test_the_map_shows_a_hot_pixel_and_a_checkerboard_where_they_are():
    images = np.zeros((1, 1, 64, 64))
    images[0, 0, 12, 41] = 5
    found = brightness_map(images + 7, level=7, noise=2)[0]
    blocks, folded = found[:1024].reshape(32, 32), found[1024:].reshape(8, 8)
    assert abs(blocks[6, 20] - np.arcsinh(2.5) / 4) < 1e-6 and np.count_nonzero(blocks) == 1
    assert abs(folded[4, 1] - np.arcsinh(2.5) / 64) < 1e-6 and np.count_nonzero(folded) == 1


def test_power_tells_the_directions_apart():
    flat = np.log10((10 ** log_power_2d(white(300))).mean(0))
    assert np.abs(flat).max() < 0.06  # white noise has power 1 everywhere
    wave = np.cos(2 * np.pi * 12 * np.arange(64) / 64)
    along_x = np.tile(wave, (64, 1))[None, None]
    along_y = along_x.swapaxes(2, 3)
    cells = [int(log_power_2d(wave_)[0].argmax()) for wave_ in (along_x, along_y)]
    assert cells[0] != cells[1]


@pytest.mark.parametrize("size", [34, 64, 65])
def test_a_checkerboard_of_single_pixels_stands_out_of_white_noise(size):
    images = white(400, size)
    i, j = np.indices(images.shape[2:])
    plain, noisier, board = (
        corner(log_power_2d(x)) for x in (images, 1.2 * images, images + 0.05 * (-1.0) ** (i + j))
    )
    assert np.abs(plain - noisier).max() < 1e-9
    if size == 64:  # the power of one wave of 72 rises from 1 to 1 + 64^2 0.05^2
        assert abs((board - plain).mean() - np.log10(1 + 10.24 / 72)) < 0.01
    else:
        assert np.abs(plain.mean()) < 0.01


def arc(angle, centre):
    x, y = np.meshgrid(np.arange(64) - 31.5 - centre[0], np.arange(64) - 31.5 - centre[1])
    light = np.exp(-((np.hypot(x, y) - 15) ** 2) / 4) * (1 + 0.8 * np.cos(np.arctan2(y, x) - angle))
    return 100 * light[None, None] + white(1)


@pytest.mark.parametrize("angle", [0, 1, 4])
def test_an_arc_opens_to_its_side_wherever_its_centre_is(angle):
    centre = np.array([2.0, -1.0])
    found = handedness(arc(angle, centre))[0]
    assert np.abs(found[:2] - 0.4 * np.array([np.cos(angle), np.sin(angle)])).max() < 0.05
    assert np.abs(found[4:] - centre).max() < 0.3


def test_mirrored_halves_are_their_own_mirror():
    images = white(20)
    assert mirror(images).max() < 0.2
    images[..., 32:] = images[..., :32][..., ::-1]
    assert np.abs(mirror(images) - 1).max() < 1e-9


@pytest.mark.parametrize("measure", [handedness, mirror, log_power_2d, sky_gradient, sky_stripes])
def test_nothing_to_measure_gives_finite_numbers(measure):
    for images in (np.zeros((2, 1, 32, 32)), white(2, 17)):
        assert np.isfinite(measure(images)).all()


def test_z_of_a_part_is_that_of_welch():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.5, 1, 40), rng.normal(0, 2, 90)
    found = part("1", a, b)
    p = scipy.stats.ttest_ind(a, b, equal_var=False).pvalue
    assert abs(found["z"] - scipy.stats.norm.isf(p / 2)) < 0.02
    assert abs(found["real"]["error"] - scipy.stats.sem(b)) < 1e-12
    assert part("1", b, b + 1)["z"] < 0 and part("1", 0 * a, 0 * b)["z"] == 0
    assert part("1", 0 * a + 1, 0 * b)["z"] is None


def test_the_worst_column_counts():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(30, 3)), rng.normal(size=(40, 3)) * [1, 2, 3]
    each = [scipy.stats.wasserstein_distance(x, y) / y.std() for x, y in zip(a.T, b.T, strict=True)]
    assert abs(wasserstein_worst(a, b) - max(each)) < 1e-12


# ---- the classifier on pixels


def test_placements_are_counts_of_pairs():
    rng = np.random.default_rng(0)
    a, b = rng.integers(5, size=20) / 1.0, rng.integers(5, size=30) / 1.0
    wins = (a[:, None] > b) + (a[:, None] == b) / 2
    above, below = pixel_classifier.placements(a, b)
    assert np.abs(above - wins.mean(1)).max() < 1e-12
    assert np.abs(below - (1 - wins).mean(0)).max() < 1e-12


def test_a_checkerboard_is_told_apart_and_equal_sets_are_not():
    real, made = white(120, 16), white(120, 16, seed=1)
    board = (-1.0) ** np.add.outer(np.arange(16), np.arange(16))
    clean = pixel_classifier.told_apart(made, real)
    assert abs(clean["z"]) < 3.5 and clean == pixel_classifier.told_apart(made, real)
    assert pixel_classifier.told_apart(made + 0.5 * board, real)["z"] > 5


# ---- copies


def test_chance_makes_as_many_copies_as_it_says():
    """Hits among n below the quantile of m, drawn 4,000 times."""
    rng = np.random.default_rng(0)
    n, m = 200, 150
    usual, made = rng.random((4000, m)), rng.random((4000, n))
    hits = (made < np.quantile(usual, memorisation.RARE, axis=1)[:, None]).sum(1)
    found = memorisation.chance(int(np.median(hits)), n, m)
    assert abs(hits.mean() / n / found["floor"] - 1) < 0.06
    assert abs(hits.std() / n / found["floor_error"] - 1) < 0.1
    often = np.quantile(hits, 0.99)
    assert abs(memorisation.chance(int(often), n, m)["z"] - 2.33) < 0.4
    assert memorisation.chance(0, n, m)["z"] < 0 < memorisation.chance(30, n, m)["z"]
    expected = (0.15 * 0.85 / n + found["floor"] ** 2 / (0.01 * m)) ** 0.5
    assert abs(memorisation.chance(30, n, m)["error"] - expected) < 1e-12


def test_nearest_rows_are_those_of_brute_force():
    rng = np.random.default_rng(0)
    rows, pool = rng.normal(size=(9, 4)), rng.normal(size=(20, 4))
    apart = np.linalg.norm(rows[:, None] - pool, axis=2)
    distance, index = memorisation.nearest_rows(rows, pool, chunk=4)
    assert np.abs(distance - apart.min(1)).max() < 1e-9
    assert np.array_equal(index, apart.argmin(1))
    _, other = memorisation.nearest_rows(pool, pool, np.arange(20), chunk=7)
    assert (other != np.arange(20)).all()


# ---- lens fit by class


def test_noise_of_one_class_is_seen_beside_strong_substructure():
    rng = np.random.default_rng(0)
    classes = np.arange(300) % 3
    scatter = np.array([0.01, 0.3, 0.1])[classes]
    a, b = (scatter * rng.normal(size=300) for _ in range(2))
    a[classes == 0] += 0.01  # noise 1.2 % too strong
    found = lens_fit_by_class.parts(a, b, classes, classes)
    assert found["no_sub"]["z"] > 5 and abs(found["cdm"]["z"]) < 3.5
    gap = found["no_sub"]["generated"]["value"] - found["no_sub"]["real"]["value"]
    assert abs(gap - 0.01) < 0.006
    clean = lens_fit_by_class.distance(b[:, None], b[:, None], classes, classes)
    assert clean == 0 < lens_fit_by_class.distance(a[:, None], b[:, None], classes, classes)


# ---- planted faults


@pytest.fixture(scope="module")
def lenses():
    real, _ = simulate(300, "broad", seed=71)
    return Reference(real), simulate(300, "broad", seed=72)


# Fault -> a strength that 300 images show; the usual ones need 1,000
STRONG = {"opening": 1.0, "off_centre": 1.0, "gradient": 0.2, "sky": 0.1, "stripes": 0.2}
STRONG |= {"noise": 1.1, "light_detail": 2.0, "mirrored": 0.5, "class_shares": 0.5}


@pytest.mark.parametrize("name", STRONG)
def test_a_planted_fault_is_named_by_its_column(name, lenses):
    reference, (images, truth) = lenses
    _, key, column = USUAL[name]
    measure = MEASURES[key]
    rows = fit(measure.rows, reference)
    made = PLANTED[name](images, STRONG[name], np.random.default_rng(0), truth, images)
    real = rows(reference.images)
    assert parts(measure, rows(made), real)[column]["z"] > 4
    assert abs(parts(measure, rows(images), real)[column]["z"]) < 3.5


def test_stronger_photon_noise_leaves_the_noise_of_the_sky(lenses):
    _, (images, truth) = lenses
    rough = PLANTED["light_detail"](images, 2.0, np.random.default_rng(0), truth, images)
    sky = [image_stats.noise_level(x).mean() for x in (rough, images)]
    assert abs(sky[0] / sky[1] - 1) < 0.02
    broad = PRIORS["broad"]
    clean = clean_images(truth, draw_points(truth, broad), broad).numpy().reshape(len(images), -1)
    photons = np.sort(clean / truth["exposure"][:, None], axis=1)[:, -192:]  # a twentieth
    before = image_stats.light_detail(images)[:, 0]
    expected = np.sqrt(before**2 + (2**2 - 1) * np.median(photons, axis=1)).mean()
    assert abs(image_stats.light_detail(rough).mean() / expected - 1) < 0.02
