"""Columns that no shipped network reads are read by a regressor, where it can."""

import numpy as np
import pytest

from lensnb.evaluation import regressors

N = {"train": 400, "real": 100, "generated": 100}


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    return {whose: rng.normal(size=(n, 12)) for whose, n in N.items()}


def values(rows, scatter, seed=1):
    """A number that the first two features fix up to its scatter, around 1e13."""
    rng = np.random.default_rng(seed)
    return {
        whose: 1e13 + 1e12 * (r[:, 0] - 2 * r[:, 1] + rng.normal(0, scatter, len(r)))
        for whose, r in rows.items()
    }


def test_a_number_is_read_with_the_scatter_that_the_features_leave(rows):
    found = regressors.read(rows, values(rows, 0.5), is_number=True)
    assert abs(found.skill - (1 - 0.25 / 5.25)) < 0.03 and found.why == ""
    for side in ("generated", "real"):
        numbers = found.found[side]
        assert abs(numbers["scatter"] / 1e12 - 0.5) < 0.12 and numbers["correlation"] > 0.95
        assert abs(numbers["bias"]) < 3 * numbers["bias_error"]


def test_a_generator_that_ignores_what_it_is_asked_is_found_out(rows):
    told = values(rows, 0.5)
    told["generated"] = told["generated"][::-1]
    ignored = regressors.read(rows, told, is_number=True).found
    assert ignored["generated"]["scatter"] > 4 * ignored["real"]["scatter"]
    assert abs(ignored["generated"]["correlation"]) < 0.3 < 0.9 < ignored["real"]["correlation"]


def test_nothing_is_said_where_real_images_do_not_show_it(rows):
    rng = np.random.default_rng(2)
    told = {whose: rng.normal(size=n) for whose, n in N.items()}
    found = regressors.read(rows, told, is_number=True)
    assert found.found == {} and found.skill < regressors.LEAST_SKILL
    assert found.why.startswith("no regressor reads it off real images (skill ")


def test_words_are_read_and_missing_values_do_not_count(rows):
    words = {w: np.where(r[:, 0] > 0, "g", "r").astype("U4") for w, r in rows.items()}
    gaps = {w: np.where(np.arange(len(v)) % 4 == 0, "", v) for w, v in words.items()}
    found = regressors.read(rows, gaps, is_number=False).found
    assert found["real"]["n"] == 75 and found["real"]["share"] > 0.9
    missing = values(rows, 0.5)
    missing["real"][::2] = np.nan
    assert regressors.read(rows, missing, is_number=True).found["real"]["n"] == 50


def test_too_few_known_values_are_said(rows):
    told = values(rows, 0.5)
    told["train"][regressors.LEAST_KNOWN - 1 :] = np.nan
    found = regressors.read(rows, told, is_number=True)
    assert found.skill is None and found.why == "too few images have a known value"
