"""Are generated images of use? A classifier that learns from them, tested on real ones, against one that learns from real ones.

Train on synthetic, test on real (Esteban et al. 2017, arXiv:1706.02633; Ravuri & Vinyals 2019,
arXiv:1905.10887). The sets are small, so the classifier is logistic regression on LensNet's frozen features.
"""

import warnings

import numpy as np

from lensnb.evaluation import uncertainty

STRENGTH = (
    0.1  # scikit-learn's C on standardised features, fixed: a choice by the data would scatter
)
REAL = 5  # real training sets that the generated one is held against


def right(rows, labels, test_rows, test_labels):
    """Which test rows (m, d) a classifier trained on rows (n, d) with labels (n,) puts in the right class, (m,) bool."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(labels)) < 2:  # nothing to tell apart
        return test_labels == labels[0]
    with (
        warnings.catch_warnings()
    ):  # features far off those of real images converge late, and are no use anyway
        warnings.simplefilter("ignore", ConvergenceWarning)
        return (
            LogisticRegression(C=STRENGTH, tol=1e-3, max_iter=200)
            .fit(rows, labels)
            .predict(test_rows)
            == test_labels
        )


def measure(generated, reference, others, labels, times=200, floors=20, seed=0):
    """Accuracy on real images after training on generated ones, over that after training on real ones: a tree as of `metrics.measure`.

    generated, reference (n, d), others : features; labels : those of the three. Everything is tested on the
    reference. Real training sets are n random others: the mean of REAL of them is what the ratio is to, and
    the floor, about 1, is the ratio of `floors` more. The error resamples both training and test rows; how
    hard the test rows are cancels. `accuracy` has both sides' own.
    """
    mean = reference.mean(0)
    std = reference.std(0)
    made, real, spare = (
        (rows - mean) / np.where(std > 0, std, 1) for rows in (generated, reference, others)
    )
    rng = np.random.default_rng([seed, 2])
    n = len(reference)
    draws = [rng.permutation(len(spare))[:n] for _ in range(REAL)]
    known = np.mean(
        [right(spare[i], labels[2][i], real, labels[1]) for i in draws], axis=0
    )  # (n,): by training on real

    def ratio(
        a, b, labels_a, labels_b
    ):  # the last column goes with the test rows, however they are resampled
        return right(a[:, :-1], labels_a, b[:, :-1], labels_b).mean() / max(b[:, -1].mean(), 1 / n)

    sets = (
        np.column_stack([rows, last])
        for rows, last in (
            (made, np.zeros(len(made))),
            (real, known),
            (spare, np.zeros(len(spare))),
        )
    )
    found = uncertainty.measure(
        ratio,
        *sets,
        "share of that after training on real images",
        times,
        floors,
        seed,
        ratio=False,
        labels=labels,
    )
    return found | {
        "accuracy": {
            "generated": float(right(made, labels[0], real, labels[1]).mean()),
            "real": float(known.mean()),
        }
    }
