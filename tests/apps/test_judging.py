"""`lensnb judge` and `lensnb.judge`: anybody's images, with the judge of runs and no run."""

import os
import unittest.mock
from html.parser import HTMLParser

import numpy as np
import pytest

import lensnb
from lensnb import io
from lensnb.apps import cli, judging
from lensnb.evaluation import strangers
from lensnb.lensing.simulate import simulate

N = 16
REAL = simulate(3 * N, "broad", seed=31)[0]
FRESH = simulate(N, "broad", seed=32)[0]
NOISY = FRESH + 10 * np.random.default_rng(0).normal(size=FRESH.shape).astype(np.float32)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """No project and no outputs; few resamplings."""
    monkeypatch.setenv("LENSNB_OUTPUTS", str(tmp_path / "no-outputs"))
    monkeypatch.chdir(tmp_path)
    validate = strangers.validate

    def cheap(tree, source):
        if "evaluate" in tree:
            tree["evaluate"] |= {"bootstrap": 20, "floors": 5}
        return validate(tree, source)

    monkeypatch.setattr(strangers, "validate", cheap)


def test_two_sets_are_judged_compared_and_written(tmp_path):
    found = lensnb.judge({"fresh": FRESH, "noisy": NOISY}, REAL, to=tmp_path / "page")
    z = {(row["method"], row["metric"]): row["z"] for row in found.rows}
    assert z["noisy", "spectrum"] > 3 > z["fresh", "spectrum"]
    assert {row["metric"] for row in found.rows} >= {"pqmass", "lenses_found", "readings"}
    assert found.n == N and all(row["n"] <= N for row in found.rows)
    assert found.closer[0].sentence.startswith("fresh is closer to real images than noisy")
    assert any("No training images were named" in text for text in found.footing)
    assert "memorisation" not in found.metrics["fresh"]
    assert "No lens model was fitted" in " ".join(found.limits)
    page = (tmp_path / "page" / "index.html").read_text()
    HTMLParser().feed(page)
    assert page.count("data:image/png;base64,") == 4 and 'src="http' not in page
    assert all(sentence.split("(")[0] in page for sentence in found.verdict)
    stored = io.read_json(tmp_path / "page" / "metrics.json")
    assert 0 < stored["sets"]["noisy"]["metrics"]["pqmass"]["p"] <= 1
    assert len(io.read_table(tmp_path / "page" / "table.csv")["value"]) == len(found.rows)
    assert "fresh" in str(found) and found.verdict[0] in found._repr_html_()


def test_training_images_give_the_floor_and_show_copies(tmp_path):
    np.save(tmp_path / "train.npy", REAL)
    np.save(tmp_path / "held.npy", simulate(N, "broad", seed=33)[0])
    np.save(tmp_path / "copies.npy", REAL[:N])
    found = lensnb.judge("copies.npy", "held.npy", "train.npy")
    assert found.names == ["copies"] and found.metrics["copies"]["memorisation"]["share"] > 0.9
    assert any("training image" in sentence for sentence in found.sentences())


def test_images_that_are_no_lenses_are_judged_without_what_knows_lenses_alone():
    rng = np.random.default_rng(5)
    images = rng.normal(size=(4 * N, 16, 16)).cumsum(axis=1).astype(np.float32)
    found = lensnb.judge(images[:N], images[N:], psf=2.0)
    shown = {row["metric"] for row in found.rows}
    assert not shown & set(judging.lens_only()) and {"spectrum", "pqmass", "kid"} <= shown
    assert any("does not apply" in text and "ring radius" in text for text in found.limits)


@pytest.mark.parametrize(
    ("made", "real", "train", "expected"),
    [
        (FRESH[:5], REAL, None, "made: enough for 5 images on each side, and 8 are needed"),
        (FRESH, REAL[:20], None, "bring 24 real images or more, or name the training images"),
        (FRESH, REAL, FRESH[:10], "bring 16 training images or more"),
        (FRESH[..., :32, :32], REAL, None, "1 x 32 x 32.* 1 x 64 x 64.*bring both to one size"),
        (FRESH[0, 0], REAL, None, r"shape \(64, 64\); expected numbers, \(N, H, W\)"),
        (np.where(FRESH.max() - 1 < FRESH, np.nan, FRESH), REAL, None, "NaN"),
        ("missing.npy", REAL, None, "missing.npy"),
        ({}, REAL, None, "no generated images given"),
    ],
)
def test_bad_input_is_one_sentence(made, real, train, expected):
    with pytest.raises(lensnb.InputError, match=expected) as caught:
        lensnb.judge(made, real, train)
    assert "\n" not in str(caught.value)


def test_the_command_prints_the_verdict_and_names_the_page(tmp_path, capsys, monkeypatch):
    for name, images in (("made", FRESH), ("real", REAL)):
        np.save(tmp_path / f"{name}.npy", images)
    seen = {}

    def judged(made, real, train, **options):
        seen.update(options, made=made, real=real, train=train)
        return "the verdict"

    monkeypatch.setattr(judging, "judge", judged)
    line = "judge made.npy --real real.npy --pixel-scale 0.05 --psf 0.1 --to page"
    with unittest.mock.patch.dict(os.environ), pytest.raises(SystemExit) as left:
        cli.main(line.split())
    out = capsys.readouterr().out
    assert (
        not left.value.code and "the verdict" in out and os.path.join("page", "index.html") in out
    )
    assert (seen["made"], seen["real"], seen["train"]) == (["made.npy"], "real.npy", None)
    assert (seen["pixel_scale"], seen["psf"], seen["n"]) == (0.05, 0.1, 2000)
