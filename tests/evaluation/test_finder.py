"""The lens finder, and the images that it must not find.

Shapes are compared with astropy, scikit-learn and counts by hand; the shipped weights are tried on
fresh images.
"""

import shutil

import numpy as np
import pytest
import torch
from astropy.modeling.models import Sersic2D
from sklearn.metrics import roc_auc_score

from lensnb.errors import InputError
from lensnb.evaluation import finder, image_stats, lensnet
from lensnb.lensing import nonlenses
from lensnb.lensing.priors import PRIORS
from lensnb.lensing.simulate import simulate
from tools import train_finder

BROAD = PRIORS["broad"]
N = 240


@pytest.fixture(scope="module")
def lenses():
    return simulate(N, "broad", seed=901)


@pytest.fixture(scope="module")
def others():
    return nonlenses.non_lenses(N, seed=902)


@pytest.fixture
def axes():
    axis = (torch.arange(64) - 31.5) * 0.1
    return axis[None], axis[:, None]


# ---- what is not a lens


@pytest.mark.parametrize("n, q, phi", [(0.7, 1.0, 0.0), (1.0, 0.5, 0.4), (3.5, 0.7, 2.0)])
def test_a_galaxy_is_astropys_sersic_profile(axes, n, q, phi):
    ours = nonlenses.sersic(*axes, (0.33, -0.21), 0.8, n, q, phi).numpy()
    theirs = Sersic2D(1, 0.8 / q**0.5, n, 0.33, -0.21, 1 - q, phi)(
        *np.broadcast_arrays(*(a.numpy().astype(float) for a in axes))
    )
    # the constant b(n) is a fit; 1 is the value at the radius
    assert (np.abs(ours - theirs) < 0.02 * np.maximum(theirs, 1)).all()


def test_elliptical_radius_is_that_of_the_circle_of_equal_area(axes):
    r, angle = nonlenses.polar(*axes, (0.2, 0.1), 0.6, 0.8)
    assert abs(((r < 1.5).sum().item() * 0.1**2) / (np.pi * 1.5**2) - 1) < 0.02
    t = torch.tensor(0.3)  # a point on the ellipse at that angle of its circle
    along = 1.5 / 0.6**0.5 * t.cos()
    across = 1.5 * 0.6**0.5 * t.sin()
    x = 0.2 + along * np.cos(0.8) - across * np.sin(0.8)
    y = 0.1 + along * np.sin(0.8) + across * np.cos(0.8)
    r, angle = nonlenses.polar(x, y, (0.2, 0.1), 0.6, 0.8)
    assert abs(r - 1.5) < 1e-5 and abs(angle - t) < 1e-5


@pytest.mark.parametrize("kind", nonlenses.KINDS)
def test_brightness_means_what_it_means_for_lenses(kind):
    clean = nonlenses._clean(kind, np.random.default_rng(3), BROAD, 40.0).numpy()
    level = clean[clean > 0.3 * clean.max()].mean()
    assert clean.shape == (64, 64) and clean.min() >= 0
    assert level < 40 * nonlenses.FAINT if kind == "sky" else abs(level / 40 - 1) < 1e-4


def test_noise_is_that_of_the_prior():
    quiet = image_stats.noise_level(nonlenses.non_lenses(24, 5, ("elliptical", "group")))
    assert abs(np.median(quiet) - 1) < 0.05
    assert (nonlenses.non_lenses(6, 5, ("sky",))[:, :, :4].std((1, 2, 3)) > 0.9).all()


def test_an_image_depends_on_its_number_and_kind_alone(others):
    assert (nonlenses.non_lenses(7, seed=902) == others[:7]).all()
    mixed = nonlenses.non_lenses(3, 902, ("sky", "spiral", "ring"))
    assert (mixed[1:] == others[1:3]).all() and not np.allclose(mixed[0], others[0])
    assert not (nonlenses.non_lenses(2, seed=903) == others[:2]).any()


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ({"kinds": ("ring", "planet")}, "kinds holds 'planet', expected some of elliptical"),
        ({"kinds": ()}, "at least one kind"),
        ({"prior": "deeplensesim-2"}, "prior with a signal-to-noise"),
        ({"n": 0}, "n is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"prior": "narrow"}, "no prior .narrow.; known are broad"),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence(arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        nonlenses.non_lenses(**({"n": 2} | arguments))


# ---- the shipped network


def test_lenses_are_found_and_others_are_not(lenses, others):
    units = lensnet.Units(lenses[0])
    lens, other = (finder.found(images, units) for images in (lenses[0], others))
    kept = finder.card()["held_out"]["lenses_found"]
    error = (kept * (1 - kept) / N) ** 0.5
    assert abs(lens.mean() - kept) < 4 * error and other.mean() <= 0.02
    assert all(lens[lenses[1]["class"] == c].mean() > 0.93 for c in range(3))
    assert (
        roc_auc_score(
            np.repeat([1, 0], N), finder.log_odds(np.concatenate([lenses[0], others]), units)
        )
        > 0.999
    )


def test_the_unit_of_the_images_does_not_matter(lenses, others):
    images = np.concatenate([lenses[0][:30], others[:30]])
    plain, scaled = (
        finder.log_odds(factor * images + shift, lensnet.Units(factor * lenses[0] + shift))
        for factor, shift in ((1, 0), (0.004, 7))
    )
    assert np.abs(plain - scaled).max() < 0.05 and plain.std() > 5
    three_channels = np.repeat(images, 3, axis=1)
    doubled = finder.log_odds(three_channels, lensnet.Units(lenses[0]))
    assert np.abs(plain - doubled).max() < 1e-3


def test_the_batch_does_not_matter(others, monkeypatch):
    whole = finder.log_odds(others[:20])
    monkeypatch.setattr(lensnet, "CACHED", 7)
    assert np.abs(finder.log_odds(others[:20]) - whole).max() < 1e-4


def test_other_weights_are_refused(tmp_path, monkeypatch):
    for path in (finder.WEIGHTS, finder.WEIGHTS.with_suffix(".json")):
        shutil.copy(path, tmp_path)
    monkeypatch.setattr(finder, "WEIGHTS", tmp_path / finder.WEIGHTS.name)
    finder.load()
    spoilt = bytearray(finder.WEIGHTS.read_bytes())
    spoilt[-1] ^= 1
    finder.WEIGHTS.write_bytes(spoilt)
    with pytest.raises(InputError, match="not the published weights"):
        finder.load()


# ---- training


def test_the_area_is_scikit_learns():
    above, below = np.random.default_rng(0).integers(0, 9, (2, 50))
    above = above[:30] + 2
    assert (
        abs(
            train_finder.auc(above, below)
            - roc_auc_score(np.repeat([1, 0], [30, 50]), np.concatenate([above, below]))
        )
        < 1e-12
    )


def test_the_report_is_counted_by_hand():
    lenses = np.arange(-1, 100)
    others = np.array([-5.0, 2.0, -7.0, -1.0])
    found = train_finder.report(lenses, others, ("a", "b"))
    assert found["threshold"] == 0 and found["lenses_found"] == 99 / 101  # one below, one at it
    assert (
        found["non_lenses_found"] == {"a": 0.0, "b": 0.5}
        and found["accuracy"] == (99 / 101 + 0.75) / 2
    )


def test_retraining_writes_weights_that_load_and_learns(tmp_path, monkeypatch):
    card = train_finder.retrain(tmp_path, n=24, held=12, steps=6, batch=16)
    monkeypatch.setattr(finder, "WEIGHTS", tmp_path / finder.WEIGHTS.name)
    assert (
        finder.card()["held_out"] == card["held_out"]
        and card["images"] == 48
        and finder.load().training is False
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["finder.json", "finder.safetensors"]
    torch.manual_seed(0)
    task = train_finder.FinderTask(12)
    x = torch.from_numpy(np.concatenate(train_finder.both(8, 1, BROAD)))
    y = torch.tensor([[1.0], [0.0]]).repeat_interleave(8, 0)
    losses = [float(task.step(k, x, y, None)["loss"]) for k in range(12)]
    assert losses[-1] < 0.5 * losses[0]
