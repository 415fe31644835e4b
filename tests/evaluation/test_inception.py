"""Inception: never replaced silently, never from a file that runs code, equal to torchmetrics."""

import sys

import numpy as np
import pytest
import torch

from lensnb import metrics
from lensnb.errors import InputError
from lensnb.evaluation import inception


def test_without_torch_fidelity_it_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(
        InputError,
        match="torch-fidelity is not installed; pip install torch-fidelity, or set it to null",
    ):
        inception.load("download")


def test_a_file_that_would_run_code_is_refused_unexecuted(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    torch.save({"w": Evil()}, tmp_path / "evil.pth")
    for name in ("evil.pth", "none.pth"):
        with pytest.raises(InputError, match=f"evaluate.inception: .*{name}: no"):
            inception._harmless(tmp_path / name)
    assert not (tmp_path / "executed").exists()


def test_images_reach_the_network_as_bytes_of_three_channels():
    seen = []

    def net(x):
        seen.append(x)
        return (torch.zeros(len(x), 2048),)

    images = np.linspace(-1, 3, 5).reshape(5, 1, 1, 1) * np.ones((5, 1, 4, 4))
    assert inception.features(images, -1, 3, net, batch=2).shape == (5, 2048)
    x = torch.cat(seen)
    assert (
        x.shape == (5, 3, 4, 4)
        and x.dtype == torch.uint8
        and x[:, 0, 0, 0].tolist() == [0, 64, 128, 191, 255]
    )


def test_distances_equal_those_of_torchmetrics_on_the_same_weights(tmp_path):
    fidelity = pytest.importorskip(
        "torch_fidelity.feature_extractor_inceptionv3", reason="torch-fidelity is not installed"
    )
    from torchmetrics.image.fid import FrechetInceptionDistance

    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:  # random weights do as well: both use the same
        patch.setattr(fidelity, "load_state_dict_from_url", lambda *a, **k: {})
        patch.setattr(
            fidelity.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None
        )
        made = fidelity.FeatureExtractorInceptionV3("x", ["2048"])
    for weight in (w for w in made.parameters() if w.ndim == 4):  # signals that reach the end
        torch.nn.init.kaiming_normal_(weight)
    torch.save(made.state_dict(), tmp_path / "w.pth")
    rng = np.random.default_rng(0)
    real = rng.uniform(size=(12, 3, 64, 64))
    other = rng.uniform(size=(12, 3, 64, 64)) ** 1.3
    net = inception.load(tmp_path / "w.pth")
    ours = [inception.features(x, 0, 1, net) for x in (real, other)]
    theirs = FrechetInceptionDistance(
        2048, feature_extractor_weights_path=str(tmp_path / "w.pth"), antialias=False
    )
    for x, rows, is_real in ((real, ours[0], True), (other, ours[1], False)):
        bytes_ = torch.from_numpy(np.round(x * 255)).to(torch.uint8)
        assert np.abs(theirs.inception(bytes_).numpy() - rows).max() < 1e-4 * np.abs(rows).max()
        theirs.update(bytes_, real=is_real)
    # theirs is in single precision, and n is far below d
    assert abs(metrics.frechet(*ours) / theirs.compute().item() - 1) < 0.03
