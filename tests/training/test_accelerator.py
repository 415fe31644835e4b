"""Devices, precisions and trackers."""

import contextlib
import json
import sqlite3

import numpy as np
import pytest
import torch
from small_training import trained

from lensnb import io
from lensnb.errors import InputError
from lensnb.training import accelerator
from lensnb.training.accelerator import make_accelerator


def test_a_device_that_is_not_there_is_refused():
    if torch.cuda.is_available():
        pytest.skip("this machine has the device")
    with pytest.raises(InputError, match="cuda"):
        make_accelerator("cuda")


def test_fp16_on_a_cpu_is_refused():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(InputError, match="fp16 needs a GPU"):
        make_accelerator("auto", "fp16")


def test_bf16_on_a_card_that_only_emulates_it_is_refused(monkeypatch):
    monkeypatch.setattr(accelerator, "find_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA T4")
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation
    )
    with pytest.raises(
        InputError, match="gan.precision: NVIDIA T4 has no bf16; set it to fp16 or fp32"
    ):
        make_accelerator("auto", "bf16", section="gan")


def test_losses_go_to_tensorboard_and_not_into_the_model(dataset, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = trained(
        tmp_path / "run/models/diffusion",
        dataset,
        train={"steps": 9, "tracker": "tensorboard", "watch_every": 9},
    )
    events = EventAccumulator(str(tmp_path / "run/tracking/diffusion/lensnb"))
    events.Reload()
    logged = events.Scalars("loss")
    table = io.read_table(folder / "history.csv")
    assert [e.step for e in logged] == table["step"].tolist() and np.abs(
        np.array([e.value for e in logged]) / table["loss"] - 1
    ).max() < 1e-6
    assert events.Scalars("kid") and {p.suffix for p in folder.iterdir()} == {
        ".safetensors",
        ".csv",
        ".json",
        ".npy",
        ".yaml",
    }


def test_weights_and_biases_works_offline(dataset, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    trained(tmp_path / "run/models/diffusion", dataset, train={"steps": 9, "tracker": "wandb"})
    kept = list((tmp_path / "run/tracking/diffusion/wandb").glob("offline-run-*/run-*.wandb"))
    assert (
        len(kept) == 1
        and b"loss" in kept[0].read_bytes()
        and b"train.steps" in kept[0].read_bytes()
    )


def test_trackio_keeps_losses_and_parameters(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv(
        "TRACKIO_DIR", str(tmp_path / "kept")
    )  # read when trackio is first imported, which is here
    folder = trained(
        tmp_path / "run/models/diffusion", dataset, train={"steps": 9, "tracker": "trackio"}
    )
    with contextlib.closing(sqlite3.connect(tmp_path / "kept/lensnb.db")) as base:
        rows = base.execute("select step, metrics from metrics order by step").fetchall()
        ((config,),) = base.execute("select config from configs").fetchall()
    table = io.read_table(folder / "history.csv")
    assert [step for step, _ in rows] == table["step"].tolist() and json.loads(config)[
        "train.steps"
    ] == 9
    assert (
        np.abs(
            np.array([json.loads(logged)["loss"] for _, logged in rows]) / table["loss"] - 1
        ).max()
        < 1e-6
    )


def test_a_tracker_that_is_not_installed_is_a_sentence(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        InputError,
        match="train.tracker: wandb is not installed; pip install wandb, or set it to none",
    ):
        make_accelerator("cpu", "fp32", "wandb")
