"""What a later step would refuse is said by the first; what the judge cannot say is said, too."""

from types import SimpleNamespace

import numpy as np
import pytest

from lensnb.errors import InputError
from lensnb.evaluation import image_stats, limits
from lensnb.evaluation.judge import Judge
from lensnb.recipes.recipe import validate
from lensnb.training.loader import Batches


def dataset(n=400, held=100, channels=1, scale=0.1, **truth):
    images = np.random.default_rng(0).normal(size=(n, channels, 8, 8)).astype(np.float32)
    order = np.arange(n)
    return SimpleNamespace(
        images=images,
        labels=None,
        classes=(),
        truth=truth,
        train=order[held:],
        heldout=order[:held],
        pixel_scale=scale,
    )


def recipe(**sections):
    return validate({"data": {"path": "mine"}, **sections}, "test")


def test_nothing_is_said_of_images_that_suffice():
    assert limits.of_steps(recipe(), dataset(1000, 300)) == []


def test_the_step_that_would_refuse_is_named_and_it_does_refuse():
    few = dataset(20, 5)
    train, judge = limits.of_steps(recipe(train={"batch": 64}, gan={"batch": 8}), few)
    assert train.startswith("02_train would refuse: train.batch is 64, and there are 15 training")
    with pytest.raises(InputError, match="batch 64 is above the 15 training images"):
        Batches(few.images[few.train], None, 64, "none", 0)
    assert judge.startswith("04_evaluate would refuse: 5 images on each side")
    with pytest.raises(InputError, match="5 images on each side, and 8 are needed"):
        Judge(recipe(), few)


@pytest.mark.parametrize("n", [60, limits.FEATURES - 1])
def test_few_images_are_compared_with_a_warning(n):
    many = dataset(1000, 300)
    (said,) = limits.of_steps(recipe(evaluate={"n": n}), many)
    assert said.startswith(f"04_evaluate will compare {n} images with {n}, fewer than LensNet's")
    assert limits.of_steps(recipe(evaluate={"n": limits.FEATURES}), many) == []


def test_conditions_that_cannot_be_told_or_break_under_flips_are_said():
    data = dataset(1000, 300, e1=np.linspace(-1, 1, 1000), one=np.ones(1000))
    refused, *_ = limits.of_steps(recipe(model={"context": ["z"]}), data)
    assert refused.startswith("02_train would refuse: model.context: z is asked for")
    same, turned = limits.of_steps(recipe(model={"context": ["e1", "one"]}), data)
    assert "one is the same in all training images" in same
    assert "by its name e1 is a place or an angle" in turned
    still = recipe(model={"context": ["e1"]}, train={"flips": "none"}, gan={"flips": "none"})
    assert limits.of_steps(still, data) == []


def test_classes_and_words_that_are_held_out_whole_are_said():
    data = dataset(1000, 300, band=np.repeat(["u", "g"], [300, 700]))
    data.labels, data.classes = np.repeat([2, 1, 0], [100, 200, 700]), ("a", "b", "c")
    (of_class,) = limits.of_steps(recipe(model={"context": "class"}), data)
    assert "whose class is b, c are held out, so that no network learns to draw them" in of_class
    (of_band,) = limits.of_steps(recipe(model={"context": ["band"]}), data)
    assert "whose band is u are held out" in of_band
    data.train = np.arange(1000)
    data.heldout = np.arange(300)
    assert not any("held out, so" in s for s in limits.of_steps(recipe(), data))


def test_held_out_images_that_are_trained_on_are_counted():
    data = dataset(1000, 300)
    data.images[:3] = data.images[500:503]
    assert limits.shared_images(data) == 3
    assert limits.of_steps(recipe(), data)[0].startswith("3 of 300 held-out images are training")


def test_the_judge_names_its_limits():
    small = limits.of_judge(recipe(), dataset(120, 40, channels=5, scale=None), ["kid"])
    for part in ("simulated lenses", "mean of the 5 bands", "40 images", "PSF", "finder", "pixels"):
        assert sum(part in sentence for sentence in small) >= 1, part
    simulated = validate({}, "test")
    assert limits.of_judge(simulated, dataset(1000, 300), ["lens_fit", "lenses_found"]) == []


def test_swapped_bands_are_seen_by_the_measure_of_bands_alone():
    images = np.random.default_rng(1).gamma(2, [[[[1.0]], [[3.0]]]], (50, 2, 8, 8))
    swapped = images[:, ::-1]
    assert np.abs(image_stats.grey(images) - image_stats.grey(swapped)).max() < 1e-12
    there, other = (image_stats.bands(x) for x in (images, swapped))
    assert there.shape == (50, 6)
    assert np.abs(there[:, [1, 0]] - other[:, :2]).max() < 1e-12
    assert np.abs(there.mean(0) - other.mean(0)).max() > 3
