"""What a training will take: seconds and memory, measured on one step that is undone; and what to do where it is too much."""

import contextlib
import copy
import math
import time

import numpy as np
import torch

from lensnb.errors import InputError
from lensnb.training import loader

GIB = 2**30
TRIED = 4  # images of each process whose memory is measured
SPARE = 0.8  # share of the free memory that a training may plan with


@contextlib.contextmanager
def undone(task):
    """Whatever a step does to the parts of a task is taken back."""
    before = copy.deepcopy({name: part.state_dict() for name, part in task.parts.items()})
    try:
        yield
    finally:
        for name, part in task.parts.items():
            part.load_state_dict(before[name])


class Saved:
    """Counts the bytes that autograd keeps for the backward pass, each storage once."""

    def __init__(self):
        self.seen = {}

    def __call__(self, tensor):
        storage = tensor.untyped_storage()
        self.seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    @property
    def total(self):
        """Bytes in all."""
        return sum(self.seen.values())


def step_bytes(task, x, context, generator):
    """Bytes that autograd keeps in one update with the batch x (B, C, H, W) in one piece."""
    saved = Saved()
    pieces = task.pieces
    task.pieces = 1
    eager = torch.compiler.set_stance(
        "force_eager"
    )  # compiled for a few images, then for many, it would be slow for both
    with (
        undone(task),
        eager,
        torch.autograd.graph.saved_tensors_hooks(saved, lambda tensor: tensor),
    ):
        task.step(0, x, context, generator)
    task.pieces = pieces
    return saved.total


def step_seconds(task, x, context, generator):
    """Seconds of one update with the batch x: the mean of four, after one to warm up; the GAN's penalties come at every fourth."""
    with undone(task):
        return np.mean(
            [_timed(lambda k=k: task.step(k, x, context, generator)) for k in range(5)][1:]
        )


def _timed(step):
    start = time.perf_counter()
    float(next(iter(step().values())))  # a GPU is waited for
    return time.perf_counter() - start


class Estimate:
    """Memory of a training: `fixed` bytes of weights, gradients, moments and average, and `image` bytes for each image of a piece."""

    def __init__(self, task, source, accelerator):
        def draw():
            return torch.Generator(accelerator.device).manual_seed(0)

        self.x, self.context = source(0, draw())
        self.batch = len(self.x)
        self.pieces = task.pieces
        self.processes = accelerator.num_processes
        self.task = task
        self.draw = draw
        self.free = loader.free_memory(accelerator.device)
        most, least = (min(n * self.processes, self.batch) for n in (TRIED, TRIED // 2))
        some, few = (
            step_bytes(
                task, self.x[:n].clone(), None if self.context is None else self.context[:n], draw()
            )
            for n in (most, least)
        )
        weights = sum(p.numel() * p.element_size() for net in task.nets for p in net.parameters())
        self.fixed = 5 * weights
        self.image = (
            (some - few) / (most - least) * self.processes
            if most > least
            else some / math.ceil(most / self.processes)
        )

    def needed(self, pieces=None):
        """Bytes that a batch in so many pieces takes on each process."""
        return self.fixed + self.image * math.ceil(
            self.batch / ((pieces or self.pieces) * self.processes)
        )

    def advice(self, section):
        """One sentence: what was asked for, and values that fit."""
        now = math.ceil(self.batch / (self.pieces * self.processes))
        fits = max(
            1, min(int((SPARE * self.free - self.fixed) / self.image), now // 2)
        )  # a limit that is not seen here: half
        remedy = [f"{section}.batch={min(fits * self.processes, self.batch)}"]
        if section == "train":
            pieces = math.ceil(self.batch / fits / self.processes)
            remedy = [f"{section}.accumulate={pieces}", *remedy, "model.checkpointing=true"]
        return (
            f"out of memory: {section}.batch {self.batch} in {self.pieces} piece{'s' * (self.pieces > 1)} needs about "
            f"{self.needed() / GIB:.1f} GiB, and {self.free / GIB:.1f} GiB were free; set {' or '.join(remedy)}"
        )

    def describe(self, steps):
        """One line on size, time and memory; measures a step."""
        seconds = steps * step_seconds(self.task, self.x, self.context, self.draw())
        size = sum(p.numel() for net in self.task.nets for p in net.parameters()) / 1e6
        return (
            f"{size:.2f} million parameters; {steps} steps in about {clock(seconds)}; "
            f"about {self.needed() / GIB:.2f} GiB on {self.x.device.type} ({self.free / GIB:.1f} GiB free)"
        )


def clock(seconds):
    """Seconds as a person says them."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


@contextlib.contextmanager
def explained(section, estimate=None):
    """An out-of-memory error of the block as one sentence: that of the estimate, once there is one."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(
            error
        ):
            raise
        small = f"out of memory with {TRIED} images already; lower the width of the network or set model.checkpointing=true"
        raise InputError(estimate.advice(section) if estimate else small) from None
