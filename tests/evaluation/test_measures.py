"""The registry of measures: its labels, and a measure from outside of the package."""

from types import SimpleNamespace

import numpy as np
import pytest

from lensnb import io
from lensnb.datasets.dataset import load_dataset, prepare_dataset
from lensnb.display import figures, tables
from lensnb.evaluation import compare, measures
from lensnb.evaluation.judge import Judge, evaluate
from lensnb.evaluation.measures import MEASURES, REAL_STD, Fitted, Measure
from lensnb.evaluation.morphology import wasserstein_columns
from lensnb.recipes.recipe import validate


def brightest_pixel(images):
    return images.max(axis=(1, 2, 3))[:, None]


@Fitted
def share_above_real(reference):
    level = np.quantile(reference.images, 0.99)
    return lambda images: (images > level).mean(axis=(1, 2, 3))[:, None]


@pytest.fixture
def added():
    """Two measures from outside; the registry is as before afterwards."""
    names = {
        "brightest_pixel": Measure(
            brightest_pixel, wasserstein_columns, REAL_STD, "physics", "brightest pixel"
        ),
        "bright_share": Measure(
            share_above_real, wasserstein_columns, REAL_STD, "physics", "share of bright pixels"
        ),
    }
    for name, measure in names.items():
        MEASURES.add(name, measure)
    yield names
    for name in names:
        del MEASURES[name]


def test_a_measure_from_outside_is_computed_compared_and_shown(added, tmp_path):
    recipe = validate(
        {
            "data": {"n": 96, "holdout": 1 / 6, "size": 32},
            "sample": {"n": 16},
            "evaluate": {"n": 16, "bootstrap": 10, "floors": 10, "fit": 0},
        },
        "test",
    )
    prepare_dataset(recipe.data, 3, tmp_path)
    dataset = load_dataset(tmp_path)
    judge = Judge(recipe, dataset)
    images = dataset.images[dataset.heldout]
    for method, factor in (("good", 1), ("bad", 10)):
        (tmp_path / method).mkdir()
        evaluate(judge, method, factor * images, None, tmp_path / method)
    found = io.read_json(tmp_path / "bad" / "metrics.json")["metrics"]
    assert list(found)[-6:-4] == list(added)
    assert list(found)[-4:] == ["usefulness", "pixels_told_apart", "fixed_pixels", "copies"]
    for name in added:
        assert (found[name]["unit"], found[name]["group"]) == (REAL_STD, "physics")
        assert found[name]["n"] == 16 and compare.badness(found[name]) > 3
    run = SimpleNamespace(
        params=SimpleNamespace(sample=SimpleNamespace(methods=["good", "bad"])),
        need=lambda stage: tmp_path / stage.partition("/")[2],
    )
    rows = compare.table(run)
    best = {row["metric"]: row["method"] for row in rows if row["best"]}
    assert {best[name] for name in added} == {"good"}
    assert f"{len(rows)} numbers are read together" in compare.verdict(rows)[0]
    table = tables.comparison(rows).to_html()
    assert any(text in table for text in ("brightest pixel", "brightest_pixel"))
    shown = figures.z_values(rows).axes[0].get_yticklabels()
    assert len(shown) == len(found)
    assert measures.label("bright_share") == "share of bright pixels"


def test_every_measure_has_a_label_and_a_name_of_its_own():
    labels = measures.labels()
    assert len(set(labels.values())) == len(labels) == 43
    assert labels["frechet_lensnet_by_class"] == "Frechet distance (LensNet) by class"
    assert {"precision", "recall", "density", "coverage"} < set(labels)
    assert "neighbours" not in labels  # four measures of one distance
    assert measures.label("kid") == labels["kid"] and measures.label("mine") == "mine"
    with pytest.raises(ValueError, match="measure kid is registered already"):
        MEASURES.add("kid", MEASURES["kid"])


def test_each_key_has_a_good_side():
    for name, measure in MEASURES.items():
        if isinstance(measure.unit, str):
            assert measure.larger_is_better in (True, False, None) and isinstance(
                measure.label, str
            )
        else:
            assert set(measure.larger_is_better) == set(measure.unit) == set(measure.label), name
