"""One optimiser's update: its rate, its average, fp16's scale, and the same result for any number of processes."""

import math

import torch


def ramped_average(share):
    """EMA over the last `share` of the steps so far: the decay grows with the number of steps."""
    return lambda average, new, n: average + (new - average) / (1 + share * n)


def rate_share(k, settings):
    """Share of the full learning rate at step k of settings.steps.

    trapezium : linear warm-up, plateau, linear fall to zero; cosine : linear warm-up, half a cosine;
    onecycle : a cosine up from 1/25 and down to 1/250,000 (Smith & Topin 2018, arXiv:1708.07120, as in torch).
    """
    steps = settings.steps
    rise = settings.warmup if settings.warmup >= 1 else settings.warmup * steps

    def half_cosine(a, b, place):
        return b + (a - b) * (1 + math.cos(math.pi * place)) / 2  # from a to b

    if settings.shape == "trapezium":
        return min(1, (k + 1) / (rise + 1), (steps - k) / (settings.cooldown * steps + 1))
    if settings.shape == "cosine":
        return (
            (k + 1) / (rise + 1)
            if k < rise
            else half_cosine(1, 0, (k - rise) / max(steps - rise, 1))
        )
    peak = rise - 1
    return (
        half_cosine(1 / 25, 1, k / max(peak, 1))
        if k <= peak
        else half_cosine(1, 1 / 25e4, (k - peak) / max(steps - 1 - peak, 1))
    )


def pace(k, settings, *optimisers):
    """Set the learning rate of step k and return it."""
    rate = settings.rate * rate_share(k, settings)
    for group in (group for optimiser in optimisers for group in optimiser.param_groups):
        group["lr"] = rate
    return rate


def share(batch, pieces, accelerator):
    """This process's part of a batch: (part of the tensors, its share of the whole batch), one for each piece.

    batch : tensors of equal length, or None. Over all processes the parts are the batch, once; a
    process may have none. What was drawn for the whole batch is cut, so that any number of processes
    sees the same numbers.
    """
    n = len(batch[0])
    parts = pieces * accelerator.num_processes
    for first in range(accelerator.process_index, min(parts, n), accelerator.num_processes):
        part = [
            whole if whole is None else whole[first::parts] for whole in batch
        ]  # every so many-th: noise levels rise along the batch
        yield part, len(part[0]) / n


class Update:
    """One optimiser's update of one network, the same for any number of processes.

    Gradients are summed over the processes in one go after the last piece; averages of batch norm are
    averaged. So all processes hold the same numbers at any time and a checkpoint needs those of one alone.
    """

    def __init__(self, net, optimiser, accelerator, clip=math.inf):
        self.net = net
        self.optimiser = optimiser
        self.accelerator = accelerator
        self.clip = clip
        self.skipped = False

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
            replace(
                [b for b in self.net.buffers() if b.is_floating_point()],
                lambda flat: self.accelerator.reduce(flat, "mean"),
            )

    def _step(self):
        scaler = self.accelerator.scaler
        if scaler:
            scaler.unscale_(self.optimiser)
        if self.clip < math.inf:
            torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.clip)
        if scaler is None:
            return self.optimiser.step()
        before = scaler.get_scale()
        scaler.step(
            self.optimiser
        )  # left out where a gradient is not finite; the scale is then halved
        scaler.update()
        self.skipped = scaler.get_scale() < before


def scaler(accelerator):
    """The part of a task's state that fp16 adds: the scale of its losses."""
    return {"scaler": accelerator.scaler} if accelerator.scaler else {}


def skipped(*updates):
    """Whether fp16 has skipped one of the updates, as an entry of a step's losses; nothing without fp16."""
    return (
        {"skipped": float(any(u.skipped for u in updates))} if updates[0].accelerator.scaler else {}
    )


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
