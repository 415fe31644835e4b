"""What a GAN's networks want: losses and penalties in closed form, and a short training."""

import numpy as np
import pytest
import torch

from lensnb import gan, generator, pipeline
from lensnb.datasets.dataset import load_dataset, prepare_dataset
from lensnb.recipes.recipe import validate
from lensnb.recipes.schema import Data, Gan, Sample
from lensnb.training import loop
from lensnb.training.accelerator import make_accelerator


def test_smoothed_loss_is_the_cross_entropy_with_its_labels():
    logits = torch.tensor([[-1.0, 0.5, 3.0]])
    p = logits.sigmoid()
    expected = -(0.9 * p.log() + 0.1 * (1 - p).log()).mean()
    assert abs(gan.smoothed(logits, True, 0.1) - expected) < 1e-6
    assert abs(gan.smoothed(-logits, False, 0.1) - expected) < 1e-6  # symmetric


def test_pairing_is_the_cross_entropy_of_the_difference():
    a, b = torch.randn(2, 7, 1)
    assert (
        abs(
            gan.pairing(a, b)
            - torch.nn.functional.binary_cross_entropy_with_logits(a - b, torch.ones(7, 1))
        )
        < 1e-6
    )


def test_hinge_loss_in_closed_form_and_its_gradients():
    """Logits beyond the margin count nothing; the others pull with the same force."""
    real = torch.tensor([[-2.0], [0.5], [1.5]], requires_grad=True)
    fake = torch.tensor([[-3.0], [-0.5], [2.0]], requires_grad=True)
    losses = gan.losses_of(Gan(loss="hinge"))
    loss = losses.discriminator(real, fake, 0.1)
    assert abs(loss.item() - ((3 + 0.5 + 0) / 3 + (0 + 0.5 + 3) / 3)) < 1e-6
    loss.backward()
    assert (3 * real.grad.flatten() - torch.tensor([-1.0, -1, 0])).abs().max() < 1e-6
    assert (3 * fake.grad.flatten() - torch.tensor([0.0, 1, 1])).abs().max() < 1e-6
    assert abs(losses.generator(real, fake).item() - 0.5) < 1e-6  # minus the mean


def test_a_gan_has_the_loss_of_its_kind_unless_another_is_named():
    assert gan.losses_of(Gan()) is gan.LOSSES["relativistic"]
    assert gan.losses_of(Gan(kind="published")) is gan.LOSSES["cross_entropy"]
    assert gan.losses_of(Gan(kind="published", loss="hinge")) is gan.LOSSES["hinge"]
    with pytest.raises(ValueError, match="'relativistic' or 'hinge'; did you mean 'hinge'"):
        Gan(loss="hing")


def test_steepness_is_the_squared_gradient_in_closed_form():
    """Logit w.x + (v.x)^2: its gradient is w + 2 (v.x) v."""
    w = torch.randn(12)
    v = torch.randn(12)
    x = torch.randn(5, 1, 3, 4, requires_grad=True)
    flat = x.flatten(1)
    found = gan.steepness(flat @ w + (flat @ v) ** 2, x)
    expected = ((w + 2 * (flat @ v)[:, None] * v) ** 2).sum()
    # training differentiates it once more
    assert abs(found / expected - 1) < 1e-5 and found.requires_grad


def test_the_discriminator_sees_generated_images_as_they_are(tmp_path, monkeypatch):
    """Turned images would hide a generator whose images all have the same orientation."""
    np.save(
        tmp_path / "images.npy",
        np.random.default_rng(0).normal(size=(40, 16, 16)).astype(np.float32),
    )
    prepare_dataset(Data(path=str(tmp_path / "images.npy"), size=16), 0, tmp_path / "data")
    p = validate(
        {
            "device": "cpu",
            "data": {"size": 16},
            "gan": {"steps": 4, "batch": 8, "width": 8, "latent": 8},
        },
        "test",
    )
    task = loop.task("gan", p, load_dataset(tmp_path / "data"), make_accelerator("cpu"))
    made = []
    seen = []
    task.generator.register_forward_hook(lambda net, given, out: made.append(out.detach()))
    task.discriminator.register_forward_hook(lambda net, given, out: seen.append(given[0].detach()))
    task.step(0, torch.randn(8, 1, 16, 16), None, torch.Generator().manual_seed(0))
    assert len(made) == 1 and torch.equal(seen[0][8:], made[0]) and torch.equal(seen[1], made[0])


@pytest.mark.parametrize(
    "kind, wishes",
    [
        ("published", {}),
        ("modern", {}),
        ("modern", {"loss": "hinge", "statistics": True, "mapping": 4, "style": 64}),
    ],
    ids=["published", "modern", "wishes"],
)
def test_a_gan_learns_where_the_light_is(kind, wishes, tmp_path):
    """Images have one bright spot at a fixed place and of a random strength.

    After some hundred updates the generator's light is at that place.
    """
    rng = np.random.default_rng(0)
    place = np.arange(16) - 7.5
    spot = np.exp(-((place[:, None] - 3) ** 2 + (place + 3) ** 2) / 8)
    np.save(
        tmp_path / "images.npy",
        (rng.uniform(1, 3, (100, 1, 1)) * spot + rng.normal(0, 0.05, (100, 16, 16))).astype(
            np.float32
        ),
    )
    prepare_dataset(Data(path=str(tmp_path / "images.npy"), size=16), 0, tmp_path / "data")
    dataset = load_dataset(tmp_path / "data")
    p = validate(
        {
            "device": "cpu",
            "threads": 1,
            "data": {"size": 16},
            "gan": {
                "kind": kind,
                "steps": 250,
                "batch": 16,
                "width": 8,
                "latent": 8,
                "flips": "none",
                "watch_every": 0,
                "log_every": 50,
                "rate": 1e-3,
                **wishes,
            },
        },
        "test",
    )
    (tmp_path / "run").mkdir()
    pipeline.train_generator("gan", p, dataset, tmp_path / "run")
    images = generator.load_generator(
        p.model_copy(update={"sample": Sample(methods={"gan": {"model": "gan"}})}),
        "gan",
        dataset,
        tmp_path / "run/model.safetensors",
    ).draw(50)
    mean = images.mean((0, 1))
    assert np.corrcoef(mean.ravel(), spot.ravel())[0, 1] > 0.9
    assert 0.5 < mean.max() / 2 < 1.5


def test_penalties_fall_and_weigh_for_the_steps_between():
    settings = Gan(kind="modern", steps=100, penalty=0.5, penalty_end=0.05, penalty_every=4)
    assert [gan.penalty(k, settings) for k in (1, 2, 3, 5)] == [0] * 4
    assert gan.penalty(0, settings) == pytest.approx(4 * 0.5)
    assert gan.penalty(50, settings.model_copy(update={"penalty_every": 1})) == pytest.approx(
        (0.5 * 0.05) ** 0.5
    )
    assert gan.penalty(0, settings.model_copy(update={"kind": "published"})) == 0
