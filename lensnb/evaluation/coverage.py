"""Coverage: do posteriors hold the truth as often as they say?

TARP (Lemos et al. 2023, arXiv:2302.03026): from a random reference point, the share of draws that
are nearer than the truth is uniform between 0 and 1 over many truths, if the posteriors are right.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lensnb.errors import InputError
from lensnb.evaluation import lensnet, uncertainty


class Coverage(NamedTuple):
    """The expected coverage of credible regions.

    credibility, coverage : a curve from (0, 0) to (1, 1); right posteriors lie on the diagonal
    error : standard deviation of the coverage of right posteriors, by the number of truths
    p : of uniform shares, by Kolmogorov and Smirnov; n : number of truths
    """

    credibility: np.ndarray
    coverage: np.ndarray
    error: np.ndarray
    p: float
    n: int


def shares(draws: np.ndarray, truths: np.ndarray, references: np.ndarray) -> np.ndarray:
    """The share of draws nearer to the reference than the truth is, (N,).

    draws : (N, n, d), n draws for each of N truths (N, d); references : (N, d), which may depend on
    the data, but not on the truths
    Raises InputError for shapes that do not fit.
    """
    fits = draws.ndim == 3 and draws[:, 0].shape == truths.shape == references.shape
    if not fits:
        raise InputError(
            f"coverage: draws {draws.shape}, truths {truths.shape} and references "
            f"{references.shape} do not fit; expected (N, n, d), (N, d) and (N, d)"
        )
    apart = np.linalg.norm(draws - references[:, None], axis=2)
    return (apart < np.linalg.norm(truths - references, axis=1)[:, None]).mean(1)


def coverage(share: np.ndarray, draws: int, seed: int = 0) -> Coverage:
    """The Coverage of the `shares` (N,) of truths, each with this number of draws.

    A share of k draws stands for a number between k and k + 1 of draws + 1, drawn at random.
    """
    from scipy.stats import kstest

    rng = np.random.default_rng(seed)
    level = (np.round(share * draws) + rng.random(len(share))) / (draws + 1)
    credibility = np.linspace(0, 1, 21)
    found = (level[:, None] < credibility).mean(0)
    error = np.sqrt(credibility * (1 - credibility) / len(level))
    return Coverage(credibility, found, error, float(kstest(level, "uniform").pvalue), len(level))


# ---- of what was asked for


LEAST_KNOWN = 100  # real images with known parameters, below which nothing is said
LEVELS = (0.68, 0.95)
DRAWS = 50  # real images that each request is compared with


class Readings(NamedTuple):
    """Images with what they were told to be and what is read off them, both (N, d)."""

    told: np.ndarray
    read: np.ndarray

    @classmethod
    def of(cls, rows: Any, told: Any, names: Sequence[str]) -> "Readings":
        """The Readings of the columns `names`; images with a value missing are left out.

        rows : as the judge has them, with what LensNet reads; told : column -> (N,)
        """
        read = lensnet.columns(rows["read"])
        tables = [np.stack([side[name] for name in names], axis=1) for side in (told, read)]
        whole = np.isfinite(np.concatenate(tables, axis=1)).all(axis=1)
        return cls(*(np.asarray(table, float)[whole] for table in tables))


def of_readings(
    side: Readings, pool: Readings, names: Sequence[str], seed: int = 0
) -> dict[str, Any]:
    """How often the readings of real images of the same parameters cover those of `side`.

    side : the images that are judged; pool : real images, none of them in `side`
    Each image is compared with the DRAWS images of the pool whose true parameters are nearest to
    its own. Their readings, moved by what a linear fit of the pool says of the difference, are
    draws of what a real image of these parameters is read as. If the images show what they were
    told to, their own reading is one more such draw, and TARP's shares are uniform.
    Returns for each name and, with several, for "all" of them together: the share within the
    central 68 % and 95 % of the draws (for "all": TARP's coverage at 68 % and 95 %), the binomial
    error of each, p of uniform shares by Kolmogorov and Smirnov, and n; None without images.

    It cannot see an error far below the scatter of the readings, what LensNet does not read, or
    images that are right in these parameters and wrong in all else.
    """
    draws = _draws(side, pool)
    rng = np.random.default_rng([seed, 4])
    columns = {name: [i] for i, name in enumerate(names)}
    if len(names) > 1:
        columns["all"] = list(range(len(names)))
    return {
        name: _covered(draws[..., some], side.read[:, some], rng, seed)
        for name, some in columns.items()
    }


def _draws(side: Readings, pool: Readings) -> np.ndarray:
    """Readings that real images would have in the place of each of `side`: (N, DRAWS, d)."""
    mean, std = pool.told.mean(0), np.maximum(pool.told.std(0), 1e-12)

    def design(told: np.ndarray) -> np.ndarray:
        z = (told - mean) / std
        return np.concatenate([np.ones((len(z), 1)), z], axis=1)

    ours, theirs = design(side.told), design(pool.told)
    fitted = np.linalg.lstsq(theirs, pool.read, rcond=None)[0]
    rest = pool.read - theirs @ fitted
    k = min(DRAWS, len(pool.told) // 2)
    from scipy.spatial import cKDTree

    near = cKDTree(theirs).query(ours, k)[1]
    return (ours @ fitted)[:, None] + rest[near]


def _covered(
    draws: np.ndarray, read: np.ndarray, rng: np.random.Generator, seed: int
) -> dict[str, Any]:
    """Coverage of readings (N, d) by draws (N, k, d), at 68 % and 95 %."""
    n, k, d = draws.shape
    if d == 1:
        share = (draws[..., 0] < read).mean(1)
    else:  # distances count in units of the scatter of each column
        scatter = np.maximum(draws.std(axis=(0, 1)), 1e-12)
        spots = draws[np.roll(np.arange(n), 1), rng.integers(k, size=n)]  # of another image
        share = shares(draws / scatter, read / scatter, spots / scatter)
    level = (np.round(share * k) + rng.random(n)) / (k + 1)
    inside = np.abs(2 * level - 1) if d == 1 else level
    found = {f"{int(100 * c)}": uncertainty.share(inside < c) for c in LEVELS}
    return {**found, "p": coverage(share, k, seed).p, "n": n}
