"""What a training will take: seconds and memory, measured on a few steps that are undone.

Where memory does not suffice, one sentence says which settings would fit.
"""

import contextlib
import copy
import math
import time
from collections.abc import Iterator

import torch
from accelerate import Accelerator

from lensnb.devices import is_out_of_memory
from lensnb.errors import InputError, one_line
from lensnb.kinds import Kind
from lensnb.training import loader, optimise
from lensnb.training.accelerator import is_main_process, largest
from lensnb.training.loader import Batches
from lensnb.training.task import Task

GIB = 2**30
TRIAL_IMAGES = 4  # images of each process whose memory is measured
USABLE_SHARE = 0.8  # share of the free memory that a training may plan with
TIMED_STEPS = 4  # of these, one computes the GAN's penalties, which come at every fourth step
TIMED_SECONDS = 4  # what they may take together; fewer are timed where they would take longer


@contextlib.contextmanager
def undone(task: Task) -> Iterator[None]:
    """Takes back whatever the block does to the parts of a task."""
    before = copy.deepcopy({name: part.state_dict() for name, part in task.parts.items()})
    try:
        yield
    finally:
        for name, part in task.parts.items():
            part.load_state_dict(before[name])


class SavedTensors:
    """Counts the bytes that autograd keeps for the backward pass, each storage once."""

    def __init__(self) -> None:
        self.bytes_at: dict[int, int] = {}

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        """Count the storage of a tensor that autograd keeps; returns the tensor."""
        storage = tensor.untyped_storage()
        self.bytes_at[storage.data_ptr()] = storage.nbytes()
        return tensor

    @property
    def total(self) -> int:
        """Bytes in all."""
        return sum(self.bytes_at.values())


def _unchanged(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself: what autograd unpacks is what it packed."""
    return tensor


def step_bytes(
    task: Task, x: torch.Tensor, context: torch.Tensor | None, generator: torch.Generator
) -> int:
    """Bytes that autograd keeps in one update with the batch x (B, C, H, W) in one piece."""
    saved = SavedTensors()
    pieces = task.pieces
    task.pieces = 1
    # Compiled for a few images and then for many, the network would be slow for both.
    eager = torch.compiler.set_stance("force_eager")
    hooks = torch.autograd.graph.saved_tensors_hooks(saved, _unchanged)
    with undone(task), optimise.trial(), eager, hooks:
        task.step(0, x, context, generator)
    task.pieces = pieces
    return saved.total


def step_seconds(
    task: Task, x: torch.Tensor, context: torch.Tensor | None, generator: torch.Generator
) -> float:
    """Mean seconds of an update with the batch x, after one update to warm up.

    Several processes all time the same number of updates.
    """

    def seconds(steps: range) -> float:
        start = time.perf_counter()
        for k in steps:
            losses = task.step(k, x, context, generator)
        float(next(iter(losses.values())))  # waits until a GPU is done
        return largest(time.perf_counter() - start, x.device)

    with undone(task):
        warm = seconds(range(1, 2))
        count = max(1, min(TIMED_STEPS, int(TIMED_SECONDS / warm)))
        return seconds(range(1, count + 1)) / count


def compile_now(
    task: Task, x: torch.Tensor, context: torch.Tensor | None, generator: torch.Generator
) -> None:
    """Compile what the task compiles, for the batch x. Where that fails, the task goes on without.

    Nothing is compiled later: the training runs the same functions with the same shapes.
    """
    if not task.compiler.on:
        return
    if is_main_process():
        print("compiling, which takes a minute or two on a GPU", flush=True)
    failed = ""
    try:
        # Not step 0: at the first step of four a GAN computes penalties, which are not compiled.
        with undone(task), optimise.trial():
            task.step(1, x, context, generator)
    except Exception as error:  # torch raises many kinds of errors
        if is_out_of_memory(error):
            raise
        failed = one_line(error, 120)
    if largest(len(failed), x.device):
        task.compiler.give_up(failed or "in another process")


class Estimate:
    """The memory that a training needs, measured on a few images.

    fixed : bytes of weights, gradients, Adam's two moments and the average
    image : bytes for each image of a piece
    free : bytes that were free
    """

    def __init__(self, task: Task, batches: Batches, accelerator: Accelerator) -> None:
        self.device = accelerator.device
        self.x, self.context = batches(0, self._generator())
        self.batch = len(self.x)
        self.pieces = task.pieces
        self.processes = accelerator.num_processes
        self.task = task
        self.free = loader.free_memory(accelerator.device)
        weights = sum(p.numel() * p.element_size() for net in task.nets for p in net.parameters())
        self.fixed = 5 * weights
        self.image = self._image_bytes()

    def _generator(self) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(0)

    def _image_bytes(self) -> float:
        """Bytes for each image: the difference of two trial steps, so that weights drop out."""
        more = min(TRIAL_IMAGES * self.processes, self.batch)
        fewer = min(TRIAL_IMAGES // 2 * self.processes, self.batch)
        bytes_of_more = self._trial_bytes(more)
        bytes_of_fewer = self._trial_bytes(fewer)
        if more > fewer:
            return (bytes_of_more - bytes_of_fewer) / (more - fewer) * self.processes
        return bytes_of_more / math.ceil(more / self.processes)

    def _trial_bytes(self, n: int) -> int:
        """Bytes of one update with the first n images of the batch."""
        context = None if self.context is None else self.context[:n]
        return step_bytes(self.task, self.x[:n].clone(), context, self._generator())

    def needed(self, pieces: int | None = None) -> float:
        """Bytes that a batch in `pieces` pieces takes on each process."""
        images = math.ceil(self.batch / ((pieces or self.pieces) * self.processes))
        return self.fixed + self.image * images

    def advice(self, kind: Kind) -> str:
        """One sentence: what was asked for, and values that fit."""
        section = kind.section
        now = math.ceil(self.batch / (self.pieces * self.processes))
        # At most half of what failed: `free` may not show the true limit.
        fits = max(1, min(int((USABLE_SHARE * self.free - self.fixed) / self.image), now // 2))
        remedy = [f"{section}.batch={min(fits * self.processes, self.batch)}"]
        if kind.accumulates:
            pieces = math.ceil(self.batch / fits / self.processes)
            remedy = [f"{section}.accumulate={pieces}", *remedy, "model.checkpointing=true"]
        return (
            f"out of memory: {section}.batch {self.batch} in {self.pieces} "
            f"piece{'s' if self.pieces > 1 else ''} needs about {self.needed() / GIB:.1f} GiB, "
            f"and {self.free / GIB:.1f} GiB were free; set {' or '.join(remedy)}"
        )

    def describe(self, steps: int) -> str:
        """One line on size, time and memory; compiles, then measures the time of a step."""
        compile_now(self.task, self.x, self.context, self._generator())
        step = step_seconds(self.task, self.x, self.context, self._generator())
        size = sum(p.numel() for net in self.task.nets for p in net.parameters()) / 1e6
        return (
            f"{size:.2f} million parameters; {steps} steps in about {readable_time(steps * step)}; "
            f"about {self.needed() / GIB:.2f} GiB on {self.x.device.type} "
            f"({self.free / GIB:.1f} GiB free)"
        )


def readable_time(seconds: float) -> str:
    """Seconds as text in hours, minutes or seconds, such as "2.5 min"."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


@contextlib.contextmanager
def explained(kind: Kind, estimate: Estimate | None = None) -> Iterator[None]:
    """Turns an out-of-memory error of the block into an InputError of one sentence.

    The sentence is the advice of the estimate, if there is one already.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        if estimate:
            raise InputError(estimate.advice(kind)) from None
        raise InputError(
            f"out of memory with {TRIAL_IMAGES} images already; "
            "lower the width of the network or set model.checkpointing=true"
        ) from None
