"""What all tests share."""

import os
from pathlib import Path

import pytest

os.environ["JUPYTER_PLATFORM_DIRS"] = "1"
for variable in [name for name in os.environ if name.startswith("LENSNB_")]:
    if variable != "LENSNB_BROWSER":  # what make exports is for `make run`
        del os.environ[variable]
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # two threads on a busy machine waste both
    os.environ.setdefault(variable, "1")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else each process compiles the package anew

from chain import tiny_chain  # noqa: E402, F401 - fixtures for every test file
from images import out, src  # noqa: E402, F401 - numpy comes after its thread count

# The files that take minutes, longest first: a worker that begins one last would work alone.
LONGEST = (
    "test_notebooks",
    "test_execute",
    "test_browser",
    "test_launch",
    "test_published",
    "test_loop",
    "test_judge",
    "test_growth",
    "test_uncertainty",
    "test_cli",
    "test_cluster",
    "test_waiting",
    "test_drawing",
    "test_determinism",
    "test_lens_fit",
    "test_compiling",
    "test_consistency",
)


def pytest_collection_modifyitems(config, items):
    """Put the longest files first; the rest stay in their order.

    What is marked as chain runs only where -m names it.
    """
    if "chain" not in config.option.markexpr:
        gone = [item for item in items if item.get_closest_marker("chain")]
        items[:] = [item for item in items if item not in gone]
        config.hook.pytest_deselected(items=gone)
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(Path(item.path).stem, len(places)))


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    import torch

    torch.set_num_threads(1)
