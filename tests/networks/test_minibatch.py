"""Minibatch statistics against numpy, and the GAN's networks that see them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lensnb import gan
from lensnb.datasets.dataset import load_dataset, prepare_dataset
from lensnb.errors import InputError
from lensnb.generator import untrained_discriminator, untrained_gan
from lensnb.networks import gan_deeplense, gan_r3
from lensnb.networks.minibatch import MinibatchStatistics
from lensnb.recipes.recipe import validate
from lensnb.recipes.schema import Data, Gan
from lensnb.training.gan_task import GanTask

DISCRIMINATORS = pytest.mark.parametrize(
    "nets", [gan_deeplense, gan_r3], ids=["published", "modern"]
)


def test_the_last_channel_is_the_standard_deviation_of_each_four():
    x = torch.randn(12, 5, 3, 2)
    out = MinibatchStatistics()(x)
    groups = x.double().numpy().reshape(3, 4, 5, 3, 2)
    expected = groups.std(1).mean((1, 2, 3)).repeat(4)
    assert torch.equal(out[:, :5], x)
    assert np.abs(out[:, 5].numpy() - expected[:, None, None]).max() < 1e-6


def test_equal_images_have_no_spread_and_finite_gradients():
    x = torch.ones(4, 2, 3, 3, requires_grad=True)
    spread = MinibatchStatistics()(x)[:, 2]
    assert spread.max() < 2e-4
    spread.sum().backward()
    assert torch.isfinite(x.grad).all()


def test_gradients_of_both_orders_are_those_of_finite_differences():
    x = torch.randn(4, 2, 2, 2, dtype=torch.float64, requires_grad=True)

    def last(x):  # the statistic is computed in single precision
        return MinibatchStatistics()(x)[0, 2, 0, 0]

    (slope,) = torch.autograd.grad(last(x), x, create_graph=True)
    off = torch.randn_like(x)
    h = 1e-2
    ahead, behind = last((x + h * off).detach()), last((x - h * off).detach())
    assert abs((ahead - behind) / (2 * h) - (slope * off).sum()) < 1e-3
    (bend,) = torch.autograd.grad((slope * off).sum(), x)
    second = (ahead - 2 * last(x) + behind) / h**2
    assert abs(second - (bend * off).sum()) < 2e-2


@DISCRIMINATORS
def test_a_group_is_judged_alone_and_its_spread_counts(nets):
    """Real and generated images are judged in one call: no group may see both."""
    torch.manual_seed(0)
    judge = nets.Discriminator(32, 1, 8, statistics=True).eval()
    real, fake = torch.randn(2, 8, 1, 32, 32)
    both = judge(torch.cat([real, fake]))
    assert (both - torch.cat([judge(real), judge(fake)])).abs().max() < 1e-5
    alike = torch.cat([real[:1]] * 4)
    assert (judge(real[:4])[0] - judge(alike)[0]).abs().max() > 1e-4


@DISCRIMINATORS
def test_they_are_off_by_default_and_finite_in_bfloat16(nets):
    assert type(nets.Discriminator(32).spread) is torch.nn.Identity
    judge = nets.Discriminator(32, 1, 8, statistics=True)
    x = torch.randn(8, 1, 32, 32, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        logits = judge(x)
    loss = logits.float().mean()
    if nets is gan_r3:  # the other is not penalised
        loss = loss + gan.steepness(logits, x)
    loss.backward()
    assert logits.dtype == torch.bfloat16
    assert all(torch.isfinite(p.grad).all() for p in judge.parameters() if p.grad is not None)


def test_a_recipe_builds_networks_of_its_wishes(tmp_path):
    np.save(tmp_path / "images.npy", np.random.default_rng(0).normal(size=(20, 32, 32)))
    prepare_dataset(Data(path=str(tmp_path / "images.npy"), size=32), 0, tmp_path / "data")
    dataset = load_dataset(tmp_path / "data")
    wishes = {"width": 8, "latent": 16, "mapping": 4, "style": 24, "statistics": True}
    params = validate({"data": {"size": 32}, "gan": wishes}, "test")
    made = untrained_gan(params, dataset)
    shapes = [tuple(p.shape) for name, p in made.style.named_parameters() if "weight" in name]
    assert shapes == [(24, 16), (24, 24), (24, 24), (24, 24)]
    assert made(torch.randn(2, 16), torch.randn(2, 1, 32, 32)).shape == (2, 1, 32, 32)
    assert type(untrained_discriminator(params, dataset).spread) is MinibatchStatistics


def test_batches_that_are_no_whole_groups_are_refused():
    with pytest.raises(ValueError, match="4 images at a time, and batch 6 is no multiple of 4"):
        Gan(statistics=True, batch=6)
    params = validate({"gan": {"statistics": True}}, "test")
    with pytest.raises(InputError, match="gan.batch 16: .* each of 3 processes"):
        GanTask(params, None, SimpleNamespace(num_processes=3))
    with pytest.raises(ValueError, match="published generator has neither mapping nor style"):
        Gan(kind="published", mapping=4)
