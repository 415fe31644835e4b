"""One training loop for every generator: batches, EMA, checkpoints, resume; and the denoiser's task in it.

A task has `parts` (everything with a state_dict, for the checkpoint), `step(x0, context, generator)`
which updates once and returns its losses, and `model`, the averaged network that is kept.
All randomness of step k is seeded by (seed, k), so that a resumed training draws the same as an
uninterrupted one and nothing but the parts has to be restored.
"""

import functools
import math
import time

import safetensors.torch
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.optim.swa_utils import AveragedModel

from lensnb import context as contexts
from lensnb import denoiser, schedule, store
from lensnb.denoiser import loss
from lensnb.errors import InputError
from lensnb.sampler import derived_seed

BATCHES, UPDATES, WEIGHTS = 1, 2, 3     # purposes of derived seeds


def accelerator(device="auto", precision="fp32"):
    """An Accelerator on the device that the recipe asks for."""
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())    # a kernel may ask twice, differently
    found = Accelerator(cpu=device == "cpu", mixed_precision={"fp32": "no"}.get(precision, precision))
    if device not in ("auto", found.device.type):
        raise InputError(f"device: {device} is asked for, and this machine offers {found.device.type}")
    return found


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
    half_cosine = lambda a, b, place: b + (a - b) * (1 + math.cos(math.pi * place)) / 2     # from a to b
    if settings.shape == "trapezium":
        return min(1, (k + 1) / (rise + 1), (steps - k) / (settings.cooldown * steps + 1))
    if settings.shape == "cosine":
        return (k + 1) / (rise + 1) if k < rise else half_cosine(1, 0, (k - rise) / (steps - rise))
    peak = rise - 1
    return half_cosine(1 / 25, 1, k / max(peak, 1)) if k <= peak else half_cosine(1, 1 / 25e4, (k - peak) / (steps - 1 - peak))


class DiffusionTask:
    """One update of the denoiser: AdamW along the shape of the rate, accumulation, clipping, EMA."""

    def __init__(self, params, dataset, accelerator):
        self.train, self.weighting = params.train, params.diffusion.weighting
        self.schedule, self.accelerator = schedule.from_params(params.diffusion), accelerator
        model = untrained(params, dataset).to(memory_format=torch.channels_last)
        optimiser = torch.optim.AdamW(model.parameters(), self.train.rate, (0.9, 0.99), weight_decay=self.train.decay)
        self.denoiser, self.optimiser = accelerator.prepare(model, optimiser)
        self.bare = accelerator.unwrap_model(self.denoiser)
        self.model = AveragedModel(self.bare, avg_fn=ramped_average(self.train.ema), use_buffers=True)
        self.parts = {"denoiser": self.denoiser, "ema": self.model, "optimiser": self.optimiser}

    def step(self, k, x0, context, generator):
        """Update once with the batch x0 (B, C, H, W); returns {"loss": float}."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.train.rate * rate_share(k, self.train)
        sigma = self.schedule.train_sigmas(len(x0), generator)
        noise = torch.randn(x0.shape, generator=generator, device=x0.device)
        if context is not None:     # rows of NaN stand for a dropped context
            dropped = torch.rand(len(x0), 1, generator=generator, device=x0.device) < self.train.drop_context
            context = context.masked_fill(dropped, math.nan)
        value = self._backward(x0, sigma, noise, self.bare.weight(sigma, self.weighting), context)
        self.accelerator.clip_grad_norm_(self.denoiser.parameters(), self.train.clip)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.model.update_parameters(self.bare)
        return {"loss": value}

    def _backward(self, *batch):
        """Gradients of the loss, piece by piece, each piece with its share of the batch; returns the loss."""
        n, total = len(batch[0]), 0.0
        size = math.ceil(n / self.train.accumulate)
        for rows in (slice(at, at + size) for at in range(0, n, size)):
            piece = [part if part is None else part[rows] for part in batch]
            value = loss(self.denoiser, *piece) * (len(piece[0]) / n)
            self.accelerator.backward(value)
            total += value.item()
        return total


class Batches:
    """Random batches of images (N, C, H, W) and what belongs to them; batch k depends on (seed, k) alone."""

    def __init__(self, images, context, batch, flips, seed):
        self.images, self.context, self.n = images, context, len(images)
        self.batch, self.flips, self.seed = batch, flips, seed
        if batch > self.n:
            raise InputError(f"batch {batch} is above the {self.n} training images; lower it or bring more images")

    @functools.lru_cache(maxsize=2)     # noqa: B019 - the loop holds the one instance anyway
    def order(self, epoch):
        """The images in the order of an epoch."""
        return torch.randperm(self.n, generator=torch.Generator().manual_seed(derived_seed(self.seed, BATCHES, epoch)))

    def __call__(self, k, generator):
        """Batch k: images (B, C, H, W), and their context (B, K) or None."""
        place = range(k * self.batch, (k + 1) * self.batch)
        index = torch.stack([self.order(p // self.n)[p % self.n] for p in place]).to(self.images.device)
        x = self.images[index]
        x = SYMMETRIES[self.flips](x, generator)
        return x, None if self.context is None else self.context[index]


def random_mirror(x, generator):
    """Each image of x (B, C, H, W) as it is or mirrored left to right."""
    mirrored = torch.rand(len(x), 1, 1, 1, generator=generator, device=x.device) < 0.5
    return torch.where(mirrored, x.flip(3), x)


def random_symmetry(x, generator):
    """Each image of x (B, C, H, W) under one of the 8 flips and quarter turns of the square."""
    ways = torch.randint(8, (len(x),), generator=generator, device=x.device)
    out = torch.empty_like(x)
    for way in range(8):
        turned = torch.rot90(x[ways == way], way % 4, (2, 3))
        out[ways == way] = turned.flip(3) if way >= 4 else turned
    return out


SYMMETRIES = {"square": random_symmetry, "mirror": random_mirror, "none": lambda x, generator: x}


def fit(task, batches, settings, seed, folder, device, keep=None):
    """Train `task` for settings.steps updates, resuming from folder/checkpoint.pt where there is one.

    keep : number of steps -> name of the file that then gets the averaged weights. Returns the history
    (rows of step, images seen and the mean of each loss since the row before) and the seconds that it
    took, those before an interruption included.
    """
    checkpoint = folder / "checkpoint.pt"
    first, history, sums, seconds = restore(task, checkpoint)
    start = time.time() - seconds
    for k in range(first, settings.steps):
        key = derived_seed(seed, UPDATES, k)
        torch.manual_seed(key)      # what draws from the global generator: dropout
        generator = torch.Generator(device).manual_seed(key)
        losses = task.step(k, *batches(k, generator), generator)
        _refuse_nan(losses, k, checkpoint)
        sums = {name: sums.get(name, 0.0) + value for name, value in losses.items()}
        done = k + 1
        if done % settings.log_every == 0 or done == settings.steps:
            count = (done - 1) % settings.log_every + 1
            means = {name: value / count for name, value in sums.items()}
            history.append({"step": done, "images": done * settings.batch, **means})
            print(f"step {done}/{settings.steps}", *(f"{name} {value:.4f}" for name, value in means.items()), flush=True)
            sums = {}
        if done in (keep or {}):
            write_weights(task, folder / keep[done])
        if done % settings.checkpoint_every == 0 and done < settings.steps:
            save(task, checkpoint, {"step": done, "history": history, "sums": sums, "seconds": time.time() - start})
    return history, time.time() - start


def _refuse_nan(losses, k, checkpoint):
    bad = [name for name, value in losses.items() if not math.isfinite(value)]
    if bad:
        kept = f"the last good state is {checkpoint}" if checkpoint.is_file() else "there is no earlier state"
        raise InputError(f"{bad[0]} is not finite at step {k + 1}; {kept}; lower the learning rate")


def save(task, path, progress):
    """Write the state of all parts of `task` and the progress, atomically."""
    with store.atomic(path, "wb") as file:
        torch.save({**progress, "parts": {name: part.state_dict() for name, part in task.parts.items()}}, file)


def restore(task, path):
    """Bring `task` to the state in `path`; returns (steps done, history, running sums, seconds)."""
    if not path.is_file():
        return 0, [], {}, 0.0
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        for name, part in task.parts.items():
            part.load_state_dict(state["parts"][name])
    except Exception as error:      # torch raises many kinds for damaged files
        raise InputError(f"{path}: not a checkpoint of this recipe ({' '.join(str(error).split())[:120]}); "
                         "delete it to start over") from None
    print(f"resumed at step {state['step']}")
    return state["step"], state["history"], state["sums"], state["seconds"]


def write_weights(task, path):
    """The averaged weights of a task as safetensors, atomically."""
    weights = {key: value.contiguous() for key, value in task.model.module.state_dict().items()}
    with store.atomic(path, "wb") as file:
        file.write(safetensors.torch.save(weights))


def counted(settings, n):
    """The settings with `steps` spelled out for n training images, and which steps are kept under which name."""
    unit = "epoch" if settings.epochs else "step"
    steps_of = lambda count: math.ceil(count * n / settings.batch) if settings.epochs else count
    steps = steps_of(settings.epochs or settings.steps)
    keep = {min(steps_of(count), steps): f"{unit}-{count}.safetensors" for count in settings.keep}
    return settings.model_copy(update={"steps": steps}), keep


def untrained(params, dataset):
    """The untrained Denoiser of a recipe for the images of a Dataset."""
    width = contexts.width(params.model.context, dataset)
    return denoiser.from_params(params, dataset.images.shape[1], dataset.sigma_data, width)


def task(name, params, dataset, accelerator):
    """The training task of the generator `name`, its weights drawn from the recipe's seed."""
    torch.manual_seed(derived_seed(params.seed, WEIGHTS))
    if name == "gan":
        from lensnb.gan import GanTask

        return GanTask(params, dataset, accelerator)
    return DiffusionTask(params, dataset, accelerator)


def train(name, params, dataset, folder):
    """Train the generator `name` ("diffusion" or "gan") and write model.safetensors and history.csv to `folder`."""
    section = "gan" if name == "gan" else "train"
    settings, keep = counted(getattr(params, section), len(dataset.train))
    params = params.model_copy(update={section: settings})
    on = accelerator(params.device, getattr(settings, "precision", "fp32"))
    images = dataset.scaling.forward(torch.from_numpy(dataset.images[dataset.train])).to(on.device)
    context = None
    if name == "diffusion" and params.model.context != "none":
        known = contexts.table(params.model.context, dataset)
        context = contexts.encode(params.model.context, dataset, known)[dataset.train].to(on.device)
    batches = Batches(images, context, settings.batch, settings.flips, params.seed)
    made = task(name, params, dataset, on)
    history, seconds = fit(made, batches, settings, params.seed, folder, on.device, keep)
    write_weights(made, folder / "model.safetensors")
    store.write_table(folder / "history.csv", {key: [row[key] for row in history] for key in history[0]})
    store.write_json(folder / "timing.json", {"seconds": round(seconds, 2), "device": str(on.device)})
    (folder / "checkpoint.pt").unlink(missing_ok=True)
