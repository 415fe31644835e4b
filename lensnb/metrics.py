"""Distances between two sets, with their uncertainty and floor: arrays in, numbers out.

A set is an array of rows (n, d), one row an image: its features, its histogram, its spectrum.
"""

import numpy as np


def frechet(a, b):
    """Squared Frechet distance of the Gaussians fitted to rows a (n, d) and b (m, d).

    |mean_a - mean_b|^2 + tr(A + B - 2 (A B)^1/2) (Dowson & Landau 1982; Heusel et al. 2017,
    arXiv:1706.08500), float64. The trace of the root is taken from the eigenvalues of
    A^1/2 B A^1/2, which are real and stay so where A or B is singular.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    A, B = np.atleast_2d(np.cov(a, rowvar=False)), np.atleast_2d(np.cov(b, rowvar=False))
    values, vectors = np.linalg.eigh(A)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ B @ root).clip(0)).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(A) + np.trace(B) - 2 * cross)


def mean_distance(a, b):
    """Root mean square over the columns of the difference between the mean rows of a and b."""
    return float(np.sqrt(((a.mean(0) - b.mean(0)) ** 2).mean()))


def wasserstein(a, b, widths):
    """Wasserstein-1 distance of two distributions, from rows of cumulative shares (n, d) at bin edges.

    The integral of |F_a - F_b| (Vallender 1974) by the trapezium rule; `widths` (d - 1,) are those of the bins.
    """
    gap = np.abs(a.mean(0) - b.mean(0))
    return float((widths * (gap[1:] + gap[:-1]) / 2).sum())


def bootstrap_error(distance, a, b, times, rng):
    """Standard error of distance(a, b) over `times` resamplings of the rows of both sets."""
    draw = lambda rows: rows[rng.integers(len(rows), size=len(rows))]
    return float(np.std([distance(draw(a), draw(b)) for _ in range(times)], ddof=1))


def measure(distance, generated, reference, others, unit, times=200, floors=20, seed=0):
    """One distance as a result: value, standard error, n, real-vs-real floor and the ratio to it.

    generated, reference : rows (n, d); others : rows (m, d) of real images that are not in the
    reference. The floor is the distance of n random others from the reference, averaged over
    `floors` draws: what a perfect generator would get. Its error is the scatter of one draw.
    """
    rng, n = np.random.default_rng(seed), len(reference)
    if len(generated) != n or len(others) < n:
        raise ValueError(f"expected {n} generated rows and as many others, got {len(generated)} and {len(others)}")
    real = [distance(others[rng.permutation(len(others))[:n]], reference) for _ in range(floors)]
    value, floor, scatter = distance(generated, reference), float(np.mean(real)), float(np.std(real, ddof=1))
    return {"value": value, "error": bootstrap_error(distance, generated, reference, times, rng), "n": n,
            "floor": floor, "floor_error": scatter, "ratio": value / floor if floor > 0 else None,
            "unit": unit, "seed": seed, "bootstrap": times, "floors": floors}
