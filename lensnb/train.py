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
from torch.optim.swa_utils import AveragedModel

from lensnb import store
from lensnb.denoiser import Denoiser, loss
from lensnb.errors import InputError
from lensnb.sampler import derived_seed
from lensnb.schedule import Schedule
from lensnb.unet import UNet

BATCHES, UPDATES, WEIGHTS = 1, 2, 3     # purposes of derived seeds


def accelerator(device="auto"):
    """An Accelerator on the device that the recipe asks for."""
    found = Accelerator(cpu=device == "cpu")
    if device not in ("auto", found.device.type):
        raise InputError(f"device: {device} is asked for, and this machine offers {found.device.type}")
    return found


def denoiser(params, channels, classes=0):
    """The untrained Denoiser of a recipe, for images of `channels` and a context of `classes` numbers."""
    shape = params.model.model_dump(exclude={"context"})
    net = UNet(channels, context=classes if params.model.context == "class" else 0, **shape)
    return Denoiser(net, params.diffusion.prediction)


def ramped_average(share):
    """EMA over the last `share` of the steps so far: the decay grows with the number of steps."""
    return lambda average, new, n: average + (new - average) / (1 + share * n)


def trapezium(k, settings):
    """Share of the full learning rate at step k: a linear warm-up, a plateau, a linear fall to zero."""
    fall = settings.cooldown * settings.steps
    return min(1, (k + 1) / (settings.warmup + 1), (settings.steps - k) / (fall + 1))


class DiffusionTask:
    """One update of the denoiser: AdamW, warm-up and cool-down, clipping, EMA."""

    def __init__(self, params, dataset, accelerator):
        self.train, self.weighting = params.train, params.diffusion.weighting
        self.schedule, self.accelerator = Schedule.from_params(params.diffusion), accelerator
        model = denoiser(params, dataset.images.shape[1], len(dataset.classes)).to(memory_format=torch.channels_last)
        optimiser = torch.optim.AdamW(model.parameters(), self.train.rate, (0.9, 0.99), weight_decay=self.train.decay)
        self.denoiser, self.optimiser = accelerator.prepare(model, optimiser)
        self.model = AveragedModel(accelerator.unwrap_model(self.denoiser), avg_fn=ramped_average(self.train.ema))
        self.parts = {"denoiser": self.denoiser, "ema": self.model, "optimiser": self.optimiser}

    def step(self, k, x0, context, generator):
        """Update once with the batch x0 (B, C, H, W); returns {"loss": float}."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.train.rate * trapezium(k, self.train)
        sigma = self.schedule.train_sigmas(len(x0), generator)
        noise = torch.randn(x0.shape, generator=generator, device=x0.device)
        if context is not None:     # rows of NaN stand for a dropped context
            dropped = torch.rand(len(x0), 1, generator=generator, device=x0.device) < self.train.drop_context
            context = context.masked_fill(dropped, math.nan)
        value = loss(self.denoiser, x0, sigma, noise, context, self.weighting)
        self.accelerator.backward(value)
        self.accelerator.clip_grad_norm_(self.denoiser.parameters(), self.train.clip)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.model.update_parameters(self.accelerator.unwrap_model(self.denoiser))
        return {"loss": value.item()}


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
        x = random_symmetry(x, generator) if self.flips else x
        return x, None if self.context is None else self.context[index]


def class_context(labels, classes):
    """Labels (N,) as one-hot rows (N, classes), float32."""
    return torch.nn.functional.one_hot(torch.as_tensor(labels), classes).float()


def random_symmetry(x, generator):
    """Each image of x (B, C, H, W) under one of the 8 flips and quarter turns of the square."""
    ways = torch.randint(8, (len(x),), generator=generator, device=x.device)
    out = torch.empty_like(x)
    for way in range(8):
        turned = torch.rot90(x[ways == way], way % 4, (2, 3))
        out[ways == way] = turned.flip(3) if way >= 4 else turned
    return out


def fit(task, batches, settings, seed, folder, device):
    """Train `task` for settings.steps updates, resuming from folder/checkpoint.pt where there is one.

    Returns the history (rows of step, images seen and the mean of each loss since the row before) and
    the seconds that it took, those before an interruption included.
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


def task(name, params, dataset, accelerator):
    """The training task of the generator `name`, its weights drawn from the recipe's seed."""
    torch.manual_seed(derived_seed(params.seed, WEIGHTS))
    if name == "gan":
        from lensnb.gan import GanTask

        return GanTask(params, dataset, accelerator)
    return DiffusionTask(params, dataset, accelerator)


def train(name, params, dataset, folder):
    """Train the generator `name` ("diffusion" or "gan") and write model.safetensors and history.csv to `folder`."""
    settings = params.gan if name == "gan" else params.train
    on = accelerator(params.device)
    images = dataset.scaling.forward(torch.from_numpy(dataset.images[dataset.train])).to(on.device)
    context = None
    if name == "diffusion" and params.model.context == "class":
        if dataset.labels is None:
            raise InputError("model.context: class is asked for, and the images have no labels; use none, or bring class folders")
        context = class_context(dataset.labels[dataset.train], len(dataset.classes)).to(on.device)
    batches = Batches(images, context, settings.batch, settings.flips, params.seed)
    made = task(name, params, dataset, on)
    history, seconds = fit(made, batches, settings, params.seed, folder, on.device)
    weights = {key: value.contiguous() for key, value in made.model.module.state_dict().items()}
    with store.atomic(folder / "model.safetensors", "wb") as file:
        file.write(safetensors.torch.save(weights))
    store.write_table(folder / "history.csv", {key: [row[key] for row in history] for key in history[0]})
    store.write_json(folder / "timing.json", {"seconds": round(seconds, 2), "device": str(on.device)})
    (folder / "checkpoint.pt").unlink(missing_ok=True)
