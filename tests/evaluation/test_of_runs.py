"""Runs beside each other: what is paired, what is better, and what is said of it."""

import json

import numpy as np
import pytest

from lensnb.display.of_runs import RunsCompared
from lensnb.evaluation import lensnet, of_runs
from lensnb.recipes.recipe import validate
from lensnb.runs.run_folder import Run


def row(run, value, metric="frechet_lensnet", larger=False):
    tree = {"run": run, "method": "ddim", "metric": metric, "value": value, "error": 0.3}
    return tree | {"floor": 1.0, "floor_error": 0.1, "ratio": value, "larger_is_better": larger}


def measured_with(version):
    return json.dumps({"lensnet": lensnet.card_of(version)["sha256"]})


@pytest.fixture
def runs(tmp_path):
    """Two runs whose images are the same, a third with another seed, a fourth with other images."""
    rng = np.random.default_rng(0)
    shared, own = rng.normal(size=(2, 200)) * [[0.3], [0.01]]
    made = []
    recipes = ({}, {"train": {"steps": 9}}, {"seed": 1, "data": {"seed": 0}}, {"data": {"n": 50}})
    for i, changes in enumerate(recipes):
        run = Run(validate({"run": f"r{i}", **changes}, "x"), tmp_path)
        text = str(run.params.data.n)
        run.build("data", lambda folder, text=text: (folder / "file").write_text(text))
        table = "frechet_lensnet\n" + "\n".join(map(str, shared + i * own)) + "\n"

        def need(stage, run=run, table=table):
            if not stage.startswith("evaluation"):
                return Run.need(run, stage)
            folder = run.path / "told"
            folder.mkdir(exist_ok=True)
            (folder / "deviations.csv").write_text(table)
            if not (folder / "metrics.json").is_file():
                (folder / "metrics.json").write_text(measured_with(2))
            return folder

        run.need = need
        made.append(run)
    return made, float(own.std(ddof=1))


def test_the_error_of_a_difference_is_paired_where_images_and_resamplings_are_the_same(runs):
    runs, own = runs
    rows = [row(run.params.run, value) for run, value in zip(runs, (2, 1.9, 1.9, 1.9), strict=True)]
    rows += [row("r0", 0.5, "recall", True), row("r1", 0.4, "recall", True)]
    found = of_runs.against_first(runs, rows)
    assert [(r["run"], r["metric"], r["paired"]) for r in found] == [
        ("r1", "frechet_lensnet", True),
        ("r1", "recall", False),
        ("r2", "frechet_lensnet", False),
        ("r3", "frechet_lensnet", False),
    ]
    errors = [r["worse_error"] for r in found]
    assert errors == pytest.approx([own, 0.3 * 2**0.5, 0.3 * 2**0.5, 0.3 * 2**0.5])
    assert [r["worse"] for r in found] == pytest.approx([-0.1, 0.1, -0.1, -0.1])
    told = [of_runs.footing(runs[0], run) for run in runs[1:]]
    words = ("resampled alike", "resampled differently", "different held-out images")
    assert all(word in text for word, text in zip(words, told, strict=True))


def test_runs_measured_with_different_versions_of_lensnet_are_not_paired_and_it_is_said(runs):
    runs, _ = runs
    (runs[1].need("evaluation/ddim") / "metrics.json").write_text(measured_with(1))
    rows = [row("r0", 2.0), row("r1", 1.9)]
    assert not of_runs.against_first(runs[:2], rows)[0]["paired"]
    assert "with LensNet 2 and 1: do not compare" in of_runs.footing(*runs[:2])


def test_better_is_only_what_is_more_than_two_errors_apart(runs):
    runs, _ = runs
    rows = [row("r0", 2.0), row("r1", 1.9), row("r0", 0.5, "recall", True)]
    rows += [row("r1", 0.4, "recall", True)]
    found = {
        "runs": ["r0", "r1"],
        "rows": rows,
        "differences": of_runs.against_first(runs[:2], rows),
        "recipes": {"train.steps": (2000, 9)},
        "footing": ["footing"],
        "histories": {
            r: {"gan": {"history": {"images": [1, 2], "loss": [2.0, 1.0]}}} for r in "ab"
        },
        "costs": {
            r: {"ddim": {"seconds_per_image": 0.1, "training_images_seen": 10}}
            for r in ("r0", "r1")
        },
    }
    compared = RunsCompared(found)
    text = compared.told(all_rows=True)
    assert "better by 0.1 ±" in text and "equal (worse by 0.1 ± 0.4)" in text
    assert "r1 is better than r0 in 1, worse in 0" in text and "train.steps" in text
    assert len(compared.shown()) == 1 and len(compared.shown(all_rows=True)) == 2
    assert compared.training().axes[0].get_title() == "GAN"
    left, right = compared.quality_against_cost().axes
    assert left.get_xlabel() == "sampling time [s/image]" and len(left.containers) == 2
    alone = RunsCompared(found | {"runs": ["r0"], "differences": [], "recipes": {}, "footing": []})
    assert alone.summary() == [] and len(alone.shown()) == 0 and alone.told()
