"""Which device, how many processes, what precision; and one optimiser's update that is the same on all of them."""

import contextlib
import importlib.util
import math
import os

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from lensnb.errors import InputError


def accelerator(device="auto", precision="fp32", tracker="none", logs=None):
    """An Accelerator on the device that the recipe asks for, logging to `tracker` in the folder `logs`."""
    if tracker != "none" and importlib.util.find_spec(tracker) is None:
        raise InputError(f"train.tracker: {tracker} is not installed; pip install {tracker}, or set it to none")
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())    # a kernel may ask twice, differently
    mixed = {"fp32": "no"}.get(precision, precision)
    found = Accelerator(cpu=device == "cpu", mixed_precision=mixed, project_dir=logs, log_with=None if tracker == "none" else tracker)
    if device not in ("auto", found.device.type):
        raise InputError(f"device: {device} is asked for, and this machine offers {found.device.type}")
    if precision == "fp16" and found.device.type == "cpu":
        raise InputError("train.precision: fp16 needs a GPU, and this machine trains on its CPU; set it to fp32 or bf16")
    return found


def share(batch, pieces, accelerator):
    """This process's part of a batch: (part of the tensors, its share of the whole batch), one for each piece.

    batch : tensors of equal length, or None. Over all processes the parts are the batch, once; a
    process may have none. What was drawn for the whole batch is cut, so that any number of processes
    sees the same numbers.
    """
    n = len(batch[0])
    size = math.ceil(n / (pieces * accelerator.num_processes))
    for at in list(range(0, n, size))[accelerator.process_index::accelerator.num_processes]:
        part = [whole if whole is None else whole[at:at + size] for whole in batch]
        yield part, len(part[0]) / n


class Update:
    """One optimiser's update of one network, the same for any number of processes.

    Gradients are summed over the processes in one go after the last piece; averages of batch norm are
    averaged. So all processes hold the same numbers at any time and a checkpoint needs those of one alone.
    """

    def __init__(self, net, optimiser, accelerator, clip=math.inf):
        self.net, self.optimiser, self.accelerator, self.clip, self.skipped = net, optimiser, accelerator, clip, False

    def __call__(self, losses):
        """Update with the gradients of the sum of `losses`, scalars that may be computed one after the other; returns that sum."""
        self.optimiser.zero_grad()
        total = torch.zeros((), device=self.accelerator.device)
        for loss in losses:
            self.accelerator.backward(loss)
            total += loss.detach()
        self._agree()
        self._step()
        return self.accelerator.reduce(total)

    def _agree(self):
        if self.accelerator.num_processes > 1:
            parameters = [p for p in self.net.parameters() if p.requires_grad]
            for p in parameters:
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            replace([p.grad for p in parameters], lambda flat: self.accelerator.reduce(flat, "sum"))
            replace([b for b in self.net.buffers() if b.is_floating_point()], lambda flat: self.accelerator.reduce(flat, "mean"))

    def _step(self):
        scaler = self.accelerator.scaler
        if scaler:
            scaler.unscale_(self.optimiser)
        if self.clip < math.inf:
            torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.clip)
        if scaler is None:
            return self.optimiser.step()
        before = scaler.get_scale()
        scaler.step(self.optimiser)     # left out where a gradient is not finite; the scale is then halved
        scaler.update()
        self.skipped = scaler.get_scale() < before


def scaler(accelerator):
    """The part of a task's state that fp16 adds: the scale of its losses."""
    return {"scaler": accelerator.scaler} if accelerator.scaler else {}


def skipped(*updates):
    """Whether fp16 has skipped one of the updates, as an entry of a step's losses; nothing without fp16."""
    return {"skipped": float(any(u.skipped for u in updates))} if updates[0].accelerator.scaler else {}


@torch.no_grad()
def replace(tensors, through):
    """Replace tensors in place by `through` (flat -> flat) of all of them as one vector: one message instead of many."""
    if tensors:
        flat = through(torch.cat([t.flatten() for t in tensors]))
        for t, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            t.copy_(part.view(t.shape))


def fused(device):
    """Whether torch has fused optimisers for a device type."""
    return device in ("cpu", "cuda")


def flat(tree, prefix=""):
    """A nested mapping as one of dotted keys; lists become text."""
    found = {}
    for key, value in tree.items():
        inner = flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value if isinstance(value, int | float | str) else str(value)}
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
    own = {"wandb": {"name": name, "dir": accelerator.project_dir, "mode": "online" if online else "offline"}, "trackio": {"name": name}}
    accelerator.init_trackers("lensnb", flat(config), own)
    try:
        yield lambda values, step: accelerator.log(values, step=step)
    finally:
        accelerator.end_training()
