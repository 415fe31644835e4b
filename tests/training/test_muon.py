"""Muon against the singular value decomposition and against torch's own."""

import copy

import numpy as np
import pytest
import torch
from small_training import recipe

from lensnb.training import optimise
from lensnb.training.muon import Muon, Together, matrices, orthonormal
from lensnb.unet import UNet


@pytest.mark.parametrize("shape", [(48, 48), (32, 288), (288, 32)])
def test_a_matrix_becomes_nearly_orthonormal_and_keeps_its_directions(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, s, v = np.linalg.svd(matrix.numpy(), full_matrices=False)
    found = orthonormal(matrix).double().numpy()
    inner = u.T @ found @ v.T  # diagonal, if the directions are kept
    strong = s > 0.1 * s.max()
    assert np.abs(inner - np.diag(np.diag(inner))).max() < 1e-3
    assert np.diag(inner)[strong].min() > 0.6 and np.diag(inner).max() < 1.3


def test_steps_are_those_of_torchs_own_muon():
    generator = torch.Generator().manual_seed(1)
    ours = torch.nn.Parameter(torch.randn(24, 96, generator=generator))
    theirs = copy.deepcopy(ours)
    a = Muon([ours], 0.02)
    b = torch.optim.Muon([theirs], 0.02, weight_decay=0.0, momentum=0.95)
    start = ours.detach().clone()
    for _ in range(3):
        gradient = torch.randn(24, 96, generator=generator)
        for weight, optimiser in ((ours, a), (theirs, b)):
            weight.grad = gradient.clone()
            optimiser.step()
    moved = (ours - start).abs().max()
    # torch's rounds to bfloat16
    assert (ours - theirs).abs().max() < 0.02 * moved


def test_a_convolution_is_a_matrix_of_its_output_channels_in_any_layout():
    generator = torch.Generator().manual_seed(2)
    plain = torch.nn.Parameter(torch.randn(16, 32, 3, 3, generator=generator))
    last = torch.nn.Parameter(plain.detach().clone().to(memory_format=torch.channels_last))
    gradient = torch.randn(16, 32, 3, 3, generator=generator)
    for weight in (plain, last):
        weight.grad = gradient.clone()
        Muon([weight], 0.1).step()
    assert (plain - last).abs().max() < 1e-6


@pytest.mark.parametrize("section", ["train", "consistency"])
def test_every_weight_has_one_optimiser_and_embeddings_have_adamw(section):
    net = UNet(width=32, fine=8, context=6)
    chosen = {"optimiser": "muon", "rate": 2e-3, "muon_rate": 0.01, "warmup": 0}
    train = getattr(recipe(**{section: chosen}), section)
    optimiser = optimise.optimiser_of(net, train)
    assert isinstance(optimiser, Together)
    owned = [p for group in optimiser.param_groups for p in group["params"]]
    assert sorted(map(id, owned)) == sorted(map(id, net.parameters()))
    muon = set(map(id, matrices(net)))
    assert muon and not muon & set(map(id, net.embed.parameters()))
    optimise.set_rate(train.steps // 2, train, optimiser)
    assert [group["lr"] for group in optimiser.param_groups] == [2e-3, 0.01]
