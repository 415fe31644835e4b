"""One optimiser's update: learning rate, gradients of all processes, fp16's loss scale.

The result is the same for any number of processes.
"""

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from accelerate import Accelerator

from lensnb.recipes.schema import Consistency, Optimiser, Train
from lensnb.training.muon import Muon, Together, matrices

Net = TypeVar("Net", bound=torch.nn.Module)


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


def set_rate(k: int, settings: Optimiser, *optimisers: torch.optim.Optimizer | Together) -> float:
    """Set the learning rate of step k in all optimisers; returns it.

    A group of weights may have a full rate of its own, `full`.
    """
    factor = rate_factor(k, settings)
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = group.get("full", settings.rate) * factor
    return settings.rate * factor


def adamw(weights: list[torch.nn.Parameter], settings: Any) -> torch.optim.AdamW:
    """AdamW for some weights of a denoiser; settings has its rate and decay."""
    fused = has_fused(weights[0].device.type)
    return torch.optim.AdamW(
        weights, settings.rate, (0.9, 0.99), weight_decay=settings.decay, fused=fused
    )


def optimiser_of(
    net: torch.nn.Module, train: Train | Consistency
) -> torch.optim.Optimizer | Together:
    """The optimiser of a denoiser: AdamW for all weights, or Muon for its matrices."""
    muon = matrices(net) if train.optimiser == "muon" else []
    taken = set(map(id, muon))
    adam = adamw([p for p in net.parameters() if id(p) not in taken], train)
    if not muon:
        return adam
    other = Muon(muon, train.muon_rate)
    other.param_groups[0]["full"] = train.muon_rate
    return Together(adam, other)


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

    After the last piece one message goes to all processes: it sums the gradients and the scalars of
    the step, and averages the running statistics of batch norm. So all processes hold the same
    numbers at any time, and a checkpoint needs the numbers of only one process. Nothing here waits
    for a GPU.

    scalars : how many scalars each piece reports, its loss first
    keep_gradients : whether gradients stay where they are in memory, which CUDA graphs need
    skipped : with fp16, 1 if the last update was left out because a gradient was not finite, else 0
    """

    is_trial = False  # see `trial`

    def __init__(
        self,
        net: torch.nn.Module,
        optimiser: torch.optim.Optimizer | Together,
        accelerator: Accelerator,
        clip: float = math.inf,
        scalars: int = 1,
        keep_gradients: bool = False,
    ) -> None:
        self.weights = [p for p in net.parameters() if p.requires_grad]
        self.statistics = running_statistics(net)
        self.optimiser = optimiser
        self.accelerator = accelerator
        self.clip = clip
        self.scalars = scalars
        self.keep_gradients = keep_gradients
        self.skipped: torch.Tensor | None = None

    def __call__(self, pieces: Iterable[Sequence[torch.Tensor]]) -> torch.Tensor:
        """Update with the gradients of the sum of all losses; returns the sums of the scalars.

        pieces : the scalars of each piece, its loss first, each times the piece's share of the
        batch; an iterator may compute a piece when it is asked for it, to save memory
        """
        self._clear_gradients()
        told = torch.zeros(self.scalars, device=self.accelerator.device)
        for piece in pieces:
            self.accelerator.backward(piece[0])
            told += torch.stack([value.detach() for value in piece])
        if not self.is_trial:
            if self.accelerator.num_processes > 1:
                self._combine_processes(told)
            self._step()
        return told

    def _clear_gradients(self) -> None:
        if self.keep_gradients:
            for p in self.weights:
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        self.optimiser.zero_grad(set_to_none=not self.keep_gradients)

    @torch.no_grad()
    def _combine_processes(self, told: torch.Tensor) -> None:
        """Sum gradients and scalars and average the running statistics over the processes."""
        pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
        for p in self.weights:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad  # no piece, no gradient
            pairs.append((p.grad, p))
        for statistic in self.statistics:
            pairs.append((statistic.div_(self.accelerator.num_processes), statistic))
        sum_as_one([*pairs, (told, told)])

    def _step(self) -> None:
        scaler = self.accelerator.scaler
        if scaler:
            scaler.unscale_(self.optimiser)
            self.skipped = self._overflows()
        if self.clip < math.inf:
            torch.nn.utils.clip_grad_norm_(self.weights, self.clip)
        if scaler is None:
            self.optimiser.step()
            return
        # Where a gradient is not finite, the scaler leaves the step out and halves the scale.
        scaler.step(self.optimiser)
        scaler.update()

    def _overflows(self) -> torch.Tensor:
        """1 if a gradient is not finite, else 0. The scaler itself would wait for the GPU."""
        gradients = [p.grad for p in self.weights if p.grad is not None]
        largest = torch.nn.utils.get_total_norm(gradients, math.inf)
        return (~largest.isfinite()).float()


@contextlib.contextmanager
def trial() -> Iterator[None]:
    """Within it updates compute gradients and stop there: no weight changes, no message is sent."""
    Update.is_trial = True
    try:
        yield
    finally:
        Update.is_trial = False


def running_statistics(net: torch.nn.Module) -> list[torch.Tensor]:
    """Mean and variance that the batch norms of a network have seen."""
    norms = [m for m in net.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    found = [statistic for norm in norms for statistic in (norm.running_mean, norm.running_var)]
    return [statistic for statistic in found if statistic is not None]


def sum_as_one(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Replace tensors, in place, by their sums over all processes, in one message.

    pairs : (tensor, a tensor of its shape). In the message the numbers have the order that the
    second one has in memory: it is the same in all processes, and nothing is copied twice.
    """
    views = [t.permute(_by_stride(like)) for t, like in pairs]
    flat = torch.cat([view.flatten() for view in views])
    torch.distributed.all_reduce(flat)
    parts = flat.split([view.numel() for view in views])
    sums = [part.view(view.shape) for part, view in zip(parts, views, strict=True)]
    torch._foreach_copy_(views, sums)


def _by_stride(t: torch.Tensor) -> list[int]:
    """The dimensions of a tensor, from the slowest to the fastest in memory."""
    strides = t.stride()
    return sorted(range(t.dim()), key=lambda d: -strides[d])


# Devices ----------------------------------------------------------------------------------------


def scaler_part(accelerator: Accelerator) -> dict[str, Any]:
    """What fp16 adds to the parts of a task: the scale of its losses; nothing without fp16."""
    return {"scaler": accelerator.scaler} if accelerator.scaler else {}


def skipped_entry(*updates: Update) -> dict[str, torch.Tensor]:
    """The entry "skipped" of a step's losses: 1 if fp16 has skipped one of the updates, else 0.

    Without fp16 there is no such entry.
    """
    found = [update.skipped for update in updates if update.skipped is not None]
    return {"skipped": torch.stack(found).max()} if found else {}


def has_fused(device: str) -> bool:
    """Whether torch has fused optimisers for a device type."""
    return device in ("cpu", "cuda")


def on_device(net: Net, device: torch.device) -> Net:
    """The network on the device, channels last: twice as fast on a CPU."""
    # The type stubs of torch know no memory_format here.
    return net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
