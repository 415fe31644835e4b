"""Distances against scipy, torchmetrics, scikit-learn and closed forms."""

import math
import tracemalloc

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from row_metrics import (
    NEIGHBOURS,
    assert_refuses_incomparable_sets,
    coverage,
    density,
    precision,
    recall,
)
from sklearn.neighbors import NearestNeighbors
from torchmetrics.image.fid import _compute_fid
from torchmetrics.image.kid import poly_mmd

from lensnb import metrics
from lensnb.evaluation import image_stats

DISTANCES = (metrics.frechet, metrics.kid, metrics.mean_distance)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_frechet_equals_the_formula_with_scipys_matrix_root_and_torchmetrics(rng):
    a = rng.normal(size=(400, 12)) @ rng.normal(size=(12, 12))
    b = 0.5 + rng.normal(size=(300, 12)) @ rng.normal(size=(12, 12))
    A = np.cov(a, rowvar=False)
    B = np.cov(b, rowvar=False)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(
        A + B - 2 * scipy.linalg.sqrtm(A @ B).real
    )
    assert abs(metrics.frechet(a, b) / expected - 1) < 1e-9
    theirs = _compute_fid(*(torch.from_numpy(np.asarray(m)) for m in (a.mean(0), A, b.mean(0), B)))
    assert abs(metrics.frechet(a, b) / theirs.item() - 1) < 1e-9


def test_frechet_of_shifted_and_scaled_copies_is_the_closed_form(rng):
    a = rng.normal(size=(500, 6))
    assert abs(metrics.frechet(a + 3, a) - 6 * 9) < 1e-9
    assert (
        abs(
            metrics.frechet(2 * a, a) - ((a.mean(0) ** 2).sum() + np.trace(np.cov(a, rowvar=False)))
        )
        < 1e-9
    )


def test_frechet_bears_singular_covariances_and_few_rows(rng):
    a = np.repeat(rng.normal(size=(5, 1)), 20, axis=1)  # rank one, fewer rows than columns
    assert abs(metrics.frechet(a, a)) < 1e-6
    assert abs(metrics.frechet(a + 1, a) - 20) < 1e-6
    b = np.hstack([rng.normal(size=(50, 3)), np.zeros((50, 2))])  # dead columns
    assert np.isfinite(metrics.frechet(b, b[::-1] * 2))
    assert (
        abs(
            metrics.frechet(a, b[:5, :1].repeat(20, 1))
            - metrics.frechet(b[:5, :1].repeat(20, 1), a)
        )
        < 1e-6
    )


def test_frechet_of_two_rows_and_of_one_has_their_spread():
    # variances 2 and none
    two = np.array([[0.0], [2.0]])
    one = np.array([[5.0]])
    assert (
        abs(metrics.frechet(two, one) - (16 + 2)) < 1e-12
        and abs(metrics.frechet(3 * two, two) - (4 + (3 - 1) ** 2 * 2)) < 1e-12
    )


def test_wasserstein_of_pixels_equals_scipys(rng):
    real = rng.gamma(2, 5, (30, 1, 16, 16))
    made = rng.gamma(2.2, 5, (30, 1, 16, 16)) + 0.3
    edges = image_stats.intensity_edges(real)
    ours = metrics.wasserstein(
        image_stats.cumulative_shares(made, edges),
        image_stats.cumulative_shares(real, edges),
        np.diff(edges),
    )
    assert abs(ours / scipy.stats.wasserstein_distance(made.ravel(), real.ravel()) - 1) < 0.01


def test_wasserstein_sees_pixels_far_outside_the_reference(rng):
    real = rng.normal(size=(20, 1, 8, 8))
    edges = image_stats.intensity_edges(real)
    ours = metrics.wasserstein(
        image_stats.cumulative_shares(real + 20, edges),
        image_stats.cumulative_shares(real, edges),
        np.diff(edges),
    )
    assert abs(ours / 20 - 1) < 0.05


def test_mean_distance_is_the_root_mean_square_over_columns():
    assert (
        abs(
            metrics.mean_distance(np.array([[1.0, 5.0], [3.0, 7.0]]), np.zeros((4, 2)))
            - np.sqrt((4 + 36) / 2)
        )
        < 1e-12
    )


# ---- Frechet distance by class


def test_frechet_by_class_weighs_by_the_shares_of_the_reference(rng):
    ours = np.repeat(["c", "a", "b"], [70, 20, 10])
    theirs = np.repeat(["a", "b", "c"], [10, 60, 30])
    a = rng.normal(size=(100, 3))
    b = 2 * rng.normal(size=(100, 3))
    within = {c: metrics.frechet(a[ours == c], b[theirs == c]) for c in "abc"}
    expected = 0.1 * within["a"] + 0.6 * within["b"] + 0.3 * within["c"]
    assert abs(metrics.frechet_by_class(a, b, ours, theirs) - expected) < 1e-12


def test_frechet_by_class_sees_shuffled_labels_that_frechet_does_not(rng):
    labels = np.arange(300) % 3
    a, b = rng.normal(size=(2, 300, 4)) + 3 * labels[:, None]
    shuffled = rng.permutation(labels)
    assert metrics.frechet_by_class(a, b, shuffled, labels) > 20 * metrics.frechet_by_class(
        a, b, labels, labels
    )


def test_a_class_with_one_row_or_none_counts_as_a_point(rng):
    labels = np.arange(90) % 3
    b = rng.normal(size=(90, 4))

    def to_point(point, c):
        return ((point - b[labels == c].mean(0)) ** 2).sum() + np.trace(
            np.cov(b[labels == c], rowvar=False)
        )

    a = b[labels != 2] + 1
    two = labels[labels != 2]
    expected = (4 + 4 + to_point(a.mean(0), 2)) / 3
    assert abs(metrics.frechet_by_class(a, b, two, labels) - expected) < 1e-9
    a = np.concatenate([a, b[:1] - 7])
    two = np.append(two, 2)
    assert (
        abs(metrics.frechet_by_class(a, b, two, labels) - (4 + 4 + to_point(b[0] - 7, 2)) / 3)
        < 1e-9
    )
    only = metrics.frechet_by_class(
        b, b[labels == 1], labels, labels[labels == 1]
    )  # classes the reference lacks
    assert abs(only) < 1e-9
    with pytest.raises(ValueError, match="one label a row"):
        metrics.frechet_by_class(b, b, labels[:-1], labels)


# ---- kernel distance


@pytest.mark.parametrize("columns", [20, 10], ids=["few rows, by pairs", "many rows, by moments"])
def test_kid_equals_torchmetrics(columns, rng):
    a = rng.normal(size=(300, columns))
    b = 0.3 + 1.2 * rng.normal(size=(300, columns))
    theirs = poly_mmd(torch.from_numpy(a), torch.from_numpy(b)).item()
    assert (
        abs(metrics.kid(a, b) / theirs - 1) < 1e-10
        and abs(metrics.kid(a, b, chunk=7) / theirs - 1) < 1e-10
    )


def test_kid_of_sides_of_different_size_is_the_sum_over_pairs(rng):
    a = rng.normal(size=(2, 3))
    b = rng.normal(size=(8, 3))

    def kernel(x, y):
        return (sum(p * q for p, q in zip(x, y, strict=True)) / 3 + 1) ** 3

    def within(s):
        return np.mean([kernel(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j])

    expected = within(a) + within(b) - 2 * np.mean([kernel(x, y) for x in a for y in b])
    assert abs(metrics.kid(a, b) - expected) < 1e-12


def test_kid_is_unbiased(rng):
    found = np.array([metrics.kid(*rng.normal(size=(2, 20, 3))) for _ in range(2000)])
    error = found.std() / math.sqrt(2000)
    biased = (
        2 * np.mean(((rng.normal(size=(2000, 3)) ** 2).sum(1) / 3 + 1) ** 3) / 20
    )  # what the diagonal would add
    assert abs(found.mean()) < 3 * error < 0.1 * biased


def test_pairs_never_stand_in_memory_all_at_once(rng):
    a, b = rng.normal(size=(2, 3000, 60))
    for distance in (metrics.kid, metrics.neighbours):
        tracemalloc.start()
        distance(a, b)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 0.7 * 8 * 3000**2


# ---- nearest neighbours


def by_hand(a, b, k):
    """Precision, recall, density and coverage straight from the definitions, a ball and a point at a time."""

    def radii(rows):
        return (
            NearestNeighbors(n_neighbors=k + 1, algorithm="brute")
            .fit(rows)
            .kneighbors(rows)[0][:, k]
        )

    def near(points, centres):
        return np.array(
            [
                [math.dist(p, c) <= r + 1e-9 for c, r in zip(centres, radii(centres), strict=True)]
                for p in points
            ]
        )  # the slack hides scikit-learn's rounding

    held = near(a, b)
    back = near(b, a)
    return held.any(1).mean(), back.any(1).mean(), held.sum() / (k * len(a)), held.any(0).mean()


@pytest.mark.parametrize("k", [1, 3, 5])
def test_neighbour_metrics_equal_their_definitions(rng, k):
    shifted = rng.normal(size=(40, 3)), rng.normal(size=(50, 3)) + 1
    copies = (
        rng.integers(0, 3, (40, 2)).astype(float),
        rng.integers(0, 4, (30, 2)).astype(float),
    )  # duplicates and ties
    for a, b in (shifted, copies):
        assert np.allclose([f(a, b, k) for f in NEIGHBOURS], by_hand(a, b, k), rtol=0, atol=1e-12)


def test_copies_far_out_are_at_distance_zero(rng):
    """Products of long rows round to more than the distances of short ones."""
    near = rng.normal(size=(40, 3))
    far = 1e4 * np.repeat(rng.normal(size=(10, 3)), 6, axis=0)
    assert (
        precision(far[::6], np.concatenate([near, far])) == 1
        and recall(np.concatenate([near, far]), far[::6], 3) == 1
    )


def test_neighbour_metrics_do_not_depend_on_the_chunk(rng):
    a, b = rng.normal(size=(2, 60, 3))
    assert (metrics.neighbours(a, b, chunk=7) == metrics.neighbours(a, b)).all()


def test_density_and_coverage_of_equal_distributions_are_as_expected(rng):
    n = 50
    k = 5
    times = 300
    found = np.array(
        [[f(a, b, k) for f in NEIGHBOURS[2:]] for a, b in rng.normal(size=(times, 2, n, 2))]
    )
    expected = (
        1,
        1 - math.prod((n - i) / (2 * n - i) for i in range(1, k + 1)),
    )  # Naeem et al. 2020, eq. 11
    assert (np.abs(found.mean(0) - expected) < 3 * found.std(0) / math.sqrt(times)).all()
    assert (found.std(0) / math.sqrt(times) < 0.01).all()


def test_each_neighbour_metric_sees_its_fault(rng):
    real, fresh = rng.normal(size=(2, 400, 2))
    centre = 0.2 * fresh
    outliers = 4 * fresh
    assert precision(centre, real) > 0.99 > 0.5 > recall(centre, real)
    assert recall(outliers, real) > 0.8 > 0.6 > precision(outliers, real)
    assert density(outliers, real) < 0.3 and abs(density(fresh, real) - 1) < 0.15
    stray = np.concatenate([real, 40 * np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])])
    assert (
        precision(outliers, stray) > 0.9 and density(outliers, stray) < 0.75
    )  # huge balls count little
    one_half = fresh[fresh[:, 0] > 0]
    assert coverage(one_half, real) < 0.65 < 0.9 < coverage(fresh, real)


def test_duplicates_zero_the_radii(rng):
    real, fresh = rng.normal(size=(2, 60, 3))
    copied = np.repeat(fresh[:10], 6, axis=0)  # five others like each
    assert recall(copied, real, 5) == 0 and recall(copied[rng.permutation(60)[:30]], real, 5) > 0
    assert precision(copied, real) == pytest.approx(precision(fresh[:10], real))
    assert (
        precision(real[:10], np.repeat(real, 6, axis=0), 5) == 1
    )  # equals are inside, at radius zero


@pytest.mark.parametrize("k", [0, 8, 9])
def test_a_neighbour_that_does_not_exist_is_refused(rng, k):
    with pytest.raises(ValueError, match=f"k = {k} and 8 rows"):
        precision(rng.normal(size=(20, 2)), rng.normal(size=(8, 2)), k)


# ---- what holds for any two sets


@st.composite
def pairs(draw):
    """Two sets of 8 to 14 rows with 1 to 20 columns: often more columns than rows, with duplicates and dead columns.

    In steps of 1/64: differences whose squares drown in those of the rows make ties, which fall by rounding.
    """
    d = draw(st.integers(1, 20))

    def rows():
        return draw(
            arrays(
                float,
                (draw(st.integers(8, 14)), d),
                elements=st.integers(-640, 640).map(lambda i: i / 64),
            )
        )

    return rows(), rows()


@settings(max_examples=60, deadline=None)
@given(pairs(), st.integers(0, 99))
def test_order_of_sides_and_rows(sets, seed):
    a, b = sets
    mix = np.random.default_rng(seed).permutation
    for distance in DISTANCES:
        close = {"rel": 1e-6, "abs": 1e-5}
        assert distance(a, b) == pytest.approx(distance(b, a), **close)
        assert distance(mix(a), mix(b)) == pytest.approx(distance(a, b), **close)
    for metric in NEIGHBOURS:
        assert metric(mix(a), mix(b)) == pytest.approx(metric(a, b), rel=1e-12)
    assert precision(a, b) == recall(b, a)
    labels = np.arange(len(a)) % 3, np.arange(len(b)) % 2
    order = mix(len(a))
    assert metrics.frechet_by_class(a[order], b, labels[0][order], labels[1]) == pytest.approx(
        metrics.frechet_by_class(a, b, *labels), rel=1e-6, abs=1e-5
    )


@settings(max_examples=60, deadline=None)
@given(pairs())
def test_ranges_and_identical_sets(sets):
    a, b = sets
    scale = 1 + float((a**2).sum(1).mean())
    assert (
        metrics.frechet(a, b) >= 0
        and metrics.mean_distance(a, b) >= 0
        and metrics.mean_distance(a, a) == 0
    )
    assert metrics.frechet(a, a) < 1e-6 * scale
    n = len(a)
    norms = ((a**2).sum(1) / a.shape[1] + 1) ** 3
    whole = ((a @ a.T / a.shape[1] + 1) ** 3).sum()  # unbiased, so below zero for a set and itself
    assert metrics.kid(a, a) == pytest.approx(
        2 * (whole - n * norms.sum()) / (n * n * (n - 1)), rel=1e-9, abs=1e-9 * norms.max()
    )
    assert all(0 <= metric(a, b) <= 1 for metric in (precision, recall, coverage))
    assert 0 <= density(a, b) <= len(b) / 5
    assert precision(a, a) == recall(a, a) == coverage(a, a) == 1 and density(a, a) >= 1.2
    assert metrics.two_sample(a, a, permutations=2)["auc"] == pytest.approx(0.5)
    told = metrics.two_sample(a, b, permutations=2)
    assert all(0 <= told[key] <= 1 + 1e-12 for key in ("accuracy", "accuracy_p", "auc", "auc_p"))
    assert all(0 <= told[key] < 1.5 for key in ("accuracy_error", "auc_error"))


@pytest.mark.parametrize(
    "metric",
    [
        *DISTANCES,
        *NEIGHBOURS,
        metrics.two_sample,
        lambda a, b: metrics.wasserstein(a, b, np.ones(2)),
        lambda a, b: metrics.frechet_by_class(a, b, np.zeros(len(a)), np.zeros(len(b))),
    ],
)
def test_sets_that_cannot_be_compared_are_refused(metric):
    assert_refuses_incomparable_sets(metric)
