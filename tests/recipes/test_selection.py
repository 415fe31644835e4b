"""Which runs a command means, what waits for what, and the table over training seeds."""

import shutil

import numpy as np
import pytest

from lensnb import io
from lensnb.display import figures, tables
from lensnb.errors import InputError
from lensnb.evaluation import compare
from lensnb.recipes import selection
from lensnb.recipes.recipe import Params, load_recipe
from lensnb.runs.run_folder import Run

TINY = "params/tiny.yaml"


def test_without_seeds_a_recipe_is_one_run_as_it_is():
    assert selection.expand([TINY]) == [load_recipe(TINY)]


def test_seeds_give_a_run_each_on_the_same_images():
    found = selection.expand([TINY], "seed=7", seeds=[0, 2])
    assert [(r.run, r.seed, r.data_seed, r.seeds) for r in found] == [
        ("tiny-seed0", 0, 7, (0, 2)),
        ("tiny-seed2", 2, 7, (0, 2)),
    ]
    recipes = [Run(r).recipe("data") for r in found]
    assert recipes[0] == recipes[1] == Run(load_recipe(TINY, "seed=7")).recipe("data")
    assert found[0].model_copy(update={"run": "", "seed": 0}) == found[1].model_copy(
        update={"run": "", "seed": 0}
    )


def test_the_resolved_recipe_of_a_run_means_all_runs_of_its_seeds():
    found = selection.expand([TINY], seeds=[3, 1])
    assert all(
        recipe.siblings() == found == selection.of_seeds(recipe, recipe.seeds) for recipe in found
    )
    assert selection.expand([TINY], "seeds=[3,1]") == found


def test_recipes_seeds_generators_and_samplers_multiply():
    found = selection.expand(
        [TINY, "params/mnist.yaml"],
        seeds=[0, 1],
        generators=["diffusion"],
        samplers=["ddim"],
        short=True,
    )
    assert [r.run for r in found] == [
        "tiny-smoke-seed0",
        "tiny-smoke-seed1",
        "mnist-smoke-seed0",
        "mnist-smoke-seed1",
    ]
    assert all(list(r.sample.methods) == ["ddim"] and r.data.n == 80 for r in found)
    assert list(selection.expand([TINY], generators=["gan"])[0].sample.methods) == ["gan"]
    assert list(selection.expand([TINY], samplers=["gan", "ddpm"])[0].sample.methods) == [
        "ddpm",
        "gan",
    ]


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"generators": ["gans"]}, "gans: no such generator; did you mean gan?"),
        ({"samplers": ["dim"]}, "dim: no such sampler; did you mean ddim?"),
        (
            {"generators": ["gan"], "samplers": ["ddim"]},
            "tiny: no method left of ddpm, ddim, gan; none draws from gan and is called ddim",
        ),
        ({"paths": [TINY, TINY]}, "two runs of the name tiny"),
        (
            {"paths": [TINY, TINY], "overrides": "run=x", "seeds": [0]},
            "two runs of the name x-seed0",
        ),
        ({"seeds": [1, 1]}, r"seeds \[1, 1\] names a seed twice"),
        ({"seeds": [-1]}, "tiny, by seed: seeds.0"),
        ({"overrides": f"run={'x' * 96}", "seeds": [12]}, "x, seed 12: run"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(changes, expected):
    with pytest.raises(InputError, match=expected):
        selection.expand(**{"paths": [TINY]} | changes)


def test_lists_come_from_the_environment():
    found = selection.from_environment(
        {
            "LENSNB_RECIPE": f"{TINY} params/mnist.yaml",
            "LENSNB_SEEDS": "0 1",
            "LENSNB_SAMPLERS": "ddim",
        }
    )
    assert [r.run for r in found] == ["tiny-seed0", "tiny-seed1", "mnist-seed0", "mnist-seed1"]
    assert selection.from_environment({}) == [Params()]
    with pytest.raises(InputError, match="LENSNB_SEEDS: found 'two'; expected whole numbers"):
        selection.from_environment({"LENSNB_SEEDS": "1 two"})


def test_a_recipe_may_have_spaces_in_its_name(tmp_path):
    shutil.copy(TINY, tmp_path / "my tiny.yaml")
    assert (
        selection.from_environment({"LENSNB_RECIPE": str(tmp_path / "my tiny.yaml")})[0].run
        == "tiny"
    )


# Over training seeds ------------------------------------------------------------------------------

VALUES = {0: {"a": 1.0, "b": 10.0}, 1: {"a": 3.0, "b": 10.5}, 2: {"a": 8.0, "b": 10.1}}


@pytest.fixture
def evaluated(tmp_path):
    """Three runs with made-up evaluations: two metrics, one of them a distance."""
    found = [Run(r, tmp_path) for r in selection.expand([TINY], seeds=[0, 1, 2], samplers=["ddim"])]
    for each in found:
        for stage in ("data", "models/diffusion", "samples/ddim"):
            each.build(stage, lambda folder: (folder / "file").write_text(""))
        evaluate(each, VALUES[each.params.seed])
    return found


def evaluate(run, values):
    """Build an evaluation of these values."""
    run.build("evaluation/ddim", lambda folder: written(folder, values))


def written(folder, values):
    """An evaluation of these values."""
    trees = {
        name: {
            "value": value,
            "error": value / 10,
            "floor": 2 * value,
            "ratio": None if name == "b" else 0.5,
        }
        for name, value in values.items()
    }
    io.write_json(folder / "metrics.json", {"metrics": trees})


def test_mean_and_spread_over_training_seeds(evaluated):
    a, b = compare.over_seeds(evaluated[1])
    values = np.array([1.0, 3.0, 8.0])
    assert (a["method"], a["metric"], a["seeds"], a["values"]) == ("ddim", "a", 3, [1, 3, 8])
    assert np.allclose(
        [a["mean"], a["spread"], a["error"], a["floor"]],
        [4, np.sqrt(((values - 4) ** 2).sum() / 2), 0.4, 8],
    )
    assert a["is_distance"] and not b["is_distance"]
    assert ", 1 of 2 measures scatter by more" in compare.seeds_told([a, b])
    assert compare.over_seeds(Run(load_recipe(TINY), evaluated[0].outputs)) == []
    assert 'make run SEEDS="0 1 2"' in compare.seeds_told([])


def test_one_seed_has_no_spread(evaluated):
    alone = Run(evaluated[2].params.model_copy(update={"seeds": (2,)}), evaluated[0].outputs)
    assert [row["spread"] for row in compare.over_seeds(alone)] == [None, None]


def test_they_are_shown(evaluated):
    rows = compare.over_seeds(evaluated[0])
    assert (
        "4 ± 4" in tables.over_seeds(rows).to_html()
        and "mean ± spread over 3 training seeds" in tables.over_seeds(rows).to_html()
    )
    axis = figures.over_seeds(rows).axes[0]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["a"]  # b is no distance
    drawn = np.concatenate([line.get_xdata() for line in axis.lines])
    assert {1 / 8, 3 / 8, 1.0, 0.5} <= set(
        np.round(drawn.astype(float), 6)
    )  # each seed and the mean over the floor


def test_another_evaluation_of_a_sibling_makes_the_comparison_anew(evaluated):
    first = evaluated[0]
    first.build("comparison", lambda folder: (folder / "file").write_text(""))
    assert first.is_current("comparison")
    shutil.rmtree(evaluated[2].folder("evaluation/ddim"))
    evaluate(evaluated[2], {"a": 9.0, "b": 10.0})
    assert not first.is_current("comparison")


def test_a_missing_sibling_is_named_with_the_command_that_makes_it(evaluated):
    shutil.rmtree(evaluated[2].folder("evaluation/ddim"))
    with pytest.raises(
        InputError,
        match=r"tiny-seed2/evaluation/ddim: not there.*compared over the seeds.*"
        r"make run SEEDS=\"0 1 2\" makes them all",
    ):
        evaluated[0].recipe("comparison")


def test_a_bare_name_means_the_recipe_in_params(tmp_path, monkeypatch):
    (tiny,) = selection.from_environment({"LENSNB_RECIPE": "tiny"})
    (path,) = selection.from_environment({"LENSNB_RECIPE": "params/tiny.yaml"})
    assert tiny == path
    with pytest.raises(InputError, match="tinny: no such recipe"):
        selection.from_environment({"LENSNB_RECIPE": "tinny"})


def test_a_change_in_the_place_of_a_recipe_is_refused_with_the_word_that_it_lacks():
    with pytest.raises(InputError, match="--set train.steps=3"):
        selection.from_environment({"LENSNB_RECIPE": "params/tiny.yaml train.steps=3"})
