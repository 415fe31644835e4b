"""Distances against scipy, torchmetrics and closed forms; floors and errors against what they claim."""

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from torchmetrics.image.fid import _compute_fid

from lensnb import metrics, physics


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_frechet_equals_the_formula_with_scipys_matrix_root_and_torchmetrics(rng):
    a, b = rng.normal(size=(400, 12)) @ rng.normal(size=(12, 12)), 0.5 + rng.normal(size=(300, 12)) @ rng.normal(size=(12, 12))
    A, B = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(A + B - 2 * scipy.linalg.sqrtm(A @ B).real)
    assert abs(metrics.frechet(a, b) / expected - 1) < 1e-9
    theirs = _compute_fid(*(torch.from_numpy(np.asarray(m)) for m in (a.mean(0), A, b.mean(0), B)))
    assert abs(metrics.frechet(a, b) / theirs.item() - 1) < 1e-9


def test_frechet_of_shifted_and_scaled_copies_is_the_closed_form(rng):
    a = rng.normal(size=(500, 6))
    assert abs(metrics.frechet(a + 3, a) - 6 * 9) < 1e-9
    assert abs(metrics.frechet(2 * a, a) - ((a.mean(0) ** 2).sum() + np.trace(np.cov(a, rowvar=False)))) < 1e-9


def test_frechet_bears_singular_covariances_and_few_rows(rng):
    a = np.repeat(rng.normal(size=(5, 1)), 20, axis=1)                  # rank one, fewer rows than columns
    assert abs(metrics.frechet(a, a)) < 1e-6
    assert abs(metrics.frechet(a + 1, a) - 20) < 1e-6
    b = np.hstack([rng.normal(size=(50, 3)), np.zeros((50, 2))])        # dead columns
    assert np.isfinite(metrics.frechet(b, b[::-1] * 2))
    assert abs(metrics.frechet(a, b[:5, :1].repeat(20, 1)) - metrics.frechet(b[:5, :1].repeat(20, 1), a)) < 1e-6


def test_wasserstein_of_pixels_equals_scipys(rng):
    real, made = rng.gamma(2, 5, (30, 1, 16, 16)), rng.gamma(2.2, 5, (30, 1, 16, 16)) + 0.3
    edges = physics.intensity_edges(real)
    ours = metrics.wasserstein(physics.cumulative_shares(made, edges), physics.cumulative_shares(real, edges), np.diff(edges))
    assert abs(ours / scipy.stats.wasserstein_distance(made.ravel(), real.ravel()) - 1) < 0.01


def test_wasserstein_sees_pixels_far_outside_the_reference(rng):
    real = rng.normal(size=(20, 1, 8, 8))
    edges = physics.intensity_edges(real)
    ours = metrics.wasserstein(physics.cumulative_shares(real + 20, edges), physics.cumulative_shares(real, edges), np.diff(edges))
    assert abs(ours / 20 - 1) < 0.05


def test_mean_distance_is_the_root_mean_square_over_columns():
    assert abs(metrics.mean_distance(np.array([[1.0, 5.0], [3.0, 7.0]]), np.zeros((4, 2))) - np.sqrt((4 + 36) / 2)) < 1e-12


def test_bootstrap_error_is_the_scatter_of_repeated_experiments(rng):
    distance = lambda a, b: float(a.mean() - b.mean())
    repeated = [distance(*rng.normal(size=(2, 100, 1))) for _ in range(2000)]
    estimate = np.mean([metrics.bootstrap_error(distance, *rng.normal(size=(2, 100, 1)), 200, rng) for _ in range(20)])
    assert abs(estimate / np.std(repeated) - 1) < 0.1


def test_real_against_real_is_at_the_floor_and_a_fault_is_not(rng):
    real = rng.normal(size=(1200, 8))
    reference, others, fresh = real[:200], real[400:], real[200:400]
    good = metrics.measure(metrics.frechet, fresh, reference, others, "", seed=1)
    assert abs(good["value"] - good["floor"]) < 4 * good["floor_error"] and 0.5 < good["ratio"] < 2
    bad = metrics.measure(metrics.frechet, fresh + 0.5, reference, others, "", seed=1)
    assert (bad["value"] - bad["floor"]) > 10 * bad["floor_error"] and bad["n"] == 200
    assert good == metrics.measure(metrics.frechet, fresh, reference, others, "", seed=1)       # seeded


def test_sides_of_different_size_are_refused(rng):
    with pytest.raises(ValueError, match="expected 50 generated rows"):
        metrics.measure(metrics.frechet, rng.normal(size=(49, 2)), rng.normal(size=(50, 2)), rng.normal(size=(99, 2)), "")
