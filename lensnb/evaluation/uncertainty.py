import math

import numpy as np

from lensnb import metrics


def frechet_at_infinity(a, b, parts=3, repeats=4, times=40, seed=0):
    """Frechet distance of rows a (n, d) and b (n, d) without its bias at finite n: (value, standard error).

    The line through several sizes is followed to 1/n = 0 (Chong & Forsyth 2020, arXiv:1911.07023): n / k
    rows, k = 1 ... parts, averaged over k disjoint blocks and `repeats` shuffles, so that all rows serve
    every size. Straight while n / parts exceeds d: with 3 parts, equal sets and d = 64 it is 5.1 at n = 100, -0.2 at 3 d,
    0.0 at 6 d. Its error wants n >= 6 d: at 3 d it is 1.7 times the scatter, at 6 d 1.4. The value may fall below zero.
    """
    a, b = metrics.as_rows(a, b, max(8, 2 * parts))
    if len(a) != len(b) or parts < 2:
        raise ValueError(
            f"expected as many rows on both sides and 2 parts or more, got {len(a)}, {len(b)} rows and {parts}"
        )
    rng = np.random.default_rng(seed)
    ks = np.arange(1, parts + 1)

    def level(x, y, k):
        def blocks(rows):
            return np.split(rng.permutation(rows)[: len(rows) // k * k], k)

        return np.mean(
            [
                metrics.frechet(*pair)
                for _ in range(repeats)
                for pair in zip(blocks(x), blocks(y), strict=True)
            ]
        )

    def intercept(x, y):
        return float(np.polyfit(1 / (len(x) // ks), [level(x, y, k) for k in ks], 1)[1])

    return intercept(a, b), bootstrap_error(intercept, a, b, times, seed, "subsample")


# ---- uncertainty and floor


def _deviations(statistic, sets, times, seed, resample):
    """How statistic(*sets), a number or (k,), deviates under `times` resamplings of the rows of every set: (times,) or (times, k).

    About a mean of zero, scaled so that their standard deviation is the standard error.
    "bootstrap": n rows with replacement. "subsample", for what duplicates would spoil: m = n / 2 rows (8 at
    least) without, and the scatter times sqrt(m / (n - m)) (delete-d jackknife, Shao & Wu 1989).
    Of quadratic distances (KID, Frechet) the bootstrap is too wide near the floor, where resampling adds to what is
    zero on average: for equal sets, d = 8, by 2.0 and 1.8 at n = 100 and by 1.7 at 400; from half a standard deviation
    a column on it is right to 6 %. Which rows are drawn hangs on the seed and the sizes alone: see `measure`.
    """
    if resample not in ("bootstrap", "subsample") or min(map(len, sets)) < 2 or times < 2:
        raise ValueError(
            f"expected bootstrap or subsample, 2 rows and 2 times or more, got {resample} and {times} times"
        )
    rng = np.random.default_rng(seed)
    again = resample == "bootstrap"

    def kept(n):
        return min(max(8, n // 2), n - 1)

    def pick(n):
        return rng.integers(n, size=n) if again else rng.permutation(n)[: kept(n)]

    scale = 1.0 if again else np.mean([len(s) / kept(len(s)) - 1 for s in sets]) ** -0.5
    drawn = np.array([statistic(*(rows[pick(len(rows))] for rows in sets)) for _ in range(times)])
    return scale * (drawn - drawn.mean(0))


def bootstrap_error(distance, a, b, times, seed=0, resample="bootstrap"):
    """Standard error of distance(a, b) over `times` resamplings of the rows of both sets, as in `measure`."""
    return float(_deviations(distance, (a, b), times, seed, resample).std(ddof=1))


def _numbered(distance, sets, labels):
    """distance(a, b, labels_a, labels_b) as a distance of row numbers, and the sets as those: rows stay with their labels."""
    if [len(s) for s in sets] != [len(part) for part in labels]:
        raise ValueError(
            f"expected one label a row, got {[len(p) for p in labels]} labels for {[len(s) for s in sets]} rows"
        )
    rows = np.concatenate(sets)
    labels = np.concatenate(labels)
    numbers = np.split(np.arange(len(rows)), np.cumsum([len(s) for s in sets])[:-1])
    return lambda i, j: distance(rows[i], rows[j], labels[i], labels[j]), numbers


def measure(
    distance,
    generated,
    reference,
    others,
    unit,
    times=200,
    floors=20,
    seed=0,
    resample="bootstrap",
    ratio=True,
    labels=None,
):
    """One metric as a result: value, standard error, n, real-vs-real floor, and how far the value is from it.

    generated, reference : rows (n, d); others : more than n rows of real images that are not in the
    reference. The floor is the distance of n random others from the reference, averaged over
    `floors` draws: what a perfect generator would get. Its error is the scatter of one draw.
    unit : of the distance; or name -> unit for a distance that gives an array of as many numbers. Then the
    result is name -> tree.
    resample : "bootstrap", "subsample" (nearest neighbours) or "own": distance returns (value, error).
    ratio : whether value / floor means anything: not for scores, nor where the floor is about zero (KID).
    labels : those of the three sets, for a distance(a, b, labels_a, labels_b).
    `z` is how far the value is beyond what real images get by chance, as `normal` deviations: value - floor over
    floor_error sqrt(1 + n/m + (1 - n/m) / floors), m the number of others, as the floor scatters too. That is exact for
    means; by a quadratic distance real images scatter by 0.9 to 1.0, by an area under the curve by 0.8 to 0.9. Where
    larger is better, below zero is worse.
    `deviations` are those behind the error, a list; none if that is the distance's own. Two sets measured
    against one reference with one seed are resampled alike: the standard deviation of the difference of their
    deviations is the error of the difference of their values, in which the reference's own scatter cancels.
    """
    if labels is not None:
        distance, (generated, reference, others) = _numbered(
            distance, (generated, reference, others), labels
        )
    rng = np.random.default_rng(seed)
    n = len(reference)
    m = len(others)
    own = resample == "own"
    if len(generated) != n or m <= n or floors < 2:
        raise ValueError(
            f"expected {n} generated rows, more others and 2 floors or more, got {len(generated)}, {m} and {floors}"
        )
    plain = (lambda a, b: distance(a, b)[0]) if own else distance
    real = np.array(
        [plain(others[rng.permutation(m)[:n]], reference) for _ in range(floors)]
    )  # (floors,) or (floors, k)
    value, error = distance(generated, reference) if own else (distance(generated, reference), None)
    spread = (
        None if own else _deviations(distance, (generated, reference), times, [seed, 1], resample)
    )
    shared = {
        "n": n,
        "resample": resample,
        "seed": seed,
        "bootstrap": 0 if own else times,
        "floors": floors,
    }

    def tree(unit, *at):
        return {
            "unit": unit,
            **shared,
            **_against_floor(
                float(np.asarray(value)[at]),
                error if own else spread[:, *at],
                real[:, *at],
                1 - n / m,
                ratio,
            ),
        }

    return (
        {name: tree(unit[name], k) for k, name in enumerate(unit)}
        if isinstance(unit, dict)
        else tree(unit)
    )


def normal(t, freedom):
    """Deviations of a normal variable that are as rare as t of Student's: a scatter of a few draws is itself uncertain."""
    from scipy import stats

    return math.copysign(float(stats.norm.isf(max(stats.t.sf(abs(t), freedom), 1e-300))), t)


def _against_floor(value, spread, real, fresh, ratio):
    """A value with its error or the deviations behind it, against those of real images (floors,); draws share rows, but for `fresh` of them."""
    error, deviations = (
        (spread, []) if np.ndim(spread) == 0 else (float(spread.std(ddof=1)), spread.tolist())
    )
    floor = float(real.mean())
    floor_error = float(real.std(ddof=1)) / math.sqrt(fresh)
    # of one more draw, and of the floor
    gap = value - floor
    chance = floor_error * math.sqrt(2 - fresh + fresh / len(real)) or error
    return {
        "value": value,
        "error": error,
        "floor": floor,
        "floor_error": floor_error,
        "z": normal(gap / chance, len(real) - 1) if chance > 0 else None if gap else 0.0,
        "ratio": value / floor if ratio and floor > 0 else None,
        "deviations": deviations,
    }
