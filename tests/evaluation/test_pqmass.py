"""PQMass against its authors' package, against scipy, and against sets that differ by design."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chi2 as chi2_law
from scipy.stats import chi2_contingency, kstest

from lensnb.evaluation import pqmass
from lensnb.evaluation.rows import Reference, fit

GOLDEN = Path(__file__).parents[1] / "golden" / "pqm.npz"  # see make_pqm.py
SHAPE = (1, 8, 8)


def test_counts_and_chi2_are_those_of_the_authors_package():
    golden = np.load(GOLDEN)
    x, y, centres = golden["x"], golden["y"], golden["centres"]
    # asinh is undone, so that distances are those of the package
    a, b = (
        pqmass._cells(np.sinh(rows.astype(float))[:, None, None], y, centres, 1.0)
        for rows in (x, y)
    )
    b[centres, np.arange(len(centres))[:, None]] = -1  # rounding of sinh hides which is itself
    found, freedom = pqmass.chi2(*(pqmass.counts(c, centres.shape[1]) for c in (a, b)))
    p = chi2_law.sf(found, freedom)
    assert np.abs(p - golden["p"]).max() < 1e-9
    # where cells are empty, the package tells chi2 as if none were
    all_cells = np.where(
        freedom < centres.shape[1] - 1, chi2_law.isf(p, centres.shape[1] - 1), found
    )
    assert np.abs(all_cells - golden["chi2"]).max() < 1e-6
    assert abs(pqmass.distance(a, b) - np.mean(found / freedom)) < 1e-9


def test_empty_cells_are_left_out_as_scipy_would():
    a, b = np.array([[5.0, 0, 9, 2]]), np.array([[7.0, 0, 1, 4]])
    found, freedom = pqmass.chi2(a, b)
    expected = chi2_contingency(np.concatenate([a, b])[:, [0, 2, 3]], correction=False)
    assert abs(found[0] - expected.statistic) < 1e-12 and freedom[0] == expected.dof


def images(n, seed, shift=0.0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, *SHAPE)) + shift).astype(np.float32)


def compared(made, n=100):
    """The distance and p of images from others of a normal distribution."""
    real = images(n, 1)
    rows = fit(pqmass.cells, Reference(real))
    a, b = rows(made), rows(real)
    return pqmass.distance(a, b), pqmass.by_permutations(a, b, times=200)


@pytest.mark.parametrize(
    "made",
    [
        images(100, 2, shift=0.35),
        np.repeat(images(10, 2), 10, axis=0),
    ],
    ids=["mean", "few distinct"],
)
def test_other_sets_are_seen(made):
    distance, found = compared(made)
    fair, alike = compared(images(100, 3))
    assert found["p"] < 0.02 < alike["p"] and distance > fair
    assert abs(found["chi2"] / found["freedom"] - distance) < 0.05 * distance


def test_p_of_equal_sets_is_uniform():
    real = images(60, 1)
    rows = fit(pqmass.cells, Reference(real))
    b = rows(real)
    p = [pqmass.by_permutations(rows(images(60, s)), b, times=60)["p"] for s in range(10, 40)]
    assert kstest(p, "uniform").pvalue > 0.01


def test_a_centre_does_not_count_in_its_own_tessellation():
    real = images(60, 1)
    found = fit(pqmass.cells, Reference(real))(real)
    assert ((found == -1).sum(0) == pqmass.centres_for(60)).all()
    assert (fit(pqmass.cells, Reference(real))(images(60, 2)) >= 0).all()
