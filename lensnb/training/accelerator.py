"""Which device, how many processes, what precision, and where losses are logged."""

import contextlib
import importlib.util
import os
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs

from lensnb.errors import InputError

PATIENCE = timedelta(hours=12)  # of processes that wait for the first, which makes the data


def make_accelerator(device="auto", precision="fp32", tracker="none", logs=None):
    """An Accelerator on the device that the recipe asks for, logging to `tracker` in the folder `logs`."""
    if tracker != "none" and importlib.util.find_spec(tracker) is None:
        raise InputError(
            f"train.tracker: {tracker} is not installed; pip install {tracker}, or set it to none"
        )
    AcceleratorState._reset_state(
        reset_partial_state=not torch.distributed.is_initialized()
    )  # a kernel may ask twice, differently
    mixed = {"fp32": "no"}.get(precision, precision)
    cpu = (
        device == "cpu"
        or device == "auto"
        and not (torch.cuda.is_available() or torch.backends.mps.is_available())
    )  # else, of many processes each thinks itself alone
    found = Accelerator(
        cpu=cpu,
        mixed_precision=mixed,
        project_dir=logs,
        log_with=None if tracker == "none" else tracker,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
    )
    if device not in ("auto", found.device.type):
        raise InputError(
            f"device: {device} is asked for, and this machine offers {found.device.type}"
        )
    if precision == "fp16" and found.device.type == "cpu":
        raise InputError(
            "train.precision: fp16 needs a GPU, and this machine trains on its CPU; set it to fp32 or bf16"
        )
    return found


def flat(tree, prefix=""):
    """A nested mapping as one of dotted keys; lists become text."""
    found = {}
    for key, value in tree.items():
        inner = (
            flat(value, f"{prefix}{key}.")
            if isinstance(value, dict)
            else {prefix + key: value if isinstance(value, int | float | str) else str(value)}
        )
        found |= inner
    return found


@contextlib.contextmanager
def tracked(accelerator, name, config):
    """A tracker's run about a block, Weights & Biases offline without a key; without a tracker nothing happens. Yields log(values, step)."""
    if not accelerator.log_with:
        yield lambda values, step: None
        return
    os.makedirs(accelerator.project_dir, exist_ok=True)
    online = os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_MODE") == "online"
    own = {
        "wandb": {
            "name": name,
            "dir": accelerator.project_dir,
            "mode": "online" if online else "offline",
        },
        "trackio": {"name": name},
    }
    accelerator.init_trackers("lensnb", flat(config), own)
    try:
        yield lambda values, step: accelerator.log(values, step=step)
    finally:
        for tracker in (
            accelerator.trackers
        ):  # accelerator.end_training would end the other processes' group, too
            tracker.finish()
