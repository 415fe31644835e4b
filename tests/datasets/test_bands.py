"""Any number of bands: through both kinds of generator and through the judge."""

import json

import numpy as np
import pytest
import torch
from images import noise, read

from lensnb import generator
from lensnb.evaluation.judge import Judge, evaluate
from lensnb.recipes.recipe import validate


@pytest.mark.parametrize("bands", [2, 5])
def test_networks_and_judge_take_any_number_of_bands(bands, src, out, tmp_path):
    y, x = np.mgrid[:32, :32] - 15.5
    ring = np.exp(-((np.hypot(x, y) - 8) ** 2) / 4)
    want = 20 * ring * (1 + np.arange(bands))[:, None, None] + noise(60, bands, 32, 32)
    np.save(src / "a.npy", want)
    dataset = read(src / "a.npy", out, size=32)
    tree = {"device": "cpu", "data": {"size": 32, "path": str(src / "a.npy")}}
    tree["evaluate"] = {"n": 12, "bootstrap": 10, "floors": 2, "fit": 0, "workers": 1}
    params = validate(tree | {"model": {"width": 16}, "gan": {"width": 16}}, "here")
    images = torch.from_numpy(dataset.scaling.forward(dataset.images[:4]))
    denoise = generator.untrained_denoiser(params, dataset)
    assert denoise(images, torch.tensor(1.0)).shape == images.shape
    judged = generator.untrained_discriminator(params, dataset)(images, None)
    assert judged.shape[0] == 4 and torch.isfinite(judged).all()
    tmp_path.joinpath("eval").mkdir()
    evaluate(Judge(params, dataset), "m", want[:12].astype(np.float32), None, tmp_path / "eval")
    found = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert found["n"] == 12
