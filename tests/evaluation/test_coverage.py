"""Coverage against the authors' tarp, and against posteriors that are right or wrong by design."""

from pathlib import Path

import numpy as np
import pytest

from lensnb.errors import InputError
from lensnb.evaluation import coverage, lensnet

GOLDEN = Path(__file__).parents[1] / "golden" / "tarp.npz"  # see make_tarp.py


def test_shares_give_the_curve_of_the_authors_package():
    golden = np.load(GOLDEN)
    share = coverage.shares(golden["draws"], golden["truths"], golden["references"])
    edges = golden["credibility"]
    # their curve counts shares in bins; an edge belongs to the bin above, the last one to its own
    ours = [(share < edge - 1e-9).mean() for edge in edges[:-1]] + [1.0]
    assert np.abs(np.array(ours) - golden["coverage"]).max() < 1e-9


def posteriors(width, n=400, draws=50, seed=1):
    """Draws around data, of `width` times the right scatter; truths; references."""
    rng = np.random.default_rng(seed)
    middle = rng.normal(size=(n, 3))
    truths = middle + rng.normal(size=(n, 3))
    made = middle[:, None] + width * rng.normal(size=(n, draws, 3))
    return made, truths, rng.normal(size=(n, 3))


def curve(width):
    return coverage.coverage(coverage.shares(*posteriors(width)), 50)


def test_right_posteriors_lie_on_the_diagonal():
    found = curve(1.0)
    assert found.p > 0.01 and found.n == 400
    assert np.abs((found.coverage - found.credibility)[1:-1] / found.error[1:-1]).max() < 3.5
    assert found.coverage[0] == 0 and found.coverage[-1] == 1


@pytest.mark.parametrize("width", [0.6, 1.7])
def test_posteriors_that_are_too_narrow_or_too_wide_leave_it(width):
    found = curve(width)
    assert found.p < 1e-3
    tails = found.coverage[2] + 1 - found.coverage[-3]  # shares below 0.1 and above 0.9
    assert (tails > 0.3) if width < 1 else (tails < 0.17)


def test_shifted_posteriors_leave_it():
    made, truths, references = posteriors(1.0)
    references = np.full_like(references, 3.0)  # all on one side
    assert coverage.coverage(coverage.shares(made, truths, references), 50).p > 0.01
    assert coverage.coverage(coverage.shares(made + 0.5, truths, references), 50).p < 1e-3


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="do not fit"):
        coverage.shares(np.ones((4, 5, 2)), np.ones((4, 3)), np.ones((4, 3)))


NAMES = ("theta_E", "q")


def read_of(n, seed, bias=0.0, scatter=1.0, narrow=1.0):
    """Images as read by a network that shrinks towards the mean, and scatters more at large q."""
    rng = np.random.default_rng(seed)
    told = rng.uniform(0, 1, (n, 2)) * narrow
    noise = rng.normal(size=(n, 2)) * (0.05 + 0.1 * told[:, 1:])
    return coverage.Readings(told, 0.2 + 0.6 * told + bias + scatter * noise)


POOL = read_of(800, 1)


@pytest.mark.parametrize("narrow", [1.0, 0.4])  # requests of a part of the real range are no fault
def test_readings_that_are_as_real_ones_are_covered_as_often_as_said(narrow):
    found = coverage.of_readings(read_of(400, 2, narrow=narrow), POOL, NAMES)
    assert list(found) == [*NAMES, "all"]
    for told in found.values():
        assert told["p"] > 0.01 and told["n"] == 400
        for level in coverage.LEVELS:
            share = told[f"{int(100 * level)}"]
            assert abs(share["share"] - level) < 3.5 * share["error"]


@pytest.mark.parametrize(
    ("fault", "sign"),
    [({"bias": 0.15}, -1), ({"scatter": 1.8}, -1), ({"scatter": 0.5}, 1)],
    ids=["bias", "too wide", "too narrow"],
)
def test_biased_readings_and_those_of_another_scatter_are_not(fault, sign):
    found = coverage.of_readings(read_of(400, 2, **fault), POOL, NAMES)
    for told in found.values():
        assert told["p"] < 1e-2
        assert sign * (told["68"]["share"] - 0.68) > 3 * told["68"]["error"]


def test_images_with_a_value_missing_do_not_count():
    told = {"theta_E": np.array([1.0, np.nan, 2.0])}
    read = np.arange(18.0).reshape(3, 6)
    found = coverage.Readings.of({"read": read}, told, ["theta_E"])
    place = list(lensnet.columns(read)).index("theta_E")
    assert found.told.tolist() == [[1.0], [2.0]]
    assert found.read.tolist() == [[read[0, place]], [read[2, place]]]
