"""What all tests share."""

import os

import pytest

os.environ["JUPYTER_PLATFORM_DIRS"] = "1"
for variable in [name for name in os.environ if name.startswith("LENSNB_")]:
    if variable != "LENSNB_BROWSER":  # what make exports is for `make run`
        del os.environ[variable]
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # two threads on a busy machine waste both
    os.environ.setdefault(variable, "1")

from images import out, src  # noqa: E402, F401 - fixtures for every test file; numpy comes after its thread count


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    import torch

    torch.set_num_threads(1)
