"""What is watched during a training, and the weights that are kept by it."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from small_training import recipe, trained

from lensnb import io, pipeline
from lensnb.datasets.dataset import comparison_rows, load_dataset, prepare_dataset
from lensnb.display import figures
from lensnb.errors import InputError
from lensnb.evaluation import lensnet
from lensnb.evaluation.monitor import Monitor, diversity
from lensnb.recipes.schema import Data


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
            {"kid": 3e8, "kid_error": 0.1, "diversity": 1.0},
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
    printed = capsys.readouterr().out
    assert printed.count("0.20 times as diverse as real ones") == 1
    far = "kid over 10,000 (nothing like real images yet) kid_error 0.1"
    assert printed.count(far) == 1 and "kid 0.1 kid_error 0.1 diversity 0.9" in printed


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
    judged = set(comparison_rows(dataset, 100, p.seed)[0])
    seen = []

    class Spy:
        shape = dataset.images.shape

        def __getitem__(self, rows):
            seen.extend(np.atleast_1d(rows).tolist())
            return dataset.images[rows]

    made = Monitor(p, "diffusion", dataclasses.replace(dataset, images=Spy()), torch.device("cpu"))
    assert (
        made.compared_with == "held-out images"
        and len(seen) == 75
        and not judged & set(seen)
        and set(seen) <= set(dataset.heldout)
    )
    # however many a later comparison asks for
    everything = set(comparison_rows(dataset, 10**6, p.seed)[0])
    assert len(everything) == 150 and not everything & set(seen)


def test_a_dead_feature_counts_for_nothing(tmp_path, monkeypatch):
    """Divided by its scatter among real images, it would outweigh all others."""
    real = np.random.default_rng(0).normal(size=(40, 4)) * [1, 2, 3, 1e-6]
    monitor = monitor_of(real, monkeypatch)
    assert monitor.real.shape == (40, 3) and np.abs(monitor.real.std(axis=0) - 1).max() < 1e-12
    made = np.array([[1.0, 2.0, 3.0, 50.0]])
    expected = made[:, :3] / real[:, :3].std(axis=0)
    assert np.abs(monitor._scaled(made) - expected).max() < 1e-12


def test_images_that_are_all_the_same_cannot_be_watched(monkeypatch):
    """Up to rounding: nothing has a scatter to be measured in, and the network may still learn."""
    rounding = 1 + 1e-9 * np.random.default_rng(0).normal(size=(40, 4))
    with pytest.raises(InputError, match=r"^gan\.watch_every: all .* are the same.* set it to 0"):
        monitor_of(rounding, monkeypatch)
    assert monitor_of(rounding + np.eye(40, 4), monkeypatch).real.shape == (40, 4)


def monitor_of(features, monkeypatch):
    """A monitor whose real images have these features (N, d)."""
    reader = SimpleNamespace(features=lambda images: features)
    monkeypatch.setattr(lensnet, "Reader", lambda units, net: reader)
    dataset = SimpleNamespace(
        images=np.zeros((40, 1, 8, 8), np.float32), train=np.arange(20), heldout=np.arange(20, 40)
    )
    return Monitor(recipe(), "gan", dataset, torch.device("cpu"))
