"""Data larger than memory: the whole way in a process that may hold far less than its images take.

The limit is RLIMIT_DATA: how much a process may hold that no file backs. The pages of a memory map
do not count, because the system drops them when it needs their room, and neither do libraries. A
limit on the address space would count both.
"""

import os
import subprocess
import sys

import numpy as np
import pytest
import yaml

pytestmark = pytest.mark.slow  # minutes: left out by make fast

N = 40_000  # images: 1.2 GiB in the file, 0.6 GiB in single precision
SIDE = 64
FREE = 400 * 2**20  # bytes
ALIKE = 200  # images that are alike when they are shrunk
RECIPE = {
    "run": "it",
    "device": "cpu",
    "threads": 1,
    "data": {"size": SIDE, "n": N, "scaling": "linear", "holdout": 0.02},
    "model": {"width": 16},
    "train": {"steps": 4, "batch": 16, "warmup": 1, "log_every": 2, "watch_every": 2},
    "sample": {
        "n": 16,
        "trajectory": 2,
        "frames": 2,
        "methods": {"ddim": {"sampler": "ddim", "steps": 2}},
    },
    "evaluate": {"n": 16, "bootstrap": 10, "floors": 2, "fit": 0},
}
LIMITED = """
import resource, sys, psutil, torch, scipy.stats, sklearn.linear_model
from lensnb import errors, generator, pipeline
from lensnb.evaluation import judge, monitor
from lensnb.recipes.recipe import load_recipe
from lensnb.training import loop
torch.set_num_threads(1)
torch.randn(64, 64).mm(torch.randn(64, 64))
limit = psutil.Process().memory_info().data + int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
def way():
    run = pipeline.open_run(load_recipe(sys.argv[1]))
    dataset = pipeline.make_data(run)
    print("images", dataset.images.nbytes)
    pipeline.train_model(run, "diffusion")
    print("drawn", len(pipeline.draw_samples(run, "ddim")))
    metrics, curves = pipeline.evaluate_method(run, "ddim")
    print("searched", metrics["memorisation"]["training_images"])
sys.exit(errors.told(way))
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A file of images in double precision.

    Only a corner of each image, four rows, is written. The rest is a hole, which takes no room on
    the disk. The rows differ in large patches, or else each image would be compared with all
    others as a near copy; only the first ALIKE images do not.
    """
    path = tmp_path_factory.mktemp("large") / "images.npy"
    rng = np.random.default_rng(0)
    patches = rng.normal(size=(N, 8))
    patches[:ALIKE] = patches[0]
    rows = np.tile(np.repeat(patches, SIDE // 8, axis=1), 4)  # (N, 4 SIDE)
    rows += 0.3 * rng.normal(size=rows.shape)
    with open(path, "wb") as file:
        header = {"descr": "<f8", "fortran_order": False, "shape": (N, SIDE, SIDE)}
        np.lib.format.write_array_header_1_0(file, header)
        start = file.tell()
        for i, corner in enumerate(rows):
            file.seek(start + 8 * i * SIDE**2)
            file.write(corner.tobytes())
        file.truncate(start + 8 * N * SIDE**2)
    return path


def limited(folder, path, hold, free=FREE):
    """Go the whole way, from the user's file to the evaluation, in a process of its own.

    The process may hold `free` bytes more than after its imports.
    """
    tree = RECIPE | {
        "data": RECIPE["data"] | {"path": str(path)},
        "train": RECIPE["train"] | {"hold": hold},
    }
    (folder / "it.yaml").write_text(yaml.safe_dump(tree))
    # The Makefile's MALLOC_ settings keep freed memory, which would need twice as much. These give
    # it back at once, so that the limit counts what is in use: 320 MiB at most, not up to 470.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    environment |= {
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_THRESHOLD_": "131072",
        "LENSNB_OUTPUTS": str(folder),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    return subprocess.run(
        [sys.executable, "-c", LIMITED, str(folder / "it.yaml"), str(free)],
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_images_beyond_memory_go_all_the_way_and_are_refused_where_they_must_be_held(
    large, tmp_path
):
    images = 4 * N * SIDE**2  # bytes
    training = N - N // 50
    assert os.path.getsize(large) > 3 * FREE and images > 1.5 * FREE
    done = limited(tmp_path, large, "disk")
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"images {images}" in done.stdout
    assert "drawn 16" in done.stdout and f"searched {training}" in done.stdout
    models = tmp_path / "it/models"
    models.rename(tmp_path / "it/before")  # the data stay, and only the model is made anew
    refused = limited(tmp_path, large, "device")
    assert refused.returncode == 2 and "Traceback" not in refused.stderr, refused.stderr[-3000:]
    assert f"hold device: {training} training images take 0.6 GiB" in refused.stderr
    assert "gan.hold and consistency.hold to disk" in refused.stderr
