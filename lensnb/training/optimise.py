"""One optimiser's update: learning rate, weight average, fp16's loss scale.

The result is the same for any number of processes.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from accelerate import Accelerator

from lensnb.recipes.schema import Optimiser

Net = TypeVar("Net", bound=torch.nn.Module)
Average = Callable[[torch.Tensor, torch.Tensor, int | torch.Tensor], torch.Tensor]


def ramped_average(share: float) -> Average:
    """The rule of an exponential moving average over the last `share` of the steps so far.

    The decay grows with the number of steps n: average += (new - average) / (1 + share * n).
    """

    def average_weights(
        average: torch.Tensor, new: torch.Tensor, n: int | torch.Tensor
    ) -> torch.Tensor:
        return average + (new - average) / (1 + share * n)

    return average_weights


# Learning rate ----------------------------------------------------------------------------------


def rate_factor(k: int, settings: Optimiser) -> float:
    """The learning rate at step k of settings.steps, in units of the full rate.

    trapezium : linear warm-up, plateau, linear fall to zero
    cosine : linear warm-up, half a cosine to zero
    onecycle : a cosine up from 1/25, then a cosine down to 1/250,000
        (Smith & Topin 2018, arXiv:1708.07120, as in torch)
    """
    steps = settings.steps
    warmup = settings.warmup if settings.warmup >= 1 else settings.warmup * steps
    if settings.shape == "trapezium":
        return min(1, (k + 1) / (warmup + 1), (steps - k) / (settings.cooldown * steps + 1))
    if settings.shape == "cosine":
        if k < warmup:
            return (k + 1) / (warmup + 1)
        return _half_cosine(1, 0, (k - warmup) / max(steps - warmup, 1))
    peak = warmup - 1
    if k <= peak:
        return _half_cosine(1 / 25, 1, k / max(peak, 1))
    return _half_cosine(1, 1 / 25e4, (k - peak) / max(steps - 1 - peak, 1))


def _half_cosine(first: float, last: float, place: float) -> float:
    """Half a cosine from `first` at place 0 to `last` at place 1."""
    return last + (first - last) * (1 + math.cos(math.pi * place)) / 2


def set_rate(k: int, settings: Optimiser, *optimisers: torch.optim.Optimizer) -> float:
    """Set the learning rate of step k in all optimisers; returns it."""
    rate = settings.rate * rate_factor(k, settings)
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = rate
    return rate


# Many processes and micro-batches ---------------------------------------------------------------


def split_batch(
    batch: Sequence[Any], pieces: int, accelerator: Accelerator
) -> Iterator[tuple[list[Any], float]]:
    """Yields this process's parts of a batch, one for each piece: (tensors, share of the batch).

    batch : tensors of equal length, or None; the first is a tensor. Over all processes the parts
    are the batch, once; a process may have none. Random numbers are drawn for the whole batch and
    then cut, so that any number of processes sees the same numbers.
    """
    n = len(batch[0])
    parts = pieces * accelerator.num_processes
    for start in range(accelerator.process_index, min(parts, n), accelerator.num_processes):
        # Every parts-th row: noise levels rise along the batch, so each part has all of them.
        part = [None if whole is None else whole[start::parts] for whole in batch]
        yield part, len(range(start, n, parts)) / n


class Update:
    """One optimiser's update of one network, the same for any number of processes.

    Gradients are summed over the processes in one message after the last piece; the running
    statistics of batch norm are averaged. So all processes hold the same numbers at any time, and
    a checkpoint needs the numbers of only one process.

    skipped : whether fp16 has skipped the last update
    """

    def __init__(
        self,
        net: torch.nn.Module,
        optimiser: torch.optim.Optimizer,
        accelerator: Accelerator,
        clip: float = math.inf,
    ) -> None:
        self.net = net
        self.optimiser = optimiser
        self.accelerator = accelerator
        self.clip = clip
        self.skipped = False

    def __call__(self, losses: Iterable[torch.Tensor]) -> torch.Tensor:
        """Update with the gradients of the sum of `losses`; returns that sum, a scalar.

        losses : scalars; an iterator may compute each one when it is asked for, to save memory
        """
        self.optimiser.zero_grad()
        total = torch.zeros((), device=self.accelerator.device)
        for loss in losses:
            self.accelerator.backward(loss)
            total += loss.detach()
        if self.accelerator.num_processes > 1:
            self._combine_processes()
        self._step()
        return self.accelerator.reduce(total)

    def _combine_processes(self) -> None:
        """Sum the gradients and average the running statistics over the processes."""

        def total(flat: torch.Tensor) -> torch.Tensor:
            return self.accelerator.reduce(flat, "sum")

        def mean(flat: torch.Tensor) -> torch.Tensor:
            return self.accelerator.reduce(flat, "mean")

        gradients = []
        for p in self.net.parameters():
            if p.requires_grad:
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
                gradients.append(p.grad)
        replace_as_one(gradients, total)
        replace_as_one([b for b in self.net.buffers() if b.is_floating_point()], mean)

    def _step(self) -> None:
        scaler = self.accelerator.scaler
        if scaler:
            scaler.unscale_(self.optimiser)
        if self.clip < math.inf:
            torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.clip)
        if scaler is None:
            self.optimiser.step()
            return
        before = scaler.get_scale()
        # Where a gradient is not finite, the scaler leaves the step out and halves the scale.
        scaler.step(self.optimiser)
        scaler.update()
        self.skipped = scaler.get_scale() < before


@torch.no_grad()
def replace_as_one(
    tensors: Sequence[torch.Tensor], function: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """Replace tensors in place by `function` of all of them as one flat vector.

    Several processes then exchange one message instead of many.
    """
    if not tensors:
        return
    flat = function(torch.cat([t.flatten() for t in tensors]))
    for t, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        t.copy_(part.view(t.shape))


# Devices ----------------------------------------------------------------------------------------


def scaler_part(accelerator: Accelerator) -> dict[str, Any]:
    """What fp16 adds to the parts of a task: the scale of its losses; nothing without fp16."""
    return {"scaler": accelerator.scaler} if accelerator.scaler else {}


def skipped_entry(*updates: Update) -> dict[str, float]:
    """The entry "skipped" of a step's losses: 1 if fp16 has skipped one of the updates, else 0.

    Without fp16 there is no such entry.
    """
    if not updates[0].accelerator.scaler:
        return {}
    return {"skipped": float(any(update.skipped for update in updates))}


def has_fused(device: str) -> bool:
    """Whether torch has fused optimisers for a device type."""
    return device in ("cpu", "cuda")


def on_device(net: Net, device: torch.device) -> Net:
    """The network on the device, channels last: twice as fast on a CPU."""
    # The type stubs of torch know no memory_format here.
    return net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
