"""The reference that ships draws what its run drew, bit for bit, without that run.

No other file is taken for it.
"""

import re
import shutil
import subprocess

import nbformat
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import lensnb
from lensnb import io, pretrained
from lensnb.errors import InputError
from lensnb.pretrained import SHIPPED
from lensnb.recipes.recipe import load_recipe
from lensnb.runs.run_folder import STEPS, Run
from tools import ship_reference

pytestmark = pytest.mark.slow  # minutes: left out by make fast

TINY = (
    "run=reference-cpu data.n=200 data.holdout=0.2 train.steps=4 gan.steps=4 "
    "sample.n=16 sample.trajectory=2 "
    "evaluate.n=16 evaluate.fit=0 evaluate.bootstrap=10 evaluate.floors=2"
)


def whole_run(outputs, overrides=TINY):
    """A finished run with empty notebooks."""
    opened = lensnb.open_run(load_recipe("params/tiny.yaml", overrides))
    run = Run(opened.params, outputs)
    lensnb.make_data(run)
    for model in ("diffusion", "gan"):
        lensnb.train_model(run, model)
    for method in run.params.sample.methods:
        lensnb.draw_samples(run, method)
        lensnb.evaluate_method(run, method)
    lensnb.compare_methods(run)
    run.build("figures", lambda folder: (folder / "gallery.png").write_bytes(b""))
    (run.path / "notebooks").mkdir()
    for step in STEPS:
        marks = {"papermill": {"output_path": str(run.path)}}
        notebook = nbformat.v4.new_notebook(metadata=marks)
        nbformat.write(notebook, run.path / "notebooks" / f"{step}.ipynb")
    return run


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """The folder with the weights and results that were shipped, and the run they came from."""
    folder = tmp_path_factory.mktemp("reference")
    run = whole_run(folder / "outputs")
    run.write_recipe()
    ship_reference.ship(run, "reference-cpu", folder / "weights", folder / "results")
    return folder, run


@pytest.fixture
def installed(shipped, tmp_path, monkeypatch):
    """A copy of the shipped weights in the place where `load` looks for them."""
    shutil.copytree(shipped[0] / "weights", tmp_path / "weights")
    monkeypatch.setattr(pretrained, "WEIGHTS", tmp_path / "weights")
    return tmp_path / "weights" / "reference-cpu"


@pytest.mark.parametrize("method", ["ddim", "gan"])
def test_what_ships_draws_what_its_run_drew(shipped, installed, method):
    """Without the run's images: scaling, contexts and their normalisation come along."""
    there = lensnb.load_samples(shipped[1], method)
    for name in ("reference", "reference-cpu"):
        assert np.array_equal(lensnb.load(name, method).draw(16, shipped[1].params.seed), there)


def test_a_run_is_loaded_from_where_runs_are_kept(shipped, monkeypatch, tmp_path):
    folder, run = shipped
    monkeypatch.setattr(pretrained, "WEIGHTS", tmp_path)  # where nothing of that name ships
    monkeypatch.setenv("LENSNB_OUTPUTS", str(folder / "outputs"))
    images = lensnb.load(run.params.run, "gan").draw(16, run.params.seed)
    assert np.array_equal(images, lensnb.load_samples(run, "gan"))


def test_the_default_method_is_the_diffusion_models_of_the_fewest_evaluations(installed):
    assert lensnb.load().nfe == 6


def test_the_card_names_licence_hardware_and_every_file(shipped, installed):
    card = pretrained.card()
    assert card["licence"] == "MIT" and card["version"] == ship_reference.VERSION
    assert card["hardware"]["cores"]
    assert card["training"]["gan"]["training_images_seen"] == 64
    assert set(card["sha256"]) == {path.name for path in installed.iterdir()} - {"card.json"}
    assert {
        "diffusion.safetensors",
        "diffusion-history.csv",
        "gan.safetensors",
        "recipe.yaml",
        "context.npy",
    } <= set(card["sha256"])


def test_results_are_those_of_the_run(shipped):
    folder, run = shipped
    for file in ("run.json", "recipe.yaml", "comparison/table.csv", "figures/gallery.png"):
        assert (folder / "results" / file).read_bytes() == (run.path / file).read_bytes()
    for path in (folder / "results").rglob("*"):
        if path.suffix in (".ipynb", ".json", ".csv"):
            assert str(folder) not in path.read_text()
    assert len(list((folder / "results/notebooks").glob("*.ipynb"))) == len(STEPS)


@pytest.mark.parametrize("file", ["diffusion.safetensors", "recipe.yaml", "context.npy"])
def test_a_file_that_is_not_the_published_one_is_refused(installed, file):
    (installed / file).write_bytes((installed / file).read_bytes() + b" ")
    with pytest.raises(InputError, match=f"{file}: not the published file"):
        lensnb.load("reference")


def test_names_that_are_not_there_are_refused_with_a_guess(installed):
    with pytest.raises(InputError, match="did you mean reference-cpu"):
        lensnb.load("reference-cup")
    with pytest.raises(InputError, match="has no method dimm; it has ddpm, ddim, gan"):
        lensnb.load("reference", "dimm")


def test_a_run_that_is_not_whole_leaves_the_old_reference_in_its_place(shipped, tmp_path):
    folder, run = shipped
    shutil.copytree(folder / "outputs", tmp_path / "outputs")
    shutil.copytree(folder / "weights", tmp_path / "weights")
    broken = Run(run.params, tmp_path / "outputs")
    shutil.rmtree(broken.path / "models" / "gan")
    files = [path for path in (tmp_path / "weights").rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    with pytest.raises(InputError, match="not there or not whole"):
        ship_reference.ship(broken, "reference-cpu", tmp_path / "weights", tmp_path / "results")
    assert {path: path.read_bytes() for path in before} == before
    assert not (tmp_path / "results").exists()
    with pytest.raises(InputError, match="not the name of a reference"):
        ship_reference.ship(run, "mine", tmp_path / "weights", tmp_path / "results")


def test_large_weights_ship_in_half_precision_and_in_pieces(shipped, tmp_path, monkeypatch):
    folder, run = shipped
    monkeypatch.setattr(ship_reference, "MOST", 100_000 + ship_reference.HEADER)
    ship_reference.ship(run, "reference-cpu", tmp_path / "weights", tmp_path / "results")
    pieces = list((tmp_path / "weights/reference-cpu").glob("diffusion-*.safetensors"))
    assert len(pieces) > 1
    assert all(w.dtype == torch.half for w in load_file(pieces[0]).values())
    assert max(piece.stat().st_size for piece in pieces) <= ship_reference.MOST
    monkeypatch.setattr(pretrained, "WEIGHTS", tmp_path / "weights")
    images = lensnb.load("reference", "ddim").draw(16)
    expected = lensnb.load_samples(run, "ddim")
    assert 0 < np.abs(images - expected).max() < 0.01 * expected.std()


@pytest.mark.parametrize("build", ["cpu", "cuda"])
def test_what_make_reference_trains_may_ship(build):
    """Otherwise hours of training would end in a refusal."""
    told = subprocess.run(
        ["make", "--dry-run", "reference", f"TORCH={build}"],
        cwd=io.home(),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    recipe = load_recipe(io.home() / re.search(r"tools.ship_reference (\S+)", told)[1])
    assert recipe.run in SHIPPED
