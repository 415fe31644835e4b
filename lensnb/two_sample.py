"""Can a classifier tell two sets of rows apart?

The classifier two-sample test of Lopez-Paz & Oquab 2017 (arXiv:1610.06545) with Fisher's
discriminant. Its p-values come from permutations of the labels.
"""

import numpy as np

from lensnb.metrics import as_rows


def two_sample(
    a: np.ndarray, b: np.ndarray, folds: int = 5, permutations: int = 200, seed: int = 0
) -> dict[str, float]:
    """Accuracy and area under the curve of a classifier between rows a (n, d) and b (m, d).

    Returns `accuracy` (the mean of both sides' accuracies) and `auc`, which are 1/2 if nothing
    tells the sets apart. Each comes with `_error` (standard error) and `_p` (one-sided p-value, at
    least 1 / (permutations + 1)). Fisher's discriminant on quadratic terms is cross-validated, and
    again after every permutation of the labels, because binomial p-values ignore that folds share
    training rows. Identical rows are one row with a weight, and are never split over folds. So
    copies of a single image cannot be learned; `recall` sees such copies.
    """
    a, b = as_rows(a, b, 2)
    if folds < 2 or permutations < 2:
        raise ValueError(
            f"expected 2 folds and 2 permutations or more, got {folds} and {permutations}"
        )
    rows, weights, blocks = _deal(a, b, folds, permutations, np.random.default_rng(seed))
    terms = _quadratic(rows)
    everyone = np.arange(len(rows))
    # The products of all training rows are those of all rows less those of the tested ones.
    products = [terms[test].T @ terms[test] for test in blocks]
    total = np.sum(products, axis=0)
    right, above = np.empty((2, *weights.shape))  # (2, u, 1 + permutations) each
    for test, own in zip(blocks, products, strict=True):
        train = np.setdiff1d(everyone, test)
        scores = _discriminant(terms[train], weights[:, train], terms[test], total - own)
        right[:, test] = (1 + np.sign([scores, -scores])) / 2  # a score of zero counts half
        above[:, test] = np.stack(
            [_placements(s, weights[:, test, p]) for p, s in enumerate(scores.T)], axis=2
        )
    return _verdict("accuracy", right, weights, 0.5) | _verdict("auc", above, weights, 1)


def _deal(
    a: np.ndarray, b: np.ndarray, folds: int, permutations: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Distinct rows, their weights and the folds.

    rows (u, d); weights (2, u, 1 + permutations) : the share of a and of b that each row makes up,
    first the true one, then permuted ones; folds : indices of rows, with as many of each side in
    every fold
    """
    rows, which = np.unique(np.concatenate([a, b]), axis=0, return_inverse=True)
    sides = np.split(which.ravel(), [len(a)])
    shares = np.stack([np.bincount(w, minlength=len(rows)) / len(w) for w in sides])
    order = np.lexsort([rng.random(len(rows)), shares[0] - shares[1]])
    folds = max(2, min(folds, *(shares > 0).sum(1)))
    blocks = [order[k::folds] for k in range(folds)]
    mixed = [
        np.concatenate([rng.permutation(block) for block in blocks]) for _ in range(permutations)
    ]
    weights = np.repeat(shares[:, :, None], 1 + permutations, axis=2)
    weights[:, np.concatenate(blocks), 1:] = shares[:, np.stack(mixed, axis=1)]
    return rows, weights, blocks


def _quadratic(rows: np.ndarray) -> np.ndarray:
    """Columns (u, d) and their squares, standardised; (u, q).

    With 8 rows a term or more, the products of all pairs of columns, too.
    """
    z = _standardised(rows)
    d = rows.shape[1]
    enough = 8 * d * (d + 3) / 2 <= len(rows)
    i, j = np.triu_indices(d) if enough else np.diag_indices(d)
    return _standardised(np.hstack([z, z[:, i] * z[:, j]]))


def _standardised(x: np.ndarray) -> np.ndarray:
    """Columns at mean 0 and variance 1; columns that vary by rounding alone become zero."""
    spread = x.std(0)
    alive = spread > 1e-9 * np.abs(x).max(0)
    scaled: np.ndarray = (x - x.mean(0)) / np.where(alive, spread, np.inf)
    return scaled


def _discriminant(
    train: np.ndarray,
    weights: np.ndarray,
    test: np.ndarray,
    products: np.ndarray,
    ridge: float = 10.0,
) -> np.ndarray:
    """Fisher's scores (t, p) of rows test (t, q), above zero for a.

    train (u, q) with weights (2, u, p); products (q, q) : train.T @ train. The scores are zero if
    one side has no rows to learn from.
    """
    totals = weights.sum(1, keepdims=True)  # (2, 1, p)
    means = train.T @ weights / np.where(totals > 0, totals, 1)  # (2, q, p)
    gap = (means[0] - means[1]) * (totals > 0).all(0)
    direction = np.linalg.solve(products + ridge * np.eye(len(products)), gap)
    middle = (direction * (means[0] + means[1])).sum(0) / 2
    scores: np.ndarray = test @ direction - middle
    return scores


def _placements(scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The share of b below each row and the share of a above it, (2, t); ties count half.

    The mean of either is the area under the curve. It is 1/2 if a side has no rows.
    """
    _, rank = np.unique(scores, return_inverse=True)
    level = np.stack([np.bincount(rank, w) for w in weights])  # (2, levels)
    totals = level.sum(1, keepdims=True)
    below = np.full(level.shape, 0.5)
    if totals.all():
        below = (level.cumsum(1) - level / 2) / totals
    return np.stack([below[1], 1 - below[0]])[:, rank]


def _verdict(
    name: str, successes: np.ndarray, weights: np.ndarray, part: float
) -> dict[str, float]:
    """The mean of both sides' successes (2, u, 1 + p), its standard error and its p-value.

    part : what a side's mean contributes to the value: 1 for the area under the curve, which
    either side gives whole, and 0.5 for the accuracy.
    The error sums over distinct rows (DeLong et al. 1988; Obuchowski 1997). Folds that share
    training rows make it wider, as a rule by 1.2 to 1.5; the scatter of the permuted values gives
    this factor.
    """
    sides = (successes * weights).sum(1, keepdims=True)  # (2, 1, 1 + p)
    values = sides.mean(0)[0]
    errors = part * np.sqrt((((successes - sides) * weights).sum(0) ** 2).sum(0))
    factor = np.clip(values[1:].std(ddof=1) / max(errors[1:].mean(), 1e-300), 1, 2)
    # the sets as they are count as one of the permutations
    reached = values >= values[0] - 1e-12
    return {
        name: float(values[0]),
        f"{name}_error": float(factor * errors[0]),
        f"{name}_p": float(reached.mean()),
    }
