"""What a generator is asked to draw: encoding, the user's tables, and images that follow them."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lensnb import generator, io, pipeline
from lensnb.datasets import conditions
from lensnb.datasets.dataset import load_dataset, prepare_dataset
from lensnb.errors import InputError
from lensnb.recipes.recipe import validate
from lensnb.recipes.schema import Data


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Blobs whose class is their place, left or right, and whose theta_E is their brightness."""
    folder = tmp_path_factory.mktemp("blobs")
    rng = np.random.default_rng(0)
    n = 300
    labels = rng.integers(2, size=n)
    bright = rng.uniform(1, 3, n)
    x, y = np.meshgrid(np.arange(16), np.arange(16))
    centre = np.where(labels == 0, 4.0, 11.0)
    images = bright[:, None, None] * np.exp(
        -((x - centre[:, None, None]) ** 2 + (y - 7.5) ** 2) / 8
    )
    np.savez(
        folder / "blobs.npz",
        images=images.astype(np.float32),
        labels=labels,
        theta_E=bright,
        q=rng.uniform(0.5, 1, n),
        gamma=np.full(n, 0.1),
    )
    prepare_dataset(
        Data(path=str(folder / "blobs.npz"), size=16, scaling="linear"), 0, folder / "data"
    )
    return load_dataset(folder / "data")


def recipe(kind="physics", **sample):
    return validate(
        {
            "device": "cpu",
            "data": {"size": 16},
            "model": {
                "width": 16,
                "patch": 4,
                "multipliers": [1, 2],
                "attention": [1],
                "context": kind,
            }
            | {"grid": "cartesian", "fine": 0},
            "diffusion": {"weighting": "plain"},
            "train": {
                "steps": 500,
                "batch": 32,
                "optimiser": "adamw",
                "rate": 3e-3,
                "ema": 0.1,
                "warmup": 20,
                "flips": "none",
                "drop_context": 0.2,
            },
            "sample": {
                "methods": {
                    "m": {"sampler": "dpmpp_2m", "steps": 12, "spacing": "karras"},
                    "guided": {
                        "sampler": "dpmpp_2m",
                        "steps": 12,
                        "spacing": "karras",
                        "guidance": 3.0,
                    },
                    "free": {
                        "sampler": "dpmpp_2m",
                        "steps": 12,
                        "spacing": "karras",
                        "guidance": 0.0,
                    },
                },
                **sample,
            },
        },
        "test",
    )


@pytest.fixture(scope="module")
def weights(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    pipeline.train_generator("diffusion", recipe(), dataset, folder)
    return folder / "model.safetensors"


def test_rows_are_one_hot_classes_and_standardised_physics(dataset):
    rows = conditions.encode("physics", dataset, conditions.table("physics", dataset))
    assert (
        rows.shape == (300, 5)
        and rows.dtype == torch.float32
        and conditions.width("physics", dataset) == 5
    )
    assert (
        torch.equal(rows[:, :2].argmax(1), torch.from_numpy(dataset.labels))
        and (rows[:, :2].sum(1) == 1).all()
    )
    seen = dataset.truth["theta_E"][dataset.train]
    assert (
        np.abs(rows[:, 2].numpy() - (dataset.truth["theta_E"] - seen.mean()) / seen.std()).max()
        < 1e-5
    )
    assert rows[:, 4].abs().max() == 0  # gamma is the same everywhere: no scatter, no NaN
    assert conditions.encode("class", dataset, conditions.table("class", dataset)).shape == (300, 2)
    assert conditions.width("none", dataset) == 0


def brightness(images):
    """Peak flux left and right of the middle, (N, 2)."""
    return np.stack(
        [images[:, 0, 7:9, 3:6].mean((1, 2)), images[:, 0, 7:9, 10:13].mean((1, 2))], axis=1
    )


def test_images_follow_what_they_are_asked_to_be(dataset, weights):
    table = {
        "class": np.arange(40) % 2,
        "theta_E": np.repeat([1.2, 2.8], 20),
        "q": np.full(40, 0.75),
        "gamma": np.full(40, 0.1),
    }
    images = generator.load_generator(recipe(), "m", dataset, weights).draw(40, table=table)
    side = brightness(images)
    assert ((side[:, 1] > side[:, 0]) == (table["class"] == 1)).all()
    faint = side.max(1)[:20]
    bright = side.max(1)[20:]
    # the blob's peak is theta_E, its 2x3 mean about 0.9 of it
    assert abs(faint.mean() / 1.2 - 1) < 0.25 and abs(bright.mean() / 2.8 - 1) < 0.25
    free = generator.load_generator(recipe(), "free", dataset, weights).draw(40, table=table)
    asked_and_got = (brightness(free).argmax(1) == table["class"]).mean()
    assert 0.2 < asked_and_got < 0.8  # without guidance the class is chance


def test_guidance_costs_two_evaluations_and_one_without_context_none(dataset, weights):
    assert [
        generator.load_generator(recipe(), name, dataset, weights).nfe for name in ("m", "guided")
    ] == [12, 24]


def test_guidance_costs_its_second_evaluation_within_its_interval_alone(dataset, weights):
    way = {"sampler": "heun", "steps": 12, "spacing": "karras", "guidance": 2.0}
    params = recipe(methods={"m": way | {"guidance_low": 0.3, "guidance_high": 5.0}})
    made = generator.load_generator(params, "m", dataset, weights)
    levels = made.inner.sigmas[:-1]
    inside = (levels > 0.3) & (levels <= 5.0)
    # Heun meets every level twice but the first
    assert made.nfe == 23 + 2 * inside.sum() and 0 < inside.sum() < 12 and not inside[0]


def test_a_start_about_the_mean_costs_one_evaluation_of_each_kind(dataset, weights):
    way = {"sampler": "ddim", "steps": 4, "spacing": "karras", "start": "mean"}
    params = recipe(methods={"m": way, "guided": way | {"guidance": 2.0}})
    plain, guided = (
        generator.load_generator(params, name, dataset, weights) for name in ("m", "guided")
    )
    assert plain.nfe == 5 and guided.nfe == 10
    calls = []
    plain.inner.net.register_forward_hook(lambda *_: calls.append(1))
    moved = plain.draw(2, batch=2)
    assert len(calls) == 5
    still = recipe(methods={"m": way | {"start": "noise"}})
    assert np.abs(moved - generator.load_generator(still, "m", dataset, weights).draw(2)).max() > 0


def guided_by(guide, scale=2.0):
    """A recipe whose training keeps a step, with a method that is guided by `guide`."""
    way = {"sampler": "ddim", "steps": 4, "spacing": "karras", "guidance": scale, "guide": guide}
    tree = recipe().model_dump()
    tree["train"] |= {"keep": [100]}
    tree["sample"] |= {"methods": {"m": {k: v for k, v in way.items() if v is not None}}}
    return validate(tree, "test")


def test_kept_weights_guide_and_lie_beside_the_models(dataset, weights, tmp_path):
    shutil.copy(weights, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="no step-100.safetensors beside .*train.keep"):
        generator.load_generator(
            guided_by("step-100"), "m", dataset, tmp_path / "model.safetensors"
        )
    shutil.copy(weights, tmp_path / "step-100.safetensors")

    def drawn(params):
        made = generator.load_generator(params, "m", dataset, tmp_path / "model.safetensors")
        return made.draw(3), made.nfe

    same, nfe = drawn(guided_by("step-100"))
    plain, _ = drawn(guided_by(None, 1.0))
    assert nfe == 8 and np.abs(same - plain).max() < 1e-3 * np.ptp(plain)  # away from itself
    worse = {k: 0.5 * v for k, v in load_file(weights).items()}
    save_file(worse, tmp_path / "step-100.safetensors")
    assert np.abs(drawn(guided_by("step-100"))[0] - plain).max() > 0.1 * np.ptp(plain)
    made = generator.load_generator(
        guided_by("step-100"), "m", dataset, tmp_path / "model.safetensors"
    )
    assert made.variant(6).inner.guide is made.inner.guide and made.variant(6).nfe == 6
    assert made.variant(6, 2.0).nfe == 12


def test_a_prior_knows_nothing_of_an_image(dataset, weights):
    made = generator.load_generator(recipe(), "m", dataset, weights)
    prior = made.prior()
    x = torch.randn(3, *prior.shape)
    dropped = torch.full((3, 5), torch.nan)
    with torch.no_grad():
        assert torch.equal(prior.denoise(x, 0.5), made.inner.net(x, 0.5, dropped))
    assert prior.shape == (1, 16, 16) and prior.scaling is dataset.scaling
    assert prior.spread == dataset.sigma_data


def test_without_a_table_contexts_are_those_of_training_images_and_belong_to_the_seed(
    dataset, weights
):
    made = generator.load_generator(recipe(), "m", dataset, weights)
    asked = made.asked(50, seed=1)
    pairs = set(
        zip(
            dataset.truth["theta_E"][dataset.train].tolist(),
            dataset.labels[dataset.train].tolist(),
            strict=True,
        )
    )
    assert {
        (t, c) for t, c in zip(asked["theta_E"].tolist(), asked["class"].tolist(), strict=True)
    } <= pairs
    assert np.array_equal(made.asked(10, seed=1, first=30)["theta_E"], asked["theta_E"][30:40])
    assert not np.array_equal(made.asked(50, seed=2)["theta_E"], asked["theta_E"])
    alone = made.asked(10, seed=1, table={"theta_E": [1.5]})  # the class is a training image's
    assert (alone["theta_E"] == 1.5).all() and np.array_equal(alone["class"], asked["class"][:10])
    together = made.draw(6, seed=1)
    assert np.abs(made.draw(2, seed=1, first=4, batch=1) - together[4:]).max() < 1e-3 * np.ptp(
        together
    )


def test_a_table_file_is_used_in_turn_and_written_beside_the_images(dataset, weights, tmp_path):
    io.write_table(
        tmp_path / "mine.csv",
        {
            "class": ["1", "0", "1"],
            "theta_E": [1.5, 2.5, 2.0],
            "q": [0.7] * 3,
            "gamma": [0.1] * 3,
            "note": ["a", "b", "c"],
        },
    )
    p = recipe(context=str(tmp_path / "mine.csv"), n=7, trajectory=2)
    pipeline.sample_method(p, "m", dataset, weights, tmp_path)
    written = io.read_table(tmp_path / "context.csv")
    assert written["theta_E"].tolist() == [1.5, 2.5, 2.0, 1.5, 2.5, 2.0, 1.5] and written[
        "class"
    ].tolist() == [1, 0, 1, 1, 0, 1, 1]
    images = np.load(tmp_path / "images.npy")
    assert (brightness(images).argmax(1) == written["class"]).all()
    # the trajectory shows the same images
    assert np.abs(np.load(tmp_path / "x0.npy")[-1] - images[:2].clip(0, 3)).max() < 0.1


@pytest.mark.parametrize(
    "columns, expected",
    [
        (
            {"class": ["0"], "q": [0.5], "gamma": [0.1]},
            "columns with rows below are class, q, gamma; expected a header and rows with class, "
            "theta_E, q, gamma",
        ),
        ({"class": ["7"], "theta_E": [1], "q": [0.5], "gamma": [0.1]}, "unknown class 7; "),
        ({"class": ["left"], "theta_E": [1], "q": [0.5], "gamma": [0.1]}, "unknown class left"),
        (
            {"class": ["0"], "theta_E": ["big"], "q": [0.5], "gamma": [0.1]},
            "column theta_E holds something else than finite numbers",
        ),
        (
            {"class": ["0"], "theta_E": ["nan"], "q": [0.5], "gamma": [0.1]},
            "column theta_E holds something else than finite numbers",
        ),
        ({"class": [], "theta_E": [], "q": [], "gamma": []}, "columns with rows below are none"),
    ],
    ids=str,
)
def test_a_wrong_table_is_one_sentence(columns, expected, dataset, tmp_path):
    io.write_table(tmp_path / "mine.csv", columns)
    with pytest.raises(InputError, match=expected):
        conditions.read(tmp_path / "mine.csv", "physics", dataset)


def test_a_missing_or_empty_table_is_one_sentence(dataset, tmp_path):
    with pytest.raises(InputError, match="no such file; sample.context names a .csv"):
        conditions.read(tmp_path / "none.csv", "class", dataset)
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(InputError, match="columns with rows below are none"):
        conditions.read(tmp_path / "empty.csv", "class", dataset)
    for content in (b"class,q\n1,2\n3\n", b"class\n\x81\n", b"class\n" + b"1" * 200_000):
        (tmp_path / "odd.csv").write_bytes(content)
        with pytest.raises(
            InputError, match="odd.csv: cannot be read as a table .*; expected text with a header"
        ):
            conditions.read(tmp_path / "odd.csv", "class", dataset)


def test_images_without_labels_or_physics_cannot_be_asked_for(dataset):
    with pytest.raises(InputError, match="class is asked for, and the images have no labels"):
        conditions.width("class", dataclasses.replace(dataset, labels=None))
    with pytest.raises(
        InputError, match="physics is asked for, and the images come without q and gamma"
    ):
        conditions.width(
            "physics", dataclasses.replace(dataset, truth={"theta_E": dataset.truth["theta_E"]})
        )


def test_classes_go_by_name_or_number(tmp_path):
    from types import SimpleNamespace

    lenses = SimpleNamespace(
        classes=("no_sub", "cdm", "vortex"), labels=np.zeros(3), truth={}, train=np.arange(3)
    )
    for values in (["cdm", "no_sub"], ["1", "0"]):
        io.write_table(tmp_path / "mine.csv", {"class": values})
        assert conditions.read(tmp_path / "mine.csv", "class", lenses)["class"].tolist() == [1, 0]
    io.write_table(tmp_path / "mine.csv", {"class": ["cmd"]})
    with pytest.raises(InputError, match="unknown class cmd; did you mean cdm?"):
        conditions.read(tmp_path / "mine.csv", "class", lenses)


@pytest.mark.parametrize(
    "names", [("01", "02", "03"), ("0.10", "0.20", "1"), ("2", "1", "0"), ("none", "cdm", "nan")]
)
def test_a_class_that_looks_like_a_number_is_read_back_as_itself(names, tmp_path):
    """A table is read as numbers where all of it are numbers: 01 comes back as 1.0."""
    column = conditions.Names("class", names, of_labels=True)
    assert column.parse(list(names), "here").tolist() == [0, 1, 2]
    io.write_table(tmp_path / "asked.csv", {"class": list(names)})
    back = io.read_table(tmp_path / "asked.csv")["class"]
    assert column.parse(back, "here").tolist() == [0, 1, 2]


def test_a_number_that_two_classes_have_is_refused():
    column = conditions.Names("class", ("01", "1", "2"), of_labels=True)
    assert column.parse(["01", "1"], "here").tolist() == [0, 1]
    with pytest.raises(InputError, match=r"here: class 1 may be 01 or 1; rename one"):
        column.parse([1.0], "here")


def test_auto_is_told_all_that_is_known(dataset):
    known = {
        "physics": dataset,
        "class": dataclasses.replace(dataset, truth={"theta_E": dataset.truth["theta_E"]}),
        "none": dataclasses.replace(dataset, labels=None, classes=()),
    }
    for kind, images in known.items():
        assert conditions.resolve("auto", images) == kind and conditions.width(
            "auto", images
        ) == conditions.width(kind, images)
    assert conditions.resolve("none", dataset) == "none"


@pytest.mark.parametrize("asked", [{"context": "mine.csv"}, {"guidance": 2}])
def test_what_is_asked_of_images_that_nothing_is_known_of_is_refused(dataset, asked):
    method = {"sampler": "ddim", "steps": 2, **({"guidance": 2} if "guidance" in asked else {})}
    p = validate(
        {
            "device": "cpu",
            "data": {"size": 16},
            "model": {"width": 16},
            "sample": {"methods": {"a": method}, "context": asked.get("context")},
        },
        "x",
    )
    unknown = dataclasses.replace(dataset, labels=None, classes=())
    with pytest.raises(InputError, match="these have no labels"):
        generator.Generator(
            p, p.sample.methods["a"], unknown, generator.untrained("diffusion", p, unknown), "cpu"
        )
