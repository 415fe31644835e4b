"""Trained generators behind one contract: draw(n, seed) -> images, trajectory(n, seed) -> frames.

What the sampling notebook needs of any method; it cannot tell a diffusion model from a GAN.
"""

import time

import numpy as np
import safetensors.torch
import torch

from lensnb import context as contexts
from lensnb import denoiser, devices, diffusion, gan, sampler, schedule, store
from lensnb.errors import InputError

IMAGES = 11     # purpose of derived seeds


def sigmas_of(method, diffusion):
    """The levels that a method samples along, falling to 0; float64 (steps + 1,)."""
    if method.spacing == "schedule":
        return schedule.from_params(diffusion).sample_sigmas(method.steps)
    levels = schedule.karras(method.steps, method.sigma_min, method.sigma_max, method.rho)
    return torch.cat([levels, torch.zeros(1, dtype=torch.float64)])


class Diffusion:
    """A denoiser drawn from by a sampler along `steps` noise levels."""

    def __init__(self, net, params, method, dataset, device):
        self.net = net
        self.sigmas, self.method, self.device = sigmas_of(method, params.diffusion), method, device
        self.nfe = sampler.evaluations(method.sampler, method.steps) * (1 if method.guidance == 1 else 2)
        self.shape, self.scaling = dataset.images.shape[1:], dataset.scaling

    def states(self, seeds, context=None):
        """The sampler's States for images of these seeds and contexts (B, K), in model units."""
        noise = sampler.ImageNoise(seeds)
        x = sampler.start(self.sigmas, self.shape, noise, device=self.device)
        denoise = denoiser.guided(self.net, context, self.method.guidance)
        if self.method.clip:
            denoise = denoiser.clipped(denoise, self.scaling.low, self.scaling.high)
        options = {"ddim": {"eta": self.method.eta}, "ddpm": {"variance": self.method.variance}}.get(self.method.sampler, {})
        return sampler.SAMPLERS[self.method.sampler](denoise, self.sigmas, x, noise, **options)

    def images(self, seeds, context=None):
        """Finished images (B, C, H, W) in model units."""
        for state in self.states(seeds, context):
            pass
        return state.x

    def frames(self, seeds, count, context=None):
        """Up to `count` states, evenly spread: a table of them, x / sqrt(1 + sigma^2) and x0, (F, B, C, H, W)."""
        states = list(self.states(seeds, context))
        states = [states[i] for i in spread(len(states), count)]
        table = {"step": [s.step for s in states], "sigma": [s.sigma for s in states]}
        x = torch.stack([s.x / (1 + s.sigma**2) ** 0.5 for s in states])
        return table, x, torch.stack([s.x0 for s in states])


class Gan:
    """A GAN's generator; its trajectory is a closed walk through the latent space."""

    nfe = 1

    def __init__(self, net, params, method, dataset, device):
        self.net, self.device = net, device

    def images(self, seeds, context=None):
        """Finished images (B, C, H, W) in model units."""
        noise = sampler.ImageNoise(seeds)
        return self.net(*(noise(shape, device=self.device) for shape in self.net.shapes), context=context)

    def frames(self, seeds, count, context=None):
        """`count` images on the great circle through two latents for each seed, all else that is drawn held, (F, B, C, H, W)."""
        noise = sampler.ImageNoise(seeds)
        a, *rest = (noise(shape, device=self.device) for shape in self.net.shapes)
        b, angle = noise(self.net.shapes[0], device=self.device), np.linspace(0, 2 * np.pi, count)
        x = torch.stack([self.net(np.cos(t) * a + np.sin(t) * b, *rest, context=context) for t in angle])
        return {"step": list(range(count)), "angle_deg": np.degrees(angle).tolist()}, x, x


def spread(n, count):
    """At most `count` indices of 0..n-1, evenly spread, the first and the last among them."""
    return sorted(set(np.linspace(0, n - 1, min(n, count)).round().astype(int).tolist()))


class Generator:
    """Any trained generator of a run under one method of its recipe.

    method : params.Method; net : the network in evaluation mode, on the device. draw(n, seed) and
    trajectory(n, seed) give the same image i for any batch size.
    """

    def __init__(self, params, method, dataset, net, device):
        self.params, self.method, self.device, self.dataset, self.scaling = params, method, device, dataset, dataset.scaling
        self.inner = {"diffusion": Diffusion, "gan": Gan}[method.model](net, params, method, dataset, device)
        self.kind = contexts.resolve(params.model.context, dataset)
        if self.kind == "none" and (params.sample.context or method.guidance != 1):
            raise InputError("sample.context and guidance are for images of which something is known, and these have no labels; leave them out")
        self.table = contexts.read(params.sample.context, self.kind, dataset) if params.sample.context else None
        self.nfe = self.inner.nfe

    def variant(self, steps, guidance=1.0):
        """The same network, drawn from in so many steps and guided so; a GAN has neither and stays as it is."""
        if self.method.model == "gan":
            return self
        method = self.method.model_copy(update={"steps": steps, "guidance": guidance})
        return Generator(self.params, method, self.dataset, self.inner.net, self.device)

    def parameters(self):
        """Number of trained numbers."""
        return sum(p.numel() for p in self.inner.net.parameters())

    def asked(self, n, seed=0, first=0, table=None):
        """What images first .. first + n - 1 are asked to be: column name -> (n,), or None without a context.

        The rows of `table` in turn (of the recipe's sample.context, if none is given), or those of
        training images that are picked by the seeds.
        """
        if self.kind == "none":
            return None
        table = table or self.table
        if table is None:
            table, order = contexts.table(self.kind, self.dataset), self.dataset.train
            rows = [order[s % len(order)] for s in _seeds(seed, first, n)]
        else:
            rows = [i % len(table["class"]) for i in range(first, first + n)]
        return {name: np.asarray(column)[rows] for name, column in table.items()}

    def _context(self, asked):
        return None if asked is None else contexts.encode(self.kind, self.dataset, asked).to(self.device)

    def draw(self, n, seed=0, batch=64, first=0, table=None):
        """n images (n, C, H, W) in the user's units, float32; image i depends on (seed, first + i) and its context alone.

        Pixels further outside of the training range than that range is wide are set to that bound.
        """
        return np.concatenate(list(self.batches(n, seed, batch, first, table)))

    @torch.inference_mode()
    def batches(self, n, seed=0, batch=64, first=0, table=None):
        """The images of `draw`, `batch` of them at a time."""
        span = self.scaling.high - self.scaling.low     # far beyond, an asinh's inverse overflows
        for at in range(first, first + n, batch):
            count = min(batch, first + n - at)
            context = self._context(self.asked(count, seed, at, table))
            x = self.inner.images(_seeds(seed, at, count), context).cpu()
            yield self.scaling.inverse(x.clamp(self.scaling.low - span, self.scaling.high + span)).numpy()

    @torch.inference_mode()
    def trajectory(self, n, seed=0, count=40, table=None):
        """How the first n images of draw(n, seed) come about: (table, x, x0).

        table : columns with one entry a frame; x : (F, n, C, H, W), the noisy state at unit
        variance, in model units; x0 : (F, n, C, H, W), the image predicted, in the user's units.
        """
        context = self._context(self.asked(n, seed, table=table))
        frames, x, x0 = self.inner.frames(_seeds(seed, 0, n), count, context)
        x0 = self.scaling.inverse(x0.clamp(self.scaling.low, self.scaling.high))
        return frames, x.cpu().numpy(), x0.cpu().numpy()


def _seeds(seed, first, n):
    return [sampler.derived_seed(seed, IMAGES, i) for i in range(first, first + n)]


def untrained(model, params, dataset):
    """The untrained network that the generator "diffusion" or "gan" of a recipe draws from."""
    return {"diffusion": diffusion.untrained, "gan": gan.untrained}[model](params, dataset)


def load(params, name, dataset, *weights):
    """The trained Generator of the method `name`, its weights in one file or in several; raises InputError for those of another recipe."""
    method, device = params.sample.methods[name], devices.accelerator(params.device).device
    net = untrained(method.model, params, dataset)
    try:
        net.load_state_dict({key: value for path in weights for key, value in safetensors.torch.load_file(path).items()})
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise InputError(f"{weights[0]}: not the weights of this recipe ({' '.join(str(error).split())[:120]}); "
                         "delete its folder and run notebooks/02_train.ipynb again") from None
    return Generator(params, method, dataset, net.to(device).eval(), device)


def write(path, shape, batches):
    """Write images (N, C, H, W) that come a batch at a time as float32 .npy, atomically; returns how many hold a pixel that is not finite.

    Not through a memory map, in which a full disk would end the process without a word.
    """
    bad = 0
    with store.atomic(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        for some in batches:
            bad += int((~np.isfinite(some)).any(axis=(1, 2, 3)).sum())
            file.write(np.ascontiguousarray(some, "<f4"))
    return bad


def sample(params, name, dataset, weights, folder):
    """Draw the images and the trajectory of method `name`; writes images.npy, x.npy, x0.npy, frames.csv, sample.json."""
    generator, n = load(params, name, dataset, weights), params.sample.n
    start = time.perf_counter()
    bad = write(folder / "images.npy", (n, *dataset.images.shape[1:]), generator.batches(n, params.seed, params.sample.batch))
    seconds = (time.perf_counter() - start) / n
    if bad:
        raise InputError(f"sample.methods.{name}: {bad} of {n} images drawn hold NaN or infinite pixels; train again with a lower "
                         f"rate: delete {weights.parent} and run notebooks/02_train.ipynb")
    table, x, x0 = generator.trajectory(params.sample.trajectory, params.seed, params.sample.frames)
    for key, array in {"x": x, "x0": x0}.items():
        with store.atomic(folder / f"{key}.npy", "wb") as file:
            np.save(file, array, allow_pickle=False)
    store.write_table(folder / "frames.csv", table)
    if (asked := generator.asked(n, params.seed)) is not None:
        names = [dataset.classes[i] for i in asked["class"]]
        store.write_table(folder / "context.csv", {**asked, "class": names})
    store.write_json(folder / "sample.json", {"method": name, **generator.method.model_dump(), "n": n,
                     "seed": params.seed, "nfe": generator.nfe, "parameters": generator.parameters()})
    store.write_json(folder / "timing.json", {"seconds_per_image": seconds, "device": str(generator.device)})
