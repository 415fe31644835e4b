"""Coverage against the authors' tarp, and against posteriors that are right or wrong by design."""

from pathlib import Path

import numpy as np
import pytest

from lensnb.errors import InputError
from lensnb.evaluation import coverage

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
