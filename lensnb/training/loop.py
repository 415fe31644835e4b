"""One training loop for every generator: checkpoints, resume, what is logged and watched, and when it must stop.

A task has `parts` (everything with a state_dict, for the checkpoint), `step(k, x0, context, generator)`
which updates once and returns its losses, and `model`, the averaged network that is kept.
All randomness of step k is seeded by (seed, k), so that a resumed training draws the same as an
uninterrupted one and nothing but the parts has to be restored.
"""

import math
import os
import pickle
import signal
import sys
import threading
import time
import warnings
from io import BytesIO

import numpy as np
import safetensors.torch
import torch
from tqdm import tqdm

from lensnb import io
from lensnb.errors import InputError
from lensnb.seeds import Purpose, derived_seed
from lensnb.training import diffusion_task, gan_task

TASKS = {"diffusion": diffusion_task.DiffusionTask, "gan": gan_task.GanTask}
HOPELESS = 0.5  # share of updates between two lines that fp16 may skip
AGREE = 5  # steps after which several processes ask each other whether to stop: on a GPU an answer is waited for
TWICE = 2.0  # seconds within which a second signal is the first one, told by the shell and by the launcher


# The loop ------------------------------------------------------------------------------------------


def fit(
    task, batches, settings, seed, folder, device, keep=None, watch=None, log=lambda row, step: None
):
    """Train `task` for settings.steps updates, resuming from folder/checkpoint.pt where there is one.

    keep : number of steps -> name of the file that then gets the averaged weights; watch : a
    watch.Watch, called every settings.watch_every steps; log : a tracker's log(values, step). Returns the
    state: history (rows of step, images seen and the mean of each loss since the row before), what was
    watched, and the seconds that it took, those before an interruption included. Ctrl-C and SIGTERM save first.
    """
    state = restore(task, folder / "checkpoint.pt")
    checkpoint = folder / "checkpoint.pt"
    clock = time.time() - state["seconds"]
    with Stopped() as stopped, bar(state["step"], settings.steps) as progress:
        for k in range(state["step"], settings.steps):
            key = derived_seed(seed, Purpose.UPDATES, k)
            torch.manual_seed(key)  # what draws from the global generator: dropout
            generator = torch.Generator(device).manual_seed(key)
            state["recent"].append(task.step(k, *batches(k, generator), generator))
            state["step"] = done = k + 1
            last = done == settings.steps
            if last or due(done, settings.log_every):
                log(line(state, settings, progress, checkpoint), done)
            if done in (keep or {}):
                write_weights(task, folder / keep[done])
            if watch and main_process() and (last or due(done, settings.watch_every)):
                log(observe(watch, task, state, folder, settings.batch), done)
            state["seconds"] = time.time() - clock
            asked = None if last else stopped.asked(done, device)
            if asked or not last and due(done, settings.checkpoint_every):
                drain(state, checkpoint)
                save(task, checkpoint, state)
            progress.update()
            if asked:
                stopped.leave(asked, done, settings.steps)
    return state


def due(done, every):
    """Whether something that happens every so many steps (0: never) happens after `done` steps."""
    return every > 0 and done % every == 0


def drain(state, checkpoint):
    """The losses since the last line as numbers; refuses one that is not finite, unless fp16 has skipped that update."""
    state["recent"] = [
        {name: float(value) for name, value in losses.items()} for losses in state["recent"]
    ]
    for before, losses in enumerate(reversed(state["recent"])):
        bad = [name for name, value in losses.items() if not math.isfinite(value)]
        if bad and not losses.get("skipped"):
            kept = (
                f"the last good state is {checkpoint}"
                if checkpoint.is_file()
                else "there is no earlier state"
            )
            rate = f" at the rate {losses['rate']:.3g}" if "rate" in losses else ""
            raise InputError(
                f"{bad[0]} is not finite at step {state['step'] - before}{rate}; {kept}; lower the learning rate"
            )
    return state["recent"]


def line(state, settings, progress, checkpoint):
    """Enter the mean of each loss since the last line into the history and print it; returns the row."""
    recent = drain(state, checkpoint)
    if np.mean([losses.get("skipped", 0) for losses in recent]) > HOPELESS:
        raise InputError(
            f"fp16 skipped most updates before step {state['step']}; set train.precision to bf16 or fp32"
        )
    with np.errstate(invalid="ignore"):
        means = {name: float(np.nanmean([losses[name] for losses in recent])) for name in recent[0]}
    state["history"].append(
        {"step": state["step"], "images": state["step"] * settings.batch, **means}
    )
    state["recent"] = []
    text = " ".join(f"{name} {value:.4g}" for name, value in means.items())
    if not progress.disable:
        progress.set_postfix_str(text)
    elif main_process():
        print(f"step {state['step']}/{settings.steps} {text}", flush=True)
    return means


def bar(first, steps):
    """A progress bar with the time left where a person looks on; in a headless run nothing, and `line` prints instead."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    looked_on = sys.stderr.isatty() or (shell is not None and not os.environ.get("LENSNB_HEADLESS"))
    return tqdm(
        total=steps, initial=first, unit="step", disable=not looked_on or not main_process()
    )


def several():
    """Whether this process is one of several."""
    return torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1


def main_process():
    """Whether this process writes files; of several, the first does."""
    return not several() or torch.distributed.get_rank() == 0


def observe(watch, task, state, folder, batch):
    """Enter what the watch sees into the state, keep its images and, where it is the best so far, the weights."""
    row, images = watch(task.model.module)
    best = max((seen["diversity"] for seen in state["watched"]), default=0)
    state["watched"].append({"step": state["step"], "images": state["step"] * batch, **row})
    with io.atomic(folder / f"watch-{state['step']:07d}.npy", "wb") as file:
        np.save(file, images, allow_pickle=False)
    print(
        f"step {state['step']}", *(f"{name} {value:.3g}" for name, value in row.items()), flush=True
    )
    if row["diversity"] < watch.collapsed * min(best, 1):
        print(
            f"warning: generated images are {row['diversity']:.2f} times as diverse as real ones, after {best:.2f} before: "
            "the generator may be collapsing",
            flush=True,
        )
    if row["kid"] == min(seen["kid"] for seen in state["watched"]):
        write_weights(task, folder / "best.safetensors")
    return row


class Stopped:
    """Ctrl-C and SIGTERM wait until the step is done and the state is saved; a second one is not waited for.

    Of several processes all stop after the same step, whichever was told, else the others would wait for it forever.
    """

    def __enter__(self):
        self.by = None
        self.at = 0.0
        self.before = {}
        if threading.current_thread() is threading.main_thread():
            self.before = {
                number: signal.signal(number, self._note)
                for number in (signal.SIGINT, signal.SIGTERM)
            }
        return self

    def _note(self, number, frame):
        if self.by is not None and time.monotonic() - self.at > TWICE:
            raise KeyboardInterrupt
        self.by = self.by or number
        self.at = self.at or time.monotonic()

    def asked(self, done, device):
        """The number of the signal that this process, or every few steps any of several, has had; None without one."""
        if not several():
            return self.by
        if done % AGREE:
            return None
        told = torch.tensor(self.by or 0, device=device)
        torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX)
        return int(told) or None

    def leave(self, number, done, steps):
        """Go with the exception that a signal stands for; of several processes none before the first has saved."""
        if several():
            torch.distributed.barrier()
        if main_process():
            print(f"stopped and saved after step {done} of {steps}; run again to go on", flush=True)
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    def __exit__(self, *error):
        for number, handler in self.before.items():
            signal.signal(number, handler)


# Files ---------------------------------------------------------------------------------------------


def save(task, path, state):
    """Write the state of all parts of `task` and the progress, atomically."""
    if main_process():
        whole = BytesIO()  # torch writing to a full disk does not say so
        torch.save(
            {**state, "parts": {name: part.state_dict() for name, part in task.parts.items()}},
            whole,
        )
        with io.atomic(path, "wb") as file:
            file.write(whole.getbuffer())


def restore(task, path):
    """Bring `task` to the state in `path`; returns the progress: step, history, recent losses, what was watched, seconds."""
    if not path.is_file():
        return {"step": 0, "history": [], "recent": [], "watched": [], "seconds": 0.0}
    try:
        with warnings.catch_warnings(action="ignore"):  # of the pickle's protocol
            state = torch.load(path, weights_only=True, map_location="cpu")
        for name, part in task.parts.items():
            part.load_state_dict(state["parts"][name])
        progress = {
            name: state[name] for name in ("step", "history", "recent", "watched", "seconds")
        }
    except Exception as error:  # torch raises many kinds for damaged files
        reason = (
            "more than tensors and numbers, or damaged"
            if isinstance(error, pickle.UnpicklingError)
            else " ".join(str(error).split())[:120]
        )
        raise InputError(
            f"{path}: not a checkpoint of this recipe ({reason or type(error).__name__}); delete it to start over"
        ) from None
    print(f"resumed at step {progress['step']}", flush=True)
    return progress


def write_weights(task, path):
    """The averaged weights of a task as safetensors, atomically."""
    if main_process():
        weights = {key: value.contiguous() for key, value in task.model.module.state_dict().items()}
        with io.atomic(path, "wb") as file:
            file.write(safetensors.torch.save(weights))


def finish(task, state, folder, device, best):
    """Write model.safetensors, the best or the last weights, and the tables; the checkpoint stays until they have their place."""
    if state["watched"] and best:
        with io.atomic(folder / "model.safetensors", "wb") as file:
            file.write((folder / "best.safetensors").read_bytes())
    else:
        write_weights(task, folder / "model.safetensors")
    for name, rows in (("history", state["history"]), ("watch", state["watched"])):
        if rows:
            io.write_rows(folder / f"{name}.csv", rows)
    io.write_json(
        folder / "timing.json", {"seconds": round(state["seconds"], 2), "device": str(device)}
    )


def task(name, params, dataset, accelerator):
    """The training task of the generator `name`, its weights drawn from the recipe's seed."""
    torch.manual_seed(derived_seed(params.seed, Purpose.WEIGHTS))
    return TASKS[name](params, dataset, accelerator)
