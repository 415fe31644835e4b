"""The command `lensnb posterior`: files in, draws out, and one sentence for what is wrong."""

import os
import unittest.mock

import numpy as np
import pytest
import torch

from lensnb import operators, posterior, pretrained
from lensnb.apps import cli
from lensnb.datasets.dataset import Scaling
from lensnb.mixture import Mixture
from lensnb.prior import Prior

SHAPE = (1, 4, 4)
MIXTURE = Mixture([1.0], torch.full((1, 16), 0.3), 0.2 * torch.eye(16)[None], SHAPE)
PRIOR = Prior(MIXTURE.denoise, SHAPE, Scaling("linear", 1.0, 0.0, 1.0, -2.0, 2.0))
IMAGE = np.linspace(-1, 1, 16).reshape(4, 4)
MASK = np.ones((4, 4))
MASK[1:3, 1:3] = 0


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """`lensnb posterior` in a folder with data, with a small prior in place of the reference."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pretrained, "load", lambda name: PRIOR)
    files = {"obs": IMAGE, "mask": MASK, "empty": 0 * MASK, "small": IMAGE[:2, :2], "psf": MASK}
    for name, array in files.items():
        np.save(tmp_path / f"{name}.npy", array)

    def given(line):
        with unittest.mock.patch.dict(os.environ), pytest.raises(SystemExit) as left:
            cli.main(["posterior", *line.split(), "--steps", "4"])
        return left.value.code or 0, *capsys.readouterr()

    return given


def test_draws_are_those_of_the_library(command):
    code, printed, _ = command("obs.npy --mask mask.npy --noise 0.1 -n 3 -o made.npy --seed 2")
    expected = posterior.draw(PRIOR, IMAGE, noise=0.1, n=3, steps=4, seed=2, seen=MASK)
    assert code == 0 and "made.npy: 3 x 1 x 4 x 4, float32; chi2 a datum" in printed
    assert np.abs(np.load("made.npy") - expected.images).max() < 1e-6


def test_the_instrument_blurs_and_then_averages(command):
    code, *_ = command("small.npy --fwhm 1.5 --factor 2 --noise 0.1 -n 2 -o made.npy")
    both = operators.chain(operators.blur(operators.gaussian_psf(1.5)), operators.downsample(2))
    expected = posterior.draw(PRIOR, IMAGE[:2, :2], both, noise=0.1, n=2, steps=4)
    assert code == 0 and np.abs(np.load("made.npy") - expected.images).max() < 1e-6


BAD = {
    "": "--noise is missing",
    "--noise 0": "noise: expected standard deviations above 0",
    "--noise none.npy": "none.npy: no such file",
    "--noise 0.1 --mask empty.npy": "y: no datum is seen; the mask is 0",
    "--noise 0.1 --mask small.npy": "mask: has the shape (2, 2)",
    "--noise 0.1 --psf psf.npy --fwhm 2": "give --psf or --fwhm, and not both",
    "--noise 0.1 --factor 2": "y: has the shape (4, 4), expected (2, 2)",
    "--noise mask.npy --exposure 5": "--exposure goes with one number for --noise",
    "--noise 0.1 --method mpms": "did you mean mmps?",
    "--noise 0.1 -o made.txt": "made.txt: expected a name that ends in .npy",
    "--noise 0.1 -o nowhere/made.npy": "no such folder",
}


@pytest.mark.parametrize("line, said", BAD.items(), ids=BAD)
def test_bad_input_is_refused_in_one_line(command, line, said):
    code, _, told = command(f"obs.npy -n 2 {line}")
    assert code == 2 and said in told and len(told.strip().splitlines()) == 1
    assert not os.path.exists("draws.npy") and not os.path.exists("made.npy")


def test_data_in_other_units_are_refused(command):
    np.save("obs.npy", 1e6 * IMAGE)
    code, _, told = command("obs.npy --noise 1 -n 2")
    assert code == 2 and "bring the data to the units of the prior" in told
