"""The standard error of a distance, its real-vs-real floor, and how far the value is beyond it.

The real-vs-real floor is the same distance between two sets of real images: the value that a
perfect generator would get.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lensnb import metrics
from lensnb.evaluation.workers import HERE, Workers

Distance = Callable[..., Any]  # of two sets of rows: a number, an array (k,), or (value, error)
# Distances (times,) of resampled sets, from rows a (n, d), b (m, d) and from how often each row is
# drawn (times, n), (times, m).
Resampled = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def frechet_at_infinity(
    a: np.ndarray,
    b: np.ndarray,
    parts: int = 3,
    repeats: int = 4,
    times: int = 40,
    seed: int = 0,
) -> tuple[float, float]:
    """Frechet distance of rows a (n, d) and b (n, d) without its bias at finite n, and its error.

    A line through the distances at several sizes is followed to 1/n = 0 (Chong & Forsyth 2020,
    arXiv:1911.07023). The sizes are n / k rows, k = 1 ... parts, averaged over k disjoint blocks
    and `repeats` shuffles, so that all rows serve every size.
    The line is straight while n / parts exceeds d: with 3 parts, equal sets and d = 64 the value
    is 5.1 at n = 100, -0.2 at 3 d and 0.0 at 6 d. It may fall below zero.
    The error estimate is reliable only for n >= 6 d: it is 1.7 times the scatter at 3 d and 1.4
    times at 6 d.
    """
    a, b = metrics.as_rows(a, b, max(8, 2 * parts))
    if len(a) != len(b) or parts < 2:
        raise ValueError(
            f"expected as many rows on both sides and 2 parts or more, got {len(a)}, {len(b)} "
            f"rows and {parts}"
        )
    rng = np.random.default_rng(seed)
    ks = range(1, parts + 1)

    def blocks(rows: np.ndarray, k: int) -> list[np.ndarray]:
        return np.split(rng.permutation(rows)[: len(rows) // k * k], k)

    def mean_of_blocks(x: np.ndarray, y: np.ndarray, k: int) -> np.floating:
        pairs = (
            pair for _ in range(repeats) for pair in zip(blocks(x, k), blocks(y, k), strict=True)
        )
        return np.mean([metrics.frechet(*pair) for pair in pairs])

    def intercept(x: np.ndarray, y: np.ndarray) -> float:
        values = [mean_of_blocks(x, y, k) for k in ks]
        return float(np.polyfit(1 / (len(x) // np.array(ks)), values, 1)[1])

    return intercept(a, b), bootstrap_error(intercept, a, b, times, seed, "subsample")


# ---- resampling


def by_means(distance: Distance) -> Resampled:
    """The resampled values of a distance that depends on nothing but the two mean rows.

    One product of matrices gives the means of all resampled sets.
    """

    def resampled(
        a: np.ndarray, b: np.ndarray, counts_a: np.ndarray, counts_b: np.ndarray
    ) -> np.ndarray:
        means = zip(counts_a @ a / len(a), counts_b @ b / len(b), strict=True)
        return np.array([distance(x[None], y[None]) for x, y in means])

    return resampled


def _deviations(
    statistic: Distance,
    sets: Sequence[np.ndarray],
    times: int,
    seed: Any,
    resample: str,
    resampled: Resampled | None = None,
    workers: Workers = HERE,
) -> np.ndarray:
    """How statistic(*sets) deviates when the rows of every set are resampled `times` times.

    The statistic is a number or (k,); the deviations are (times,) or (times, k). Their mean is
    zero, and they are scaled so that their standard deviation is the standard error.
    "bootstrap" draws n rows with replacement. "subsample", for statistics that duplicates would
    spoil, draws m = n / 2 rows (8 at least) without replacement, and multiplies the scatter by
    sqrt(m / (n - m)) (delete-d jackknife, Shao & Wu 1989).
    Near the floor the bootstrap error of quadratic distances (KID, Frechet) is too wide, because
    resampling adds to a value that is zero on average. For equal sets and d = 8 it is too wide by a
    factor of 2.0 (KID) and 1.8 (Frechet) at n = 100, and of 1.7 at n = 400. Where each column
    differs by half a standard deviation or more, it is right to 6 %. The drawn rows depend only on
    the seed and the sizes: see `measure`.
    """
    if resample not in ("bootstrap", "subsample") or min(map(len, sets)) < 2 or times < 2:
        raise ValueError(
            "expected bootstrap or subsample, 2 rows and 2 times or more, "
            f"got {resample} and {times} times"
        )
    rng = np.random.default_rng(seed)
    with_replacement = resample == "bootstrap"

    def kept(n: int) -> int:
        return min(max(8, n // 2), n - 1)

    def pick(n: int) -> np.ndarray:
        return rng.integers(n, size=n) if with_replacement else rng.permutation(n)[: kept(n)]

    scale = 1.0 if with_replacement else np.mean([len(s) / kept(len(s)) - 1 for s in sets]) ** -0.5
    picks = ([pick(len(rows)) for rows in sets] for _ in range(times))
    if resampled is not None and with_replacement:
        drawn = resampled(*sets, *_counts(picks, times, [len(rows) for rows in sets]))
    else:
        drawn = _each(statistic, sets, picks, times, workers)
    return scale * (drawn - drawn.mean(0))


def _counts(
    picks: Iterator[list[np.ndarray]], times: int, sizes: Sequence[int]
) -> list[np.ndarray]:
    """How often each row of each set is picked: an array (times, n) for each set."""
    counts = [np.empty((times, n)) for n in sizes]
    for t, picked in enumerate(picks):
        for found, rows in zip(counts, picked, strict=True):
            found[t] = np.bincount(rows, minlength=found.shape[1])
    return counts


def _each(
    statistic: Distance,
    sets: Sequence[np.ndarray],
    picks: Iterator[list[np.ndarray]],
    times: int,
    workers: Workers,
) -> np.ndarray:
    """The statistic of every pick of rows, (times,) or (times, k)."""
    if workers == HERE:
        return np.array(_of_picks(statistic, sets, picks))
    size = math.ceil(times / (2 * workers.count))
    some = iter(lambda: list(itertools.islice(picks, size)), [])
    parts = workers.map(_of_picks, ((statistic, sets, part) for part in some))
    return np.array([value for part in parts for value in part])


def _of_picks(
    statistic: Distance, sets: Sequence[np.ndarray], picks: Iterable[list[np.ndarray]]
) -> list[Any]:
    return [
        statistic(*(rows[some] for rows, some in zip(sets, picked, strict=True)))
        for picked in picks
    ]


def bootstrap_error(
    distance: Distance,
    a: np.ndarray,
    b: np.ndarray,
    times: int,
    seed: Any = 0,
    resample: str = "bootstrap",
) -> float:
    """Standard error of distance(a, b) from `times` resamplings of both sets, as in `measure`."""
    return float(_deviations(distance, (a, b), times, seed, resample).std(ddof=1))


def _numbered(
    distance: Distance, sets: Sequence[np.ndarray], labels: Sequence[np.ndarray]
) -> tuple[Distance, list[np.ndarray]]:
    """distance(a, b, labels_a, labels_b) as a distance of row numbers, and the sets as numbers.

    Row numbers keep each row with its label when they are resampled.
    """
    if [len(s) for s in sets] != [len(part) for part in labels]:
        raise ValueError(
            f"expected one label a row, got {[len(p) for p in labels]} labels for "
            f"{[len(s) for s in sets]} rows"
        )
    rows = np.concatenate(sets)
    of_rows = np.concatenate(labels)
    numbers = np.split(np.arange(len(rows)), np.cumsum([len(s) for s in sets])[:-1])

    def by_number(i: np.ndarray, j: np.ndarray) -> Any:
        return distance(rows[i], rows[j], of_rows[i], of_rows[j])

    return by_number, numbers


# ---- value, error, floor


def floor_values(
    distance: Distance,
    reference: np.ndarray,
    others: np.ndarray,
    floors: int = 20,
    seed: int = 0,
    labels: Sequence[np.ndarray] | None = None,
    workers: Workers = HERE,
) -> np.ndarray:
    """What a perfect generator would get, for `floors` draws of n random others: (floors,).

    reference (n, d), others (m, d) : rows of real images; labels : of both sets, if the distance
    takes them. The rows are (floors, k) for a distance that gives k numbers. Of (value, error) the
    value counts. The draws depend on the seed, n and m alone.
    """
    sets: Sequence[np.ndarray] = (reference, others)
    if labels is not None:
        distance, sets = _numbered(distance, sets, labels)
    real, spare = sets
    rng = np.random.default_rng(seed)
    draws = (rng.permutation(len(spare))[: len(real)] for _ in range(floors))
    found = workers.map(distance, ((spare[rows], real) for rows in draws))
    return np.array([value[0] if isinstance(value, tuple) else value for value in found])


def measure(
    distance: Distance,
    generated: np.ndarray,
    reference: np.ndarray,
    others: np.ndarray,
    unit: str | Mapping[str, str],
    times: int = 200,
    floors: int = 20,
    seed: int = 0,
    resample: str = "bootstrap",
    ratio: bool = True,
    labels: Sequence[np.ndarray] | None = None,
    resampled: Resampled | None = None,
    floor: np.ndarray | None = None,
    workers: Workers = HERE,
    skewed: bool = False,
) -> dict[str, Any]:
    """One metric as a result: value, standard error, n, real-vs-real floor, and z.

    generated, reference : rows (n, d); others : more than n rows of real images that are not in
        the reference. The floor is the distance of n random others from the reference, averaged
        over `floors` draws: what a perfect generator would get. Its error is the scatter of one
        draw.
    unit : of the distance; or name -> unit for a distance that gives an array of as many numbers.
        Then the result is name -> tree.
    resample : "bootstrap", "subsample" (nearest neighbours) or "own": distance returns
        (value, error).
    ratio : whether value / floor means anything, as for positive distances. It does not for scores,
        nor where the floor is about zero (KID).
    skewed : whether a distance without a ratio has rare high values by chance, as KID has.
    labels : labels of the three sets, for a distance(a, b, labels_a, labels_b).
    resampled : a faster way to the same values of all resampled sets, for "bootstrap".
    floor : what `floor_values` gives for these real images, if it is known already.

    `z` says how far the value is beyond what real images get by chance, as deviations of a normal
    variable. It is (value - floor) / (floor_error sqrt(1 + n/m + (1 - n/m) / floors)), where m is
    the number of others; the root counts the floor's own scatter. That is exact for means. Chance
    makes positive distances too large more often than too small. So with `ratio`, z is taken from
    the logarithms of the value and of the floor's draws; plainly if one of them is not positive.
    With `skewed`, t deviations above the floor count as 3 log(1 + t / 3). Shares (a `unit` of
    "share", from 0 to 1, without a ratio) are taken as arcsin sqrt(share), whose scatter depends on
    n alone (Anscombe 1948, doi:10.1093/biomet/35.3-4.246): near 1 the draws of a share are often
    all equal. Chance is at least that of n independent images there. With "own" errors it is at
    least that error. Where larger is better, a negative z is worse. benchmarks/false_alarms.py
    tells how often clean sets exceed 3 and 5.
    `deviations` are the resampled values behind the error, a list; it is empty if the error is the
    distance's own. Two sets that are measured against one reference with one seed are resampled
    alike. So the standard deviation of the difference of their deviations is the error of the
    difference of their values: the reference's own scatter cancels.
    Raises ValueError for sets of sizes that do not fit.
    """
    n = len(reference)
    m = len(others)
    if len(generated) != n or m <= n or floors < 2:
        raise ValueError(
            f"expected {n} generated rows, more others and 2 floors or more, "
            f"got {len(generated)}, {m} and {floors}"
        )
    if floor is None:
        real_labels = None if labels is None else labels[1:]
        floor = floor_values(distance, reference, others, floors, seed, real_labels, workers)
    sets: Sequence[np.ndarray] = (generated, reference)
    if labels is not None:
        distance, sets = _numbered(distance, sets, labels[:2])
    own = resample == "own"
    value = distance(*sets)
    if own:
        value, spread = value
    else:
        spread = _deviations(distance, sets, times, [seed, 1], resample, resampled, workers)
    drawn = {"bootstrap": 0 if own else times, "floors": floors}
    shared = {"n": n, "resample": resample, "seed": seed, **drawn}

    def tree(value: Any, spread: Any, floor: np.ndarray, unit: str) -> dict[str, Any]:
        of_share = n if unit == "share" and not (own or ratio) else 0
        value = float(np.asarray(value))
        against = _against_floor(value, spread, floor, 1 - n / m, ratio, skewed, of_share)
        return {"unit": unit, **shared, **against}

    if isinstance(unit, str):
        return tree(value, spread, floor, unit)
    columns = enumerate(unit.items())
    return {name: tree(value[k], spread[:, k], floor[:, k], u) for k, (name, u) in columns}


def normal(t: float, freedom: int) -> float:
    """Deviations of a normal variable that are as rare as t of Student's distribution.

    The scatter of a few draws is itself uncertain, so the same t counts for less.
    """
    from scipy import stats

    rare = max(stats.t.sf(abs(t), freedom), 1e-300)
    return math.copysign(float(stats.norm.isf(rare)), t)


def _against_floor(
    value: float,
    spread: Any,
    real: np.ndarray,
    fresh: float,
    ratio: bool,
    skewed: bool = False,
    of_share: int = 0,
) -> dict[str, Any]:
    """A value with its error, against the values of real images (floors,).

    spread : the error, or the deviations behind it. fresh : share of the other real images that
    one draw leaves out. Draws overlap, so they scatter less than independent ones. of_share : of
    how many images the value is a share, 0 if it is none.
    """
    if np.ndim(spread) == 0:
        error, deviations, least = float(spread), [], float(spread)
    else:
        error, deviations, least = float(spread.std(ddof=1)), spread.tolist(), 0.0
    floor = float(real.mean())
    if ratio and value > 0 and bool((real > 0).all()):
        z = _z(math.log(value), np.log(real), fresh, error / value)
    elif of_share and min(value, real.min()) >= 0 and max(value, real.max()) <= 1:
        angles = _angle(np.append(real, value), of_share)
        z = _z(float(angles[-1]), angles[:-1], fresh, error, 0.5 / math.sqrt(of_share))
    else:
        z = _z(value, real, fresh, error, least, skewed)
    return {
        "value": value,
        "error": error,
        "floor": floor,
        "floor_error": float(real.std(ddof=1)) / math.sqrt(fresh),
        "z": z,
        "ratio": value / floor if ratio and floor > 0 else None,
        "deviations": deviations,
    }


def _angle(shares: np.ndarray, n: int) -> np.ndarray:
    """arcsin sqrt of shares of n images; its scatter is about 1 / (2 sqrt(n)) for every share."""
    found: np.ndarray = np.arcsin(np.sqrt((shares * n + 3 / 8) / (n + 3 / 4)))
    return found


def _z(
    value: float,
    real: np.ndarray,
    fresh: float,
    error: float,
    least: float = 0.0,
    skewed: bool = False,
) -> float | None:
    """z of a value against draws of real images (floors,), see `measure`; None if none scatters.

    error : of the value; it stands in for draws that are all equal. least : what chance is at least
    """
    gap = value - float(real.mean())
    if abs(gap) <= 1e-12 * abs(value):  # rounding
        gap = 0.0
    draw = float(real.std(ddof=1)) / math.sqrt(fresh)
    # the scatter of one more draw, and of the floor
    chance = max(draw * math.sqrt(2 - fresh + fresh / len(real)), least) or error
    if chance <= 1e-12 * abs(gap):
        return None if gap else 0.0
    t = gap / chance if chance else 0.0
    if skewed and t > 0:
        t = 3 * math.log1p(t / 3)
    return normal(t, len(real) - 1)


# ---- simple estimates with their standard errors


def share(hits: np.ndarray) -> dict[str, Any]:
    """The share of True in hits (n,), with its binomial standard error, which is never zero."""
    n = len(hits)
    found = float(np.mean(hits))
    return {"share": found, "error": share_error(found, n), "n": n}


def share_error(found: float, n: int) -> float:
    """Binomial standard error of a share of n, which is never zero."""
    return max(found * (1 - found) / n, 1 / n**2) ** 0.5


def mean(values: np.ndarray) -> dict[str, float] | None:
    """Mean of the finite numbers with its standard error; None for fewer than two."""
    values = values[np.isfinite(values)]
    n = len(values)
    if n < 2:
        return None
    return {"value": float(values.mean()), "error": float(values.std(ddof=1) / n**0.5)}


def bias_and_scatter(gap: np.ndarray) -> dict[str, Any]:
    """Bias and scatter of differences (n,), with their standard errors."""
    n = len(gap)
    scatter = float(gap.std(ddof=1))
    return {
        "bias": float(gap.mean()),
        "bias_error": scatter / n**0.5,
        "scatter": scatter,
        "scatter_error": scatter / (2 * n - 2) ** 0.5,
        "n": n,
    }
