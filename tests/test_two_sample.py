"""The two-sample test against closed forms, scikit-learn and repeated experiments."""

import math

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import roc_auc_score

from lensnb import two_sample as parts
from lensnb.two_sample import two_sample


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_two_sample_of_shifted_gaussians_is_the_closed_form(rng):
    delta = 1.0
    found = [
        two_sample(rng.normal(size=(300, 1)) + 1, rng.normal(size=(300, 1)), permutations=2)
        for _ in range(20)
    ]
    auc, accuracy = (np.mean([each[key] for each in found]) for key in ("auc", "accuracy"))
    assert abs(auc - scipy.stats.norm.cdf(delta / math.sqrt(2))) < 0.015
    assert abs(accuracy - scipy.stats.norm.cdf(delta / 2)) < 0.015
    far = two_sample(rng.normal(size=(30, 2)) + 50, rng.normal(size=(30, 2)), permutations=19)
    assert far == pytest.approx(
        {
            "accuracy": 1,
            "accuracy_error": 0,
            "accuracy_p": 0.05,
            "auc": 1,
            "auc_error": 0,
            "auc_p": 0.05,
        }
    )


def test_placements_give_scikit_learns_area(rng):
    # ties, weights
    scores = rng.integers(0, 12, 80).astype(float)
    weights = rng.integers(0, 3, (2, 80)).astype(float)
    truth = np.repeat([1, 0], 80)
    twice = np.tile(scores, 2)
    above = (parts._placements(scores, weights) * weights).sum(1) / weights.sum(1)
    assert np.abs(above - roc_auc_score(truth, twice, sample_weight=weights.ravel())).max() < 1e-12
    assert (parts._placements(scores, weights * [[1], [0]]) == 0.5).all()  # without opponents


def test_two_sample_cannot_tell_a_set_from_itself(rng):
    a = np.repeat(rng.normal(size=(20, 5)), rng.integers(1, 4, 20), axis=0)
    assert two_sample(a, a[::-1]) == pytest.approx(
        {
            "accuracy": 0.5,
            "accuracy_error": 0,
            "accuracy_p": 1,
            "auc": 0.5,
            "auc_error": 0,
            "auc_p": 1,
        }
    )


def test_two_sample_does_not_learn_duplicates_by_heart(rng):
    def copies():
        # with 40 columns, 60 rows can be learned by heart
        return np.repeat(rng.normal(size=(30, 40)), 5, axis=0)

    found = [two_sample(copies(), copies(), permutations=19) for _ in range(60)]
    for key in ("accuracy", "auc"):
        values, errors = (
            np.array([each[name] for each in found]) for name in (key, f"{key}_error")
        )
        assert abs(values.mean() - 0.5) < 3 * values.std() / math.sqrt(60) < 0.05
        assert 0.75 < errors.mean() / values.std() < 1.35  # five copies are not five images


@pytest.mark.parametrize("fault", [0.0, 0.4])
def test_two_sample_alarms_as_rarely_and_errs_as_much_as_it_says(rng, fault):
    found = [
        two_sample(rng.normal(size=(40, 4)) + fault, rng.normal(size=(40, 4)), permutations=19)
        for _ in range(120)
    ]
    for key in ("accuracy", "auc"):
        values, errors, p = (
            np.array([each[key + end] for each in found]) for end in ("", "_error", "_p")
        )
        assert 0.8 < errors.mean() / values.std(ddof=1) < 1.3
        # 0.19 is 0.1 and three binomial errors
        assert (p <= 0.1).mean() < 0.19 if fault == 0 else (p <= 0.1).mean() > 0.6


def test_two_sample_sees_shift_spread_and_correlation(rng):
    a, b = rng.normal(size=(2, 300, 6))
    mixed = a.copy()
    mixed[:, 1] = 0.8 * a[:, 0] + 0.6 * a[:, 1]  # same mean and spread in every column
    for faulty in (a + 0.3, 1.3 * a, mixed):
        assert two_sample(faulty, b)["auc_p"] < 0.01
    wide = rng.normal(size=(2, 500, 64))
    assert two_sample(wide[0] + 0.15, wide[1], permutations=99)["auc_p"] == 0.01


def test_two_sample_does_not_hang_on_the_order_of_rows(rng):
    a = np.repeat(rng.normal(size=(20, 3)), 2, axis=0)
    b = rng.normal(size=(50, 3))
    assert two_sample(a, b, permutations=9) == two_sample(
        rng.permutation(a), rng.permutation(b), permutations=9
    )
    assert two_sample(a, b, permutations=9) != two_sample(a, b, permutations=9, seed=1)


def test_two_sample_bears_few_rows_many_columns_and_collapse(rng):
    real = rng.normal(size=(8, 30))
    cases = (rng.normal(size=(8, 30)), np.repeat(real[:1], 8, axis=0), real[:2], np.zeros((8, 30)))
    for made in cases:
        found = two_sample(made, real, permutations=9)
        assert all(0 <= value <= 1 + 1e-12 for value in found.values()), found  # NaN would not be
    assert two_sample(np.zeros((4, 2)), np.zeros((9, 2)))["auc"] == pytest.approx(0.5)
    with pytest.raises(ValueError, match="2 folds and 2 permutations"):
        two_sample(real, real, folds=1)


# ---- its parts


@pytest.mark.parametrize(
    "distinct, folds, expected", [(1, 5, 2), (2, 5, 2), (4, 5, 4), (30, 5, 5), (30, 2, 2)]
)
def test_rows_are_dealt_into_as_many_folds_as_either_side_has_distinct_rows(
    rng, distinct, folds, expected
):
    a = np.repeat(rng.normal(size=(distinct, 2)), 2, axis=0)
    b = rng.normal(size=(40, 2))
    for sides in ((a, b), (b, a)):
        rows, weights, blocks = parts._deal(*sides, folds, 3, rng)
        assert len(blocks) == expected and sorted(np.concatenate(blocks)) == list(range(len(rows)))
        assert weights.shape == (2, distinct + 40, 4) and np.abs(weights.sum(1) - 1).max() < 1e-12
        each = [np.sort(weights[:, :, p], axis=1) for p in range(4)]
        assert all((e == each[0]).all() for e in each[1:])  # permuted, not changed
        sizes = [len(block) for block in blocks]
        assert max(sizes) - min(sizes) <= 1
        # every fold has as many rows of each side, to one
        assert len({(weights[0, block, 0] > 0).sum() for block in blocks}) <= 2


def test_rows_that_both_sides_have_count_for_both(rng):
    a = rng.normal(size=(4, 2))
    assert len(parts._deal(a, np.repeat(a, 3, axis=0), 5, 2, rng)[2]) == 4


def test_the_error_of_the_accuracy_is_binomial_at_least(rng):
    """If permutations scatter no more than that, it is the binomial error.

    Accuracies that differ between the sides make it smaller by a little.
    """
    found = [
        two_sample(rng.normal(size=(300, 1)) + 1, rng.normal(size=(300, 1)), permutations=2)
        for _ in range(8)
    ]
    ratios = [
        each["accuracy_error"] / math.sqrt(each["accuracy"] * (1 - each["accuracy"]) / 600)
        for each in found
    ]
    assert 0.98 < min(ratios) < 1 + 1e-9


def test_two_folds_and_two_permutations_are_enough(rng):
    a, b = rng.normal(size=(2, 20, 2))
    assert 0 < two_sample(a, b, folds=2, permutations=2)["auc_p"] <= 1


@pytest.mark.parametrize("d, n, terms", [(2, 40, 5), (2, 39, 4), (3, 72, 9), (3, 71, 6)])
def test_terms_are_standardised_squares_and_with_enough_rows_products(rng, d, n, terms):
    x = rng.gamma(2, 100, size=(n, d))
    found = parts._quadratic(x)
    z = scipy.stats.zscore(x)
    pairs = [(i, j) for i in range(d) for j in range(i, d) if terms > 2 * d or i == j]
    expected = scipy.stats.zscore(np.column_stack([z, *(z[:, i] * z[:, j] for i, j in pairs)]))
    assert found.shape == (n, terms) and np.abs(found - expected).max() < 1e-9


def test_columns_that_vary_by_rounding_alone_are_dead(rng):
    wobble = rng.normal(size=30)
    for value, alive in (
        (1e8 + 1e-3 * wobble, False),
        (np.zeros(30), False),
        (1e-8 * wobble, True),
        (1 + 1e-6 * wobble, True),
    ):
        assert (np.abs(parts._quadratic(np.column_stack([value, wobble]))[:, 0]).max() > 0) == alive


def test_scores_are_those_of_fisher_with_a_ridge(rng):
    train = rng.normal(size=(30, 4))
    test = rng.normal(size=(7, 4))
    weights = rng.uniform(0, 0.04, (2, 30, 3))
    weights[:, :, 1] *= [[0.5], [2]]  # folds take more of one side than of the other
    weights[1, :, 2] = 0
    scores = parts._discriminant(train, weights, test, train.T @ train)
    for p in (0, 1):
        one, other = (np.average(train, axis=0, weights=side[:, p]) for side in weights)
        direction = np.linalg.inv(train.T @ train + 10 * np.eye(4)) @ (one - other)
        assert np.abs(scores[:, p] - (test - (one + other) / 2) @ direction).max() < 1e-12
    assert (scores[:, 2] == 0).all() and (
        parts._discriminant(train, weights[::-1], test, train.T @ train)[:, 2] == 0
    ).all()


def test_errors_are_binomial_where_rows_are_distinct(rng):
    """The accuracy of 60 and 40 rows.

    Permutations that all agree add nothing. Ones that scatter widely at most double the error.
    """
    weights = np.zeros((2, 100, 4))
    weights[0, :60] = 1 / 60
    weights[1, 60:] = 1 / 40
    right = np.repeat((rng.random((2, 100, 1)) < 0.7).astype(float), 4, axis=2)
    p = right[0, :60, 0].mean()
    q = right[1, 60:, 0].mean()
    found = parts._verdict("x", right, weights, 0.5)
    assert found == pytest.approx(
        {
            "x": (p + q) / 2,
            "x_error": 0.5 * math.sqrt(p * (1 - p) / 60 + q * (1 - q) / 40),
            "x_p": 1,
        }
    )
    right[:, :, 1:] = rng.random((2, 100, 3)) < [0.65, 0.7, 0.8]
    sides = np.stack([right[0, :60].mean(0), right[1, 60:].mean(0)])
    errors = 0.5 * np.sqrt((sides * (1 - sides) / [[60], [40]]).sum(0))
    factor = sides.mean(0)[1:].std(ddof=1) / errors[1:].mean()
    assert 1.1 < factor < 1.9 and parts._verdict("x", right, weights, 0.5)[
        "x_error"
    ] == pytest.approx(factor * errors[0])
    right[:, :, 1:] = [0, 0.5, 1]
    right[:, :, 2] = (np.arange(100) % 2)[None]
    wide = parts._verdict("x", right, weights, 0.5)
    # p: of the value itself and three permuted ones, the value and one reach it
    assert wide["x_error"] == pytest.approx(2 * found["x_error"]) and wide["x_p"] == 0.5
