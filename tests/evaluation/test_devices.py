"""The judge on a GPU: all tensors lie there, and nothing waits for a value.

There may be no GPU. Tensors without values (device meta) refuse to meet those of another device,
and whatever would have to wait for a value.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lensnb import devices
from lensnb.errors import InputError
from lensnb.evaluation import finder, lens_fit, lensnet, memorisation, rows, scattering
from lensnb.evaluation.judge import Judge
from lensnb.evaluation.lens_model import Optics
from lensnb.evaluation.workers import HERE, Workers
from lensnb.recipes.recipe import validate

META = torch.device("meta")
IMAGES = np.random.default_rng(0).normal(size=(5, 1, 64, 64)).astype(np.float32)


def test_networks_of_the_judge():
    units = lensnet.Units(IMAGES)
    net = lensnet.load("meta")
    read = lensnet.outputs(IMAGES, units, net, net.read)
    found = finder.load("meta")
    odds = lensnet.outputs(IMAGES, units, found, found.odds)
    assert {part.device for part in (*read[0], *odds)} == {META}
    assert [len(part) for part in odds] == [5]


def test_scattering():
    assert scattering._scattering(IMAGES, None, 4, META).device == META


def test_the_search_for_copies():
    made = memorisation.maps(IMAGES, device=META)
    found = memorisation._nearest_in(made, IMAGES, torch.arange(5), chunk=2)
    assert [(part.device, len(part)) for part in found] == [(META, 5)] * 2


def test_a_step_of_the_lens_fit():
    p, image = torch.empty(5, 13, device=META), torch.empty(5, 64, 64, device=META)
    optics = Optics((64, 64), 0.05, 2, META)
    chi2, normal, pull = lens_fit._measure(p, image, image, optics, optics)
    tried, gain = lens_fit._step(p, normal, pull, torch.empty_like(chi2))
    starts = lens_fit._starts(image, 3, 0)
    assert {part.device for part in (chi2, normal, pull, tried, gain, starts)} == {META}
    assert starts.shape == (5, 3, 13) and normal.dtype == torch.float64


def test_networks_measure_on_the_device_and_all_else_in_workers(monkeypatch):
    seen = {}

    def maker(name):
        def rows_of_some(images):
            seen.setdefault(name, []).append(len(images))
            return images[:, :1]

        return rows_of_some

    asked = []
    monkeypatch.setattr(
        Workers,
        "map",
        lambda self, function, jobs: asked.append(self) or [function(*job) for job in jobs],
    )
    shared = maker("shared")
    makers = {"one": shared, "net": maker("net"), "two": shared}
    images = np.arange(3000.0)[:, None]
    for device, net, who in (("cuda", [1024, 1024, 952], [HERE, Workers(3)]), ("cpu", None, None)):
        there = (HERE, rows.DEVICE_CHUNK) if device == "cuda" else (Workers(3), rows.CHUNK)
        reference = SimpleNamespace(
            device=torch.device(device), by_networks=there, workers=Workers(3)
        )
        seen.clear(), asked.clear()
        found = rows.all_rows(makers, {"net"}, images, reference)
        assert all(np.array_equal(found[name], images) for name in makers)
        assert found["one"] is found["two"] and seen["shared"] == [256] * 11 + [184]
        assert seen["net"] == (net or seen["shared"]) and asked == (who or [Workers(3)])


def test_a_device_without_float64_leaves_the_judge_to_the_cpu():
    assert devices.with_doubles(torch.device("mps")) == torch.device("cpu")
    assert devices.with_doubles(torch.device("cuda")) == torch.device("cuda")


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    recipe = validate({"device": "cuda", "evaluate": {"n": 8}}, "test")
    rows = np.arange(100)
    images = np.zeros((200, 1, 8, 8))
    dataset = SimpleNamespace(images=images, heldout=rows, train=rows + 100, labels=None)
    with pytest.raises(InputError, match="device: cuda is asked for"):
        Judge(recipe, dataset)
