"""The comparison: winners, the error of a difference, tables of runs."""

from types import SimpleNamespace

import numpy as np
import pytest

from lensnb import io
from lensnb.display import figures
from lensnb.errors import InputError
from lensnb.evaluation import compare


def row(method, metric, value, error=0.1, group="features", larger=False, z=1.0):
    return {
        "method": method,
        "metric": metric,
        "value": value,
        "error": error,
        "group": group,
        "larger_is_better": larger,
        "z": z,
        "floor": 1.0,
        "floor_error": 0.1,
        "ratio": value,
        "n": 9,
    }


def test_best_is_only_who_is_ahead_by_more_than_the_error():
    a = row("a", "frechet_lensnet", 1.0)
    b = row("b", "frechet_lensnet", 1.1)
    assert compare.clear_winner([a, b], {}) is None and compare.clear_winner([a], {}) is None
    assert compare.clear_winner([a, row("b", "frechet_lensnet", 1.2)], {}) is a
    c = row("c", "recall", 0.9, larger=True)
    d = row("d", "recall", 0.3, larger=True)
    assert compare.clear_winner([d, c], {}) is c
    assert (
        compare.badness(row("a", "recall", 0, larger=True, z=-4)) == 4
        and compare.badness(row("a", "frechet_lensnet", 0, z=-4)) == -4
    )


def test_density_is_best_where_it_is_that_of_real_images():
    over, under, near = (
        row(name, "density", value, larger=None, z=10 * (value - 1))
        for name, value in (("a", 1.7), ("b", 0.6), ("c", 1.1))
    )
    assert (
        compare.clear_winner([over, under, near], {}) is near
        and compare.clear_winner([over, under], {}) is under
    )
    assert [compare.badness(r) for r in (over, under, near)] == pytest.approx([7, 4, 1])
    # a shift up takes one away from the floor and brings the other to it
    shared = np.random.default_rng(0).normal(size=50)
    worse, error = compare.gap(under, over, {"a": {"density": shared}, "b": {"density": shared}})
    assert (worse, error) == (pytest.approx(0.3), pytest.approx(2 * shared.std(ddof=1)))


def test_what_never_scatters_is_as_bad_as_the_side_it_lies_on():
    for value, larger, bad in (
        (0.0, True, np.inf),
        (2.0, True, -np.inf),
        (2.0, False, np.inf),
        (0.0, False, -np.inf),
        (0.0, None, np.inf),
    ):
        assert compare.badness(row("a", "any", value, larger=larger, z=None)) == bad
    rows = [
        row("a", "precision", 0.0, larger=True, z=None),
        row("a", "density", 0.5, larger=None, z=-4.0),
        row("a", "frechet_lensnet", 0.5, z=-4.0),
    ]
    assert [text.get_text() for text in figures.z_values(rows).axes[0].texts] == [
        "> 100",
        "4",
        "-4",
    ]


def test_the_error_of_a_difference_is_that_of_the_paired_resamplings():
    shared, own = np.random.default_rng(0).normal(size=(2, 400)) * [[0.1], [0.01]]
    a = row("a", "frechet_lensnet", 1.0)
    b = row("b", "frechet_lensnet", 1.1)
    deviations = {"a": {"frechet_lensnet": shared}, "b": {"frechet_lensnet": shared + own}}
    assert compare.gap(a, b, deviations) == (pytest.approx(0.1), pytest.approx(own.std(ddof=1)))
    assert (
        compare.clear_winner([b, a], deviations) is a
        and compare.clear_winner([b, a], {"a": deviations["a"]}) is None
    )
    worse, error = compare.gap(
        row("a", "recall", 0.9, larger=True), row("b", "recall", 0.8, larger=True), deviations
    )
    assert (worse, error) == (
        pytest.approx(0.1),
        pytest.approx(0.02**0.5),
    )  # without deviations: independent
    same = {"a": {"frechet_lensnet": shared}, "b": {"frechet_lensnet": shared}}
    assert compare.clear_winner([a, row("b", "frechet_lensnet", 1.0)], same) is None


ROWS = [
    row("a", "frechet_lensnet", 2.0),
    row("b", "frechet_lensnet", 3.0),
    row("a", "told_apart", 0.7),
    row("b", "told_apart", 0.9),
    row("a", "spectrum", 1, group="physics", z=2),
    row("b", "spectrum", 1, group="physics", z=30),
]


def test_the_means_of_each_model_are_one_sentence():
    def cost(model, seen):
        return {
            "model": model,
            "training_images_seen": seen,
            "training_minutes": 2.04,
            "parameters": 1_040_000,
        }

    diffusion = cost("diffusion", 320)
    told = compare.footing({"ddpm": diffusion, "ddim": diffusion, "gan": cost("gan", 320)}, 45)
    assert told == (
        "Of the same 45 training images, turned and flipped, diffusion saw 320 in 2.0 minutes and "
        "draws with 1.04 million parameters; gan saw 320 in 2.0 minutes and draws with 1.04 "
        "million parameters. The number of images seen is the same for all."
    )
    assert "same for all" not in compare.footing(
        {"ddpm": cost("diffusion", 320), "gan": cost("gan", 100)}, 45
    )


def finished(folder, name, rows):
    """A run with a comparison of these rows, or none."""

    def need(stage):
        if rows is None:
            raise InputError(f"{folder / name / stage}: not there or not whole")
        return folder / name

    (folder / name).mkdir()
    if rows is not None:
        io.write_json(folder / name / "table.json", {"rows": rows, "verdict": []})
    return SimpleNamespace(params=SimpleNamespace(run=name), need=need)


def test_runs_are_compared_by_the_rows_of_their_tables(tmp_path):
    runs = [finished(tmp_path, "quick", ROWS[:2]), finished(tmp_path, "longer", ROWS[4:])]
    rows = compare.compare_runs(runs)
    assert [(r["run"], r["method"], r["metric"]) for r in rows] == [
        ("quick", "a", "frechet_lensnet"),
        ("quick", "b", "frechet_lensnet"),
        ("longer", "a", "spectrum"),
        ("longer", "b", "spectrum"),
    ]
    assert [{k: v for k, v in r.items() if k != "run"} for r in rows] == [*ROWS[:2], *ROWS[4:]]
    assert compare.compare_runs([]) == []


def test_a_run_without_a_comparison_is_named_with_its_command(tmp_path):
    runs = [finished(tmp_path, "quick", ROWS), finished(tmp_path, "longer", None)]
    with pytest.raises(InputError, match="run longer has no comparison .*: lensnb run longer") as e:
        compare.compare_runs(runs)
    assert "\n" not in str(e.value)


def test_numbers_that_say_no_more_are_told_as_more_than():
    assert [compare.times_told(r) for r in (9.34, 1000.4, 5e8, np.inf, None, np.nan)] == [
        "9.3",
        "> 1,000",
        "> 1,000",
        "> 1,000",
        "",
        "",
    ]
    assert [compare.z_told(z) for z in (3.4, -0.2, np.inf, -np.inf, 1e5, np.nan)] == [
        "3",
        "0",
        "> 100",
        "< -100",
        "> 100",
        "",
    ]
    assert compare.z_told(2.44, 1) == "2.4"
