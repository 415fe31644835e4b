"""Recipes that are older than some keys mean what they meant."""

import numpy as np
import pytest
import yaml

from lensnb.datasets.dataset import Scaling
from lensnb.recipes.recipe import Params, load_recipe, validate
from lensnb.runs import run_folder

YOUNG = {
    "data": ("softening",),
    "model": ("fine", "grid", "border"),
    "train": ("optimiser", "muon_rate"),
    "gan": ("border",),
    "consistency": ("optimiser", "muon_rate"),
}


def stored(**data):
    """A stored recipe of before: all defaults are spelled out, and younger keys are not there."""
    tree = validate({"data": data}, "test").model_dump(mode="json")
    for section, keys in YOUNG.items():
        tree[section] = {k: v for k, v in tree[section].items() if k not in keys}
    return tree


def test_a_stored_recipe_keeps_its_network_and_its_optimiser(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(stored()))
    before = load_recipe(path)
    assert (before.network.grid, before.network.fine) == ("cartesian", 0)
    assert before.train.optimiser == before.consistency.optimiser == "adamw"
    assert before.data.softening == 1
    assert (before.network.border, before.gan.border) == ("zeros", "zeros")
    run = run_folder.Run(before, tmp_path)
    for section, keys in YOUNG.items():  # so its stages are current
        assert not set(keys) & set(run_folder._section(run, section))


def test_a_recipe_that_leaves_keys_out_has_todays_defaults():
    now = validate({"model": {"width": 16}, "train": {"steps": 5}}, "test")
    assert (now.network.grid, now.network.fine, now.train.optimiser) == ("polar", 16, "muon")
    assert (now.network.border, now.gan.border) == ("reflect", "reflect")
    image = np.eye(4)[None, None]
    assert now.data.softening * image.std() == Scaling.fit(image, "asinh").softening


@pytest.mark.parametrize("scaling, decides", [("asinh", True), ("range", False)])
def test_softening_decides_about_the_data_only_where_it_acts(scaling, decides, tmp_path):
    recipes = [validate({"data": {"scaling": scaling, "softening": s}}, "test") for s in (1, 3)]
    one, three = (run_folder._data_recipe(run_folder.Run(r, tmp_path), "") for r in recipes)
    assert (one != three) == decides


def test_the_trunk_is_polar_for_simulated_lenses_alone():
    for data, expected in (({}, ("polar", 16)), ({"path": "mine"}, ("cartesian", 0))):
        found = Params.model_validate({"data": data}).network
        assert (found.grid, found.fine) == expected
    for model, expected in (
        ({"fine": 0}, ("cartesian", 0)),
        ({"fine": 8}, ("polar", 8)),
        ({"grid": "cartesian"}, ("cartesian", 0)),
        ({"network": "dit", "patch": 8}, ("cartesian", 0)),
    ):
        found = Params.model_validate({"model": model}).network
        assert (found.grid, found.fine) == expected
    mine = Params.model_validate({"data": {"path": "mine"}, "model": {"grid": "polar"}}).network
    assert (mine.grid, mine.fine) == ("polar", 16)
