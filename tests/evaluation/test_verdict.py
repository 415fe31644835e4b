"""The verdict: Holm's bound, the order of explanation, amounts, copies, files without parts."""

import math

import numpy as np
import pytest
import scipy.stats

from lensnb.evaluation import verdict
from lensnb.evaluation.measures import MEASURES, labels


def row(metric, z, larger=False, method="a"):
    return {
        "method": method,
        "metric": metric,
        "value": 1 + np.sign(z),
        "floor": 1.0,
        "z": z,
        "larger_is_better": larger,
        "n": 256,
    }


def part(made, real, z, unit="image unit"):
    return {
        "unit": unit,
        "generated": {"value": made, "error": 0.001},
        "real": {"value": real, "error": 0.001},
        "z": z,
    }


def told(alarms, parts, clean=20):
    """The faults of one method whose measures alarm, among others that do not."""
    rows = [row(key, z) for key, z in alarms.items()]
    rows += [row(f"clean {i}", 0.1) for i in range(clean)]
    metrics = {key: {"parts": {column: values}} for (key, column), values in parts.items()}
    return verdict.verdict(rows, {"a": {"metrics": metrics}})


def test_the_bound_is_that_of_holm():
    rng = np.random.default_rng(5)
    for _ in range(20):
        z = np.concatenate([rng.normal(size=30), rng.normal(3.5, 1, size=10)])
        rows = [row(str(i), value) for i, value in enumerate(z)]
        p = np.sort(scipy.stats.norm.sf(z))
        passed = p <= 0.05 / np.arange(len(z), 0, -1)
        assert len(verdict.alarming(rows)) == (len(z) if passed.all() else np.argmin(passed))
    assert verdict.chance_of(row("kid", 2.0)) == pytest.approx(scipy.stats.norm.sf(2))
    # two-sided: both sides are as bad
    for z in (2.0, -2.0):
        found = verdict.chance_of(row("recall", z, larger=None))
        assert found == pytest.approx(2 * scipy.stats.norm.sf(2))
    assert verdict.chance_of(row("usefulness", -2.0, larger=True)) < 0.03
    expected = verdict.alarms_by_chance([row("kid", 0.0), row("recall", 0.0, larger=None)])
    assert expected == pytest.approx(3 * scipy.stats.norm.sf(3))


def test_clean_sets_are_called_clean():
    rng = np.random.default_rng(0)
    alarms = [
        bool(verdict.alarming([row(str(i), z) for i, z in enumerate(rng.normal(size=150))]))
        for _ in range(400)
    ]
    assert np.mean(alarms) < 0.09  # 0.05 is meant
    text = told({}, {})
    assert "cannot be told from real images with 256" in text[1] and "0.0 of them" in text[0]


CASES = [
    ("sky_level", "sky_level", part(0.02, 0.0, 8), "the sky is 0.02 too bright"),
    ("sky_level", "sky_level", part(-0.05, 0.0, -9), "the sky is 0.05 too dark"),
    ("noise_level", "noise_level", part(1.03, 1.0, 9), "the noise is 3 % too strong"),
    ("noise_level", "noise_level", part(0.001, 1.0, -9), "the noise is 100 % too weak"),
    ("copies", "copies", part(1.0, 0.01, 9, "share"), "100 % of the images are copies"),
    ("noise_level", "noise_level", part(2.5, 1.0, 9), "the noise is 150 % too strong"),
    ("noise_level", "noise_level", part(22.1, 1.0, 9), "the noise is 22 times too strong"),
    ("noise_level", "noise_level", part(2e5, 1.0, 9), "the noise is far too strong"),
    ("light_detail", "light_detail", part(2.2, 1.5, 9), "bright light is 47 % too strong"),
    ("ring_radius", "ring_radius", part(1.02, 1.0, 5, "arcsec"), "rings are 2 % too large"),
    ("handedness", "m1_sin", part(0.1, 0.0, 7, "1"), "arcs open to one side"),
    ("handedness", "m2_cos", part(0.1, 0.0, 7, "1"), "lenses share one position angle"),
    ("handedness", "centre_x", part(0.5, 0, 6, "pixels"), "0.5 pixels off centre along x"),
    ("lens_fit_by_class", "vortex", part(0.01, 0.05, -6, "dex"), "too weak in vortex lenses"),
    ("copies", "copies", part(0.2, 0.01, 9, "share"), "20 % of the images are copies"),
    ("frechet_oriented", "source_offset_1", part(0.9, 0, 30), "arcs open to one side"),
    ("readings_pairs", "theta_E * q", part(0.5, 0, 9, "1"), "Einstein radius and axis ratio are"),
    ("class_shares", "cdm", part(0.2, 0.33, -6, "share"), "substructure is too weak (0.2 instead"),
    ("spectrum", "high", part(-2.0, -1.5, -9, "dex"), "images are blurred"),
]


@pytest.mark.parametrize("key, column, values, words", CASES)
def test_a_fault_has_its_name_and_amount(key, column, values, words):
    alarms = {"minkowski": 9.5, "frechet_lensnet": 8.0, key: 6.0}
    wrong = told(alarms, {(key, column): values})[2]
    assert wrong.startswith("What is wrong with a: ") and f"{key}, z = 6.0" in wrong
    assert words in wrong.split(";")[0] and "frechet_lensnet" not in wrong


def test_what_a_fault_explains_is_not_told_and_what_it_does_not_is():
    sky = {("sky_level", "sky_level"): part(0.02, 0.0, 8)}
    spectrum = {("spectrum", "high"): part(-2.0, -1.5, -9, "dex")}
    noise = {("noise_level", "noise_level"): part(1.2, 1.0, 9)}
    ring = {("ring_radius", "ring_radius"): part(1.1, 1.0, 9, "arcsec")}
    alarms = {"sky_level": 5.0, "noise_level": 6.0, "spectrum": 9.0, "ring_radius": 7.0}
    wrong = told(alarms, sky | spectrum | noise | ring)[2]
    places = [wrong.index(word) for word in ("rings", "noise", "sky is")]
    assert places == sorted(places) and "blurred" not in wrong


@pytest.mark.parametrize("detail, first", [(2.3, "light_detail"), (1.3, "noise_level")])
def test_rough_light_is_told_by_strength_and_smooth_light_after_the_blur(detail, first):
    parts = {("light_detail", "light_detail"): part(detail, 1.5, 9)}
    parts[("noise_level", "noise_level")] = part(0.9, 1.0, -8)
    wrong = told({"light_detail": 9.0, "noise_level": 8.0, "spectrum": 10.0}, parts)[2]
    assert f"({first}" in wrong.split(";")[0] and wrong.count("too ") == 2


def test_a_general_measure_with_a_direction_comes_before_one_without():
    parts = {("class_shares", "no_sub"): part(0.8, 0.4, 9, "share")}
    alarms = {"spectrum_2d": 7.0, "frechet_lensnet_by_class": 5.0}
    wrong = told(alarms, parts)[2]
    places = [wrong.index(word) for word in ("too many lenses without", "power depends")]
    assert places == sorted(places)


def test_arcs_on_one_side_come_before_the_centre_that_they_move():
    parts = {"m1_cos": part(0.1, 0, 4.7, "1"), "centre_x": part(0.2, 0, 33.0, "arcsec")}
    rows = [row("handedness", 6.0), *(row(f"clean {i}", 0.1) for i in range(20))]
    tree = {"metrics": {"handedness": {"parts": parts}}}
    assert "arcs open to one side" in verdict.verdict(rows, {"a": tree})[2]
    parts["m1_cos"]["z"] = 2.2
    assert "off centre along x" in verdict.verdict(rows, {"a": tree})[2]


def test_larger_rings_come_before_the_sky_that_their_light_moves():
    parts = {("sky_level", "sky_level"): part(0.011, 0, 4.0)}
    parts[("ring_radius", "ring_radius")] = part(1.08, 1, 9, "arcsec")
    wrong = told({"sky_level": 8.0, "ring_radius": 5.0}, parts)[2]
    places = [wrong.index(word) for word in ("rings are 8 % too large", "sky is")]
    assert places == sorted(places)


def test_general_measures_are_told_after_those_that_name_the_fault():
    shares = {("class_shares", "no_sub"): part(0.8, 0.4, 18, "share")}
    wrong = told({"spectrum_2d": 9.0, "lenses_found": 8.0, "class_shares": 5.0}, shares)[2]
    places = [wrong.index(word) for word in ("too many lenses", "depends on direction")]
    assert places == sorted(places)


def test_files_without_parts_name_the_measure():
    text = verdict.verdict([row("sky_level", 9.0), row("kid", 0.0)])
    assert "sky level differs (sky_level, z = 9.0)" in text[2]
    stuck = row("ellipticity", 9.0) | {"z": None}  # nothing scatters
    assert "z > 100" in verdict.verdict([stuck])[2]


def test_copies_are_told_with_their_training_images():
    found = {"share": 0.2, "floor": 0.01, "error": 0.02, "pairs": [[0, 17, 0.1], [3, 5, 0.2]]}
    rows = [row("kid", 0.0)]
    text = verdict.verdict(rows, {"a": {"metrics": {}, "memorisation": found}})
    assert "20 % of its images are copies" in text[2] and "17, 5" in text[2]
    assert "must not stand for new lenses" in text[3]
    few = verdict.verdict(rows, {"a": {"metrics": {}, "memorisation": found | {"share": 0.05}}})
    assert "copies" not in " ".join(few)


def test_no_method_gets_more_than_four_sentences():
    found = {"share": 0.2, "floor": 0.01, "error": 0.02, "pairs": [[0, 17, 0.1]]}
    rows = [row(key, 9.0) for key in labels()]
    assert len(verdict.verdict(rows, {"a": {"memorisation": found}})) == 5


def test_rules_name_measures_and_columns_that_exist_or_are_filled_in_with_amounts():
    for rule in verdict.RULES:
        if rule.key in MEASURES and MEASURES[rule.key].columns:
            assert rule.column in MEASURES[rule.key].columns or rule.general, rule
        filled = rule.more.format(gap="1", percent="2 %", made="3", real="4", share="3 %")
        assert "{" not in filled
    sky = next(rule for rule in verdict.RULES if rule.more.startswith("the sky is"))
    assert math.isinf(verdict._z(part(1, 0, None), sky))


def test_the_lens_fit_tells_weak_substructure_from_too_few_lenses():
    shares = {("class_shares", "vortex"): part(0.1, 0.33, -9.0, "share")}
    for z, words in ((-10.0, "substructure is too weak in vortex"), (10.0, "too few vortex")):
        chi2 = {("lens_fit_by_class", "vortex"): part(z / 100, 0.0, z, "dex")}
        wrong = told({"class_shares": 6.0, "frechet_lensnet_by_class": 9.0}, shares | chi2)[2]
        assert f"wrong with a: {words}" in wrong and ";" not in wrong, wrong


def test_a_weak_checkerboard_is_no_noise_and_its_absence_is_no_checkerboard():
    alarms = {"noise_level": 6.0, "spectrum_2d": 5.0}
    noise = {("noise_level", "noise_level"): part(1.02, 1.0, 9.0)}
    for gap, z, words in ((0.05, 9.0, "pixel grid"), (0.05, 3.5, "noise"), (-0.05, -9.0, "noise")):
        wrong = told(alarms, noise | {("spectrum_2d", "corner"): part(gap, 0.0, z)})[2]
        assert words in wrong and ";" not in wrong.removesuffix("."), wrong


@pytest.mark.parametrize(
    "made, real, words",
    [
        (7e-6, 1.0, "the images have nearly no noise"),
        (1.0, 7e-6, "the images have noise, and real ones nearly none"),
        (7e-6, 6e-6, "the finest detail is 17 % too strong, in images with nearly no noise"),
        (0.02, 1.0, "the noise is 98 % too weak, or the images are blurred"),
    ],
)
def test_images_without_noise_have_no_sky_to_speak_of(made, real, words):
    """Beside a mean flux of 12,000; 0.02 is what a blur of a pixel leaves of the noise."""
    z = 9 if made > real else -9
    parts = {
        ("noise_level", "noise_level"): part(made, real, z),
        ("total_flux", "total_flux"): part(12_000, 12_100, -1),
        ("sky_level", "sky_level"): part(4.5e-8, 0, 5),
    }
    text = told({"noise_level": 9, "sky_level": 5, "spectrum": 8}, parts)
    assert words in text[2].split(";")[0]
    assert ("the sky is" in text[2]) == (made == 0.02)
    alone = told({"sky_level": 5}, parts)[2]
    assert ("the light at the border differs" in alone) == (max(made, real) < 1e-5)


def test_features_of_a_class_are_told_by_the_numbers_that_name_the_fault():
    """Fewer subhalos change LensNet's features of a class before the class shares alarm."""
    shares = {("class_shares", "cdm"): part(0.17, 0.32, -7, "share")}
    fit = {("lens_fit_by_class", "cdm"): part(0.05, 0.17, -6, "dex")}
    alarms = {"frechet_lensnet_by_class": 6, "frechet_lensnet": 4.5}
    assert "a: substructure is too weak in CDM lenses (" in told(alarms, shares | fit)[2]
    assert "a: too few CDM lenses, or their substructure" in told(alarms, shares)[2]
    assert "Frechet distance (LensNet) by class differs" in told(alarms, {})[2]
    # whatever has a name of its own comes first
    named = alarms | {"noise_level": 4}
    noise = {("noise_level", "noise_level"): part(1.05, 1, 5)}
    assert told(named, shares | noise)[2].split(";")[0].count("the noise is 5 % too strong") == 1
