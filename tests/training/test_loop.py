"""The loop: the same bits after an interruption, refusals, EMA, symmetries."""

import contextlib
import dataclasses
import json
import sqlite3
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from lensnb import io, pipeline
from lensnb.datasets.dataset import choose, load_dataset, prepare_dataset
from lensnb.display import figures
from lensnb.errors import InputError
from lensnb.evaluation.monitor import Monitor, diversity
from lensnb.recipes.recipe import validate
from lensnb.recipes.schema import Data, Train
from lensnb.runs import artefact
from lensnb.runs.run_folder import _model_recipe
from lensnb.training import diffusion_task, loader, loop, optimise, preflight
from lensnb.training.accelerator import make_accelerator

STATE = {"step": 2, "history": [], "recent": [], "watched": [], "seconds": 1.0}


class Cut(Exception):
    pass


@pytest.fixture
def dataset(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(40, 1, 32, 32)).astype(np.float32).cumsum(-1)
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "labels.npy", np.arange(40) % 2)
    p = Data(path=str(tmp_path / "images.npy"), labels=str(tmp_path / "labels.npy"), size=32)
    prepare_dataset(p, 0, tmp_path / "data")
    return load_dataset(tmp_path / "data")


def recipe(**changes):
    tree = {
        "device": "cpu",
        "data": {"size": 32},
        "model": {"width": 16, "dropout": 0.2, "context": "class"},
        "train": {
            "steps": 7,
            "batch": 8,
            "warmup": 3,
            "log_every": 3,
            "checkpoint_every": 2,
            "watch_every": 0,
        },
        "gan": {
            "steps": 7,
            "batch": 8,
            "width": 8,
            "latent": 8,
            "log_every": 3,
            "checkpoint_every": 2,
            "watch_every": 0,
        },
    }
    for key, section in changes.items():
        tree[key] = tree.get(key, {}) | section
    return validate(tree, "test")


@pytest.mark.parametrize("name", ["diffusion", "gan"])
@pytest.mark.parametrize("cut", [1, 4, 6])
def test_interrupted_and_resumed_training_has_the_same_bits(
    name, cut, dataset, tmp_path, monkeypatch
):
    whole = tmp_path / "whole"
    parts = tmp_path / "parts"
    whole.mkdir(), parts.mkdir()
    pipeline.train_generator(name, recipe(), dataset, whole)
    kind = type(loop.task(name, recipe(), dataset, make_accelerator("cpu")))
    step = kind.step

    def cut_short(self, k, *batch):
        if k == cut:
            raise Cut
        return step(self, k, *batch)

    with monkeypatch.context() as patch, pytest.raises(Cut):
        patch.setattr(kind, "step", cut_short)
        pipeline.train_generator(name, recipe(), dataset, parts)
    assert not (parts / "model.safetensors").exists()
    torch.rand(5)  # the global generator is somewhere else now
    pipeline.train_generator(name, recipe(), dataset, parts)
    for file in ("model.safetensors", "history.csv"):
        assert io.sha256(whole / file) == io.sha256(parts / file)


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
    assert table["step"].tolist() == [50, 100, 150, 200] and table["images"].tolist() == [
        400,
        800,
        1200,
        1600,
    ]
    assert table["loss"][-1] < 0.7 * table["loss"][0]


def test_the_rate_rises_stays_and_falls_to_zero():
    settings = recipe(train={"steps": 100, "warmup": 9, "cooldown": 0.5}).train
    share = [optimise.rate_factor(k, settings) for k in range(100)]
    assert abs(share[0] - 0.1) < 1e-12 and share[9:50] == [1.0] * 41
    assert (
        max(abs(s - (100 - k) / 51) for k, s in enumerate(share[50:], 50)) < 1e-12
        and share[-1] < 0.02
    )


def test_one_cycle_is_torchs_own():
    weight = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([weight], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.3, total_steps=200, pct_start=0.25)
    settings = recipe(train={"steps": 200, "shape": "onecycle", "warmup": 0.25}).train
    for k in range(200):
        assert abs(0.3 * optimise.rate_factor(k, settings) - optimiser.param_groups[0]["lr"]) < 1e-12
        optimiser.step()
        if k < 199:
            theirs.step()


def test_the_cosine_rate_rises_and_falls_to_zero():
    settings = recipe(train={"steps": 110, "shape": "cosine", "warmup": 10}).train
    share = [optimise.rate_factor(k, settings) for k in range(110)]
    assert np.abs(np.diff(share[:10]) - 1 / 11).max() < 1e-12 and share[10] == 1
    assert (
        abs(share[60] - 0.5) < 1e-12
        and share[-1] < 1e-3
        and min(np.diff(share[:11])) > 0 > max(np.diff(share[10:]))
    )


def test_linear_decay_is_a_trapezium_without_plateau():
    settings = recipe(train={"steps": 50, "warmup": 0, "cooldown": 1.0}).train
    share = [optimise.rate_factor(k, settings) for k in range(50)]
    assert np.abs(np.array(share) - (50 - np.arange(50)) / 51).max() < 1e-12


def test_a_batch_in_pieces_is_the_same_update(dataset, tmp_path):
    """Accumulation saves memory and changes nothing: group norm knows no batch."""
    weights = []
    for pieces in (1, 3):
        p = recipe(train={"steps": 3, "accumulate": pieces}, model={"dropout": 0})
        (tmp_path / str(pieces)).mkdir()
        pipeline.train_generator("diffusion", p, dataset, tmp_path / str(pieces))
        weights.append(safetensors.torch.load_file(tmp_path / str(pieces) / "model.safetensors"))
    assert max((weights[0][k] - weights[1][k]).abs().max() for k in weights[0]) < 1e-4
    histories = [io.read_table(tmp_path / str(n) / "history.csv")["loss"] for n in (1, 3)]
    assert abs(histories[0] / histories[1] - 1).max() < 1e-4


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
        {"train": {"precision": "bf16", "shape": "cosine"}},
        {"train": {"shape": "onecycle", "warmup": 0.25, "accumulate": 2}},
    ],
    ids=str,
)
def test_every_choice_learns_and_resumes_to_the_same_bits(changes, dataset, tmp_path, monkeypatch):
    tree = {
        "model": {"dropout": 0.2, "width": 16},
        "diffusion": {},
        "train": {"steps": 60, "rate": 3e-3, "log_every": 20},
    }
    p = recipe(**{k: tree[k] | changes.get(k, {}) for k in tree})
    whole = tmp_path / "whole"
    parts = tmp_path / "parts"
    whole.mkdir(), parts.mkdir()
    pipeline.train_generator("diffusion", p, dataset, whole)
    loss = io.read_table(whole / "history.csv")["loss"]
    assert np.isfinite(loss).all() and loss[-1] < loss[0]
    step = diffusion_task.DiffusionTask.step

    def cut_short(self, k, *batch):
        if k == 41:
            raise Cut
        return step(self, k, *batch)

    with monkeypatch.context() as patch, pytest.raises(Cut):
        patch.setattr(diffusion_task.DiffusionTask, "step", cut_short)
        pipeline.train_generator("diffusion", p, dataset, parts)
    pipeline.train_generator("diffusion", p, dataset, parts)
    assert io.sha256(whole / "model.safetensors") == io.sha256(parts / "model.safetensors")


def at_random(x, flips):
    return loader.apply_symmetries(x, loader.draw_symmetries(flips, len(x), torch.Generator().manual_seed(0), x.device))


def test_mirrored_images_are_mirrored_left_to_right_alone():
    x = torch.arange(6.0).view(1, 1, 2, 3)
    seen = {tuple(image.flatten().tolist()) for image in at_random(x.repeat(50, 1, 1, 1), "mirror")}
    assert seen == {(0, 1, 2, 3, 4, 5), (2, 1, 0, 5, 4, 3)}


def test_ramped_average_is_the_recursion_written_out():
    average = torch.optim.swa_utils.AveragedModel(
        torch.nn.Linear(1, 1, bias=False), avg_fn=optimise.ramped_average(0.1)
    )
    values = [3.0, -1.0, 4.0, 1.0, -5.0]
    expected = None
    for n, value in enumerate(values):
        model = torch.nn.Linear(1, 1, bias=False)
        model.weight.data.fill_(value)
        average.update_parameters(model)
        expected = value if n == 0 else expected + (value - expected) / (1 + 0.1 * n)
    assert abs(average.module.weight.item() - expected) < 1e-6


def test_batches_go_through_every_image_before_any_comes_again():
    images = torch.arange(10.0).view(10, 1, 1, 1)
    made = loader.Batches(images, images[:, 0, 0], 4, "none", seed=5)
    drawn = torch.cat([made(k, None)[0].flatten() for k in range(5)])
    assert sorted(drawn[:10].tolist()) == sorted(drawn[10:].tolist()) == list(range(10))
    assert drawn[:10].tolist() != drawn[10:].tolist()
    x, context = made(2, None)
    assert torch.equal(x.flatten(), context.flatten())


def test_symmetries_are_the_eight_of_the_square():
    x = torch.arange(9.0).view(1, 1, 3, 3)
    seen = {
        tuple(image.flatten().tolist()) for image in at_random(x.repeat(400, 1, 1, 1), "square")
    }
    flips = [np.rot90(m, k) for m in (x[0, 0].numpy(), x[0, 0].numpy().T) for k in range(4)]
    assert seen == {tuple(m.flatten().tolist()) for m in flips}


def test_a_batch_above_the_training_images_is_refused(dataset, tmp_path):
    with pytest.raises(InputError, match="batch 64 is above the 36 training images"):
        pipeline.train_generator("diffusion", recipe(train={"batch": 64}), dataset, tmp_path)


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


def test_a_device_that_is_not_there_is_refused():
    if torch.cuda.is_available():
        pytest.skip("this machine has the device")
    with pytest.raises(InputError, match="cuda"):
        make_accelerator("cuda")


def test_the_gans_two_updates_touch_their_own_network_only(dataset):
    task = loop.task("gan", recipe(gan={"critic_updates": 2}), dataset, make_accelerator("cpu"))

    def weights(net):
        return torch.cat([p.detach().flatten() for p in net.parameters()])

    x = torch.randn(8, 1, 32, 32)
    generator = torch.Generator().manual_seed(0)
    updates = []
    for name in ("adam_d", "adam_g"):
        optimiser = getattr(task, name)
        original = optimiser.step

        def spy(*a, original=original, name=name, **k):
            before = weights(task.generator), weights(task.discriminator)
            original(*a, **k)
            updates.append(
                (
                    name,
                    not torch.equal(before[0], weights(task.generator)),
                    not torch.equal(before[1], weights(task.discriminator)),
                )
            )

        optimiser.step = spy
    task.step(0, x, torch.eye(2)[torch.arange(8) % 2], generator)
    assert updates == [("adam_d", False, True)] * 2 + [("adam_g", True, False)]


def test_scaled_images_are_what_the_network_trains_on(dataset, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        diffusion_task.DiffusionTask,
        "step",
        lambda self, k, x, *rest: seen.append(x) or {"loss": 1.0},
    )
    pipeline.train_generator(
        "diffusion", recipe(train={"steps": 9, "batch": 4, "flips": "none"}), dataset, tmp_path
    )
    expected = dataset.scaling.forward(np.asarray(dataset.images)[dataset.train])
    assert (
        np.abs(np.sort(torch.cat(seen[-9:]).flatten().numpy()) - np.sort(expected.flatten())).max()
        < 1e-6
    )
    assert dataclasses.asdict(dataset.scaling)["kind"] == "asinh"


# What surrounds the loop ---------------------------------------------------------------------------


def trained(folder, dataset, name="diffusion", **changes):
    return artefact.build(
        folder,
        {},
        lambda unfinished: pipeline.train_generator(name, recipe(**changes), dataset, unfinished),
    )


def test_images_read_by_workers_give_the_same_bits(dataset, tmp_path):
    held, read = (
        trained(tmp_path / hold, dataset, train={"steps": 12, "hold": hold})
        for hold in ("device", "disk")
    )
    assert io.sha256(held / "model.safetensors") == io.sha256(read / "model.safetensors")
    assert io.sha256(held / "history.csv") == io.sha256(read / "history.csv")


def test_images_that_do_not_fit_stay_on_disk(dataset, monkeypatch):
    def kind():
        return type(loader.batches_of(dataset, None, recipe().train, 0, torch.device("cpu"))).__name__

    assert kind() == "Batches"
    monkeypatch.setattr(loader, "free_memory", lambda device: 36 * 4 * 32 * 32 * 3)
    assert kind() == "MappedBatches"


def test_batches_are_read_from_anywhere(dataset):
    p = recipe(train={"hold": "disk"}).train
    mapped = loader.batches_of(dataset, None, p, 0, torch.device("cpu"))
    held = loader.batches_of(
        dataset, None, p.model_copy(update={"hold": "device"}), 0, torch.device("cpu")
    )
    for k in (0, 1, 2, 7, 8, 3):
        x, y = (made(k, torch.Generator().manual_seed(k))[0] for made in (mapped, held))
        assert torch.equal(x, y)


def test_the_estimate_leaves_no_trace(dataset):
    made = loop.task("gan", recipe(), dataset, make_accelerator("cpu"))
    before = {
        name: {k: v.clone() for k, v in net.state_dict().items()}
        for name, net in (("g", made.generator), ("d", made.discriminator), ("e", made.model))
    }
    context = torch.eye(2)[torch.arange(36) % 2]
    source = loader.Batches(torch.randn(36, 1, 32, 32), context, 8, "none", 0)
    told = preflight.Estimate(made, source, make_accelerator("cpu")).describe(100)
    assert "100 steps in about" in told and "GiB on cpu" in told
    for name, net in (("g", made.generator), ("d", made.discriminator), ("e", made.model)):
        assert all(torch.equal(v, before[name][k]) for k, v in net.state_dict().items())
    assert not made.adam_g.state and not made.adam_d.state


def test_memory_is_that_of_the_layers_and_falls_with_checkpointing(dataset):
    """Oracle: of a chain of n linear layers and SiLUs autograd keeps the inputs, 2 n maps."""
    net = torch.nn.Sequential(
        *(m for _ in range(5) for m in (torch.nn.Linear(64, 64), torch.nn.SiLU()))
    )
    saved = preflight.SavedTensors()
    with torch.autograd.graph.saved_tensors_hooks(saved, lambda tensor: tensor):
        kept = net(torch.randn(1000, 64, requires_grad=True))
    weights = 5 * 64 * 64 * 4
    assert saved.total - weights == 10 * 1000 * 64 * 4 and kept.shape == (1000, 64)
    source = loader.Batches(torch.randn(36, 1, 32, 32), None, 8, "none", 0)

    def make(**model):
        return preflight.Estimate(
            loop.task(
                "diffusion",
                recipe(model={"context": "none", **model}),
                dataset,
                make_accelerator("cpu"),
            ),
            source,
            make_accelerator("cpu"),
        ).image

    assert make(checkpointing=True) < 0.7 * make()


def test_the_memory_of_an_image_is_without_that_of_the_weights(dataset):
    """Oracle: one convolution keeps its input and what the loss keeps, whatever its own size."""

    def make(width):
        net = torch.nn.Sequential(torch.nn.Conv2d(1, width, 1), torch.nn.Conv2d(width, 1, 1))

        def step(k, x, context, generator):
            return net(x).mean().backward()

        task = SimpleNamespace(step=step, pieces=1, parts={}, nets=(net,))
        return preflight.Estimate(
            task,
            loader.Batches(torch.randn(36, 1, 32, 32), None, 8, "none", 0),
            make_accelerator("cpu"),
        ).image

    assert make(64) == (64 + 1) * 32 * 32 * 4 and make(1024) == (1024 + 1) * 32 * 32 * 4


def test_what_a_person_watches(dataset, tmp_path):
    folder = trained(tmp_path / "it", dataset, train={"steps": 9, "watch_every": 4})
    table = io.read_table(folder / "watch.csv")
    assert (
        table["step"].tolist() == [4, 8, 9]
        and np.isfinite(table["kid"]).all()
        and (table["kid_error"] > 0).all()
        and (table["diversity"] > 0).all()
    )
    frames = [np.load(path) for path in sorted(folder.glob("watch-*.npy"))]
    assert [f.shape for f in frames] == [(16, 1, 32, 32)] * 3 and not np.array_equal(
        frames[0], frames[2]
    )
    with Image.open(folder / "progress.gif") as film:
        assert film.n_frames == 3 and film.size == (2 * 8 * 32, 2 * 2 * 32)
        film.seek(2)
        shown = np.asarray(film.convert("RGB"), float).sum(
            axis=2
        )  # brighter means more, in rows of 8 images, origin below
    last = figures.stretch(frames[2][3, 0, ::-1], *figures.limits(frames[2]))
    assert np.corrcoef(shown[:64:2, 2 * 96 : 2 * 128 : 2].ravel(), last.ravel())[0, 1] > 0.95
    unwatched = trained(tmp_path / "other", dataset, train={"steps": 9})
    assert io.sha256(folder / "model.safetensors") == io.sha256(
        unwatched / "model.safetensors"
    )  # watching changes nothing
    assert not list(unwatched.glob("watch*")) and not list(folder.glob("best*"))


def test_the_gan_is_kept_as_it_was_best_and_collapse_is_said(
    dataset, tmp_path, monkeypatch, capsys
):
    seen = iter(
        [
            {"kid": 0.3, "kid_error": 0.1, "diversity": 1.0},
            {"kid": 0.1, "kid_error": 0.1, "diversity": 0.9},
            {"kid": 0.2, "kid_error": 0.1, "diversity": 0.2},
        ]
    )
    nets = []

    class Fake:
        collapsed = 0.5

        def __call__(self, net):
            nets.append({k: v.clone() for k, v in net.state_dict().items()})
            return next(seen), np.random.default_rng(0).random((16, 1, 32, 32), np.float32)

    monkeypatch.setattr(pipeline, "monitor_for", lambda *a: Fake())
    folder = trained(tmp_path / "it", dataset, "gan", gan={"steps": 6, "watch_every": 2})
    kept = safetensors.torch.load_file(folder / "model.safetensors")
    assert all(torch.equal(kept[k], nets[1][k]) for k in kept) and not all(
        torch.equal(kept[k], nets[2][k]) for k in kept
    )
    assert capsys.readouterr().out.count("0.20 times as diverse as real ones") == 1


def test_copies_of_one_image_are_not_diverse(dataset):
    rows = np.random.default_rng(0).normal(size=(30, 8))
    assert diversity(np.repeat(rows[:1], 30, axis=0)) == 0
    pairs = [np.linalg.norm(a - b) for i, a in enumerate(rows) for b in rows[:i]]
    assert abs(diversity(rows) - np.mean(pairs)) < 1e-12


def test_what_is_watched_is_not_what_judges(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "images.npy", rng.normal(size=(600, 16, 16)).astype(np.float32))
    prepare_dataset(
        Data(path=str(tmp_path / "images.npy"), size=16, holdout=0.5), 0, tmp_path / "data"
    )
    dataset = load_dataset(tmp_path / "data")
    p = recipe(evaluate={"n": 100}, data={"size": 16}, model={"context": "none"})
    judged = set(choose(dataset, 100, p.seed)[0])
    seen = []

    class Spy:
        shape = dataset.images.shape

        def __getitem__(self, rows):
            seen.extend(np.atleast_1d(rows).tolist())
            return dataset.images[rows]

    made = Monitor(p, "diffusion", dataclasses.replace(dataset, images=Spy()), torch.device("cpu"))
    assert (
        made.against == "held-out images"
        and len(seen) == 75
        and not judged & set(seen)
        and set(seen) <= set(dataset.heldout)
    )
    everything = set(choose(dataset, 10**6, p.seed)[0])  # however many a later comparison asks for
    assert len(everything) == 150 and not everything & set(seen)


def test_fp16_skips_what_overflows_counts_it_and_gives_up_where_all_does(
    dataset, tmp_path, monkeypatch
):
    """The scaler of torch on a CPU stands in for that of a GPU."""
    real = make_accelerator

    def scaled(*a):
        made = real("cpu")
        made.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
        return made

    monkeypatch.setattr(pipeline, "make_accelerator", scaled)
    plain = diffusion_task.denoiser.loss
    calls = []

    def overflow(*a, every):
        calls.append(1)
        return plain(*a) * (float("inf") if len(calls) % every == 0 else 1)

    monkeypatch.setattr(diffusion_task.denoiser, "loss", lambda *a: overflow(*a, every=5))
    folder = trained(tmp_path / "some", dataset, train={"steps": 30, "log_every": 10})
    table = io.read_table(folder / "history.csv")
    assert np.abs(table["skipped"] - 0.2).max() < 1e-12
    assert all(
        torch.isfinite(w).all()
        for w in safetensors.torch.load_file(folder / "model.safetensors").values()
    )
    monkeypatch.setattr(diffusion_task.denoiser, "loss", lambda *a: overflow(*a, every=1))
    with pytest.raises(
        InputError, match="fp16 skipped most updates before step 10; set train.precision"
    ):
        trained(tmp_path / "all", dataset, train={"steps": 30, "log_every": 10})


def test_fp16_on_a_cpu_is_refused():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(InputError, match="fp16 needs a GPU"):
        make_accelerator("auto", "fp16")


def test_losses_go_to_tensorboard_and_not_into_the_model(dataset, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = trained(
        tmp_path / "run/models/diffusion",
        dataset,
        train={"steps": 9, "tracker": "tensorboard", "watch_every": 9},
    )
    events = EventAccumulator(str(tmp_path / "run/tracking/diffusion/lensnb"))
    events.Reload()
    logged = events.Scalars("loss")
    table = io.read_table(folder / "history.csv")
    assert [e.step for e in logged] == table["step"].tolist() and np.abs(
        np.array([e.value for e in logged]) / table["loss"] - 1
    ).max() < 1e-6
    assert events.Scalars("kid") and {p.suffix for p in folder.iterdir()} == {
        ".safetensors",
        ".csv",
        ".json",
        ".npy",
        ".yaml",
    }


def test_weights_and_biases_works_offline(dataset, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    trained(tmp_path / "run/models/diffusion", dataset, train={"steps": 9, "tracker": "wandb"})
    kept = list((tmp_path / "run/tracking/diffusion/wandb").glob("offline-run-*/run-*.wandb"))
    assert (
        len(kept) == 1
        and b"loss" in kept[0].read_bytes()
        and b"train.steps" in kept[0].read_bytes()
    )


def test_trackio_keeps_losses_and_parameters(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv(
        "TRACKIO_DIR", str(tmp_path / "kept")
    )  # read when trackio is first imported, which is here
    folder = trained(
        tmp_path / "run/models/diffusion", dataset, train={"steps": 9, "tracker": "trackio"}
    )
    with contextlib.closing(sqlite3.connect(tmp_path / "kept/lensnb.db")) as base:
        rows = base.execute("select step, metrics from metrics order by step").fetchall()
        ((config,),) = base.execute("select config from configs").fetchall()
    table = io.read_table(folder / "history.csv")
    assert [step for step, _ in rows] == table["step"].tolist() and json.loads(config)[
        "train.steps"
    ] == 9
    assert (
        np.abs(
            np.array([json.loads(logged)["loss"] for _, logged in rows]) / table["loss"] - 1
        ).max()
        < 1e-6
    )


def test_a_tracker_that_is_not_installed_is_a_sentence(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        InputError,
        match="train.tracker: wandb is not installed; pip install wandb, or set it to none",
    ):
        make_accelerator("cpu", "fp32", "wandb")


@pytest.mark.parametrize("pieces, processes, n", [(1, 1, 8), (2, 1, 8), (1, 3, 8), (2, 2, 3)])
def test_parts_are_the_batch_once_and_each_has_all_noise_levels(pieces, processes, n):
    rows = torch.arange(n)
    found = []
    for index in range(processes):
        on = SimpleNamespace(num_processes=processes, process_index=index)
        found += list(optimise.split_batch((rows, None), pieces, on))
    assert sorted(torch.cat([part for (part, _), _ in found]).tolist()) == rows.tolist() and all(
        nothing is None for (_, nothing), _ in found
    )
    assert abs(sum(share for _, share in found) - 1) < 1e-12
    assert all(
        part.float().diff().max() <= pieces * processes for (part, _), _ in found if len(part) > 1
    )
    assert len(found) == min(n, pieces * processes) and all(
        part[0] < pieces * processes for (part, _), _ in found
    )


@pytest.mark.parametrize("shape", ["cosine", "onecycle"])
def test_a_training_may_be_all_warm_up(shape):
    settings = Train(steps=3, warmup=3, shape=shape)
    assert all(0 <= optimise.rate_factor(k, settings) <= 1 for k in range(4))


def test_what_changes_no_result_trains_nothing_again():
    def model(**train):
        return _model_recipe(recipe(train=train).model_dump(mode="json"), "diffusion")

    assert model(checkpoint_every=9, hold="disk", tracker="wandb") == model() != model(rate=0.5)


def test_only_epochs_that_come_are_kept():
    settings = Train(epochs=10, batch=8, keep=(5, 10, 200))
    assert pipeline.counted(settings, 80)[1] == {
        50: "epoch-5.safetensors",
        100: "epoch-10.safetensors",
    }


def test_images_leave_the_memory_with_their_batches():
    batches = loader.Batches(torch.zeros(9, 1, 4, 4), None, 4, "none", 0)
    images = weakref.ref(batches.images)
    batches(0, torch.Generator())
    del batches
    assert images() is None


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
