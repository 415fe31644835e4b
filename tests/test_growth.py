"""Data larger than memory: the whole way in a process that may hold far less than its images take.

The limit is on RLIMIT_DATA, what a process may hold that no file backs: the pages of a memory map, which the system drops
when it needs their room, do not count, and neither do libraries. A limit on the address space would count both.
"""

import os
import subprocess
import sys

import numpy as np
import pytest
import yaml

# the file has 2.0 GiB, its images in single precision 1.0
N = 66_000
SIDE = 64
FREE = 500 * 2**20
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
from lensnb import chain, errors, evaluate, generate, params, train, watch
torch.set_num_threads(1)
torch.randn(64, 64).mm(torch.randn(64, 64))
resource.setrlimit(resource.RLIMIT_DATA, (psutil.Process().memory_info().data + int(sys.argv[2]),) * 2)
def way():
    run = chain.open_run(params.load(sys.argv[1]))
    dataset = chain.make_data(run)
    print("images", dataset.images.nbytes)
    chain.train_model(run, "diffusion")
    print("drawn", len(chain.draw_samples(run, "ddim")))
    print("searched", chain.evaluate_method(run, "ddim")[0]["memorisation"]["training_images"])
sys.exit(errors.told(way))
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A file of double-precision images, of which only a corner is written: the rest is a hole, and takes no room on the disk."""
    path = tmp_path_factory.mktemp("large") / "images.npy"
    corners = np.random.default_rng(0).normal(size=(N, 64))
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f8", "fortran_order": False, "shape": (N, SIDE, SIDE)}
        )
        start = file.tell()
        for i, corner in enumerate(corners):
            file.seek(start + 8 * i * SIDE**2)
            file.write(corner.tobytes())
        file.truncate(start + 8 * N * SIDE**2)
    return path


def limited(folder, path, hold, free=FREE):
    """The whole way from the user's file to the evaluation, in a process that may hold `free` bytes more than after its imports."""
    tree = RECIPE | {
        "data": RECIPE["data"] | {"path": str(path)},
        "train": RECIPE["train"] | {"hold": hold},
    }
    (folder / "it.yaml").write_text(yaml.safe_dump(tree))
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")
    }  # make keeps freed memory: twice as much
    environment |= {
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
        timeout=3000,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_images_beyond_memory_go_all_the_way_and_are_refused_where_they_must_be_held(
    large, tmp_path
):
    assert (
        os.path.getsize(large) > 4 * FREE and 4 * N * SIDE**2 > 2 * FREE
    )  # so that neither nor half of it could be held
    done = limited(tmp_path, large, "disk")
    assert done.returncode == 0, done.stderr[-3000:]
    assert (
        f"images {4 * N * SIDE**2}" in done.stdout
        and "drawn 16" in done.stdout
        and f"searched {N - N // 50}" in done.stdout
    )
    again = tmp_path / "it/models"
    again.rename(tmp_path / "it/before")  # of the same data: the model alone is made anew
    refused = limited(tmp_path, large, "device")
    assert refused.returncode == 2 and "Traceback" not in refused.stderr, refused.stderr[-3000:]
    assert (
        f"hold device: {N - N // 50} training images take 1.0 GiB" in refused.stderr
        and "train.hold and gan.hold to disk" in refused.stderr
    )
