"""Distances between two sets, with their uncertainty and floor: arrays in, numbers out.

A set is an array of rows (n, d), one row an image: its features, its histogram, its spectrum.
Every distance is called as distance(generated, reference) and raises ValueError where the two
sets cannot be compared. Files, images and networks are met elsewhere.
"""

import math

import numpy as np


def _pair(a, b, least=1):
    """Both sets as float64 rows (n, d), (m, d) of the same columns, each with at least `least` rows, all finite."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < least:
        raise ValueError(f"expected two sets of at least {least} rows with the same columns, got shapes {a.shape} and {b.shape}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("expected finite numbers, got rows with NaN or infinity")
    return a, b


# ---- distances of moments

def _covariance(rows):
    """Covariance (d, d) of rows (n, d); a single row is a point, without spread."""
    return np.atleast_2d(np.cov(rows, rowvar=False)) if len(rows) > 1 else np.zeros((rows.shape[1],) * 2)


def frechet(a, b):
    """Squared Frechet distance of the Gaussians fitted to rows a (n, d) and b (m, d), in squared units of the rows.

    |mean_a - mean_b|^2 + tr(A + B - 2 (A B)^1/2) (Dowson & Landau 1982; Heusel et al. 2017,
    arXiv:1706.08500), float64. The trace of the root is taken from the eigenvalues of
    A^1/2 B A^1/2, which are real and stay so where A or B is singular. Biased upwards by about
    1/n: compare at equal n only.
    """
    a, b = _pair(a, b)
    A, B = _covariance(a), _covariance(b)
    values, vectors = np.linalg.eigh(A)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ B @ root).clip(0)).sum()
    return max(0.0, float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(A) + np.trace(B) - 2 * cross))


def frechet_at_infinity(a, b, parts=3, repeats=4, times=40, seed=0):
    """Frechet distance without its bias at finite n, from rows a, b (n, d): (value, standard error).

    The distance is linear in 1/n to first order; the line through several n is followed to 1/n = 0
    (Chong & Forsyth 2020, arXiv:1911.07023, section 3.2). Here n / k rows for k = 1 ... parts, averaged
    over k disjoint blocks and `repeats` shuffles, so that every point of the line uses all rows.
    Good while n / parts stays above d; the value may be below zero. The error is that of `_scatter`.
    """
    a, b = _pair(a, b, 2 * parts)
    if len(a) != len(b) or parts < 2:
        raise ValueError(f"expected as many rows on both sides and two parts or more, got {len(a)}, {len(b)} and {parts} parts")
    rng = np.random.default_rng(seed)
    extrapolate = lambda x, y: _extrapolate(x, y, parts, repeats, rng)
    return extrapolate(a, b), _scatter(extrapolate, (a, b), times, rng, "subsample")


def _extrapolate(a, b, parts, repeats, rng):
    """Intercept at 1/n = 0 of the mean Frechet distance of blocks of n / k rows, k = 1 ... parts."""
    sizes = len(a) // np.arange(1, parts + 1)
    means = np.zeros((repeats, parts))
    for row in means:
        x, y = rng.permutation(a), rng.permutation(b)
        row[:] = [np.mean([frechet(x[i:i + s], y[i:i + s]) for i in range(0, k * s, s)]) for k, s in enumerate(sizes, 1)]
    return float(np.polyfit(1 / sizes, means.mean(0), 1)[1])


def frechet_by_class(a, b, labels_a, labels_b):
    """Mean of `frechet` within each class, weighted by the class shares of the reference b.

    a (n, d), b (m, d) with labels (n,), (m,). Classes that the reference lacks do not count. A class
    with a single row is a point without spread; one that the generated side lacks altogether counts as
    a point at the mean of all generated rows, so that leaving it out costs at least its own spread.
    """
    a, b = _pair(a, b)
    labels_a, labels_b = np.asarray(labels_a), np.asarray(labels_b)
    if labels_a.shape != a.shape[:1] or labels_b.shape != b.shape[:1]:
        raise ValueError(f"expected one label a row, got {labels_a.shape} for {len(a)} rows and {labels_b.shape} for {len(b)}")
    total = 0.0
    for label, count in zip(*np.unique(labels_b, return_counts=True), strict=True):
        own = a[labels_a == label]
        total += count * frechet(own if len(own) else a.mean(0, keepdims=True), b[labels_b == label])
    return float(total / len(b))


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


# ---- kernel distance

def _kernel_sum(a, b, chunk=512):
    """Sum over all pairs of (x.y / d + 1)^3, `chunk` rows of a at a time."""
    blocks = (a[i:i + chunk] @ b.T / a.shape[1] + 1 for i in range(0, len(a), chunk))     # (chunk, m)
    return float(sum(np.vdot(block * block, block) for block in blocks))


def kid(a, b):
    """Kernel distance of rows a (n, d) and b (m, d): squared MMD with the kernel (x.y / d + 1)^3, no unit.

    Unbiased (Binkowski et al. 2018, arXiv:1801.01401, section 4): zero on average between equal
    distributions, so it falls below zero half the time. Over all rows rather than over random blocks.
    The kernel wants columns of order one: divide them by their spread in the reference.
    """
    a, b = _pair(a, b, 2)
    within = lambda x: (_kernel_sum(x, x) - (((x * x).sum(1) / x.shape[1] + 1) ** 3).sum()) / (len(x) * (len(x) - 1))
    return float(within(a) + within(b) - 2 * _kernel_sum(a, b) / (len(a) * len(b)))


# ---- nearest neighbours

def _distances(a, b, chunk=512):
    """Blocks (start, (chunk, m)) of the Euclidean distances of rows a from rows b; exactly zero between equal rows."""
    from scipy.spatial.distance import cdist    # differences, not products: rounding would unmake equal rows

    return ((i, cdist(a[i:i + chunk], b)) for i in range(0, len(a), chunk))


def _radii(rows, k):
    """Distance (n,) of each row to its k-th nearest other row; zero where a row has k duplicates or more."""
    return np.concatenate([np.partition(block, k, axis=1)[:, k] for _, block in _distances(rows, rows)])


def _hits(points, centres, k):
    """Balls about the centres, reaching to their k-th neighbour: number that hold each point (n,), is each hit (m,)."""
    points, centres = _pair(points, centres)
    if not 1 <= k < len(centres):
        raise ValueError(f"expected k from 1 to the number of rows less one, got k = {k} and {len(centres)} rows")
    radii, number, hit = _radii(centres, k), np.zeros(len(points)), np.zeros(len(centres), bool)
    for i, block in _distances(points, centres):
        inside = block <= radii                                             # closed balls: (chunk, m)
        number[i:i + len(block)] = inside.sum(1)
        hit |= inside.any(0)
    return number, hit


def precision(a, b, k=5):
    """Share of generated rows a (n, d) inside the ball of any reference row b (m, d): are they realistic?

    Kynkaanniemi et al. 2019, arXiv:1904.06991, equations 1 and 2: a row's ball is closed and reaches to
    its k-th nearest neighbour in its own set. A row with k duplicates has radius zero and holds only its equals.
    """
    return float((_hits(a, b, k)[0] > 0).mean())


def recall(a, b, k=5):
    """Share of reference rows b inside the ball of any generated row a: is all of it covered? (ibid.)

    A generator that repeats each image more than k times has radii zero and recall zero: as defined.
    """
    return precision(b, a, k)


def density(a, b, k=5):
    """Number of reference balls that hold a generated row, on average, over k (Naeem et al. 2020, arXiv:2002.09797, eq. 4).

    One on average between equal distributions, may exceed one. Outliers of the reference weigh less than in precision.
    """
    return float(_hits(a, b, k)[0].mean() / k)


def coverage(a, b, k=5):
    """Share of reference balls that hold any generated row (Naeem et al. 2020, eq. 5): about 1 - 2^-k at best.

    Radii are those of the reference only, so repeated generated rows lower it no further than their number does.
    """
    return float(_hits(a, b, k)[1].mean())


# ---- can it be told from real?

def two_sample(a, b, folds=5, permutations=200, seed=0):
    """Classifier two-sample test of rows a (n, d) against b (m, d) (Lopez-Paz & Oquab 2017, arXiv:1610.06545).

    Returns `accuracy` (mean of both sides') and `auc`, 1/2 where nothing tells the sets apart, each with
    `_error` (standard error) and `_p` (one-sided, exact). Fisher's discriminant on quadratic terms is
    cross-validated; its closed form is fitted again for every permutation of the labels within folds,
    since binomial p-values forget that folds share training rows and alarm twice too often.
    Identical rows are one row with a weight: never split over folds, permuted as one. A set of copies
    of a single image can therefore not be learned and comes out near 1/2: that is for `recall` to see.
    """
    a, b = _pair(a, b, 2)
    if folds < 2 or permutations < 1:
        raise ValueError(f"expected at least 2 folds and 1 permutation, got {folds} and {permutations}")
    rows, shares = _distinct(a, b)
    rng, terms = np.random.default_rng(seed), _quadratic(rows)
    fold = _folds(shares, folds, rng)
    weights = np.stack([shares, *(shares[:, _shuffled(fold, rng)] for _ in range(permutations))], axis=2)
    right, above = np.zeros_like(weights), np.zeros_like(weights)           # (2, u, 1 + permutations)
    for test in (fold == k for k in range(fold.max() + 1)):
        scores = _discriminant(terms[~test], weights[:, ~test], terms[test])
        right[:, test] = (1 + np.sign([scores, -scores])) / 2               # in doubt counts half
        above[:, test] = np.stack([_placements(*column) for column in zip(scores.T, weights[:, test].T.swapaxes(1, 2), strict=True)], axis=2)
    return _verdict("accuracy", right, weights, 0.5) | _verdict("auc", above, weights, 1.0)


def _distinct(a, b):
    """Distinct rows (u, d) of both sets, and which share of a and of b each of them makes up: (2, u)."""
    rows, which = np.unique(np.concatenate([a, b]), axis=0, return_inverse=True)
    return rows, np.stack([np.bincount(w, minlength=len(rows)) / len(w) for w in np.split(which.ravel(), [len(a)])])


def _quadratic(rows):
    """Columns and their squares, standardised (u, 2 d); with 8 rows a term, the products of all pairs as well."""
    def standard(x):
        spread = x.std(0)
        return (x - x.mean(0)) / np.where(spread > 1e-9 * np.abs(x).max(0), spread, np.inf)     # dead columns: zero

    z, d = standard(rows), rows.shape[1]
    i, j = np.triu_indices(d) if 8 * d * (d + 3) / 2 <= len(rows) else np.diag_indices(d)
    return standard(np.hstack([z, z[:, i] * z[:, j]]))


def _folds(shares, folds, rng):
    """Fold (u,) of each distinct row, the rows of either side evenly spread; no more folds than the smaller side has rows."""
    folds = max(2, min(folds, *(shares > 0).sum(1)))
    fold = np.empty(shares.shape[1], int)
    fold[np.lexsort([rng.random(len(fold)), shares[0] - shares[1]])] = np.arange(len(fold)) % folds
    return fold


def _shuffled(fold, rng):
    """A random order (u,) of the rows in which each stays in its fold."""
    order = np.empty(len(fold), int)
    order[np.argsort(fold, kind="stable")] = np.lexsort([rng.random(len(fold)), fold])
    return order


def _discriminant(train, weights, test, ridge=10.0):
    """Fisher's discriminant scores of rows test (t, q), positive for a, one column for each column of weights (2, u, p).

    Fitted on rows train (u, q); without rows of both sides there it has no opinion: zero.
    """
    totals = weights.sum(1, keepdims=True)                                  # (2, 1, p)
    means = train.T @ weights / np.where(totals > 0, totals, 1)             # (2, q, p)
    gap = (means[0] - means[1]) * (totals > 0).all(0)
    direction = np.linalg.solve(train.T @ train + ridge * np.eye(train.shape[1]), gap)
    return test @ direction - (direction * (means[0] + means[1])).sum(0) / 2


def _placements(scores, weights):
    """Share of b below each row and share of a above it (2, t), ties half: the terms of the area under the curve."""
    _, rank = np.unique(scores, return_inverse=True)
    level = np.stack([np.bincount(rank, w) for w in weights])               # (2, levels)
    totals = level.sum(1, keepdims=True)
    if not totals.all():                                                    # no opponent in this fold
        return np.full((2, len(scores)), 0.5)
    below = (level.cumsum(1) - level / 2) / totals
    return np.stack([below[1], 1 - below[0]])[:, rank]


def _verdict(name, successes, weights, part):
    """Mean of both sides' successes (2, u, 1 + p), the standard error and the rank among the permuted as p-value.

    The error sums over distinct rows (DeLong et al. 1988; Obuchowski 1997 for clusters): `part` is 1 for
    the area, where each side holds the whole of it, and 1/2 for the accuracy, which is their mean.
    """
    sides = (successes * weights).sum(1)                                    # (2, 1 + p)
    values = sides.mean(0)
    influence = (part * (successes - sides[:, None]) * weights).sum(0)[:, 0]
    return {name: float(values[0]), f"{name}_error": float(np.sqrt((influence**2).sum())),
            f"{name}_p": float((values >= values[0] - 1e-12).mean())}       # the set as it is counts as one


# ---- uncertainty and floor

def _scatter(statistic, sets, times, rng, resample):
    """Standard error of statistic(*sets) from its scatter over `times` resamplings of the rows of every set.

    "bootstrap": n rows with replacement. "subsample": m = 3/4 n rows without, and the scatter times
    sqrt(m / (n - m)) (delete-d jackknife, Shao & Wu 1989), for what duplicates would spoil: nearest
    neighbours, extrapolations.
    """
    if resample not in ("bootstrap", "subsample") or min(map(len, sets)) < 2 or times < 2:
        raise ValueError(f"expected bootstrap or subsample, 2 rows and 2 times or more, got {resample}, {min(map(len, sets))} and {times}")
    if resample == "bootstrap":
        scale, pick = 1.0, lambda n: rng.integers(n, size=n)
    else:
        keep = lambda n: min(math.ceil(0.75 * n), n - 1)
        kept, left = sum(keep(len(s)) for s in sets), sum(len(s) - keep(len(s)) for s in sets)
        scale, pick = math.sqrt(kept / left), lambda n: rng.permutation(n)[:keep(n)]
    return scale * float(np.std([statistic(*(rows[pick(len(rows))] for rows in sets)) for _ in range(times)], ddof=1))


def bootstrap_error(distance, a, b, times, rng):
    """Standard error of distance(a, b) over `times` resamplings of the rows of both sets."""
    return _scatter(distance, (a, b), times, rng, "bootstrap")


def paired_difference(distance, first, second, reference, times, rng, resample="bootstrap", labels=None):
    """distance(first, reference) - distance(second, reference) and its standard error.

    Each resampling draws the reference once for both, so that its own scatter cancels, and so does the
    bias of a distance at finite n where the two sets have the same n. `labels` as in `measure`.
    """
    sets = tuple(map(np.asarray, (first, second, reference)))
    if labels is not None:
        distance, sets = _numbered(distance, sets, labels)
    difference = lambda a, b, real: distance(a, real) - distance(b, real)
    return difference(*sets), _scatter(difference, sets, times, rng, resample)


def _numbered(distance, sets, labels):
    """A distance(a, b, labels_a, labels_b) as one between sets of row numbers, so that rows and labels are drawn together."""
    if [len(s) for s in sets] != [len(part) for part in labels]:
        raise ValueError(f"expected one label a row, got {[len(p) for p in labels]} labels for {[len(s) for s in sets]} rows")
    rows, labels = np.concatenate(sets), np.concatenate(labels)
    numbers = np.split(np.arange(len(rows)), np.cumsum([len(s) for s in sets])[:-1])
    return lambda i, j: distance(rows[i], rows[j], labels[i], labels[j]), numbers


def measure(distance, generated, reference, others, unit, times=200, floors=20, seed=0,
            resample="bootstrap", ratio=True, labels=None):
    """One distance or score as a result: value, standard error, n, real-vs-real floor, distance from it.

    generated, reference : rows (n, d); others : rows (m, d), m > n, of real images that are not in the
    reference. The floor is the distance of n random others from the reference, averaged over
    `floors` draws: what a perfect generator would get. Its error is the scatter of one draw.
    resample : "bootstrap", "subsample" (nearest neighbours; see `_scatter`) or "own", where distance
    returns (value, error) itself.
    ratio : whether value / floor has a meaning: not for scores, nor for floors near zero (KID).
    labels : (generated (n,), reference (n,), others (m,)) for a distance(a, b, labels_a, labels_b).
    `sigma` is (value - floor) / hypot(error, floor_error): below zero is worse where larger is better.
    """
    if labels is not None:
        distance, (generated, reference, others) = _numbered(distance, (generated, reference, others), labels)
    rng, n, m = np.random.default_rng(seed), len(reference), len(others)
    if len(generated) != n or m <= n:
        raise ValueError(f"expected {n} generated rows and more others than that, got {len(generated)} and {m}")
    own = resample == "own"
    number = (lambda a, b: distance(a, b)[0]) if own else distance
    real = [number(others[rng.permutation(m)[:n]], reference) for _ in range(floors)]
    floor = float(np.mean(real))
    scatter = float(np.std(real, ddof=1) / math.sqrt(1 - n / m))    # draws without replacement from m rows share some
    value, error = distance(generated, reference) if own else (
        distance(generated, reference), _scatter(distance, (generated, reference), times, rng, resample))
    total = math.hypot(error, scatter)
    return {"value": value, "error": error, "n": n, "floor": floor, "floor_error": scatter,
            "sigma": (value - floor) / total if total > 0 else None if value != floor else 0.0,
            "ratio": value / floor if ratio and floor > 0 else None,
            "unit": unit, "resample": resample, "seed": seed, "bootstrap": 0 if own else times, "floors": floors}
