"""Distances between two sets: arrays in, numbers out.

A set is an array of rows (n, d), one row an image: its features, its histogram, its spectrum.
Every metric is called as metric(generated, reference) and raises ValueError for sets that cannot be
compared. evaluation/uncertainty.py adds an error and a real-vs-real floor to any of them.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np


def as_rows(a: np.ndarray, b: np.ndarray, least: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Both sets as float64 rows (n, d), (m, d).

    Raises ValueError unless they have the same columns, `least` rows or more, and finite numbers.
    """
    a = np.asarray(a, float)
    b = np.asarray(b, float)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < least:
        raise ValueError(
            f"expected two sets of {least} rows or more with the same columns, "
            f"got shapes {a.shape} and {b.shape}"
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("expected finite numbers, got rows with NaN or infinity")
    return a, b


# Distances ----------------------------------------------------------------------------------------


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Squared Frechet distance of the Gaussians fitted to rows a (n, d) and b (m, d).

    |mean_a - mean_b|^2 + tr(A + B - 2 (A B)^1/2) (Dowson & Landau 1982; Heusel et al. 2017,
    arXiv:1706.08500), in squared units of the rows, float64. The trace of the root is taken from
    the eigenvalues of A^1/2 B A^1/2, which are real even if A or B is singular. Its bias falls as
    1/n: compare at equal n.
    """
    a, b = as_rows(a, b)
    A = _covariance(a)
    B = _covariance(b)
    values, vectors = np.linalg.eigh(A)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ B @ root).clip(0)).sum()
    shift = ((a.mean(0) - b.mean(0)) ** 2).sum()
    return max(0.0, float(shift + np.trace(A) + np.trace(B) - 2 * cross))


def _covariance(rows: np.ndarray) -> np.ndarray:
    """Covariance (d, d) of rows (n, d); a single row has none."""
    return np.atleast_2d(np.cov(rows, rowvar=False, ddof=min(1, len(rows) - 1)))


def frechet_by_class(
    a: np.ndarray, b: np.ndarray, labels_a: np.ndarray, labels_b: np.ndarray
) -> float:
    """Mean of `frechet` within each class, weighted by the class shares of the reference b.

    a (n, d), b (m, d) with labels (n,), (m,); in squared units of the rows. A single row counts as
    a point without spread. Where a class has no generated row, the mean of all generated rows
    stands in, which costs at least the spread of the class. Classes that the reference lacks do not
    count.
    """
    a, b = as_rows(a, b)
    labels_a = np.asarray(labels_a)
    labels_b = np.asarray(labels_b)
    if labels_a.shape != a.shape[:1] or labels_b.shape != b.shape[:1]:
        raise ValueError(
            f"expected one label a row, got {labels_a.shape} for {len(a)} rows "
            f"and {labels_b.shape} for {len(b)}"
        )
    classes, counts = np.unique(labels_b, return_counts=True)
    distances = []
    for label in classes:
        own = a[labels_a == label]
        made = own if len(own) else a.mean(0, keepdims=True)
        distances.append(frechet(made, b[labels_b == label]))
    return float(np.average(distances, weights=counts))


def mean_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Root mean square, over the columns, of the difference between two mean rows.

    a (n, d), b (m, d); in units of the rows.
    """
    a, b = as_rows(a, b)
    return float(np.sqrt(((a.mean(0) - b.mean(0)) ** 2).mean()))


def wasserstein(a: np.ndarray, b: np.ndarray, widths: np.ndarray) -> float:
    """Wasserstein-1 distance of two distributions, from rows of cumulative shares at bin edges.

    a (n, d), b (m, d); widths (d - 1,) : of the bins, whose unit is the result's. It is the
    integral of |F_a - F_b| (Vallender 1974) by the trapezium rule.
    """
    a, b = as_rows(a, b)
    gap = np.abs(a.mean(0) - b.mean(0))
    return float((widths * (gap[1:] + gap[:-1]) / 2).sum())


def kid(a: np.ndarray, b: np.ndarray, chunk: int = 64) -> float:
    """Kernel distance of rows a (n, d) and b (m, d): squared MMD with the kernel (x.y / d + 1)^3.

    It has no unit; give it columns of order one. It is unbiased (Binkowski et al. 2018,
    arXiv:1801.01401): between equal distributions it is zero on average, so often negative. It
    uses all rows rather than random blocks. Few rows go pair by pair, `chunk` at a time. For many
    rows the third moments give the same number, in a time that is linear in the rows.
    """
    a, b = as_rows(a, b, 2)
    by_pairs = min(len(a), len(b)) < a.shape[1] ** 2  # both ways take the same time there
    known_a = a if by_pairs else _third_moments(a)
    known_b = b if by_pairs else _third_moments(b)
    total: Callable[..., Any] = np.vdot
    if by_pairs:
        total = functools.partial(_kernel_sum, chunk=chunk)
    within = _mean_within(a, total(known_a, known_a)) + _mean_within(b, total(known_b, known_b))
    return float(within - 2 * total(known_a, known_b) / (len(a) * len(b)))


def kid_resampled(
    a: np.ndarray, b: np.ndarray, counts_a: np.ndarray, counts_b: np.ndarray, chunk: int = 64
) -> np.ndarray:
    """`kid` of many resampled sets, (times,), from one pass over all pairs of rows.

    a (n, d), b (m, d); counts_a (times, n), counts_b (times, m) : how often each row is drawn, n
    and m rows in all
    """
    a, b = as_rows(a, b, 2)
    cross = _kernel_sums(a, b, counts_a, counts_b, chunk)
    within = [
        _mean_within(x, _kernel_sums(x, x, counts, counts, chunk), counts)
        for x, counts in ((a, counts_a), (b, counts_b))
    ]
    found: np.ndarray = within[0] + within[1] - 2 * cross / (len(a) * len(b))
    return found


def _kernel_sums(
    x: np.ndarray, y: np.ndarray, counts_x: np.ndarray, counts_y: np.ndarray, chunk: int
) -> np.ndarray:
    """`_kernel_sum` of many resampled sets, (times,)."""
    totals = np.zeros(len(counts_x))
    for i in range(0, len(x), chunk):
        block = x[i : i + chunk] @ y.T / x.shape[1] + 1  # (chunk, m)
        drawn = (block * block * block) @ counts_y.T  # (chunk, times)
        totals += np.einsum("ct,tc->t", drawn, counts_x[:, i : i + chunk])
    return totals


def _mean_within(x: np.ndarray, total: Any, counts: Any = 1.0) -> Any:
    """Mean of the kernel over pairs of different rows of x (n, d).

    total : its sum over all pairs; counts : how often each row is there
    """
    itself = (counts * ((x * x).sum(1) / x.shape[1] + 1) ** 3).sum(-1)  # a row with itself
    return (total - itself) / (len(x) * (len(x) - 1))


def _kernel_sum(x: np.ndarray, y: np.ndarray, chunk: int) -> float:
    """Sum of (x.y / d + 1)^3 over all pairs of rows x (n, d), y (m, d), `chunk` of x at a time."""
    total = 0.0
    for i in range(0, len(x), chunk):
        block = x[i : i + chunk] @ y.T / x.shape[1] + 1  # (chunk, m)
        total += np.vdot(block * block, block)
    return total


def _third_moments(x: np.ndarray, chunk: int = 256) -> np.ndarray:
    """Sum of z z z over rows x (n, d), z being x / sqrt(d) with a 1 behind it.

    The product of two such sums is `_kernel_sum`. The first two factors are symmetric, so one of
    each pair of columns is kept, with the weight of both.
    """
    z = np.hstack([x / x.shape[1] ** 0.5, np.ones((len(x), 1))])
    i, j = np.triu_indices(z.shape[1])
    twice = np.where(i == j, 1, 2**0.5)
    moments = np.zeros((len(i), z.shape[1]))
    for at in range(0, len(z), chunk):
        rows = z[at : at + chunk]
        moments += (rows[:, i] * rows[:, j] * twice).T @ rows
    return moments


# Nearest neighbours -------------------------------------------------------------------------------

# what `neighbours` gives: name -> unit
NEIGHBOURS = {"precision": "share", "recall": "share", "density": "1", "coverage": "share"}


def neighbours(a: np.ndarray, b: np.ndarray, k: int = 5, chunk: int = 128) -> np.ndarray:
    """Precision, recall, density and coverage of rows a (n, d) by reference rows b (m, d); (4,).

    All four count in which closed balls a row lies. A ball reaches from a row to its k-th nearest
    row of the same set.
    precision : share of a within the ball of any b: are they realistic? (Kynkaanniemi et al. 2019,
        arXiv:1904.06991, eq. 1)
    recall : share of b within the ball of any a. It is zero if each a is made k + 1 times, because
        its ball then has radius zero.
    density : mean number of balls of b that hold an a, over k (Naeem et al. 2020,
        arXiv:2002.09797, eq. 4). It is one on average between equal distributions, has no upper
        bound, and is 1 + 1/k for a set and itself.
    coverage : share of balls of b that hold any a (Naeem et al. 2020, eq. 5): about 1 - 2^-k at
        best.
    """
    a, b = as_rows(a, b)
    fewest = min(len(a), len(b))
    if not 1 <= k < fewest:
        raise ValueError(
            f"expected k from 1 to the number of rows less one, got k = {k} and {fewest} rows"
        )
    centre = b.mean(0)  # products round less about it
    a = a - centre
    b = b - centre
    reach_a = _reach(a, k, chunk)
    reach_b = _reach(b, k, chunk)
    holding = np.zeros(len(a))  # balls of b that hold each a
    recalled = np.zeros(len(b), bool)
    covered = np.zeros(len(b), bool)
    for rows, block in _squares(a, b, chunk):
        near = block <= reach_b
        holding[rows] = near.sum(1)
        covered |= near.any(0)
        recalled |= (block <= reach_a[rows, None]).any(0)
    return np.array([(holding > 0).mean(), recalled.mean(), holding.mean() / k, covered.mean()])


def _squares(x: np.ndarray, y: np.ndarray, chunk: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Squared distances of rows x (n, d) and y (m, d): a slice of x and its block (chunk, m)."""
    long_x = (x**2).sum(1)
    long_y = (y**2).sum(1)
    for i in range(0, len(x), chunk):
        rows = slice(i, i + chunk)
        block = x[rows] @ y.T  # ten times as fast as differences
        block *= -2
        block += long_x[rows, None]
        block += long_y
        yield rows, block


def _reach(x: np.ndarray, k: int, chunk: int) -> np.ndarray:
    """Squared distance of each row (n, d) to its k-th nearest other, (n,).

    The largest error of rounding is added, so that a duplicate is at distance zero.
    """
    import torch

    reach = []
    for _, block in _squares(x, x, chunk):
        nearest = torch.from_numpy(block).topk(k + 1, largest=False)  # the row itself is the first
        reach.append(nearest.values.amax(1).numpy())
    rounding: float = 1e-12 * (x**2).sum(1).max()
    return np.concatenate(reach) + rounding
