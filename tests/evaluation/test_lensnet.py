"""LensNet: its own stream of images, what turns with the lens, its versions, its training."""

import hashlib
import signal

import numpy as np
import pytest
import torch

from lensnb.errors import InputError
from lensnb.evaluation import lensnet
from lensnb.lensing.priors import PRIORS
from lensnb.lensing.simulate import clean_images, simulate
from lensnb.lensing.truth_tables import draw_points, draw_truth
from lensnb.seeds import Purpose, seeds_of
from tools import train_lensnet

SEED = 2  # of the published training
# of the first version, computed when it was the only one
OLD_FEATURES = [
    [0.825, -0.104, 1.17, 1.808, 3.494],
    [2.246, 0.036, -0.026, 0.05, 0.761],
    [0.366, -0.04, 1.212, 0.036, 0.578],
]
OLD_THETA_E = [1.093, 1.495, 1.436]
TINY = {"n": 60, "held": 0.5, "steps": 4, "batch": 8}


@pytest.fixture(scope="module")
def lenses():
    return simulate(240, "broad", seed=41)


@pytest.fixture
def lens_without_noise():
    """A lens of the smooth class, alone in its table."""
    return {name: column[:1] for name, column in draw_truth(1, "broad", 5).items()}


def image_of(truth):
    return clean_images(truth, draw_points(truth), PRIORS["broad"])[:, None]


# ---- a stream of its own


def test_no_recipe_draws_the_images_that_lensnet_learned_from():
    x, truth = train_lensnet.stream(6, PRIORS["broad"], 0, SEED)
    for seed in (SEED, 2026, int(truth["index"][0]), 2**63 - 1):
        images, table = simulate(6, "broad", seed)
        apart = np.abs(images[:, None] - x.numpy()[None]).max((2, 3, 4))
        assert apart.min() > 1
        assert not np.isin(table["theta_E"], truth["theta_E"]).any()
    # an image's random numbers come from (seed, number); simulate counts from 0
    assert truth["index"].min() == train_lensnet.FIRST > 2**61
    own = seeds_of(SEED, truth["index"], Purpose.TRUTH)
    reached = seeds_of(SEED, np.arange(100_000), Purpose.TRUTH)
    assert not np.isin(own, reached).any()
    with pytest.raises((ValueError, MemoryError)):  # as many images as it would take
        simulate(train_lensnet.FIRST + 1, "broad", SEED)


def test_the_priors_of_the_training_lie_apart():
    numbers = range(len(train_lensnet.PRIORS_AND_SHARES))
    firsts = [train_lensnet.FIRST + i * train_lensnet.APART for i in numbers]
    assert np.diff(firsts).min() > 10**6 and max(firsts) < 2**63
    assert all(first % 3 == 0 for first in firsts)  # the classes come in turn
    assert sum(share for _, share in train_lensnet.PRIORS_AND_SHARES.values()) == pytest.approx(1)


# ---- what turns with the lens


@pytest.mark.parametrize("angle, mirror", [(0.0, 1), (0.7, 1), (2.1, -1)])
def test_targets_turn_as_the_lens_does(lens_without_noise, angle, mirror):
    """The oracle is the ray tracing of a lens whose truth was turned by hand."""
    truth = lens_without_noise
    cos, sin = np.cos(angle), np.sin(angle)
    turned = dict(truth)
    for x, y in (("x", "y"), ("source_x", "source_y")):
        turned[x] = cos * truth[x] - sin * mirror * truth[y]
        turned[y] = sin * truth[x] + cos * mirror * truth[y]
    for phi in ("phi", "phi_gamma", "source_phi"):
        turned[phi] = mirror * truth[phi] + angle
    how = torch.tensor([angle]), torch.tensor([mirror])
    target = train_lensnet.targets(truth)[:, 6:]
    expected = train_lensnet.targets(turned)[:, 6:]
    assert (train_lensnet.turned_targets(target, *how) - expected).abs().max() < 1e-6
    net = lensnet.load()
    maps = net.maps(image_of(truth), train_lensnet.orthogonal(*how))
    by_hand = net.maps(image_of(turned))
    other = net.maps(image_of(truth))
    gap = (maps - by_hand).abs().max()  # pixels are interpolated in between
    assert gap < 0.2 * (other - by_hand).abs().max() if angle else gap < 1e-5


def test_a_quarter_turn_turns_the_oriented_numbers_and_leaves_the_features(lenses):
    net = lensnet.load()
    x = torch.from_numpy(lenses[0][:8])
    quarter = x.rot90(1, (3, 2))  # from +x to +y
    with torch.no_grad():
        one, other = net.maps(x), net.maps(quarter)
        features = net.blind(one), net.blind(other)
        oriented = net.oriented(one), net.oriented(other)
    how = torch.full((8,), np.pi / 2), torch.ones(8)
    expected = train_lensnet.turned_targets(oriented[0], *how)
    assert (features[0] - features[1]).abs().max() < 1e-3
    assert (oriented[1] - expected).abs().max() < 1e-3
    assert (oriented[1] - oriented[0]).abs().max() > 1


def test_fresh_lenses_are_read_as_the_card_says(lenses):
    images, truth = lenses
    reader = lensnet.Reader(lensnet.Units(images))
    card = lensnet.card_of()["held_out"]
    right = (reader.readings(images)["class"] == truth["class"]).mean()
    assert abs(right - card["accuracy"]) < 4 * (0.2 * 0.8 / len(images)) ** 0.5
    true = train_lensnet.targets(truth)[:, 6:].numpy()
    said = reader.oriented(images)
    for i, name in enumerate(lensnet.ORIENTED):
        std = card["prior_std"][name]
        rms = ((said[:, i] * std - true[:, i]) ** 2).mean() ** 0.5
        assert rms == pytest.approx(card["rms"][name], rel=0.3), name
        assert rms < 0.95 * std or name.startswith("shear"), name


# ---- versions


def test_version_1_gives_its_old_numbers():
    images = simulate(3, "broad", 7)[0]
    net = lensnet.load(version=1)
    units = lensnet.Units(images)
    assert np.abs(lensnet.features(images, units, net)[:, ::13] - OLD_FEATURES).max() < 1e-3
    read = lensnet.readings(images, units, net)
    assert np.abs(read["theta_E"] - OLD_THETA_E).max() < 1e-3
    with pytest.raises(InputError, match="LensNet 1 is blind to orientation"):
        lensnet.Reader(units, net).oriented(images)


@pytest.mark.parametrize("version", [0, 3, "2"])
def test_a_version_that_there_is_not_is_refused(version):
    with pytest.raises(InputError, match=f"no version {version!r}, expected 1 or 2"):
        lensnet.load(version=version)


def test_version_2_is_as_large_and_as_exact_as_it_may_be():
    card, old = (lensnet.card_of(version) for version in (2, 1))
    assert card["held_out"]["accuracy"] > 0.79
    assert card["pixels"] == old["pixels"]
    assert lensnet.WEIGHTS.stat().st_size < 2**20


# ---- training


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    return folder, train_lensnet.retrain(folder, **TINY)


def test_training_again_gives_the_same_weights(trained, tmp_path):
    folder, card = trained
    again = train_lensnet.retrain(tmp_path, **TINY)
    assert again == card
    weights = (tmp_path / "lensnet.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == card["sha256"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "lensnet-history.csv",
        "lensnet.json",
        "lensnet.safetensors",
    ]


def test_a_training_that_was_stopped_goes_on_to_the_same_weights(trained, tmp_path, monkeypatch):
    step = train_lensnet.LensNetTask.step

    def stopped_after_two(self, k, *rest):
        found = step(self, k, *rest)
        if k == 1:
            signal.raise_signal(signal.SIGTERM)
        return found

    monkeypatch.setattr(train_lensnet.LensNetTask, "step", stopped_after_two)
    with pytest.raises(SystemExit):
        train_lensnet.retrain(tmp_path, **TINY)
    monkeypatch.setattr(train_lensnet.LensNetTask, "step", step)
    assert train_lensnet.retrain(tmp_path, **TINY)["sha256"] == trained[1]["sha256"]


def test_a_trained_network_reads_as_its_card_says(trained, monkeypatch):
    folder, card = trained
    monkeypatch.setattr(lensnet, "WEIGHTS", folder / lensnet.WEIGHTS.name)
    count = round(0.76 * TINY["n"])
    images, truth = train_lensnet.stream(count, PRIORS["broad"], 0, SEED)
    held = np.arange(count) % 2 == 0
    monkeypatch.setattr(lensnet, "card_of", lambda version=2: card)
    read = lensnet.Reader(lambda x: torch.as_tensor(x), lensnet.load()).readings(images[held])
    assert card["held_out"]["n"] == held.sum()
    assert (read["class"] == truth["class"][held]).mean() == pytest.approx(
        card["held_out"]["accuracy"]
    )
    for name in ("theta_E", "q", "gamma", "source_radius"):
        rms = ((read[name] - truth[name][held]) ** 2).mean() ** 0.5
        assert rms == pytest.approx(card["held_out"]["rms"][name], rel=1e-3)
