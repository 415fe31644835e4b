"""Distances between two sets, with their uncertainty and floor: arrays in, numbers out.

A set is an array of rows (n, d), one row an image: its features, its histogram, its spectrum.
Every metric is called as metric(generated, reference); sets that cannot be compared raise ValueError.
"""

import numpy as np


def _pair(a, b, least=1):
    """Both sets as float64 rows (n, d), (m, d) of the same columns, at least `least` rows each, all finite."""
    a = np.asarray(a, float)
    b = np.asarray(b, float)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < least:
        raise ValueError(
            f"expected two sets of {least} rows or more with the same columns, got shapes {a.shape} and {b.shape}"
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("expected finite numbers, got rows with NaN or infinity")
    return a, b


# ---- distances


def frechet(a, b):
    """Squared Frechet distance of the Gaussians fitted to rows a (n, d) and b (m, d), in squared units of the rows.

    |mean_a - mean_b|^2 + tr(A + B - 2 (A B)^1/2) (Dowson & Landau 1982; Heusel et al. 2017,
    arXiv:1706.08500), float64. The trace of the root is taken from the eigenvalues of
    A^1/2 B A^1/2, which are real and stay so where A or B is singular. Its bias falls as 1/n: compare at equal n.
    """
    a, b = _pair(a, b)
    A, B = (
        np.atleast_2d(np.cov(x, rowvar=False, ddof=min(1, len(x) - 1))) for x in (a, b)
    )  # one row: no spread
    values, vectors = np.linalg.eigh(A)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ B @ root).clip(0)).sum()
    return max(
        0.0, float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(A) + np.trace(B) - 2 * cross)
    )


def frechet_by_class(a, b, labels_a, labels_b):
    """Mean of `frechet` within each class, weighted by the class shares of the reference b, in squared units of the rows.

    a (n, d), b (m, d) with labels (n,), (m,). A single row is a point without spread; a class without any
    generated row is a point at the mean of them all, which costs at least the spread of the class.
    Classes that the reference lacks do not count.
    """
    a, b = _pair(a, b)
    labels_a = np.asarray(labels_a)
    labels_b = np.asarray(labels_b)
    if labels_a.shape != a.shape[:1] or labels_b.shape != b.shape[:1]:
        raise ValueError(
            f"expected one label a row, got {labels_a.shape} for {len(a)} rows and {labels_b.shape} for {len(b)}"
        )
    classes, counts = np.unique(labels_b, return_counts=True)
    own = [a[labels_a == c] if (labels_a == c).any() else a.mean(0, keepdims=True) for c in classes]
    return float(
        np.average(
            [frechet(x, b[labels_b == c]) for x, c in zip(own, classes, strict=True)],
            weights=counts,
        )
    )


def mean_distance(a, b):
    """Root mean square over the columns of the difference between the mean rows of a (n, d) and b (m, d)."""
    a, b = _pair(a, b)
    return float(np.sqrt(((a.mean(0) - b.mean(0)) ** 2).mean()))


def wasserstein(a, b, widths):
    """Wasserstein-1 distance of two distributions, from rows of cumulative shares (n, d) at bin edges.

    The integral of |F_a - F_b| (Vallender 1974) by the trapezium rule; `widths` (d - 1,) are those of the bins.
    """
    a, b = _pair(a, b)
    gap = np.abs(a.mean(0) - b.mean(0))
    return float((widths * (gap[1:] + gap[:-1]) / 2).sum())


def kid(a, b, chunk=64):
    """Kernel distance of rows a (n, d) and b (m, d): squared MMD with the kernel (x.y / d + 1)^3, no unit.

    Unbiased (Binkowski et al. 2018, arXiv:1801.01401): between equal distributions zero on average, often below.
    Over all rows rather than random blocks: of few rows pair by pair, `chunk` at a time; of many through the
    third moments, which say the same in a time that grows with the rows, not with their square. Give it columns of order one.
    """
    a, b = _pair(a, b, 2)
    few = min(len(a), len(b)) < a.shape[1] ** 2  # where both take the same time
    known = (lambda x: x) if few else _third_moments
    total = (lambda x, y: _kernel_sum(x, y, chunk)) if few else np.vdot

    def itself(x):
        return (
            ((x * x).sum(1) / x.shape[1] + 1) ** 3
        ).sum()  # pairs of a row with itself do not count

    def within(x, k):
        return (total(k, k) - itself(x)) / (len(x) * (len(x) - 1))

    of_a = known(a)
    of_b = known(b)
    return float(within(a, of_a) + within(b, of_b) - 2 * total(of_a, of_b) / (len(a) * len(b)))


def _kernel_sum(x, y, chunk):
    """Sum of (x.y / d + 1)^3 over all pairs of rows x (n, d) and y (m, d), `chunk` rows of x at a time."""
    blocks = (
        x[i : i + chunk] @ y.T / x.shape[1] + 1 for i in range(0, len(x), chunk)
    )  # (chunk, m)
    return sum(np.vdot(block * block, block) for block in blocks)


def _third_moments(x, chunk=256):
    """Sum of z z z over rows x (n, d), z being x / sqrt(d) with a 1 behind it: the product of two such is `_kernel_sum`.

    The first two factors are symmetric, so that one of each pair of columns is kept, with the weight of both.
    """
    z = np.hstack([x / x.shape[1] ** 0.5, np.ones((len(x), 1))])
    i, j = np.triu_indices(z.shape[1])
    twice = np.where(i == j, 1, 2**0.5)
    return sum(
        (z[at : at + chunk, i] * z[at : at + chunk, j] * twice).T @ z[at : at + chunk]
        for at in range(0, len(z), chunk)
    )


# ---- nearest neighbours

NEIGHBOURS = {
    "precision": "share",
    "recall": "share",
    "density": "1",
    "coverage": "share",
}  # what `neighbours` gives: name -> unit


def neighbours(a, b, k=5, chunk=128):
    """Precision, recall, density and coverage of rows a (n, d) by reference rows b (m, d), as an array (4,).

    All count in which closed balls a row lies; a ball reaches from a row to its k-th nearest of the same set.
    precision : share of a within the ball of any b: are they realistic? (Kynkaanniemi et al. 2019, arXiv:1904.06991, eq. 1)
    recall : share of b within the ball of any a: zero if each a is made k + 1 times, as its ball then has radius zero.
    density : mean number of balls of b that hold an a, over k (Naeem et al. 2020, arXiv:2002.09797, eq. 4); one on
        average between equal distributions, without upper bound, 1 + 1/k for a set and itself.
    coverage : share of balls of b that hold any a (Naeem et al. 2020, eq. 5): about 1 - 2^-k at best.
    """
    a, b = _pair(a, b)
    if not 1 <= k < min(len(a), len(b)):
        raise ValueError(
            f"expected k from 1 to the number of rows less one, got k = {k} and {min(len(a), len(b))} rows"
        )
    centre = b.mean(0)  # products round less about it
    a = a - centre
    b = b - centre
    reach_a = _reach(a, k, chunk)
    reach_b = _reach(b, k, chunk)
    held = np.zeros(len(a))
    back, hit = np.zeros((2, len(b)), bool)
    for rows, block in _squares(a, b, chunk):
        near = block <= reach_b
        held[rows] = near.sum(1)
        hit = hit | near.any(0)
        back |= (block <= reach_a[rows, None]).any(0)
    return np.array([(held > 0).mean(), back.mean(), held.mean() / k, hit.mean()])


def _squares(x, y, chunk):
    """Squared distances of rows x (n, d) and y (m, d), a block (chunk, m) at a time with the slice of x that it is of."""
    long_x = (x**2).sum(1)
    long_y = (y**2).sum(1)
    for rows in (slice(i, i + chunk) for i in range(0, len(x), chunk)):
        block = x[rows] @ y.T  # ten times as fast as differences
        block *= -2
        block += long_x[rows, None]
        block += long_y
        yield rows, block


def _reach(x, k, chunk):
    """Squared distance of each row (n, d) to its k-th nearest other, and what rounding may add: a duplicate is at zero."""
    import torch

    def nearest(block):
        return (
            torch.from_numpy(block).topk(k + 1, largest=False).values.amax(1).numpy()
        )  # itself is the first

    return (
        np.concatenate([nearest(block) for _, block in _squares(x, x, chunk)])
        + 1e-12 * (x**2).sum(1).max()
    )


# ---- can it be told from real?


def two_sample(a, b, folds=5, permutations=200, seed=0):
    """Classifier two-sample test of rows a (n, d) against b (m, d) (Lopez-Paz & Oquab 2017, arXiv:1610.06545).

    Returns `accuracy` (mean of both sides') and `auc`, 1/2 where nothing tells the sets apart, each with
    `_error` (standard error) and `_p` (one-sided p-value, at least 1 / (permutations + 1)). Fisher's
    discriminant on quadratic terms is cross-validated, and again after every permutation of the labels:
    binomial p-values forget that folds share training rows. Identical rows are one row with a weight,
    never split over folds. So copies of a single image cannot be learned: `recall` sees them.
    """
    a, b = _pair(a, b, 2)
    if folds < 2 or permutations < 2:
        raise ValueError(
            f"expected 2 folds and 2 permutations or more, got {folds} and {permutations}"
        )
    rows, weights, blocks = _deal(a, b, folds, permutations, np.random.default_rng(seed))
    terms = _quadratic(rows)
    everyone = np.arange(len(rows))
    right, above = np.empty((2, *weights.shape))  # (2, u, 1 + permutations) each
    for test in blocks:
        train = np.setdiff1d(everyone, test)
        scores = _discriminant(terms[train], weights[:, train], terms[test])
        right[:, test] = (1 + np.sign([scores, -scores])) / 2  # in doubt counts half
        above[:, test] = np.stack(
            [_placements(s, weights[:, test, p]) for p, s in enumerate(scores.T)], axis=2
        )
    return _verdict("accuracy", right, weights, 0.5) | _verdict("auc", above, weights, 1)


def _deal(a, b, folds, permutations, rng):
    """Distinct rows (u, d), the share of a and of b that each is (2, u, 1 + permutations: as it is, then permuted), folds."""
    rows, which = np.unique(np.concatenate([a, b]), axis=0, return_inverse=True)
    shares = np.stack(
        [np.bincount(w, minlength=len(rows)) / len(w) for w in np.split(which.ravel(), [len(a)])]
    )
    order = np.lexsort([rng.random(len(rows)), shares[0] - shares[1]])
    folds = max(2, min(folds, *(shares > 0).sum(1)))
    blocks = [order[k::folds] for k in range(folds)]
    mixed = [
        np.concatenate([rng.permutation(block) for block in blocks]) for _ in range(permutations)
    ]
    weights = np.repeat(shares[:, :, None], 1 + permutations, axis=2)
    weights[:, np.concatenate(blocks), 1:] = shares[:, np.stack(mixed, axis=1)]
    return rows, weights, blocks


def _quadratic(rows):
    """Columns (u, d) and their squares, standardised; where rows abound (8 a term) the products of all pairs too."""

    def standard(x):
        spread = x.std(0)
        return (x - x.mean(0)) / np.where(
            spread > 1e-9 * np.abs(x).max(0), spread, np.inf
        )  # dead columns: zero

    z = standard(rows)
    d = rows.shape[1]
    i, j = np.triu_indices(d) if 8 * d * (d + 3) / 2 <= len(rows) else np.diag_indices(d)
    return standard(np.hstack([z, z[:, i] * z[:, j]]))


def _discriminant(train, weights, test, ridge=10.0):
    """Fisher's scores (t, p) of rows test (t, q), above zero for a, from rows train (u, q) with weights (2, u, p).

    Without rows of both sides to learn from it has no opinion: zero.
    """
    totals = weights.sum(1, keepdims=True)  # (2, 1, p)
    means = train.T @ weights / np.where(totals > 0, totals, 1)  # (2, q, p)
    gap = (means[0] - means[1]) * (totals > 0).all(0)
    direction = np.linalg.solve(train.T @ train + ridge * np.eye(train.shape[1]), gap)
    return test @ direction - (direction * (means[0] + means[1])).sum(0) / 2


def _placements(scores, weights):
    """Share of b below each row and of a above it (2, t), ties half: their mean is the area under the curve."""
    _, rank = np.unique(scores, return_inverse=True)
    level = np.stack([np.bincount(rank, w) for w in weights])  # (2, levels)
    totals = level.sum(1, keepdims=True)
    below = (
        (level.cumsum(1) - level / 2) / totals if totals.all() else np.full(level.shape, 0.5)
    )  # no opponents
    return np.stack([below[1], 1 - below[0]])[:, rank]


def _verdict(name, successes, weights, part):
    """Mean of both sides' successes (2, u, 1 + p), its standard error and its place among the permuted.

    The error sums over distinct rows (DeLong et al. 1988; Obuchowski 1997): each side is the whole of the
    area, `part` 1, and half of the accuracy. The permuted values tell what sharing rows between folds adds.
    """
    sides = (successes * weights).sum(1, keepdims=True)  # (2, 1, 1 + p)
    values = sides.mean(0)[0]
    errors = part * np.sqrt((((successes - sides) * weights).sum(0) ** 2).sum(0))
    factor = np.clip(
        values[1:].std(ddof=1) / max(errors[1:].mean(), 1e-300), 1, 2
    )  # 1.2 to 1.5 as a rule
    return {
        name: float(values[0]),
        f"{name}_error": float(factor * errors[0]),
        f"{name}_p": float((values >= values[0] - 1e-12).mean()),
    }  # the sets as they are count as one
