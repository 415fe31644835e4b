"""Are generated images of use in training? A classifier learns from them, real ones test it.

Its accuracy is compared with the accuracy after training on real images: train on synthetic, test
on real (Esteban et al. 2017, arXiv:1706.02633; Ravuri & Vinyals 2019, arXiv:1905.10887). The sets
are small, so the classifier is logistic regression on LensNet's frozen features.
"""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lensnb.evaluation import uncertainty
from lensnb.evaluation.workers import HERE, Workers

# scikit-learn's C on standardised features; fixed, because a choice by the data would scatter.
STRENGTH = 0.1
UNIT = "share of that after training on real images"
REAL = 5  # real training sets that the generated one is compared with


def right(
    rows: np.ndarray, labels: np.ndarray, test_rows: np.ndarray, test_labels: np.ndarray
) -> np.ndarray:
    """Whether a classifier trained on rows (n, d) puts each test row (m, d) in its class: (m,)."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(labels)) < 2:  # nothing to tell apart
        return test_labels == labels[0]
    classifier = LogisticRegression(C=STRENGTH, tol=1e-3, max_iter=200)
    with warnings.catch_warnings():
        # features far from real ones converge late, and are of no use anyway
        warnings.simplefilter("ignore", ConvergenceWarning)
        return classifier.fit(rows, labels).predict(test_rows) == test_labels


def _right_after_real(
    spare: np.ndarray,
    spare_labels: np.ndarray,
    test: np.ndarray,
    labels: np.ndarray,
    seed: int,
    workers: Workers,
) -> np.ndarray:
    """For each test row the share of REAL classifiers that are right: (n,).

    Each is trained on as many random real rows as there are test rows.
    """
    rng = np.random.default_rng([seed, 2])
    draws = [rng.permutation(len(spare))[: len(test)] for _ in range(REAL)]
    jobs = ((spare[i], spare_labels[i], test, labels) for i in draws)
    found: np.ndarray = np.mean(workers.map(right, jobs), axis=0)
    return found


def _ratio(a: np.ndarray, b: np.ndarray, labels_a: np.ndarray, labels_b: np.ndarray) -> np.floating:
    """Accuracy on rows b after training on rows a, over the mean of the last column of b."""
    accuracy = right(a[:, :-1], labels_a, b[:, :-1], labels_b).mean()
    return accuracy / max(b[:, -1].mean(), 1 / len(b))


def _with_column(rows: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Rows (n, d) with one more column (n,): it goes with its row, however they are resampled."""
    return np.column_stack([rows, column])


def _standardised(rows: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Rows with the mean and standard deviation of the reference taken out of each column."""
    std = reference.std(0)
    scaled: np.ndarray = (rows - reference.mean(0)) / np.where(std > 0, std, 1)
    return scaled


class Real(NamedTuple):
    """What is the same for all generated sets: see `of_real`."""

    known: np.ndarray  # (n,), for each reference row the share of REAL classifiers that are right
    floor: np.ndarray  # (floors,)


def of_real(
    reference: np.ndarray,
    others: np.ndarray,
    labels: Sequence[np.ndarray],
    floors: int = 20,
    seed: int = 0,
    workers: Workers = HERE,
) -> Real:
    """What `measure` needs of real images; labels : the classes of the two sets."""
    real = _standardised(reference, reference)
    spare = _standardised(others, reference)
    known = _right_after_real(spare, labels[1], real, labels[0], seed, workers)
    floor = uncertainty.floor_values(
        _ratio,
        _with_column(real, known),
        _with_column(spare, np.zeros(len(spare))),
        floors,
        seed,
        labels,
        workers,
    )
    return Real(known, floor)


def measure(
    generated: np.ndarray,
    reference: np.ndarray,
    others: np.ndarray,
    labels: Sequence[np.ndarray],
    times: int = 200,
    floors: int = 20,
    seed: int = 0,
    of_others: Real | None = None,
    workers: Workers = HERE,
) -> dict[str, Any]:
    """Accuracy on real images after training on generated ones, over the same after real ones.

    generated, reference (n, d), others : features; labels : the classes of the three sets
    of_others : what `of_real` gives for these real images, if it is known already

    Returns a tree as `uncertainty.measure` does. Every classifier is tested on the reference. A
    real training set is n random others: the denominator of the ratio is the mean accuracy of REAL
    such sets, and the floor, about 1, is the mean ratio of `floors` more. The error resamples both
    training and test rows; how hard the test rows are cancels. `accuracy` holds the accuracies of
    both sides themselves.
    """
    known, floor = of_others or of_real(reference, others, labels[1:], floors, seed, workers)
    made = _standardised(generated, reference)
    real = _standardised(reference, reference)
    found = uncertainty.measure(
        _ratio,
        _with_column(made, np.zeros(len(made))),
        _with_column(real, known),
        others,  # their number alone counts: the floor is known
        UNIT,
        times,
        floors,
        seed,
        ratio=False,
        labels=labels,
        floor=floor,
        workers=workers,
    )
    return found | {
        "accuracy": {
            "generated": float(right(made, labels[0], real, labels[1]).mean()),
            "real": float(known.mean()),
        }
    }
