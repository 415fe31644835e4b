"""Real training processes.

They are killed at any moment and resumed, asked to stop, short of memory, and two of them are one.
"""

import contextlib
import io
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from unittest import mock

import numpy as np
import psutil
import pytest
import safetensors.torch
import yaml

from lensnb.apps import launch
from lensnb.io import read_table, sha256

PATIENCE = 3600  # seconds; beside other work a training may take many times as long as alone
RECIPE = {
    "run": "it",
    "device": "cpu",
    "threads": 1,
    "data": {"size": 32, "n": 40},
    "model": {"width": 16, "dropout": 0.1},
    "train": {
        "steps": 60,
        "batch": 8,
        "warmup": 3,
        "log_every": 7,
        "checkpoint_every": 1,
        "watch_every": 30,
        "keep": [20],
    },
    "gan": {
        "steps": 30,
        "batch": 8,
        "width": 8,
        "latent": 8,
        "log_every": 7,
        "checkpoint_every": 1,
        "watch_every": 15,
    },
    "sample": {
        "n": 16,
        "methods": {"ddim": {"sampler": "ddim", "steps": 3}, "gan": {"model": "gan"}},
    },
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "images.npy"
    np.save(path, np.random.default_rng(0).normal(size=(40, 32, 32)).astype(np.float32).cumsum(-1))
    return path


def command(folder, images, launcher=(), **changes):
    """The command line of a training in `folder`, and its environment."""
    changed = {section: RECIPE.get(section, {}) | keys for section, keys in changes.items()}
    tree = RECIPE | {"data": RECIPE["data"] | {"path": str(images)}} | changed
    folder.mkdir(exist_ok=True)
    (folder / "it.yaml").write_text(yaml.safe_dump(tree))
    environment = os.environ | {
        "LENSNB_OUTPUTS": str(folder),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    line = [sys.executable, "-u", "-m", *launcher, "lensnb", "train", str(folder / "it.yaml")]
    return line, environment


def finished(folder, images, launcher=(), **changes):
    """Train to the end, without a launcher in this process. Returns what the training prints."""
    line, environment = command(folder, images, launcher, **changes)
    if not launcher:
        printed = io.StringIO()
        with mock.patch.dict(os.environ, environment), contextlib.redirect_stdout(printed):
            launch.launch(line[-1])
        return printed.getvalue()
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return done.stdout


def begun(folder, images, **changes):
    """A training that has been started."""
    line, environment = command(folder, images, **changes)
    return subprocess.Popen(
        line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def until(process, happened):
    """Wait until something has happened, or the process has ended."""
    while process.poll() is None and not happened():
        time.sleep(0.0005)


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    """A training that nobody interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    finished(folder, images)
    return folder / "it/models"


def hashes(models):
    """What the files of both models hold, without times and recipes.

    A recipe names the folder of the images, which differs.
    """
    names = ("diffusion/model", "diffusion/step-20", "gan/model")
    found = {name: sha256(models / f"{name}.safetensors") for name in names}
    return found | {
        name: (models / f"{name}.csv").read_text()
        for name in ("diffusion/history", "diffusion/watch", "gan/history", "gan/watch")
    }


def test_killed_at_any_moment_it_resumes_to_the_same_bits(images, whole, tmp_path):
    rng = random.Random(0)
    models = tmp_path / "it/models"

    def training(name):
        """Whether this process, not an earlier one, has saved a checkpoint."""
        with contextlib.suppress(FileNotFoundError):
            return (models / f".{name}.partial/checkpoint.pt").stat().st_mtime > started

    def writing(name):
        """Whether a file is being written."""
        return training(name) and list(models.glob(f".{name}.partial/.*.partial"))

    def weights_kept(name):
        return (models / f".{name}.partial/step-20.safetensors").exists()

    def by_chance(name):
        return training(name) and rng.random() < 0.004

    moments = [
        (writing, "diffusion"),
        (weights_kept, "diffusion"),
        (by_chance, "diffusion"),
        (writing, "gan"),
    ]
    killed = 0
    printed = ""
    for moment, name in moments:
        started = time.time()
        process = begun(tmp_path, images)
        until(process, partial(moment, name))
        killed += process.poll() is None
        process.kill()
        printed += process.communicate()[0]
    printed += finished(tmp_path, images)
    assert killed >= 3 and printed.count("resumed at step") >= 2
    assert hashes(models) == hashes(whole)
    assert not list(models.glob("*/.*")) and not list(models.glob("*/checkpoint.pt"))


@pytest.mark.parametrize(
    "number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 128 + signal.SIGTERM)]
)
def test_asked_to_stop_it_saves_first(number, status, images, whole, tmp_path):
    seldom = RECIPE["train"] | {"checkpoint_every": 1000}
    process = begun(tmp_path, images, train=seldom)
    for text in process.stdout:
        if text.startswith("step 7/"):
            process.send_signal(number)
            break
    out, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == status and "Traceback" not in error
    assert "stopped and saved after step" in out
    assert (tmp_path / "it/models/.diffusion.partial/checkpoint.pt").is_file()
    assert "resumed at step" in finished(tmp_path, images, train=seldom)
    weights = sha256(tmp_path / "it/models/diffusion/model.safetensors")
    assert weights == hashes(whole)["diffusion/model"]


# With --cpu the launcher starts one process alone, and does not say so.
TWO = ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "-m")
WHO = """
from lensnb.training.accelerator import make_accelerator
on = make_accelerator("{device}")
open(f"{{on.process_index}} of {{on.num_processes}}", "w")
"""


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_the_launcher_starts_two(device, tmp_path):
    """Otherwise all tests that follow would compare one process with itself."""
    (tmp_path / "who.py").write_text(WHO.format(device=device))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-m", *TWO[:-1], "who.py"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=tmp_path,
    )
    assert {p.name for p in tmp_path.iterdir()} == {"who.py", "0 of 2", "1 of 2"}, done.stderr


CALM = {
    "model": {"width": 16, "dropout": 0.0},
    "train": RECIPE["train"] | {"steps": 12, "keep": [], "watch_every": 0, "log_every": 1},
    "gan": RECIPE["gan"] | {"steps": 6, "watch_every": 0},
}


def together(folder, images, launcher, **changes):
    """Train with a launcher. Returns the weights of both models, the diffusion model's losses."""
    finished(folder, images, launcher, **CALM | {"train": CALM["train"] | changes})
    models = folder / "it/models"
    weights = {
        f"{name}.{key}": value
        for name in ("diffusion", "gan")
        for key, value in safetensors.torch.load_file(models / f"{name}/model.safetensors").items()
    }
    return weights, read_table(models / "diffusion/history.csv")["loss"]


def apart(a, b):
    """The largest difference between two sets of weights."""
    return max((a[k].float() - b[k].float()).abs().max().item() for k in a)


def test_two_processes_are_one_within_rounding(images, tmp_path):
    one, losses = together(tmp_path / "one", images, ())
    two, same = together(tmp_path / "two", images, TWO, tracker="tensorboard")
    pieces, _ = together(tmp_path / "pieces", images, TWO, accumulate=2)
    assert np.abs(losses - same).max() < 1e-5 * losses.max()
    assert apart(one, two) < 2e-4 and apart(one, pieces) < 2e-4
    assert list((tmp_path / "two/it/tracking/diffusion").rglob("events*"))
    untouched, _ = together(tmp_path / "other", images, (), rate=5e-4)
    assert apart(one, untouched) > 1e-3  # the bound is far below what training changes


def kill(launcher):
    """SIGKILL to all processes: they are in sessions of their own."""
    for one in [launcher, *launcher.children(recursive=True)]:
        one.kill()


def ask_the_second(launcher):
    """SIGTERM to one of two: a cluster's signal may reach one before a step, the other after it."""
    processes = launcher.children(recursive=True)
    (second,) = (one for one in processes if one.environ().get("RANK") == "1")
    second.terminate()


LONGER = {"steps": 40, "checkpoint_every": 4}


@pytest.fixture(scope="module")
def longer(images, tmp_path_factory):
    """The weights and losses of a longer training in one process."""
    return together(tmp_path_factory.mktemp("longer"), images, (), **LONGER)


@pytest.mark.parametrize(
    "first, then, end",
    [((), TWO, kill), (TWO, (), kill), (TWO, (), ask_the_second)],
    ids=["1 to 2", "2 to 1", "2 asked to stop"],
)
def test_resumed_on_another_number_of_processes(first, then, end, images, longer, tmp_path):
    whole, losses = longer
    changes = CALM | {"train": CALM["train"] | LONGER}
    line, environment = command(tmp_path / "parts", images, first, **changes)
    process = subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, text=True)
    out = ""
    for text in process.stdout:
        out += text
        if text.startswith("step 5/"):
            end(psutil.Process(process.pid))
    assert process.wait(timeout=PATIENCE) != 0 and "step 40/" not in out
    assert (tmp_path / "parts/it/models/.diffusion.partial/checkpoint.pt").is_file()
    assert ("stopped and saved after step" in out) == (end is ask_the_second)
    resumed, same = together(tmp_path / "parts", images, then, **LONGER)
    assert apart(whole, resumed) < 2e-4
    assert np.abs(losses - same).max() < 1e-5 * losses.max()


SHORT_OF_MEMORY = """
import resource, sys, psutil, torch
import lensnb.apps.cli, lensnb.evaluation.monitor, lensnb.datasets.pictures
limit = psutil.Process().memory_info().data + 500 * 2**20
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
lensnb.apps.cli.main(sys.argv[1:])
"""


def test_out_of_memory_is_a_sentence_with_values_that_fit(images, tmp_path):
    line, environment = command(
        tmp_path,
        images,
        data=RECIPE["data"] | {"path": str(images)},
        model={"width": 64, "patch": 1, "attention": []},
        train=RECIPE["train"] | {"batch": 32},
    )
    done = subprocess.run(
        [line[0], "-c", SHORT_OF_MEMORY, *line[4:]],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert "out of memory: train.batch 32 in 1 piece needs about" in done.stderr
    assert "train.accumulate=2 or train.batch=16" in done.stderr


def test_a_notebook_launches_the_same(images, whole, tmp_path, monkeypatch):
    """Without a GPU accelerate's notebook_launcher starts one process, with the same bits."""
    import accelerate

    command(tmp_path, images)
    monkeypatch.setenv("LENSNB_OUTPUTS", str(tmp_path))
    accelerate.notebook_launcher(launch.launch, (str(tmp_path / "it.yaml"),), num_processes=1)
    assert hashes(tmp_path / "it/models")["gan/model"] == hashes(whole)["gan/model"]
