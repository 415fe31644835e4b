"""The published systems as recipes: their published numbers, and runs to the end."""

from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from lensnb import denoiser, generator, io, pipeline, schedule
from lensnb.apps.execute import execute
from lensnb.networks import gan_r3
from lensnb.recipes import smoke
from lensnb.recipes.recipe import load_recipe, validate

pytestmark = pytest.mark.slow  # minutes: left out by make fast

ROOT = Path(__file__).parents[2]
DENOISERS = ("context_unet", "mnist", "imagenet100", "ddim_noise_level", "deeplense_ddim")
PUBLISHED = (*DENOISERS, "deeplense_gan", "gan_modern", "dit_flow")


def recipe(name, overrides=""):
    return load_recipe(ROOT / "params" / f"{name}.yaml", overrides)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Real photographs, in a folder for each class: pieces of those that come with scikit-image."""
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for kind in ("astronaut", "chelsea", "coffee"):
        whole = getattr(skimage.data, kind)()
        (folder / kind).mkdir()
        for i in range(28):
            top, left = (rng.integers(side - 160) for side in whole.shape[:2])
            Image.fromarray(whole[top : top + 128, left : left + 160]).save(
                folder / kind / f"{i}.jpg"
            )
    return folder


WATCHED = ("mnist", "deeplense_gan")  # each look draws 64 images: seconds where maps are large
# These notebooks are executed, too: three channels in classes; no diffusion model at all.
EXECUTED = {"imagenet100": ("01_data", "04_evaluate"), "deeplense_gan": ("02_train", "03_sample")}


def cut_down(name, photographs):
    """A published recipe, smaller still than its smoke form: narrow, and watched by few.

    Images of half the side cost a quarter; MNIST's 28 pixels stay.
    """
    overrides = f"data.path='{photographs}'" if name == "imagenet100" else ""
    tree = smoke.shortened(recipe(name, f"threads=1 {overrides}")).model_dump()
    tree["model"] |= {"width": 8, "groups": 8}
    tree["data"]["size"] = min(tree["data"]["size"], 32)
    tree["evaluate"]["fit"] = 2 if name == "deeplense_gan" else 0
    if name not in WATCHED:
        for section in ("train", "gan"):
            tree[section]["watch_every"] = 0
    return validate(tree, name)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_system_runs_to_the_end(name, photographs, tmp_path, monkeypatch):
    monkeypatch.setenv("LENSNB_OUTPUTS", str(tmp_path))
    monkeypatch.setenv("LENSNB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(
        "LENSNB_MNIST_URL", "http://127.0.0.1:9/"
    )  # nobody answers there: digits stand in
    monkeypatch.chdir(ROOT)
    p = cut_down(name, photographs)
    run = pipeline.open_run(p)
    pipeline.make_data(run)
    for stage in run.stages("02_train"):
        pipeline.train_model(run, stage.partition("/")[2])
    for method in p.sample.methods:
        pipeline.draw_samples(run, method)
        pipeline.evaluate_method(run, method)
    for step in EXECUTED.get(name, ()):
        execute(step, p)
    made = tmp_path / f"{name}-smoke"
    n = 8
    channels = {"imagenet100": 3}.get(name, 1)
    size = {"mnist": 28}.get(name, 32)
    for method in p.sample.methods:
        images = np.load(made / "samples" / method / "images.npy")
        assert (
            images.shape == (n, channels, size, size)
            and np.isfinite(images).all()
            and images.std() > 0
        )
        found = io.read_json(made / "evaluation" / method / "metrics.json")["metrics"]
        assert all(
            np.isfinite([m["value"], m["error"], m["floor"], m["floor_error"]]).all()
            for m in found.values()
        )
    for model in {m.model for m in p.sample.methods.values()}:
        tables = ["history", "watch"] if name in WATCHED else ["history"]
        for table in tables:
            columns = io.read_table(made / f"models/{model}/{table}.csv")
            assert all(np.isfinite(column).all() for column in columns.values())
    assert (made / "samples" / method / "context.csv").is_file() == (p.model.context != "none")
    source = io.read_json(made / "data/dataset.json")["source"]
    assert {"mnist": "scikit-learn's handwritten digits", "imagenet100": "photographs"}.get(
        name, "simulated"
    ) in source


def test_the_smoke_form_changes_nothing_but_sizes():
    for name in PUBLISHED:
        whole = recipe(name).model_dump()
        short = smoke.shortened(recipe(name)).model_dump()
        assert short["diffusion"] == whole["diffusion"]
        assert {k for k in whole["model"] if whole["model"][k] != short["model"][k]} <= {"width"}
        assert {k: v["sampler"] for k, v in short["sample"]["methods"].items()} == {
            k: v["sampler"] for k, v in whole["sample"]["methods"].items()
        }


def test_mnists_forward_process_is_the_closed_form_and_not_the_original_slip():
    made = schedule.from_params(recipe("mnist").diffusion)
    beta = np.linspace(1e-4, 0.02, 1000)
    alpha_bar = np.cumprod(1 - beta)
    assert (
        np.abs(made.betas.numpy() - beta).max() < 1e-15
        and np.abs(made.alpha_bar.numpy() - alpha_bar).max() < 1e-14
    )
    spread = (made.sigmas * made.alpha_bar.sqrt()).numpy()  # of the noise at unit variance
    assert (
        np.abs(spread - np.sqrt(1 - alpha_bar)).max() < 1e-14
        and np.abs(spread - (1 - np.sqrt(alpha_bar))).max() > 0.2
    )


def test_published_numbers_stand_in_the_recipes():
    c, m, i, k, d = map(recipe, DENOISERS)
    assert (
        c.diffusion.timesteps,
        c.diffusion.beta_1,
        c.diffusion.beta_T,
        c.train.epochs,
        c.train.batch,
    ) == (1500, 1e-4, 0.02, 200, 128)
    assert (
        c.model.width,
        c.model.block,
        c.model.norm,
        len(c.model.multipliers),
        c.model.context,
    ) == (64, "context", "batch", 4, "physics")
    assert {25, 50, 75, 100, 125, 150, 175, 199} <= set(c.train.keep)
    assert (
        m.diffusion.timesteps,
        m.train.epochs,
        m.train.batch,
        m.train.shape,
        m.train.warmup,
    ) == (1000, 30, 128, "onecycle", 0.25)
    assert (
        m.sample.methods["sample_clip"].clip
        and not m.sample.methods["sample"].clip
        and m.model.block == "shuffle"
    )
    assert (
        i.diffusion.timesteps,
        i.model.width,
        i.model.multipliers,
        i.model.groups,
        i.model.attention,
    ) == (128, 128, (1, 2, 2, 4), 32, (2, 3))
    assert (
        i.train.rate,
        i.train.decay,
        i.train.shape,
        i.train.epochs,
        i.train.batch,
        i.train.clip,
    ) == (2e-4, 1e-4, "cosine", 16, 64, 1.0)
    assert (
        k.model.embed,
        k.model.norm,
        k.model.attention,
        k.diffusion.schedule,
        k.diffusion.level,
    ) == ("input", "batch_plain", (), "signal_rate", "variance")
    assert (d.train.rate, d.train.epochs, d.train.batch, d.train.accumulate, d.train.precision) == (
        5e-5,
        30,
        64,
        4,
        "bf16",
    )
    g = recipe("deeplense_gan").gan
    assert (g.kind, g.epochs, g.batch, g.rate, g.betas, g.critic_updates, g.smoothing) == (
        "published",
        100,
        64,
        2e-4,
        (0.5, 0.999),
        3,
        0.1,
    )
    assert (
        d.sample.methods["ddim"].steps == 100
        and d.sample.methods["ddpm"].steps == 1000
        and d.model.checkpointing
    )


@pytest.mark.parametrize("name", DENOISERS)
def test_the_first_loss_of_noise_prediction_is_one(name):
    """The last convolution starts at zero: the first mean squared error is the noise's own."""
    import torch

    p = smoke.shortened(recipe(name))
    made = generator.denoiser_of(
        p, p.data.channels or 1, 0.5, context={"none": 0, "class": 3, "physics": 6}[p.model.context]
    )
    size = p.data.size
    draw = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 8, p.data.channels or 1, size, size, generator=draw)
    sigma = schedule.from_params(p.diffusion).train_sigmas(8, draw)
    first = denoiser.loss(made, 0.5 * x0, sigma, noise, made.weight(sigma, "plain"))
    assert abs(first.item() / (noise**2).mean().item() - 1) < 1e-3


def test_the_last_of_128_levels_is_noise():
    """With the betas of T = 1000 a third of the image's amplitude would be left there."""
    assert schedule.from_params(recipe("imagenet100").diffusion).alpha_bar[-1] < 1e-4
    assert schedule.Discrete(schedule.linear_betas(128)).alpha_bar[-1] > 0.25


def test_one_network_serves_any_number_of_steps():
    from lensnb import generator

    p = recipe("ddim_noise_level")
    lists = [generator.sigmas_of(m, p.diffusion) for m in p.sample.methods.values()]
    assert [len(s) - 1 for s in lists] == [5, 20, 80] and len({s[0].item() for s in lists}) == 1
    assert (
        abs(lists[0][0].item() - (1 / 0.02**2 - 1) ** 0.5) < 1e-6
    )  # the last level has a signal rate of 0.02


@pytest.mark.parametrize("name", ["gan_modern", "gpu"])
def test_gan_and_diffusion_compete_with_equal_means(name):
    p = recipe(name)

    def count(net):
        return sum(w.numel() for w in net.parameters())

    of_gan = count(gan_r3.Generator(p.data.size, 1, p.gan.latent, p.gan.width))
    assert 0.9 < of_gan / count(generator.denoiser_of(p, 1, 0.5)) < 1.1
    assert p.gan.steps * p.gan.batch == p.train.steps * p.train.batch


def test_checkpoints_of_the_epochs_are_kept():
    settings, keep = pipeline.counted(recipe("context_unet").train, 9000)
    assert settings.steps == 14063 and keep[1758] == "epoch-25.safetensors" and len(keep) == 9
