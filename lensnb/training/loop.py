"""One training loop for every generator: losses, checkpoints, what is watched, and when to stop.

`task.Task` says what the loop asks of a task. All random numbers of step k are seeded by (seed, k).
So a resumed training draws the same numbers as an uninterrupted one, and only the parts of the task
have to be restored. Between two lines of progress nothing is read back from the device, so a GPU
never waits for the next step.
"""

import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import safetensors.torch
import torch
from accelerate import Accelerator
from tqdm import tqdm

from lensnb import io
from lensnb.datasets.dataset import Dataset
from lensnb.errors import InputError, one_line
from lensnb.kinds import KINDS
from lensnb.recipes.recipe import Params
from lensnb.recipes.schema import Optimiser
from lensnb.seeds import Purpose, derived_seed
from lensnb.training.accelerator import Log, is_main_process
from lensnb.training.checkpoint import Progress, finish, restore, save, write_weights
from lensnb.training.stopping import StopSignals
from lensnb.training.task import Losses, Task

__all__ = ["Progress", "finish", "fit", "restore", "save", "task", "write_weights"]

MOST_SKIPPED = 0.5  # share of updates between two lines that fp16 may skip
FAR = 10_000  # a kernel distance above which its size tells nothing

Batch = tuple[torch.Tensor, torch.Tensor | None]


class Watch(Protocol):
    """Looks at what the averaged network draws; `evaluation.monitor.Monitor` is one.

    collapsed : a diversity below this share of the best one so far is a warning
    """

    collapsed: float

    def __call__(self, model: torch.nn.Module) -> tuple[dict[str, float], np.ndarray]:
        """A row of measures, "kid" and "diversity" among them, and the images (N, C, H, W)."""
        ...


def task(
    name: str,
    params: Params,
    dataset: Dataset,
    accelerator: Accelerator,
    start: Path | None = None,
) -> Task:
    """The training task of the generator `name`, its weights drawn from the recipe's seed.

    start : a file of weights that the network that draws, and its average, have instead
    Raises InputError for weights of another network.
    """
    torch.manual_seed(derived_seed(params.seed, Purpose.WEIGHTS))
    made: Task = KINDS[name].task(params, dataset, accelerator)
    if start is not None:
        _begin_with(made, start)
    return made


def _begin_with(task: Task, start: Path) -> None:
    state = safetensors.torch.load_file(start)
    try:
        for net in (task.nets[0], task.model.module):
            net.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(
            f"{start}: not the weights of this recipe's network ({one_line(error, 120)})"
        ) from None


def fit(
    task: Task,
    batches: Callable[[int, torch.Generator], Batch],
    settings: Optimiser,
    seed: int,
    folder: Path,
    device: torch.device | str,
    keep: Mapping[int, str] | None = None,
    watch: Watch | None = None,
    log: Log | None = None,
) -> Progress:
    """Train `task` for settings.steps updates; resumes from folder/checkpoint.pt if it is there.

    keep : number of steps -> name of the file that then gets the averaged weights
    watch : called every settings.watch_every steps and at the end
    log : a tracker's log(values, step)

    Returns the progress: history (rows of step, images seen, and the mean of each loss since the
    row before), watched rows, and seconds, those before an interruption included. Ctrl-C and
    SIGTERM save first. Raises InputError for a loss that is not finite.
    """
    checkpoint = folder / "checkpoint.pt"
    progress = restore(task, checkpoint)
    start = time.time() - progress["seconds"]
    steps = settings.steps
    with StopSignals() as signals, progress_bar(progress["step"], steps) as bar:
        for k in range(progress["step"], steps):
            progress["recent"].append(one_step(task, batches, k, seed, device))
            progress["step"] = done = k + 1
            last = done == steps
            if last or is_due(done, settings.log_every):
                means = enter_losses(progress, settings, bar, checkpoint)
                _log(log, means, done)
            if keep and done in keep:
                write_weights(task, folder / keep[done])
            if watch and (last or is_due(done, settings.watch_every)):
                # By every process: one that stops alone leaves the others waiting.
                progress["recent"] = checked_losses(progress, checkpoint)
                if is_main_process():
                    _log(log, enter_watched(watch, task, progress, folder, settings.batch), done)
            progress["seconds"] = time.time() - start
            signal = signals.requested(done, device, last)
            if signal or (not last and is_due(done, settings.checkpoint_every)):
                progress["recent"] = checked_losses(progress, checkpoint)
                save(task, checkpoint, progress)
            bar.update()
            if signal:
                signals.stop(signal, done, steps)
    return progress


def one_step(
    task: Task,
    batches: Callable[[int, torch.Generator], Batch],
    k: int,
    seed: int,
    device: torch.device | str,
) -> Losses:
    """Update once with batch k, all random numbers seeded by (seed, k); returns the losses."""
    key = derived_seed(seed, Purpose.UPDATES, k)
    torch.manual_seed(key)  # dropout draws from the global generator
    generator = torch.Generator(device).manual_seed(key)
    return task.step(k, *batches(k, generator), generator)


def is_due(done: int, every: int) -> bool:
    """Whether an event that comes at each `every`-th step (0: never) comes at step `done`."""
    return every > 0 and done % every == 0


def _log(log: Log | None, values: Mapping[str, float], step: int) -> None:
    if log:
        log(values, step)


# Losses -----------------------------------------------------------------------------------------


def checked_losses(progress: Progress, checkpoint: Path) -> list[Losses]:
    """The losses since the last line as numbers. Only here does a training wait for a GPU.

    Raises InputError for a loss that is not finite, unless fp16 has skipped that update.
    """
    recent = as_numbers(progress["recent"])
    first_step = progress["step"] - len(recent) + 1
    for step, losses in reversed(list(enumerate(recent, first_step))):
        bad = [name for name, value in losses.items() if not math.isfinite(value)]
        if bad and not losses.get("skipped"):
            raise InputError(_not_finite(bad[0], step, losses, checkpoint))
    return recent


def as_numbers(recent: list[Losses]) -> list[dict[str, float]]:
    """The losses of some steps with numbers for tensors, all read from the device at once."""
    tensors = [value for losses in recent for value in losses.values() if torch.is_tensor(value)]
    numbers = iter(torch.stack(tensors).tolist() if tensors else ())
    return [
        {
            name: next(numbers) if torch.is_tensor(value) else float(value)
            for name, value in losses.items()
        }
        for losses in recent
    ]


def _not_finite(name: str, step: int, losses: Losses, checkpoint: Path) -> str:
    """The sentence about a loss that is not finite."""
    rate = f" at the rate {losses['rate']:.3g}" if "rate" in losses else ""
    kept = "there is no earlier state"
    if checkpoint.is_file():
        kept = f"the last good state is {checkpoint}"
    return f"{name} is not finite at step {step}{rate}; {kept}; lower the learning rate"


def enter_losses(
    progress: Progress, settings: Optimiser, bar: tqdm, checkpoint: Path
) -> dict[str, float]:
    """Enter the mean of each loss since the last line into the history; returns these means.

    Prints them, or shows them beside the progress bar.
    """
    recent = checked_losses(progress, checkpoint)
    step = progress["step"]
    if np.mean([losses.get("skipped", 0) for losses in recent]) > MOST_SKIPPED:
        raise InputError(
            f"fp16 skipped most updates before step {step}; set train.precision to bf16 or fp32"
        )
    with np.errstate(invalid="ignore"):
        means = {name: float(np.nanmean([losses[name] for losses in recent])) for name in recent[0]}
    progress["history"].append({"step": step, "images": step * settings.batch, **means})
    progress["recent"] = []
    text = " ".join(f"{name} {value:.4g}" for name, value in means.items())
    if not bar.disable:
        bar.set_postfix_str(text)
    elif is_main_process():
        print(f"step {step}/{settings.steps} {text}", flush=True)
    return means


def progress_bar(first: int, steps: int) -> tqdm:
    """A progress bar with the time left, shown where a person looks on.

    In a headless run it stays hidden, and `enter_losses` prints lines instead.
    """
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    person = sys.stderr.isatty() or (shell is not None and not os.environ.get("LENSNB_HEADLESS"))
    hidden = not person or not is_main_process()
    return tqdm(total=steps, initial=first, unit="step", disable=hidden)


# What is watched --------------------------------------------------------------------------------


def enter_watched(
    watch: Watch, task: Task, progress: Progress, folder: Path, batch: int
) -> dict[str, Any]:
    """Enter what the watch measures into the progress and keep its images; returns the row.

    Keeps the weights as best.safetensors if the kernel distance is the least so far. Warns where
    the diversity has fallen.
    """
    step = progress["step"]
    row, images = watch(task.model.module)
    most_diverse = max((seen["diversity"] for seen in progress["watched"]), default=0)
    progress["watched"].append({"step": step, "images": step * batch, **row})
    with io.atomic(folder / f"watch-{step:07d}.npy", "wb") as file:
        np.save(file, images, allow_pickle=False)
    print(f"step {step}", _told(row), flush=True)
    if row["diversity"] < watch.collapsed * min(most_diverse, 1):
        print(
            f"warning: generated images are {row['diversity']:.2f} times as diverse as real ones, "
            f"after {most_diverse:.2f} before: the generator may be collapsing",
            flush=True,
        )
    if row["kid"] == min(seen["kid"] for seen in progress["watched"]):
        write_weights(task, folder / "best.safetensors")
    return row


def _told(row: Mapping[str, float]) -> str:
    """What was measured, in one line.

    The kernel is a cube, and features of noise lie a hundred deviations off: the kernel distance of
    a network that has hardly learned is huge. Then the line says only that it is far off.
    """
    told = {name: f"{value:.3g}" for name, value in row.items()}
    if row["kid"] > FAR:
        told["kid"] = f"over {FAR:,} (nothing like real images yet)"
    return " ".join(f"{name} {text}" for name, text in told.items())
