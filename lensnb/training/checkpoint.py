"""The files of a training: its checkpoint while it runs, its weights and tables at the end."""

import pickle
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any, TypedDict, cast

import safetensors.torch
import torch

from lensnb import io
from lensnb.errors import InputError, one_line
from lensnb.training.accelerator import is_main_process
from lensnb.training.task import Losses, Task


class Progress(TypedDict):
    """How far a training has come; it stands in the checkpoint beside the parts of the task.

    step : updates done; history : one row a printed line; recent : the losses since that line
    watched : one row for each look at the drawn images; seconds : the time so far
    """

    step: int
    history: list[dict[str, Any]]
    recent: list[Losses]
    watched: list[dict[str, Any]]
    seconds: float


def save(task: Task, path: Path, progress: Progress) -> None:
    """Write the state of all parts of `task` and the progress, atomically."""
    if is_main_process():
        parts = {name: part.state_dict() for name, part in task.parts.items()}
        whole = BytesIO()  # because torch.save to a full disk reports no error
        torch.save({**progress, "parts": parts}, whole)
        with io.atomic(path, "wb") as file:
            file.write(whole.getbuffer())


def restore(task: Task, path: Path) -> Progress:
    """Bring `task` to the state in `path` and return the progress; without a file the start.

    Raises InputError for a file that is not a checkpoint of this task.
    """
    if not path.is_file():
        return Progress(step=0, history=[], recent=[], watched=[], seconds=0.0)
    try:
        with warnings.catch_warnings(action="ignore"):  # about the protocol of the pickle
            state = torch.load(path, weights_only=True, map_location="cpu")
        for name, part in task.parts.items():
            part.load_state_dict(state["parts"][name])
        progress = cast(Progress, {key: state[key] for key in Progress.__annotations__})
    except Exception as error:  # torch raises many kinds of errors for damaged files
        raise InputError(
            f"{path}: not a checkpoint of this recipe ({_reason(error)}); delete it to start over"
        ) from None
    print(f"resumed at step {progress['step']}", flush=True)
    return progress


def _reason(error: Exception) -> str:
    """Why a checkpoint could not be read, in a few words."""
    if isinstance(error, pickle.UnpicklingError):
        return "more than tensors and numbers, or damaged"
    return one_line(error, 120)


def write_weights(task: Task, path: Path) -> None:
    """Write the averaged weights of a task as safetensors, atomically."""
    if is_main_process():
        weights = {key: value.contiguous() for key, value in task.model.module.state_dict().items()}
        with io.atomic(path, "wb") as file:
            file.write(safetensors.torch.save(weights))


def finish(
    task: Task, progress: Progress, folder: Path, device: torch.device | str, best: bool
) -> None:
    """Write model.safetensors, history.csv, watch.csv and timing.json to `folder`.

    best : keep the weights with the least kernel distance, if any were watched; else the last ones.
    The checkpoint stays until these files have their place.
    """
    if progress["watched"] and best:
        with io.atomic(folder / "model.safetensors", "wb") as file:
            file.write((folder / "best.safetensors").read_bytes())
    else:
        write_weights(task, folder / "model.safetensors")
    for name, rows in (("history", progress["history"]), ("watch", progress["watched"])):
        if rows:
            io.write_rows(folder / f"{name}.csv", rows)
    timing = {"seconds": round(progress["seconds"], 2), "device": str(device)}
    io.write_json(folder / "timing.json", timing)
