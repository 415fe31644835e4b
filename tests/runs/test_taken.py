"""Nothing is made twice, nothing is replaced silently, and no run can change another's files."""

import os
import shutil
import stat

import pytest

from lensnb import io
from lensnb.recipes.differences import differences, told
from lensnb.recipes.recipe import validate
from lensnb.runs import artefact
from lensnb.runs.run_folder import Run


@pytest.fixture
def open_run(tmp_path):
    def opened(name, **tree):
        return Run(validate({"run": name, **tree}, "x"), tmp_path / "outputs")

    return opened


def made(run, stage, calls):
    """Build a stage whose file holds its recipe; note the call."""

    def make(folder):
        calls.append((run.params.run, stage))
        (folder / "file.txt").write_text(str(run.recipe(stage)))
        io.write_json(folder / "timing.json", {"seconds": len(calls)})

    return run.build(stage, make)


def chain(run, stages=("data", "models/diffusion", "models/gan", "samples/gan")):
    calls = []
    for stage in stages:
        made(run, stage, calls)
    return [stage for _, stage in calls]


def test_a_stage_of_the_same_recipe_and_inputs_is_taken_from_another_run(open_run, capsys):
    chain(open_run("one"))
    wide = open_run("wide", model={"width": 48})
    assert wide.offered("samples/gan") and wide.offered("models/diffusion") is None
    assert chain(wide) == ["models/diffusion"]
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in printed] == [
        "wide/data",
        "wide/models/gan",
        "wide/samples/gan",
    ]
    assert all("taken from the run one" in line for line in printed)
    assert io.read_json(wide.folder("data") / "artefact.json")["taken_from"] == "one"
    assert wide.record()["artefacts"]["data"]["taken_from"] == "one"
    for stage in ("data", "samples/gan"):
        one = open_run("one").need(stage)
        assert artefact.digest(wide.need(stage)) == artefact.digest(one)
        both = [folder / "file.txt" for folder in (one, wide.folder(stage))]
        assert os.path.samefile(*both)
    assert not list(wide.outputs.rglob(".*"))


def test_other_inputs_are_not_taken_for_the_same(open_run):
    """The GAN's own recipe is the same, and the images that it read are others."""
    chain(open_run("one"))
    other = open_run("other", data={"n": 50})
    assert other.offered("models/gan") is None
    assert chain(other) == ["data", "models/diffusion", "models/gan", "samples/gan"]


def test_a_spoiled_file_is_not_taken(open_run, capsys):
    run = open_run("one")
    chain(run, ["data"])
    path = run.folder("data") / "file.txt"
    path.write_text(path.read_text().replace("0", "1", 1))  # of the same size
    assert chain(open_run("two"), ["data"]) == ["data"]
    assert "a file has changed since it was made; not taken" in capsys.readouterr().out


def test_one_run_cannot_change_the_files_of_another(open_run):
    one, two = open_run("one"), open_run("two")
    chain(one, ["data"])
    before = (one.folder("data") / "file.txt").read_text()
    chain(two, ["data"])
    shared = two.folder("data") / "file.txt"
    assert not stat.S_IMODE(shared.stat().st_mode) & 0o222  # what writes in place is refused
    with io.atomic(shared) as file:
        file.write("another text of two alone")
    io.write_json(two.folder("data") / "timing.json", {"seconds": 0})
    assert (one.folder("data") / "file.txt").read_text() == before
    assert io.read_json(one.folder("data") / "timing.json") == {"seconds": 1}
    shutil.rmtree(two.path)
    assert artefact.is_whole(one.folder("data"))


def test_without_hard_links_files_are_copied(open_run, monkeypatch):
    chain(open_run("one"), ["data"])

    def no_link(*paths):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_link)
    assert chain(open_run("two"), ["data"]) == []
    files = [open_run(name).need("data") / "file.txt" for name in ("one", "two")]
    assert files[0].read_text() == files[1].read_text() and not os.path.samefile(*files)


def test_an_interrupted_taking_leaves_nothing(open_run, monkeypatch):
    chain(open_run("one"), ["data"])

    def killed(*paths):
        raise KeyboardInterrupt

    monkeypatch.setattr(artefact, "replace", killed)
    two = open_run("two")
    with pytest.raises(KeyboardInterrupt):
        chain(two, ["data"])
    assert not two.folder("data").exists() and not list(two.path.glob(".data*"))


def test_all_is_made_here_where_that_is_asked_for(open_run, monkeypatch):
    chain(open_run("one"), ["data"])
    monkeypatch.setenv("LENSNB_FRESH", "1")
    assert chain(open_run("two"), ["data"]) == ["data"]


def test_another_recipe_under_the_same_name_keeps_the_old_run(open_run, capsys):
    old = open_run("one")
    old.write_recipe()
    chain(old)
    (old.path / "notebooks").mkdir()
    (old.path / "notebooks/01_data.json").write_text("receipt")
    new = open_run("one", model={"width": 48})
    new.write_recipe()
    told_ = capsys.readouterr().out
    assert "one: model.width 32 -> 48, so models/diffusion will be made again" in told_
    assert "kept as the run one~1" in told_
    assert chain(new) == ["models/diffusion"]
    assert "kept" not in capsys.readouterr().out  # once is enough
    kept = open_run("one~1")
    assert [kept.is_current(s) for s in ("data", "models/diffusion", "samples/gan")] == [True] * 3
    assert kept.record()["run"] == "one~1" and kept.record()["params"]["run"] == "one~1"
    assert (kept.path / "notebooks/01_data.json").read_text() == "receipt"
    back = open_run("one")
    back.write_recipe()
    assert "kept as the run one~2" in capsys.readouterr().out
    assert chain(back) == []  # its model lies in one~1


def test_what_replaces_nothing_keeps_nothing(open_run):
    run = open_run("one")
    run.write_recipe()
    chain(run)
    for other in (open_run("one", threads=2), open_run("one", train={"log_every": 7})):
        other.write_recipe()
        assert chain(other) == []
    assert [path.name for path in run.outputs.iterdir()] == ["one"]


def test_a_notebook_with_another_recipe_keeps_the_old_run_too(open_run):
    chain(open_run("one"))
    assert chain(open_run("one", seed=1), ["data"]) == ["data"]
    assert open_run("one~1").is_current("samples/gan")
    assert "seed: 1" in (open_run("one").path / "recipe.yaml").read_text()


def test_changed_files_of_the_user_keep_the_old_run(open_run, tmp_path):
    images = tmp_path / "mine.npy"
    images.write_text("one")
    tree = {"data": {"path": str(images)}}
    chain(open_run("one", **tree), ["data"])
    before = (open_run("one").folder("data") / "file.txt").read_text()
    images.write_text("another")
    assert chain(open_run("one", **tree), ["data"]) == ["data"]
    assert (open_run("one~1").folder("data") / "file.txt").read_text() == before


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_an_unfinished_training_of_another_recipe_is_kept(optimiser, open_run, capsys):
    run = open_run("one", train={"steps": 300, "optimiser": optimiser})
    chain(run, ["data"])
    folder = artefact.partial(run.folder("models/diffusion"))

    def stopped(folder):
        (folder / artefact.CHECKPOINT).write_text("step 130")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.build("models/diffusion", stopped)
    new = open_run("one", train={"steps": 300, "rate": 1e-4})
    new.write_recipe()
    assert chain(new, ["models/diffusion"]) == ["models/diffusion"] and not folder.exists()
    assert "train.rate 0.001 -> 0.0001" in (printed := capsys.readouterr().out)
    assert "goes on with: lensnb run one~1" in printed
    found = []
    kept = Run(validate(io_tree(new.outputs / "one~1/recipe.yaml"), "x"), new.outputs)
    assert kept.params.train.rate == 1e-3 and kept.is_current("data")
    assert kept.params.train.optimiser == optimiser
    kept.build("models/diffusion", lambda f: found.append((f / "checkpoint.pt").read_text()))
    assert found == ["step 130"]


def io_tree(path):
    import yaml

    return yaml.safe_load(path.read_text())


def test_an_unfinished_training_goes_on_if_it_can(open_run):
    run = open_run("one")
    chain(run, ["data"])

    def stopped(folder):
        (folder / artefact.CHECKPOINT).write_text("step 130")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.build("models/diffusion", stopped)
    longer = open_run("one", train={"steps": 5000})
    found = []

    def resumed(folder):
        found.append((folder / artefact.CHECKPOINT).read_text())

    longer.build("models/diffusion", resumed, goes_on=lambda folder, recipe: True)
    assert found == ["step 130"] and longer.is_current("models/diffusion")
    assert not (longer.outputs / "one~1").exists()


def test_recipes_of_0_3_0_count_without_the_keys_that_decide_nothing(open_run):
    run = open_run("one")
    chain(run, ["data", "models/diffusion"])
    recipe = artefact.recipe_of(run.folder("models/diffusion"))
    recipe["train"]["log_every"] = 100
    assert "log_every" not in run.recipe("models/diffusion")["train"]
    assert artefact.same(recipe, artefact.stamped(run.recipe("models/diffusion")))


def test_differences_are_named_by_their_keys():
    one = {"run": "a", "seed": 0, "train": {"steps": 10, "rate": 1}}
    two = {"run": "b", "seed": 0, "train": {"steps": 20, "rate": 1}, "new": {"key": 1}}
    found = differences([one, two])
    assert found == {"train.steps": (10, 20), "new.key": ("-", 1)}
    assert told(found) == "train.steps 10 -> 20, new.key - -> 1"
    assert told(found, most=1) == "train.steps 10 -> 20, and 1 more"
