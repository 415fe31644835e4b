"""One change, one place: a sampler, a measure and a reader from outside the package."""

import numpy as np
import pytest

import lensnb
from lensnb.datasets.readers import READERS
from lensnb.display import figures, tables
from lensnb.errors import InputError
from lensnb.evaluation import measures
from lensnb.evaluation.measures import MEASURES, Measure
from lensnb.lensing.simulate import simulate
from lensnb.metrics import mean_distance
from lensnb.recipes.recipe import load_recipe
from lensnb.sampler import SAMPLERS, Sampler, State, pairs

pytestmark = pytest.mark.slow  # minutes: left out by make fast


def halfway(denoise, sigmas, x, noise):
    """DDIM that takes half of each step, and the rest with it at the end."""
    for step, sigma, after in pairs(sigmas):
        x0 = denoise(x, sigma)
        x = x0 + (after / sigma) * (x - x0)
        yield State(step, after, x, x0)


def brightest(images):
    """The brightest pixel of each image, (N, 1)."""
    return images.max(axis=(1, 2, 3))[:, None].astype(float)


class Raw:
    """Images of 32 x 32 float32 values without any head, in files *.raw."""

    suffixes = (".raw",)

    def survey(self, named):
        return [self.open_images(*file)[0].shape[0] for file in named], (1, 32, 32)

    def open_images(self, path, name):
        return np.fromfile(path, np.float32).reshape(-1, 1, 32, 32), float("nan")


@pytest.fixture
def extended():
    SAMPLERS.add("halfway", Sampler(halfway, label="halfway"))
    MEASURES.add(
        "brightest",
        Measure(
            rows=brightest,
            distance=mean_distance,
            unit="units of the images",
            group="physics",
            label="brightest pixel",
        ),
    )
    READERS.add("raw", Raw())
    yield
    for registry, name in ((SAMPLERS, "halfway"), (MEASURES, "brightest"), (READERS, "raw")):
        del registry[name]


def test_they_run_through_a_recipe_without_any_other_change(extended, tmp_path, monkeypatch):
    monkeypatch.setenv("LENSNB_OUTPUTS", str(tmp_path / "outputs"))
    (tmp_path / "mine").mkdir()
    images = simulate(120, seed=1, size=32)[0]
    for i, image in enumerate(images):
        image.tofile(tmp_path / "mine" / f"{i:03d}.raw")
    recipe = load_recipe(
        "params/tiny.yaml",
        f"run=mine data.path='{tmp_path / 'mine'}' data.n=120 data.holdout=0.2 train.steps=4 "
        "evaluate.n=16 evaluate.bootstrap=10 evaluate.floors=2 evaluate.fit=0 sample.n=16 "
        "sample.methods={ours: {model: diffusion, sampler: halfway, steps: 4}}".replace(
            "sample.methods={", "'sample.methods={"
        )
        + "'",
    )
    run = lensnb.open_run(recipe)
    dataset = lensnb.make_data(run)
    assert np.array_equal(dataset.images, images) and "120 images" in dataset.source
    lensnb.train_model(run, "diffusion")
    lensnb.draw_samples(run, "ours")
    found = lensnb.evaluate_method(run, "ours")[0]["metrics"]["brightest"]
    assert found["unit"] == "units of the images" and found["n"] == 16 and found["error"] > 0
    tree, costs = lensnb.compare_methods(run)
    assert "brightest" in {row["metric"] for row in tree["rows"]}
    assert "brightest pixel" in tables.comparison(tree["rows"]).to_html()
    assert measures.label("brightest") == "brightest pixel"
    figures.z_values(tree["rows"])


def test_without_them_a_recipe_that_names_them_is_refused():
    with pytest.raises(InputError, match="halfway"):
        load_recipe("params/tiny.yaml", "sample.methods.ddim.sampler=halfway")
