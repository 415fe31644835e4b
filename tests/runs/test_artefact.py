"""A stage appears whole or not at all, and is made again only when it must be."""

import contextlib
import os

import numpy as np
import pytest

from lensnb import io
from lensnb.errors import InputError
from lensnb.recipes.recipe import Params, validate
from lensnb.runs import artefact
from lensnb.runs.run_folder import Run


@pytest.fixture
def run(tmp_path):
    return Run(validate({"run": "r"}, "x"), tmp_path)


def writes(text, calls):
    def make(folder):
        calls.append(folder)
        (folder / "file.txt").write_text(text)

    return make


def test_an_artefact_is_made_once_and_again_when_its_recipe_changes(tmp_path):
    calls = []
    changes = (({"a": 1}, "x"), ({"a": 1}, "y"), ({"a": 2}, "z"))  # the second is not made
    for recipe, text in changes:
        folder = artefact.build(tmp_path / "art", recipe, writes(text, calls))
    assert len(calls) == 2 and (folder / "file.txt").read_text() == "z"
    assert sorted(os.listdir(tmp_path)) == ["art"]


@pytest.mark.parametrize("damage", ["deleted", "shortened"])
def test_a_damaged_artefact_is_made_again(tmp_path, damage):
    calls = []
    folder = artefact.build(tmp_path / "art", {}, writes("xyz", calls))
    if damage == "deleted":
        (folder / "file.txt").unlink()
    else:
        (folder / "file.txt").write_text("x")
    artefact.build(tmp_path / "art", {}, writes("xyz", calls))
    assert len(calls) == 2 and artefact.is_whole(folder)


def test_a_failed_build_leaves_the_old_artefact_and_is_resumed_by_the_same_recipe_only(tmp_path):
    artefact.build(tmp_path / "art", {"a": 1}, writes("old", []))

    def fails(folder):
        (folder / "half").write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        artefact.build(tmp_path / "art", {"a": 2}, fails)
    assert (tmp_path / "art" / "file.txt").read_text() == "old"
    assert artefact.recipe_of(tmp_path / "art")["a"] == 1
    left = []

    def look(folder):
        left.append((folder / "half").exists())

    artefact.build(tmp_path / "art", {"a": 2}, look)
    with pytest.raises(RuntimeError):
        artefact.build(tmp_path / "art", {"a": 3}, fails)
    artefact.build(tmp_path / "art", {"a": 4}, look)
    assert left == [True, False]


def test_an_atomic_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "f.json"
    io.write_json(path, {"a": 1})
    with pytest.raises(ValueError):
        io.write_json(path, {"a": float("nan")})
    assert io.read_json(path) == {"a": 1} and os.listdir(tmp_path) == ["f.json"]


def test_tables_come_back_as_they_were(tmp_path):
    columns = {"x": np.array([1.5, -2e-30, 3.0]), "name": ["a", "b, c", 'd"']}
    io.write_table(tmp_path / "t.csv", columns)
    back = io.read_table(tmp_path / "t.csv")
    assert np.array_equal(back["x"], columns["x"]) and back["name"].tolist() == columns["name"]


def test_the_digest_depends_on_content_and_not_on_times(tmp_path):
    def make(text, seconds):
        def write(folder):
            (folder / "file").write_text(text)
            io.write_json(folder / "timing.json", {"seconds": seconds})

        return artefact.digest(artefact.build(tmp_path / f"{text}{seconds}", {}, write))

    assert make("x", 1) == make("x", 2) != make("y", 1)


def test_a_changed_parameter_changes_the_recipe_of_its_stage_only(run, tmp_path):
    def recipes(**tree):
        other = Run(validate({"run": "r", **tree}, "x"), tmp_path)
        found = {}
        for stage in ("data", "models/diffusion", "models/gan", "samples/ddim"):
            # a stage whose inputs were made by another recipe has none
            with contextlib.suppress(InputError):
                found[stage] = other.recipe(stage)
        return found

    for stage in ("data", "models/diffusion", "models/gan"):
        run.build(stage, writes(stage, []))
    base = recipes()

    def changed(**tree):
        return {s for s in base if recipes(**tree).get(s) != base[s]}

    assert changed(train={"steps": 5}) == {"models/diffusion", "samples/ddim"}
    assert changed(gan={"steps": 5}) == {"models/gan"}
    assert changed(sample={"n": 5}) == {"samples/ddim"}
    assert changed(data={"n": 50}) == set(base)
    assert changed(seed=1) == set(base)
    assert changed(evaluate={"n": 50}) == changed(threads=1) == set()


def test_changed_image_files_change_the_recipe_of_the_data(tmp_path):
    (tmp_path / "mine").mkdir()
    np.save(tmp_path / "mine" / "a.npy", np.zeros(3))

    def recipe():
        params = validate({"data": {"path": str(tmp_path / "mine")}}, "x")
        return Run(params, tmp_path).recipe("data")

    first = recipe()
    assert recipe() == first
    np.save(tmp_path / "mine" / "b.npy", np.zeros(3))
    second = recipe()
    np.save(tmp_path / "mine" / "a.npy", np.zeros(4))
    assert len({str(r) for r in (first, second, recipe())}) == 3


def test_a_missing_stage_names_the_notebook_that_writes_it(run):
    missing = "models/gan: not there or not whole; run notebooks/02_train.ipynb first"
    with pytest.raises(InputError, match=missing):
        run.need("models/gan")


def test_an_output_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "outputs").write_text("a file where a folder belongs")
    run = Run(Params(), tmp_path / "outputs")
    advice = "make room or give permission there, or set LENSNB_OUTPUTS"
    with pytest.raises(InputError, match=f"outputs.*: Not a directory; {advice}"):
        run.build("data", writes("x", []))


def test_run_json_tells_where_a_result_comes_from(run):
    run.build("data", writes("x", []))
    made_otherwise = "data: made with other parameters .* run notebooks/01_data.ipynb again"
    with pytest.raises(InputError, match=made_otherwise):
        Run(validate({"run": "r", "seed": 1}, "x"), run.outputs).need("data")
    told = io.read_json(run.path / "run.json")
    assert told["params"]["seed"] == 0
    assert told["packages"]["torch"] and told["python"]
    assert told["hardware"]["cores"]
    noted = told["artefacts"]["data"]["files"]["file.txt"]["sha256"]
    assert noted == io.sha256(run.path / "data" / "file.txt")
