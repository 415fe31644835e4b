"""Batches of training images: order, symmetries, and where the images are."""

import dataclasses
import weakref

import numpy as np
import pytest
import torch
from small_training import recipe, trained

from lensnb import io, pipeline
from lensnb.errors import InputError
from lensnb.training import diffusion_task, loader


def test_batches_go_through_every_image_before_any_comes_again():
    images = torch.arange(10.0).view(10, 1, 1, 1)
    made = loader.Batches(images, images[:, 0, 0], 4, "none", seed=5)
    drawn = torch.cat([made(k, None)[0].flatten() for k in range(5)])
    assert sorted(drawn[:10].tolist()) == sorted(drawn[10:].tolist()) == list(range(10))
    assert drawn[:10].tolist() != drawn[10:].tolist()
    x, context = made(2, None)
    assert torch.equal(x.flatten(), context.flatten())


def at_random(x, flips):
    return loader.flipped_and_turned(x, flips, torch.Generator().manual_seed(0))


def test_mirrored_images_are_mirrored_left_to_right_alone():
    x = torch.arange(6.0).view(1, 1, 2, 3)
    seen = {tuple(image.flatten().tolist()) for image in at_random(x.repeat(50, 1, 1, 1), "mirror")}
    assert seen == {(0, 1, 2, 3, 4, 5), (2, 1, 0, 5, 4, 3)}


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


def test_images_read_by_workers_give_the_same_bits(dataset, tmp_path):
    held, read = (
        trained(tmp_path / hold, dataset, train={"steps": 12, "hold": hold})
        for hold in ("device", "disk")
    )
    assert io.sha256(held / "model.safetensors") == io.sha256(read / "model.safetensors")
    assert io.sha256(held / "history.csv") == io.sha256(read / "history.csv")


def test_images_that_do_not_fit_stay_on_disk(dataset, monkeypatch):
    def kind():
        return type(
            loader.batches_of(dataset, None, recipe().train, 0, torch.device("cpu"))
        ).__name__

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


def test_small_shared_memory_means_no_workers_and_the_same_batches(dataset, monkeypatch, capsys):
    p = recipe(train={"hold": "disk"}).train
    batch_bytes = 4 * p.batch * dataset.images[0].size
    read = {}
    for free in (6 * batch_bytes, 6 * batch_bytes - 1, None):
        monkeypatch.setattr(loader, "free_shared_memory", lambda free=free: free)
        made = loader.batches_of(dataset, None, p, 0, torch.device("cpu"))
        told = capsys.readouterr().out
        read[free] = made.workers, told.count("\n"), made(0, torch.Generator().manual_seed(0))[0]
        assert ("read without workers" in told) == (made.workers == 0)
    (many, _, x), (none, lines, y), (unknown, _, _) = read.values()
    assert (many, none, unknown, lines) == (2, 0, 2, 1) and torch.equal(x, y)


def test_images_leave_the_memory_with_their_batches():
    batches = loader.Batches(torch.zeros(9, 1, 4, 4), None, 4, "none", 0)
    images = weakref.ref(batches.images)
    batches(0, torch.Generator())
    del batches
    assert images() is None
