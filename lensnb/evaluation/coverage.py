"""Coverage: do posteriors hold the truth as often as they say?

TARP (Lemos et al. 2023, arXiv:2302.03026): from a random reference point, the share of draws that
are nearer than the truth is uniform between 0 and 1 over many truths, if the posteriors are right.
"""

from typing import NamedTuple

import numpy as np

from lensnb.errors import InputError


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
