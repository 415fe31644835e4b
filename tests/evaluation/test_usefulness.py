"""Usefulness: scikit-learn by hand, the extremes, and the error of repeated experiments."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lensnb.evaluation import usefulness

CENTRES = np.array([[0, 0, 0], [2, 0, 0], [0, 2, 0]])


def blobs(rng, n, shift=0.0):
    """Rows (n, 4) of three classes that overlap, and a dead column; labels (n,)."""
    labels = rng.permutation(np.arange(n) % 3)
    rows = CENTRES[labels] + rng.normal(size=(n, 3)) + shift
    return np.column_stack([rows, np.full(n, 7.0)]) * [1, 1, 40, 1], labels


def measure(made, reference, others, times=10, floors=10, seed=0):
    return usefulness.measure(
        made[0], reference[0], others[0], (made[1], reference[1], others[1]), times, floors, seed
    )


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_accuracy_is_scikit_learns(rng):
    made = blobs(rng, 90, 0.7)
    reference = blobs(rng, 90)
    others = blobs(rng, 91)
    found = measure(made, reference, others)
    scaler = StandardScaler().fit(reference[0])

    def accuracy(rows, labels):
        return (
            make_pipeline(LogisticRegression(C=0.1, tol=1e-8, max_iter=5000))
            .fit(scaler.transform(rows), labels)
            .score(scaler.transform(reference[0]), reference[1])
        )

    # one row may lie on the border
    assert found["accuracy"]["generated"] == pytest.approx(accuracy(*made), abs=0.012)
    assert found["accuracy"]["real"] == pytest.approx(accuracy(others[0], others[1]), abs=0.012)
    assert found["value"] == pytest.approx(
        found["accuracy"]["generated"] / found["accuracy"]["real"]
    )
    assert found["n"] == 90 and found["ratio"] is None and len(found["deviations"]) == 10


def test_fresh_real_images_are_as_useful_as_real_ones(rng):
    sigmas = [
        measure(blobs(rng, 120), blobs(rng, 120), blobs(rng, 480), 8, 6, i)["z"] for i in range(16)
    ]
    assert (np.abs(sigmas) < 3).all() and abs(np.mean(sigmas)) < 0.75


def test_shuffled_labels_teach_no_more_than_chance(rng):
    made = blobs(rng, 300)
    reference = blobs(rng, 300)
    others = blobs(rng, 1200)
    found = measure((made[0], rng.permutation(made[1])), reference, others)
    assert abs(found["value"] - 1 / 3 / found["accuracy"]["real"]) < 0.2 and found["z"] < -3
    assert abs(found["floor"] - 1) < 0.05 < 1 - found["value"]


def test_a_class_that_is_missing_or_alone_costs_what_it_is_worth(rng):
    made = blobs(rng, 300)
    reference = blobs(rng, 300)
    others = blobs(rng, 1200)
    two = np.where(made[1] == 2, 1, made[1])
    assert measure((made[0], two), reference, others)["accuracy"]["generated"] < 0.65
    assert measure((made[0], 0 * made[1]), reference, others)["accuracy"][
        "generated"
    ] == pytest.approx(1 / 3)


def test_the_error_is_the_scatter_of_repeated_experiments(rng):
    found = [
        measure(blobs(rng, 90, 0.5), blobs(rng, 90), blobs(rng, 360), times=10, floors=2, seed=i)
        for i in range(40)
    ]
    scatter = np.std([each["value"] for each in found], ddof=1)
    assert 0.75 < np.mean([each["error"] for each in found]) / scatter < 1.6
