"""Which device, how many processes, what precision, and where losses are logged."""

import contextlib
import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs

from lensnb.errors import InputError
from lensnb.generator import find_device

WAIT_FOR_DATA = timedelta(hours=12)  # the other processes wait while the first makes the data

Log = Callable[[Mapping[str, float], int], None]  # log(values, step)


def make_accelerator(
    device: str = "auto",
    precision: str = "fp32",
    tracker: str = "none",
    logs: str | None = None,
    section: str = "train",
) -> Accelerator:
    """An Accelerator on the device that the recipe asks for.

    precision : fp32, bf16 or fp16; tracker : the package that logs the losses to the folder `logs`,
    or none; section : of the recipe, in messages. Raises InputError for a device, precision or
    tracker that this machine does not have.
    """
    if tracker != "none" and importlib.util.find_spec(tracker) is None:
        raise InputError(
            f"{section}.tracker: {tracker} is not installed; pip install {tracker}, "
            "or set it to none"
        )
    wanted = find_device(device)
    if precision == "bf16" and wanted.type == "cuda":
        _refuse_missing_bf16(section)
    # One notebook kernel may ask twice, with different settings.
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    found = Accelerator(
        # "auto" is decided here: otherwise each of several CPU processes believes it is alone.
        cpu=wanted.type == "cpu",
        mixed_precision="no" if precision == "fp32" else precision,
        project_dir=logs,
        log_with=None if tracker == "none" else tracker,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=WAIT_FOR_DATA)],
    )
    if precision == "fp16" and found.device.type == "cpu":
        raise InputError(
            f"{section}.precision: fp16 needs a GPU, and this machine trains on its CPU; "
            "set it to fp32 or bf16"
        )
    return found


def _refuse_missing_bf16(section: str) -> None:
    """Raises InputError where the GPU has no bfloat16 of its own and would emulate it, slowly."""
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        raise InputError(
            f"{section}.precision: {torch.cuda.get_device_name()} has no bf16; "
            "set it to fp16 or fp32"
        )


def is_distributed() -> bool:
    """Whether this process is one of several."""
    return torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1


def process_index() -> int:
    """The number of this process among several, or 0."""
    return torch.distributed.get_rank() if is_distributed() else 0


def is_main_process() -> bool:
    """Whether this process writes the files; of several processes, the first does."""
    return process_index() == 0


def largest(value: float, device: torch.device | str) -> float:
    """The largest of the values that the processes give; all of them must ask."""
    if not is_distributed():
        return value
    found = torch.full((), value, device=device)
    torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX)
    return found.item()


def flatten_keys(tree: Mapping[str, Any], prefix: str = "") -> dict[str, int | float | str]:
    """A nested mapping as one mapping of dotted keys; lists and None become text."""
    flat: dict[str, int | float | str] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten_keys(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, int | float | str) else str(value)
    return flat


@contextlib.contextmanager
def tracked(accelerator: Accelerator, name: str, config: Mapping[str, Any]) -> Iterator[Log]:
    """A tracker's run around a block; yields log(values, step).

    Weights & Biases works offline unless it has a key. Without a tracker, log does nothing.
    """
    if not accelerator.log_with:
        yield _log_nothing
        return
    os.makedirs(accelerator.project_dir, exist_ok=True)
    online = os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_MODE") == "online"
    wandb = {
        "name": name,
        "dir": accelerator.project_dir,
        "mode": "online" if online else "offline",
    }
    options = {"wandb": wandb, "trackio": {"name": name}}
    accelerator.init_trackers("lensnb", flatten_keys(config), options)

    def log(values: Mapping[str, float], step: int) -> None:
        accelerator.log(values, step=step)

    try:
        yield log
    finally:
        # Not accelerator.end_training: it would end the process group of the others, too.
        for tracker in accelerator.trackers:
            tracker.finish()


def _log_nothing(values: Mapping[str, float], step: int) -> None:
    """The log of a training without a tracker."""
