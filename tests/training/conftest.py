"""Images that the tests of the training train on."""

import numpy as np
import pytest

from lensnb.datasets.dataset import load_dataset, prepare_dataset
from lensnb.recipes.schema import Data


@pytest.fixture
def dataset(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(40, 1, 32, 32)).astype(np.float32).cumsum(-1)
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "labels.npy", np.arange(40) % 2)
    p = Data(path=str(tmp_path / "images.npy"), labels=str(tmp_path / "labels.npy"), size=32)
    prepare_dataset(p, 0, tmp_path / "data")
    return load_dataset(tmp_path / "data")
