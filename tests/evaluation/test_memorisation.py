"""Copies of training images are found, even noisy, turned or brighter; fresh images are none."""

import numpy as np
import pytest
import torch

from lensnb.evaluation import memorisation
from lensnb.lensing.simulate import simulate


@pytest.fixture(scope="module")
def lenses():
    images, _ = simulate(1400, "broad", seed=5)
    return {"train": images[:1000], "held": images[1000:1200], "fresh": images[1200:]}


def changed(change, x, rng):
    """Images that copy x but for a change."""
    if change == "noisy":
        return x + rng.normal(0, 1, x.shape)
    if change == "turned":
        return np.rot90(x, 3, (2, 3))
    if change == "mirrored":
        return x[:, :, :, ::-1]
    if change == "brighter":
        return 1.4 * x + 3
    return x


@pytest.mark.parametrize("change", ["exact", "noisy", "turned", "mirrored", "brighter"])
def test_ten_per_cent_copies_are_found_and_named(change, lenses):
    rng = np.random.default_rng(0)
    made = lenses["fresh"].copy()
    source = rng.choice(1000, 20, replace=False)
    made[:20] = changed(change, lenses["train"][source], rng)
    found = memorisation.memorised(made, lenses["train"], lenses["held"], pairs=20)
    # noise moves the centre of two in twenty by a pixel, and one of them is missed
    missed = 1 if change == "noisy" else 0
    assert 0.1 - missed / 200 <= found["share"] < 0.15 and found["n"] == 200
    named = {(i, j) for i, j, _ in found["pairs"]}
    assert len(set(zip(range(20), source.tolist(), strict=True)) - named) <= 2 * missed
    ratios = [ratio for *_, ratio in found["pairs"]]
    assert sum(ratio >= 0.5 * found["threshold"] for ratio in ratios) <= 4 * missed


def test_fresh_images_are_no_copies(lenses):
    found = memorisation.memorised(lenses["fresh"], lenses["train"], lenses["held"])
    assert (
        found["share"] < found["floor"] + 4 * (found["floor"] / 200) ** 0.5
        and abs(found["ratio"] - found["real_ratio"]) < 0.05
    )


@pytest.mark.parametrize("held", [20, 100])
def test_the_floor_is_the_rate_of_false_alarms(held, monkeypatch):
    """Of images that are like the held-out ones in all; a hundredth of a few is less than one."""
    rng = np.random.default_rng(3)
    images = np.ones((200, 1, 8, 8))
    monkeypatch.setattr(
        memorisation,
        "nearest",
        lambda rows, *_, **__: (rng.lognormal(size=len(rows)), np.zeros(len(rows), int)),
    )
    found = [memorisation.memorised(images, images[:1], images[:held]) for _ in range(1000)]
    assert (
        abs(np.mean([tree["share"] for tree in found]) / found[0]["floor"] - 1) < 0.12
        and found[0]["floor"] > 1.5 * memorisation.RARE
    )


def test_nearest_is_the_brute_force_minimum_over_all_symmetries(monkeypatch):
    rng = np.random.default_rng(1)
    made, pool = (rng.normal(size=(n, 1, 32, 32)) for n in (7, 11))
    a, b = map(memorisation.maps, (made, pool))
    square = b.view(-1, 16, 16).numpy()
    ways = [np.rot90(m, k, (1, 2)) for m in (square, square[:, :, ::-1]) for k in range(4)]
    apart = np.stack(
        [np.linalg.norm(a.numpy()[:, None] - w.reshape(1, 11, 256), axis=2) for w in ways]
    ).min(0)
    for block in (1024, 4):
        monkeypatch.setattr(memorisation, "BLOCK", block)
        distance, index = memorisation.nearest(a, pool, chunk=3)
        assert np.abs(distance - apart.min(1)).max() < 1e-5 and np.array_equal(
            index, apart.argmin(1)
        )
    monkeypatch.setattr(memorisation, "BLOCK", 3)
    alone, other = memorisation.nearest(a, made, np.arange(7), chunk=2)
    assert (other != np.arange(7)).all() and alone.min() > 0.1
    _, other = memorisation.nearest(a, made, np.array([0, -1, 2, 3, -1, 5, 6]), chunk=2)
    assert np.array_equal(np.flatnonzero(other == np.arange(7)), [1, 4])


def test_a_part_of_the_held_out_images_says_what_is_usual_of_all(lenses, monkeypatch):
    """Beyond YARDSTICK the time grows with the training images alone; the rest are neighbours."""
    whole = memorisation.memorised(lenses["fresh"], lenses["train"], lenses["held"])
    monkeypatch.setattr(memorisation, "YARDSTICK", 100)
    part = memorisation.memorised(lenses["fresh"], lenses["train"], lenses["held"])
    assert (
        part["ratio"] == whole["ratio"] and abs(part["real_ratio"] / whole["real_ratio"] - 1) < 0.03
    )
    assert part["threshold"] != whole["threshold"]


def test_maps_are_area_means_of_unit_length():
    image = np.random.default_rng(2).normal(size=(1, 3, 64, 64))
    image[..., 28:36, 28:36] += 100  # the light is in the middle already
    means = image.mean(1).reshape(16, 4, 16, 4).mean((1, 3)).ravel()
    expected = (means - means.mean()) / np.linalg.norm(means - means.mean())
    assert np.abs(memorisation.maps(image)[0].numpy() - expected).max() < 1e-5
    shifted = np.roll(image, (3, -5), (2, 3))
    assert np.abs(memorisation.maps(shifted)[0].numpy() - expected).max() < 1e-5
    assert torch.isfinite(
        memorisation.maps(np.ones((2, 1, 32, 32)))
    ).all()  # a constant image has no direction, and no NaN
