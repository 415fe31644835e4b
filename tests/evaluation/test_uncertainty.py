"""Errors, floors and z against what they claim: repeated experiments and closed forms."""

import math

import numpy as np
import pytest
import scipy.stats
from row_metrics import NEIGHBOURS, assert_refuses_incomparable_sets, single

from lensnb import metrics
from lensnb.evaluation import uncertainty
from lensnb.evaluation.measures import area_under_curve


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_bootstrap_error_is_the_scatter_of_repeated_experiments(rng):
    def distance(a, b):
        return float(a.mean() - b.mean())

    repeated = [distance(*rng.normal(size=(2, 100, 1))) for _ in range(2000)]
    estimate = np.mean(
        [
            uncertainty.bootstrap_error(distance, *rng.normal(size=(2, 100, 1)), 200, seed)
            for seed in range(20)
        ]
    )
    assert abs(estimate / np.std(repeated) - 1) < 0.1


def test_real_against_real_is_at_the_floor_and_a_fault_is_not(rng):
    real = rng.normal(size=(1200, 8))
    reference = real[:200]
    others = real[400:]
    fresh = real[200:400]
    good = uncertainty.measure(metrics.frechet, fresh, reference, others, "", seed=1)
    assert abs(good["value"] - good["floor"]) < 4 * good["floor_error"] and 0.5 < good["ratio"] < 2
    bad = uncertainty.measure(metrics.frechet, fresh + 0.5, reference, others, "", seed=1)
    assert (bad["value"] - bad["floor"]) > 10 * bad["floor_error"] and bad["n"] == 200
    # the same seed gives the same numbers
    assert good == uncertainty.measure(metrics.frechet, fresh, reference, others, "", seed=1)


def test_sides_of_different_size_are_refused(rng):
    with pytest.raises(ValueError, match="expected 50 generated rows"):
        uncertainty.measure(
            metrics.frechet,
            rng.normal(size=(49, 2)),
            rng.normal(size=(50, 2)),
            rng.normal(size=(99, 2)),
            "",
        )


def test_frechet_at_infinity_loses_the_bias_and_knows_its_error(rng):
    truth = 6 * 0.5**2
    sets = [(rng.normal(size=(120, 6)) + 0.5, rng.normal(size=(120, 6))) for _ in range(40)]
    found = np.array(
        [
            uncertainty.frechet_at_infinity(a, b, repeats=2, times=12, seed=i)
            for i, (a, b) in enumerate(sets)
        ]
    )
    raw = np.mean([metrics.frechet(a, b) for a, b in sets])
    scatter = found[:, 0].std(ddof=1)
    assert abs(found[:, 0].mean() - truth) < 3 * scatter / math.sqrt(40) < 0.8 * (raw - truth)
    assert 0.8 < found[:, 1].mean() / scatter < 1.5


def test_frechet_at_infinity_of_two_sizes_is_the_line_through_both(rng):
    a = rng.normal(size=(40, 2))
    b = 1 + rng.normal(size=(40, 2))
    halves = np.mean(
        [metrics.frechet(rng.permutation(a)[:20], rng.permutation(b)[:20]) for _ in range(4000)]
    )
    ours = uncertainty.frechet_at_infinity(a, b, parts=2, repeats=1000, times=2)[0]
    # the value at 0 of the line through those at 1/40 and 1/20
    assert abs(ours - (2 * metrics.frechet(a, b) - halves)) < 0.03 < halves - metrics.frechet(a, b)


@pytest.mark.parametrize("parts, n", [(2, 21), (3, 40), (4, 40)])
def test_frechet_at_infinity_is_a_straight_line_through_its_parts(rng, monkeypatch, parts, n):
    """With a distance that is a known curve in the number of rows.

    Every row serves at every size.
    """

    def curve(m):
        return 3 + 50 / m + 400 / m**2

    seen = []
    monkeypatch.setattr(
        metrics, "frechet", lambda a, b: seen.append((a[:, 0], b[:, 0])) or curve(len(a))
    )
    a = np.arange(n)[:, None]
    b = 1000 + np.arange(n)[:, None]
    sizes = [n // k for k in range(1, parts + 1)]
    expected = np.polyfit(1 / np.array(sizes), [curve(m) for m in sizes], 1)[1]
    assert (
        abs(uncertainty.frechet_at_infinity(a, b, parts, repeats=3, times=2)[0] - expected) < 1e-9
    )
    drawn = seen[: 3 * sum(range(1, parts + 1))]  # the value itself; then its error
    for m in sizes:
        blocks = [
            np.concatenate([pair[side] for pair in drawn if len(pair[0]) == m]) for side in (0, 1)
        ]
        assert all(len(side) == 3 * (n // m) * m for side in blocks)
        assert n % m or all((np.bincount(side.astype(int) % 1000) == 3).all() for side in blocks)


def test_frechet_at_infinity_wants_as_many_rows_on_both_sides(rng):
    # few rows and many columns are allowed
    assert np.isfinite(uncertainty.frechet_at_infinity(*rng.normal(size=(2, 8, 30)))).all()
    with pytest.raises(ValueError, match="as many rows on both sides"):
        uncertainty.frechet_at_infinity(rng.normal(size=(20, 2)), rng.normal(size=(21, 2)))
    with pytest.raises(ValueError, match="8 rows or more"):
        uncertainty.frechet_at_infinity(*rng.normal(size=(2, 7, 2)))
    with pytest.raises(ValueError, match="10 rows or more"):
        uncertainty.frechet_at_infinity(*rng.normal(size=(2, 9, 2)), parts=5)
    with pytest.raises(ValueError, match="2 parts or more"):
        uncertainty.frechet_at_infinity(*rng.normal(size=(2, 9, 2)), parts=1)


@pytest.mark.parametrize("fault", [0.0, 0.7])
def test_subsampling_errs_as_much_as_repeated_experiments(rng, fault):
    def made():
        return rng.normal(size=(150, 4)) + fault

    def real():
        return rng.normal(size=(150, 4))

    def mean(how):
        return np.mean(
            [
                uncertainty._deviations(metrics.neighbours, (made(), real()), 30, i, how).std(
                    0, ddof=1
                )
                for i in range(15)
            ],
            axis=0,
        )

    repeated = np.std([metrics.neighbours(made(), real()) for _ in range(200)], axis=0)
    found = mean("subsample") / repeated
    assert (found > 0.85).all() and (found < (1.4 if fault else 1.8)).all()
    if not fault:  # with replacement, duplicates shrink the balls
        assert mean("bootstrap")[3] > 2.2 * repeated[3]


def test_subsampling_of_sides_of_different_size_and_of_few_rows(rng):
    def linear(a, b):
        return float(a.mean() - b.mean())

    for n, m in ((400, 60), (8, 8), (3, 3)):  # few rows: eight or all but one are kept
        claimed = np.mean(
            [
                uncertainty.bootstrap_error(
                    linear, rng.normal(size=(n, 1)), rng.normal(size=(m, 1)), 60, seed, "subsample"
                )
                ** 2
                for seed in range(300)
            ]
        )
        assert abs(claimed / (1 / n + 1 / m) - 1) < 0.15
    with pytest.raises(ValueError, match="bootstrap or subsample"):
        uncertainty.bootstrap_error(linear, np.ones((5, 1)), np.ones((5, 1)), 9, 0, "jackknife")


@pytest.mark.parametrize("n, kept", [(40, 20), (17, 8), (12, 8), (8, 7), (3, 2), (2, 1)])
def test_resampling_draws_rows_as_it_says(rng, n, kept):
    """Half of the rows, or eight of them, without replacement; or all rows with it.

    Deviations are about their mean.
    """
    seen = []
    rows = np.arange(n)[:, None]

    def mean(a, b):
        return seen.append((a[:, 0], b[:, 0])) or float(a.mean())

    for how, size, scale in (("subsample", kept, (kept / (n - kept)) ** 0.5), ("bootstrap", n, 1)):
        seen.clear()
        deviations = uncertainty._deviations(mean, (rows, rows), 50, 0, how)
        drawn = np.array([a.mean() for a, _ in seen])
        assert np.abs(deviations - scale * (drawn - drawn.mean())).max() < 1e-12
        assert uncertainty.bootstrap_error(mean, rows, rows, 50, 0, how) == pytest.approx(
            scale * drawn.std(ddof=1)
        )
        assert all(
            len(a) == len(b) == size and (how == "bootstrap" or len({*a}) == size) for a, b in seen
        )
        assert len({*np.concatenate([a for a, _ in seen])}) == n and any(
            (a != b).any() for a, b in seen
        )
    for one in ((rows[:1], rows), (rows, rows[:1])):
        with pytest.raises(ValueError, match="2 rows"):
            uncertainty._deviations(mean, one, 50, 0, "bootstrap")


def test_floor_error_is_the_scatter_of_fresh_images(rng):
    def linear(a, b):
        return float(a.mean() - b.mean())

    for m in (61, 120, 240):  # few others: draws are nearly the same
        found = [
            uncertainty.measure(
                linear, *rng.normal(size=(2, 60, 1)), rng.normal(size=(m, 1)), "", 2, 30
            )["floor_error"]
            for _ in range(100)
        ]
        assert abs(np.sqrt(np.mean(np.square(found))) * math.sqrt(60) - 1) < 0.12


def test_what_is_said_of_a_value_beside_its_floor_follows_from_the_draws():
    real = np.array([1.0, 2.0, 6.0])
    spread = np.array([-1.0, 0.0, 1.0])
    found = uncertainty._against_floor(5.0, spread, real, 0.75, False)
    scatter = math.sqrt(7 / 0.75)  # of one draw, of which three quarters are fresh
    # the floor scatters too: it has all others, and three draws of them
    chance = scatter * math.sqrt(1 + 0.25 + 0.75 / 3)
    assert (
        found["floor"] == 3
        and found["error"] == 1
        and found["floor_error"] == pytest.approx(scatter)
    )
    assert found["z"] == pytest.approx(scipy.stats.norm.isf(scipy.stats.t.sf(2 / chance, 2)))
    assert found["ratio"] is None and found["deviations"] == [-1, 0, 1]
    # a positive distance is read on the scale of logarithms, in any unit
    logs = uncertainty._against_floor(math.log(5), spread, np.log(real), 0.75, False)
    for unit in (1, 1e-6):
        distance = uncertainty._against_floor(5 * unit, spread, real * unit, 0.75, True)
        assert distance["z"] == pytest.approx(logs["z"])
        assert distance["ratio"] == pytest.approx(5 / 3)
    zero = uncertainty._against_floor(0.0, spread, real, 0.75, True)  # has no logarithm
    assert zero["z"] == uncertainty._against_floor(0.0, spread, real, 0.75, False)["z"] < 0
    below = uncertainty._against_floor(1.0, 0.3, real, 0.75, False)
    assert below["z"] == pytest.approx(-found["z"]) and (
        below["error"],
        below["ratio"],
        below["deviations"],
    ) == (0.3, None, [])


@pytest.mark.parametrize("many", [2, 4])
def test_z_of_real_images_has_unit_scatter(rng, many):
    """z of a mean has unit scatter, although the floor is uncertain with few other images.

    It is the more uncertain the more rows its draws share.
    """

    def linear(a, b):
        return float(a.mean() - b.mean())

    z = np.array(
        [
            uncertainty.measure(
                linear,
                *rng.normal(size=(2, 40, 1)),
                rng.normal(size=(40 * many, 1)),
                "",
                2,
                20,
                i,
                ratio=False,
            )["z"]
            for i in range(1500)
        ]
    )
    assert abs(z.std() - 1) < 0.05 and abs(z.mean()) < 0.08 and (np.abs(z) > 2.5).mean() < 0.025


def measured(name, rng, fault=0.0, n=60, seed=0, times=25, many=4, floors=20):
    """One of the metrics as the comparison would call it, on Gaussian sets."""
    made = rng.normal(size=(n, 3)) + fault
    reference = rng.normal(size=(n, 3))
    others = rng.normal(size=(many * n, 3))

    def label(rows):
        return (rows[:, 0] > 0).astype(int)

    metric, options = {
        "class": (
            metrics.frechet_by_class,
            {"labels": (label(made), label(reference), label(others))},
        ),
        "kid": (metrics.kid, {"ratio": False, "skewed": True}),
        "auc": (area_under_curve, {"resample": "own", "ratio": False}),
        **{f.__name__: (f, {}) for f in (metrics.frechet, metrics.mean_distance)},
        **{f.__name__: (f, {"resample": "subsample", "ratio": False}) for f in NEIGHBOURS},
    }[name]
    unit = metrics.NEIGHBOURS.get(name, "")  # shares have a z of their own
    return uncertainty.measure(
        metric, made, reference, others, unit, times, floors, seed, **options
    )


@pytest.mark.parametrize(
    "name, many",
    [
        *((name, 4) for name in ("auc", "precision", "recall", "density", "coverage")),
        *((name, many) for name in ("frechet", "mean_distance", "class", "kid") for many in (2, 4)),
    ],
)
def test_z_of_fresh_images_is_below_three_and_of_a_fault_above(rng, name, many):
    # a fit of a classifier takes long: half as many experiments, and a third of the floors
    times, floors = (100, 7) if name == "auc" else (200, 20)
    z = np.array(
        [measured(name, rng, seed=i, times=2, many=many, floors=floors)["z"] for i in range(times)]
    )
    # near 1, shares of neighbours are skewed; near 0, logarithms of distances are: too small a
    # distance is no fault
    assert (z > 3).mean() <= 0.01 and (z < -3).mean() <= 0.03 and abs(z.mean()) < 0.4
    # z of an area under the curve scatters less, which is the safe side
    assert (0.7 if name == "auc" else 0.82) < z.std() < 1.12
    bad = measured(name, rng, fault=4.0, many=many)["z"]
    assert (bad if name in ("frechet", "mean_distance", "class", "kid", "auc") else -bad) > 3


def test_the_error_of_the_area_under_the_curve_does_not_hang_on_chance(rng):
    found = np.array(
        [
            area_under_curve(rng.normal(size=(60, 3)) + 0.2, rng.normal(size=(60, 3)))
            for _ in range(40)
        ]
    )
    assert (
        found[:, 1].std(ddof=1) < 0.2 * found[:, 1].mean()
        and 0.7 < found[:, 1].mean() / found[:, 0].std(ddof=1) < 1.4
    )


def test_a_result_holds_what_it_is_made_of(rng):
    keys = {
        "value",
        "error",
        "n",
        "floor",
        "floor_error",
        "z",
        "ratio",
        "unit",
        "resample",
        "seed",
        "bootstrap",
        "floors",
        "deviations",
    }
    for name in ("frechet", "density", "auc"):  # of shares, see the last test
        found = measured(name, rng, fault=0.5)
        assert set(found) == keys and found["n"] == 60 and found["floors"] == 20
        chance = found["floor_error"] * math.sqrt(1 + 1 / 4 + 3 / 4 / 20)
        if name == "auc":  # chance is at least the classifier's own error
            chance = max(chance, found["error"])
        t = (found["value"] - found["floor"]) / chance
        if name == "frechet":  # on logarithms, where a distance is far sooner by chance
            assert 0 < found["z"] < scipy.stats.norm.isf(scipy.stats.t.sf(t, 19))
            continue
        assert scipy.stats.norm.sf(found["z"]) == pytest.approx(scipy.stats.t.sf(t, 19)) and (
            found["z"] > 0
        ) == (t > 0)
        assert found["ratio"] == (found["value"] / found["floor"] if name == "frechet" else None)
        assert (found["resample"], found["bootstrap"]) == {
            "frechet": ("bootstrap", 25),
            "density": ("subsample", 25),
            "auc": ("own", 0),
        }[name]
        assert len(found["deviations"]) == found["bootstrap"]
        assert name == "auc" or found["error"] == pytest.approx(np.std(found["deviations"], ddof=1))


def test_several_numbers_at_once_are_measured_as_one_by_one(rng):
    sets = rng.normal(size=(40, 3)) + 0.5, rng.normal(size=(40, 3)), rng.normal(size=(130, 3))
    options = {"times": 12, "floors": 5, "seed": 3, "resample": "subsample", "ratio": False}
    together = uncertainty.measure(metrics.neighbours, *sets, metrics.NEIGHBOURS, **options)
    assert list(together) == list(metrics.NEIGHBOURS)
    for name, tree in together.items():
        alone = uncertainty.measure(single(name), *sets, metrics.NEIGHBOURS[name], **options)
        assert {
            key: pytest.approx(value) if key not in ("unit", "resample", "ratio") else value
            for key, value in alone.items()
        } == tree


def test_a_result_without_any_scatter_has_no_z(rng):
    same = uncertainty.measure(
        lambda a, b: 1.0, *rng.normal(size=(2, 9, 1)), rng.normal(size=(20, 1)), "", 3, 3
    )
    assert same["z"] == 0 and same["error"] == same["floor_error"] == 0
    made = np.ones((9, 1))
    other = uncertainty.measure(
        lambda a, b: float(a is made),
        made,
        *rng.normal(size=(1, 9, 1)),
        rng.normal(size=(20, 1)),
        "",
        3,
        3,
    )
    assert other["value"] == 1 and other["z"] is None and other["ratio"] is None


def test_labels_stay_with_their_rows(rng):
    sets = [rng.integers(0, 3, (n, 1)).astype(float) for n in (12, 12, 40)]

    def seen(a, b, labels_a, labels_b):
        return float((a[:, 0] != labels_a).sum() + (b[:, 0] != labels_b).sum())

    labels = [s[:, 0].astype(int) for s in sets]
    found = uncertainty.measure(seen, *sets, "", 5, 5, labels=labels)
    assert found["value"] == found["error"] == found["floor"] == 0
    assert (
        uncertainty.measure(seen, *sets, "", 5, 5, labels=[labels[0], 1 - labels[1], labels[2]])[
            "value"
        ]
        > 0
    )
    with pytest.raises(ValueError, match="one label a row"):
        uncertainty.measure(seen, *sets, "", labels=[labels[0], labels[1], labels[2][1:]])


def test_a_floor_needs_more_others_than_the_reference_has_rows(rng):
    with pytest.raises(ValueError, match="more others"):
        uncertainty.measure(metrics.frechet, *rng.normal(size=(3, 50, 2)), "")


def apart(distance, first, second, reference, others, seed=0, **options):
    """How two sets differ when they are measured against one reference.

    Returns the difference of their values, its error by their deviations, and the error that
    independent values would have.
    """
    one, other = (
        uncertainty.measure(distance, made, reference, others, "", 60, 2, seed, **options)
        for made in (first, second)
    )
    return (
        one["value"] - other["value"],
        np.std(np.subtract(one["deviations"], other["deviations"]), ddof=1),
        math.hypot(one["error"], other["error"]),
    )


def test_two_methods_compare_more_sharply_on_the_same_reference(rng):
    def draw():  # the reference scatters most
        return (
            0.1 * rng.normal(size=(50, 2)) + 1.2,
            0.1 * rng.normal(size=(50, 2)) + 1,
            rng.normal(size=(50, 2)),
            rng.normal(size=(60, 2)),
        )

    found = np.array([apart(metrics.mean_distance, *draw(), seed) for seed in range(200)])
    assert (
        abs(found[:, 1].mean() / found[:, 0].std(ddof=1) - 1) < 0.2
        and abs(found[:, 0].mean() - 0.2) < 0.02
    )
    assert found[:, 2].mean() > 3 * found[:, 1].mean()


def test_images_drawn_from_the_same_noise_are_compared_as_pairs(rng):
    made = rng.normal(size=(80, 2))
    reference = rng.normal(size=(80, 2))
    others = rng.normal(size=(100, 2))
    same = apart(metrics.frechet, made, made.copy(), reference, others)
    assert same[:2] == (0, 0) and same[2] > 0
    near = apart(
        metrics.frechet,
        made + 0.5,
        made + 0.5 + 0.01 * rng.normal(size=made.shape),
        reference,
        others,
    )
    assert near[1] < 0.1 * near[2]


@pytest.mark.parametrize("name", ["labels", "subsample", "several"])
def test_any_two_sets_are_resampled_alike(rng, name):
    """The k-th resampling gives the distance the same reference for any generated set."""
    seen = []
    labels = np.arange(30) % 2
    distance, options = {
        "labels": (
            lambda a, b, i, j: seen.append(b.copy()) or 0.0,
            {"labels": (labels, labels, np.arange(70) % 2)},
        ),
        "subsample": (lambda a, b: seen.append(b.copy()) or 0.0, {"resample": "subsample"}),
        "several": (lambda a, b: seen.append(b.copy()) or np.zeros(2), {}),
    }[name]
    reference = rng.normal(size=(30, 2))
    others = rng.normal(size=(70, 2))
    for made in rng.normal(size=(2, 30, 2)):
        uncertainty.measure(
            distance,
            made,
            reference,
            others,
            {"x": "", "y": ""} if name == "several" else "",
            10,
            3,
            seed=5,
            **options,
        )
    first = seen[: len(seen) // 2]
    second = seen[len(seen) // 2 :]
    assert len(first) == 14 and all((a == b).all() for a, b in zip(first, second, strict=True))
    # the whole reference is seen for the value and for three floors
    assert sum(a.shape == reference.shape and (a == reference).all() for a in first) == 4


def test_frechet_at_infinity_refuses_sets_that_cannot_be_compared():
    assert_refuses_incomparable_sets(uncertainty.frechet_at_infinity)


# ---- faster ways to the same numbers


@pytest.mark.parametrize(
    "distance, faster",
    [
        (metrics.kid, metrics.kid_resampled),
        (metrics.mean_distance, uncertainty.by_means(metrics.mean_distance)),
    ],
)
def test_the_faster_way_gives_the_values_of_every_resampled_set(distance, faster):
    rng = np.random.default_rng(5)
    sets = rng.normal(size=(70, 4)), rng.normal(0.3, 1, size=(50, 4))
    plain, quick = (
        uncertainty._deviations(distance, sets, 30, 1, "bootstrap", way) for way in (None, faster)
    )
    assert np.abs(plain - quick).max() < 1e-12 and plain.std() > 1e-3


def test_a_known_floor_is_not_computed_again():
    rng = np.random.default_rng(6)
    a, b, others = (rng.normal(size=(n, 2)) for n in (30, 30, 70))
    calls = []

    def counted(x, y):
        calls.append(len(x))
        return metrics.mean_distance(x, y)

    floor = uncertainty.floor_values(counted, b, others, 7, 2)
    assert len(calls) == 7
    known = uncertainty.measure(counted, a, b, others, "1", 10, 7, 2, floor=floor)
    assert len(calls) == 18  # the value, and ten resamplings
    assert known == uncertainty.measure(metrics.mean_distance, a, b, others, "1", 10, 7, 2)


def test_shares_near_one_raise_no_alarms_by_chance(rng):
    """Of 60 images one or two are missed, and 20 draws of others are often all equal."""

    def share(a, b):
        return float(a.mean())

    def z(generated, seed=0):
        sets = generated, rng.random((60, 1)) < 0.98, rng.random((240, 1)) < 0.98
        options = {"ratio": False, "times": 2, "seed": seed, "resample": "subsample"}
        return uncertainty.measure(share, *sets, "share", **options)["z"]

    clean = np.abs([z(rng.random((60, 1)) < 0.98, seed) for seed in range(400)])
    assert np.mean(clean > 3) <= 0.005 and clean.max() < 4
    assert z(rng.random((60, 1)) < 0.5) < -4
    # the worst case: all others are hits
    all_hits = uncertainty._against_floor(59 / 60, 0.0, np.ones(20), 0.75, False, of_share=60)
    assert -2 < all_hits["z"] < 0
    assert uncertainty._against_floor(59 / 60, 0.0, np.ones(20), 0.75, False)["z"] is None
    # what is called a share and is none, such as a difference of shares, is taken as it is
    real = np.linspace(-0.1, 0.1, 20)
    plain, called = (
        uncertainty._against_floor(-0.3, 0.0, real, 0.75, False, of_share=n)["z"] for n in (0, 60)
    )
    assert plain == called < 0
