"""The verdict: degraded real images are seen by those measures that can see them, fresh ones by none."""

import numpy as np
import pytest
import scipy.ndimage

from lensnb import compare, data, evaluate, params
from lensnb.errors import InputError
from lensnb.simulate import simulate

N = 250


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lenses")
    p = params.validate({"data": {"n": 5 * N + N, "holdout": 1 / 6}, "model": {"context": "physics"}, "sample": {"n": N},
                         "evaluate": {"n": N, "bootstrap": 40, "floors": 10, "fit": 12}}, "test")
    data.prepare(p.data, 11, folder)
    return evaluate.Judge(p, data.load(folder))


@pytest.fixture(scope="module")
def fresh():
    return simulate(N, "broad", seed=12)


def blurred(images, truth, rng):
    return scipy.ndimage.gaussian_filter(images, (0, 0, 0.5, 0.5))


def phases_random(images, truth, rng):
    phase = np.fft.fft2(rng.normal(size=images.shape))
    return np.fft.ifft2(np.abs(np.fft.fft2(images)) * phase / np.abs(phase)).real.astype(np.float32)


def cut_and_mixed(images, truth, rng):
    return np.concatenate([images[:, :, :, :32], np.roll(images, 1, axis=0)[:, :, :, 32:]], axis=3)


def only_ten_per_cent(images, truth, rng):
    return images[rng.integers(N // 10, size=N)]


def ring_larger(images, truth, rng):
    zoomed = scipy.ndimage.zoom(images, (1, 1, 1.1, 1.1), order=3)
    edge = (zoomed.shape[-1] - 64) // 2
    return zoomed[:, :, edge:edge + 64, edge:edge + 64]


FAULTS = {      # fault -> measures that must see it with so few images, more than 3 sigma beyond the floor
    "blur": (blurred, ("told_apart", "spectrum", "noise_level", "minkowski", "scattering")),
    "noise x1.2": (lambda x, t, rng: x + rng.normal(0, 0.66, x.shape), ("spectrum", "noise_level", "minkowski", "scattering")),
    "flux x1.1": (lambda x, t, rng: 1.1 * x, ("spectrum",)),
    "phases random": (phases_random, ("fld", "kid", "told_apart", "precision", "intensity", "profile", "ring_radius", "multipoles", "minkowski")),
    "halves mixed": (cut_and_mixed, ("fld", "told_apart", "readings", "multipoles", "minkowski")),
    "ten per cent distinct": (only_ten_per_cent, ("recall", "coverage")),
    "ring +10 %": (ring_larger, ("fld", "readings", "spectrum", "profile", "ring_radius")),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_seen_by_those_that_can_see_it(fault, judge, fresh):
    spoil, seen_by = FAULTS[fault]
    found = judge.measured(spoil(fresh[0], fresh[1], np.random.default_rng(0)).astype(np.float32))
    missed = {name: round(compare.badness(found[name]), 1) for name in seen_by if compare.badness(found[name]) < 3}
    assert not missed


def test_fresh_real_images_are_seen_by_none(judge, fresh):
    found = judge.measured(fresh[0])
    alarms = {name: round(compare.badness(m), 1) for name, m in found.items() if compare.badness(m) > 3}
    assert len(alarms) <= 1, alarms                 # 20 measures at 3 sigma, and errors that are themselves estimates
    assert all(compare.badness(m) < 5 for m in found.values())
    assert 0.7 < found["fld"]["ratio"] < 1.4 and abs(found["told_apart"]["value"] - 0.5) < 0.12


def test_shuffled_labels_are_seen_by_class_and_by_nothing_else(judge, fresh):
    asked = {"class": np.asarray(fresh[1]["class"])}
    right, wrong = judge.measured(fresh[0], asked), judge.measured(fresh[0], {"class": np.random.default_rng(0).permutation(asked["class"])})
    assert compare.badness(right["fld_by_class"]) < 4 and compare.badness(wrong["fld_by_class"]) > 5
    assert all(right[name]["value"] == wrong[name]["value"] for name in right if name != "fld_by_class")


def test_the_lens_fit_tells_lenses_from_mixtures_of_halves(judge, fresh):
    images = fresh[0][:12]
    good, bad = judge.lens_fit(images), judge.lens_fit(cut_and_mixed(images, None, None))
    assert compare.badness(good) < 3 and bad["value"] > 4 * good["value"] and bad["generated"]["median"] > 3 > good["generated"]["median"] > 0.8
    assert good["real"] == bad["real"] and good["real"]["above_1.1"]["n"] == 36


def test_too_few_images_are_one_sentence(tmp_path):
    p = params.validate({"data": {"n": 60}, "evaluate": {"n": 100}}, "test")
    data.prepare(p.data, 0, tmp_path)
    with pytest.raises(InputError, match="evaluate: 6 images on each side, and 8 are needed; bring more images"):
        evaluate.Judge(p, data.load(tmp_path))


def test_obedience_of_real_images_is_the_readers_own_error(judge, fresh):
    asked = {name: np.asarray(fresh[1][name]) for name in ("class", "theta_E", "q", "gamma")}
    both = judge.obedience(fresh[0], asked)
    for whose in ("generated", "real"):
        assert both[whose]["theta_E"]["scatter"] < 0.03 and abs(both[whose]["theta_E"]["bias"]) < 0.01 and both[whose]["class"]["share"] > 0.78
    swapped = judge.obedience(fresh[0], asked | {"theta_E": asked["theta_E"][::-1]})["generated"]
    assert swapped["theta_E"]["scatter"] > 0.15 and swapped["q"] == both["generated"]["q"]


def row(method, metric, value, error=0.1, group="features", larger=False, sigma=1.0):
    return {"method": method, "metric": metric, "value": value, "error": error, "group": group, "larger_is_better": larger, "sigma": sigma,
            "floor": 1.0, "floor_error": 0.1, "ratio": value, "n": 9}


def test_best_is_only_who_is_ahead_by_more_than_the_error():
    a, b = row("a", "fld", 1.0), row("b", "fld", 1.1)
    assert compare.clear_winner([a, b]) is None and compare.clear_winner([a]) is None
    assert compare.clear_winner([a, row("b", "fld", 1.2)]) is a
    c, d = row("c", "recall", 0.9, larger=True), row("d", "recall", 0.3, larger=True)
    assert compare.clear_winner([d, c]) is c
    assert compare.badness(row("a", "recall", 0, larger=True, sigma=-4)) == 4 and compare.badness(row("a", "fld", 0, sigma=-4)) == -4


def test_the_verdict_is_three_sentences_of_the_numbers():
    rows = [row("a", "fld", 2.0), row("b", "fld", 3.0), row("a", "told_apart", 0.7), row("b", "told_apart", 0.9),
            row("a", "spectrum", 1, group="physics", sigma=2), row("b", "spectrum", 1, group="physics", sigma=30)]
    closest, physics, told = compare.verdict(rows)
    assert "a comes closest, 2.0 times" in closest and "b by 7.1 sigma" in closest
    assert "a is within 3 sigma of real images in 1 of 1" in physics and "b is within 3 sigma of real images in 0 of 1, worst in spectrum (30 sigma)" in physics
    assert "a 0.70 +- 0.10, b 0.90 +- 0.10" in told
