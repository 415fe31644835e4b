"""Images on disk, and how they are read or refused; shared by the tests of lensnb.datasets."""

import numpy as np
import pytest

from lensnb.datasets.dataset import load_dataset, prepare_dataset
from lensnb.errors import InputError
from lensnb.recipes.schema import Data


def noise(*shape, seed=1):
    return np.random.default_rng(seed).normal(3.0, 2.0, shape)


def read(path, folder, seed=0, **knobs):
    """The dataset that is prepared from a path, unscaled and unresized unless `knobs` differ."""
    knobs = {"size": 8, "scaling": "linear", "holdout": 0.25} | knobs
    prepare_dataset(Data(path=str(path), **knobs), seed, folder)
    return load_dataset(folder)


def refusal(path, folder, **knobs):
    """The one sentence with which a source is refused."""
    with pytest.raises(InputError) as caught:
        read(path, folder, **knobs)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 700, text
    return text


@pytest.fixture
def out(tmp_path):
    return tmp_path / "run" / "data"


@pytest.fixture
def src(tmp_path):
    (tmp_path / "src").mkdir()
    return tmp_path / "src"


def save_each(folder, images, names=None):
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        np.save(folder / (names[i] if names else f"{i:03}.npy"), image)


def deeplense_object(path, image, mass):
    pair = np.empty(2, object)
    pair[:] = [image, mass]
    np.save(path, pair, allow_pickle=True)
