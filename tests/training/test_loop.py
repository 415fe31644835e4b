"""The loop: the same bits after an interruption, refusals, checkpoints."""

import os
import signal

import numpy as np
import pytest
import safetensors.torch
import torch
from small_training import POLAR, Cut, recipe, start, trained

from lensnb import io, pipeline
from lensnb.errors import InputError
from lensnb.kinds import KINDS
from lensnb.recipes.schema import Train
from lensnb.runs import artefact
from lensnb.runs.run_folder import Run, _model_recipe
from lensnb.training import diffusion_task, loop
from lensnb.training.accelerator import make_accelerator

STATE = {"step": 2, "history": [], "recent": [], "watched": [], "seconds": 1.0}


@pytest.mark.parametrize("name", list(KINDS))
@pytest.mark.parametrize("cut", [1, 4, 6])
def test_interrupted_and_resumed_training_has_the_same_bits(
    name, cut, dataset, tmp_path, monkeypatch
):
    whole = tmp_path / "whole"
    parts = tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    given = name, recipe(), dataset
    begin = start(*given, tmp_path)
    pipeline.train_generator(*given, whole, begin)
    cut_at(monkeypatch, cut, lambda: pipeline.train_generator(*given, parts, begin))
    assert (parts / "checkpoint.pt").is_file() is (cut > 1)
    assert not (parts / "model.safetensors").exists()
    torch.rand(5)  # the global generator is somewhere else now
    pipeline.train_generator(*given, parts, begin)
    for file in ("model.safetensors", "history.csv"):
        assert io.sha256(whole / file) == io.sha256(parts / file)


def cut_at(monkeypatch, at, train):
    """Call `train` and cut it before step `at`; the steps of the estimate do not count."""
    one_step = loop.one_step

    def cut_short(task, batches, k, *rest):
        if k == at:
            raise Cut
        return one_step(task, batches, k, *rest)

    with monkeypatch.context() as patch, pytest.raises(Cut):
        patch.setattr(loop, "one_step", cut_short)
        train()


def test_a_stopped_training_goes_on_with_more_steps_where_the_rate_allows(
    dataset, tmp_path, monkeypatch, capsys
):
    """The bits are those of a training of 12 steps from the beginning."""
    monkeypatch.setattr(pipeline, "load_data", lambda run: dataset)

    def opened(name, **train):
        run = Run(recipe(train=train), tmp_path)
        run = Run(run.params.model_copy(update={"run": name}), tmp_path)
        run.build("data", lambda folder: (folder / "file").write_text("images"))
        return run

    monkeypatch.setenv("LENSNB_FRESH", "1")
    whole = opened("whole", steps=12)
    pipeline.train_model(whole, "diffusion")
    cut_at(monkeypatch, 4, lambda: pipeline.train_model(opened("on", steps=7), "diffusion"))
    capsys.readouterr()
    longer = opened("on", steps=12, log_every=5)
    pipeline.train_model(longer, "diffusion")
    printed = capsys.readouterr().out
    assert "goes on under the new recipe (train.steps 7 -> 12)" in printed
    assert "resumed at step 4" in printed
    weights = [r.folder("models/diffusion") / "model.safetensors" for r in (whole, longer)]
    assert io.sha256(weights[0]) == io.sha256(weights[1])
    # the rate has fallen since step 4
    cut_at(monkeypatch, 6, lambda: pipeline.train_model(opened("anew", steps=7), "diffusion"))
    pipeline.train_model(opened("anew", steps=12), "diffusion")
    printed = capsys.readouterr().out
    assert "begins anew (train.steps 7 -> 12)" in printed and "lensnb run anew~1" in printed
    weights[1] = tmp_path / "anew/models/diffusion/model.safetensors"
    assert io.sha256(weights[0]) == io.sha256(weights[1])
    assert (tmp_path / "anew~1/models/.diffusion.partial/checkpoint.pt").is_file()


def test_training_lowers_the_loss(dataset, tmp_path):
    pipeline.train_generator(
        "diffusion",
        recipe(
            train={"steps": 200, "log_every": 50, "rate": 3e-3},
            model={"dropout": 0},
            diffusion={"prediction": "v"},
        ),
        dataset,
        tmp_path,
    )
    table = io.read_table(tmp_path / "history.csv")
    assert table["step"].tolist() == [50, 100, 150, 200]
    assert table["images"].tolist() == [400, 800, 1200, 1600]
    assert table["loss"][-1] < 0.7 * table["loss"][0]


def test_epochs_take_the_place_of_steps_and_their_weights_are_kept(dataset, tmp_path):
    pipeline.train_generator(
        "diffusion", recipe(train={"epochs": 4, "batch": 8, "keep": [1, 3]}), dataset, tmp_path
    )
    table = io.read_table(tmp_path / "history.csv")
    assert table["step"][-1] == 18  # 4 x 36 images / 8
    files = {p.name for p in tmp_path.glob("*.safetensors")}
    assert files == {"model.safetensors", "epoch-1.safetensors", "epoch-3.safetensors"}
    at_one, end = (
        safetensors.torch.load_file(tmp_path / name)
        for name in ("epoch-1.safetensors", "model.safetensors")
    )
    assert at_one.keys() == end.keys() and not torch.equal(
        at_one["net.head.2.weight"], end["net.head.2.weight"]
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"block": "context", "norm": "batch", "width": 16}},
        {"model": {"block": "shuffle", "norm": "batch", "width": 16}},
        {"model": {"network": "dit", "width": 16}},
        {"diffusion": {"schedule": "edm", "prediction": "edm", "weighting": "edm"}},
        {"diffusion": {"schedule": "flow", "prediction": "velocity", "weighting": "plain"}},
        {
            "diffusion": {
                "schedule": "signal_rate",
                "prediction": "noise",
                "level": "variance",
                "weighting": "plain",
            }
        },
        {"diffusion": {"schedule": "linear", "zero_snr": True, "prediction": "v"}},
        {"diffusion": {"schedule": "sigmoid", "prediction": "x0"}},
        {"model": {"width": 16, **POLAR}},
        {"train": {"optimiser": "adamw"}},
        {"train": {"precision": "bf16", "shape": "cosine"}},
        {"train": {"shape": "onecycle", "warmup": 0.25, "accumulate": 2}},
    ],
    ids=str,
)
def test_every_choice_learns_and_resumes_to_the_same_bits(changes, dataset, tmp_path, monkeypatch):
    tree = {
        "model": {"dropout": 0.2, "width": 16},
        "diffusion": {},
        "train": {"steps": 24, "rate": 3e-3, "log_every": 8},
    }
    p = recipe(**{k: tree[k] | changes.get(k, {}) for k in tree})
    whole = tmp_path / "whole"
    parts = tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    pipeline.train_generator("diffusion", p, dataset, whole)
    loss = io.read_table(whole / "history.csv")["loss"]
    assert np.isfinite(loss).all() and loss[-1] < loss[0]
    step = diffusion_task.DiffusionTask.step

    def cut_short(self, k, *batch):
        if k == 17:
            raise Cut
        return step(self, k, *batch)

    with monkeypatch.context() as patch, pytest.raises(Cut):
        patch.setattr(diffusion_task.DiffusionTask, "step", cut_short)
        pipeline.train_generator("diffusion", p, dataset, parts)
    pipeline.train_generator("diffusion", p, dataset, parts)
    assert io.sha256(whole / "model.safetensors") == io.sha256(parts / "model.safetensors")


def test_a_loss_that_is_not_finite_stops_with_the_step_and_the_last_good_state(
    dataset, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        diffusion_task.DiffusionTask,
        "step",
        lambda self, k, *batch: {"loss": float("nan") if k == 5 else 1.0},
    )
    with pytest.raises(
        InputError, match=r"loss is not finite at step 6; the last good state is .*checkpoint.pt"
    ):
        pipeline.train_generator("diffusion", recipe(), dataset, tmp_path)


def test_a_loss_that_is_not_finite_is_told_before_images_are_drawn_from_it(
    dataset, tmp_path, monkeypatch
):
    """Lines and checkpoints are further apart than looks at the images, which would be NaN, too."""

    def look(*given):
        raise AssertionError("images are drawn")

    monkeypatch.setattr(
        diffusion_task.DiffusionTask,
        "step",
        lambda self, k, *batch: {"loss": float("nan") if k == 2 else 1.0},
    )
    monkeypatch.setattr(pipeline, "monitor_for", lambda *given: look)
    p = recipe(train={"log_every": 7, "checkpoint_every": 7, "watch_every": 4})
    with pytest.raises(InputError, match="loss is not finite at step 3"):
        pipeline.train_generator("diffusion", p, dataset, tmp_path)


def test_a_signal_in_the_last_step_is_not_lost(dataset, tmp_path, monkeypatch):
    """It is saved and stopped; the next run only finishes, with the same bits."""
    whole = trained(tmp_path / "whole", dataset)
    step = diffusion_task.DiffusionTask.step
    calls = []

    def interrupted(self, k, *batch):
        calls.append(k)
        if k == 6:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, k, *batch)

    monkeypatch.setattr(diffusion_task.DiffusionTask, "step", interrupted)
    parts = tmp_path / "parts"
    parts.mkdir()
    with pytest.raises(KeyboardInterrupt):
        pipeline.train_generator("diffusion", recipe(), dataset, parts)
    pipeline.train_generator("diffusion", recipe(), dataset, parts)
    assert calls.count(6) == 1
    for name in ("model.safetensors", "history.csv"):
        assert io.sha256(whole / name) == io.sha256(parts / name)


@pytest.mark.parametrize("damage", ["truncated", "random", "other", "pickle"])
def test_a_checkpoint_that_is_not_ours_is_refused(damage, dataset, tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    task = loop.task("diffusion", recipe(), dataset, make_accelerator("cpu"))
    loop.save(task, path, STATE)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:5000])
    elif damage == "random":
        path.write_bytes(np.random.default_rng(0).bytes(5000))
    elif damage == "other":
        loop.save(
            loop.task("diffusion", recipe(model={"width": 24}), dataset, make_accelerator("cpu")),
            path,
            STATE,
        )
    else:

        class Evil:
            def __reduce__(self):
                return (open, (str(tmp_path / "executed"), "w"))

        torch.save({"step": 2, "parts": Evil()}, path)
    with pytest.raises(InputError, match="not a checkpoint of this recipe"):
        pipeline.train_generator("diffusion", recipe(), dataset, tmp_path)
    assert not (tmp_path / "executed").exists()


def test_what_changes_no_result_trains_nothing_again():
    def model(**train):
        return _model_recipe(Run(recipe(train=train)), "diffusion")

    same = model(checkpoint_every=9, hold="disk", tracker="wandb", compile=True)
    assert same == model() != model(rate=0.5)


def test_only_epochs_that_come_are_kept():
    settings = Train(epochs=10, batch=8, keep=(5, 10, 200))
    assert pipeline.counted(settings, 80)[1] == {
        50: "epoch-5.safetensors",
        100: "epoch-10.safetensors",
    }


@pytest.mark.parametrize(
    "module, name, error",
    [
        (pipeline, "animate", Cut),
        (artefact, "_seal", Cut),
        (artefact, "_seal", OSError),
        (artefact, "replace", Cut),
    ],
)
def test_killed_while_it_finishes_it_goes_on_from_its_checkpoint(
    module, name, error, dataset, tmp_path, monkeypatch, capsys
):
    changes = {"steps": 9, "watch_every": 3, "checkpoint_every": 4}
    whole = trained(tmp_path / "whole", dataset, "gan", gan=changes)

    def cut(*a):
        raise error("cut")

    with monkeypatch.context() as patch, pytest.raises((error, InputError)):
        patch.setattr(module, name, cut)
        trained(tmp_path / "cut", dataset, "gan", gan=changes)
    capsys.readouterr()
    cut_short = trained(tmp_path / "cut", dataset, "gan", gan=changes)
    assert "resumed at step 8" in capsys.readouterr().out
    assert io.sha256(whole / "model.safetensors") == io.sha256(cut_short / "model.safetensors")
    assert not list(cut_short.glob("best*")) and not list(cut_short.glob("checkpoint*"))
