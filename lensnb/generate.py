"""Trained generators behind one contract: draw(n, seed) -> images, trajectory(n, seed) -> frames.

What the sampling notebook needs of any method; it cannot tell a diffusion model from a GAN.
"""

import time

import numpy as np
import safetensors.torch
import torch

from lensnb import gan, sampler, store, train
from lensnb.errors import InputError
from lensnb.schedule import Schedule

IMAGES = 11     # purpose of derived seeds


class Diffusion:
    """A denoiser drawn from by a sampler along `steps` noise levels."""

    def __init__(self, params, method, dataset, device):
        self.net = train.denoiser(params, dataset.images.shape[1], len(dataset.classes)).to(device)
        self.sigmas = Schedule.from_params(params.diffusion).sample_sigmas(method.steps)
        self.method, self.nfe, self.device = method, method.steps, device
        self.shape, self.scaling = dataset.images.shape[1:], dataset.scaling

    def states(self, seeds, context=None):
        """The sampler's States for images of these seeds, in model units."""
        noise = sampler.ImageNoise(seeds)
        x = sampler.start(self.sigmas, self.shape, noise, device=self.device)
        clip = (self.scaling.low, self.scaling.high) if self.method.clip else None
        options = {"eta": self.method.eta} if self.method.sampler == "ddim" else {}
        denoise = lambda x, sigma: self.net(x, sigma, context)
        return getattr(sampler, self.method.sampler)(denoise, self.sigmas, x, noise, clip=clip, **options)

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

    def __init__(self, params, method, dataset, device):
        self.net, self.device = gan.generator(params, dataset).to(device), device

    def images(self, seeds, context=None):
        """Finished images (B, C, H, W) in model units."""
        return self.net(sampler.ImageNoise(seeds)((self.net.latent,), device=self.device))

    def frames(self, seeds, count, context=None):
        """`count` images on the great circle through two latents for each seed, (F, B, C, H, W)."""
        noise = sampler.ImageNoise(seeds)
        a, b = noise((self.net.latent,), device=self.device), noise((self.net.latent,), device=self.device)
        angle = np.linspace(0, 2 * np.pi, count)
        x = torch.stack([self.net(np.cos(t) * a + np.sin(t) * b) for t in angle])
        return {"step": list(range(count)), "angle_deg": np.degrees(angle).tolist()}, x, x


def spread(n, count):
    """At most `count` indices of 0..n-1, evenly spread, the first and the last among them."""
    return sorted(set(np.linspace(0, n - 1, min(n, count)).round().astype(int).tolist()))


class Generator:
    """Any trained generator of a run under one method of its recipe.

    draw(n, seed) and trajectory(n, seed) give the same image i for any batch size.
    """

    def __init__(self, params, name, dataset, weights):
        self.method = params.sample.methods[name]
        self.device = train.accelerator(params.device).device
        kind = {"diffusion": Diffusion, "gan": Gan}[self.method.model]
        self.inner, self.scaling = kind(params, self.method, dataset, self.device), dataset.scaling
        self.labels = dataset.labels[dataset.train] if self._conditional(params) else None
        self.classes, self.nfe = len(dataset.classes), self.inner.nfe
        _load(self.inner.net, weights)

    def _conditional(self, params):
        return self.method.model == "diffusion" and params.model.context == "class"

    def parameters(self):
        """Number of trained numbers."""
        return sum(p.numel() for p in self.inner.net.parameters())

    def context(self, seeds):
        """The context of each image (its class as in a training image drawn by its seed), or None."""
        if self.labels is None:
            return None
        return train.class_context([self.labels[s % len(self.labels)] for s in seeds], self.classes).to(self.device)

    @torch.inference_mode()
    def draw(self, n, seed=0, batch=64, first=0):
        """n images (n, C, H, W) in the user's units, float32; image i depends on (seed, first + i) alone."""
        seeds = [sampler.derived_seed(seed, IMAGES, i) for i in range(first, first + n)]
        drawn = []
        for some in (seeds[i:i + batch] for i in range(0, n, batch)):
            drawn.append(self.scaling.inverse(self.inner.images(some, self.context(some)).cpu()))
        return torch.cat(drawn).numpy()

    @torch.inference_mode()
    def trajectory(self, n, seed=0, count=40):
        """How the first n images of draw(n, seed) come about: (table, x, x0).

        table : columns with one entry a frame; x : (F, n, C, H, W), the noisy state at unit
        variance, in model units; x0 : (F, n, C, H, W), the image predicted, in the user's units.
        """
        seeds = [sampler.derived_seed(seed, IMAGES, i) for i in range(n)]
        table, x, x0 = self.inner.frames(seeds, count, self.context(seeds))
        x0 = self.scaling.inverse(x0.clamp(self.scaling.low, self.scaling.high))
        return table, x.cpu().numpy(), x0.cpu().numpy()


def _load(net, weights):
    try:
        net.load_state_dict(safetensors.torch.load_file(weights))
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise InputError(f"{weights}: not the weights of this recipe ({' '.join(str(error).split())[:120]})") from None
    net.eval()


def sample(params, name, dataset, weights, folder):
    """Draw the images and the trajectory of method `name`; writes images.npy, x.npy, x0.npy, frames.csv, sample.json."""
    generator = Generator(params, name, dataset, weights)
    start = time.perf_counter()
    images = generator.draw(params.sample.n, params.seed, params.sample.batch)
    seconds = (time.perf_counter() - start) / len(images)
    table, x, x0 = generator.trajectory(params.sample.trajectory, params.seed, params.sample.frames)
    for key, array in {"images": images, "x": x, "x0": x0}.items():
        with store.atomic(folder / f"{key}.npy", "wb") as file:
            np.save(file, array, allow_pickle=False)
    store.write_table(folder / "frames.csv", table)
    store.write_json(folder / "sample.json", {"method": name, **generator.method.model_dump(), "n": len(images),
                     "seed": params.seed, "nfe": generator.nfe, "parameters": generator.parameters()})
    store.write_json(folder / "timing.json", {"seconds_per_image": seconds, "device": str(generator.device)})
