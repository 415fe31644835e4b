"""Trained generators behind one contract: draw(n, seed) -> images, trajectory(n, seed) -> frames.

What the sampling notebook needs of any method; it cannot tell a diffusion model from a GAN.
"""

import numpy as np
import safetensors.torch
import torch

from lensnb import denoiser, sampler, schedule
from lensnb.datasets import conditions
from lensnb.errors import InputError
from lensnb.networks import gan_deeplense, gan_r3
from lensnb.seeds import derived_seed

IMAGES = 11  # purpose of derived seeds


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
        self.sigmas = sigmas_of(method, params.diffusion)
        self.method = method
        self.device = device
        self.nfe = sampler.evaluations(method.sampler, method.steps) * (
            1 if method.guidance == 1 else 2
        )
        self.shape = dataset.images.shape[1:]
        self.scaling = dataset.scaling

    def states(self, seeds, context=None):
        """The sampler's States for images of these seeds and contexts (B, K), in model units."""
        noise = sampler.ImageNoise(seeds)
        x = sampler.start(self.sigmas, self.shape, noise, device=self.device)
        denoise = denoiser.guided(self.net, context, self.method.guidance)
        if self.method.clip:
            denoise = denoiser.clipped(denoise, self.scaling.low, self.scaling.high)
        options = {
            "ddim": {"eta": self.method.eta},
            "ddpm": {"variance": self.method.variance},
        }.get(self.method.sampler, {})
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
        self.net = net
        self.device = device

    def images(self, seeds, context=None):
        """Finished images (B, C, H, W) in model units."""
        noise = sampler.ImageNoise(seeds)
        return self.net(
            *(noise(shape, device=self.device) for shape in self.net.shapes), context=context
        )

    def frames(self, seeds, count, context=None):
        """`count` images on the great circle through two latents for each seed, all else that is drawn held, (F, B, C, H, W)."""
        noise = sampler.ImageNoise(seeds)
        a, *rest = (noise(shape, device=self.device) for shape in self.net.shapes)
        b = noise(self.net.shapes[0], device=self.device)
        angle = np.linspace(0, 2 * np.pi, count)
        x = torch.stack(
            [self.net(np.cos(t) * a + np.sin(t) * b, *rest, context=context) for t in angle]
        )
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
        self.params = params
        self.method = method
        self.device = device
        self.dataset = dataset
        self.scaling = dataset.scaling
        self.inner = {"diffusion": Diffusion, "gan": Gan}[method.model](
            net, params, method, dataset, device
        )
        self.kind = conditions.resolve(params.model.context, dataset)
        if self.kind == "none" and (params.sample.context or method.guidance != 1):
            raise InputError(
                "sample.context and guidance are for images of which something is known, and these have no labels; leave them out"
            )
        self.table = (
            conditions.read(params.sample.context, self.kind, dataset)
            if params.sample.context
            else None
        )
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
            table = conditions.table(self.kind, self.dataset)
            order = self.dataset.train
            rows = [order[s % len(order)] for s in _seeds(seed, first, n)]
        else:
            rows = [i % len(table["class"]) for i in range(first, first + n)]
        return {name: np.asarray(column)[rows] for name, column in table.items()}

    def _context(self, asked):
        return (
            None
            if asked is None
            else conditions.encode(self.kind, self.dataset, asked).to(self.device)
        )

    def draw(self, n, seed=0, batch=64, first=0, table=None):
        """n images (n, C, H, W) in the user's units, float32; image i depends on (seed, first + i) and its context alone.

        Pixels further outside of the training range than that range is wide are set to that bound.
        """
        return np.concatenate(list(self.batches(n, seed, batch, first, table)))

    @torch.inference_mode()
    def batches(self, n, seed=0, batch=64, first=0, table=None):
        """The images of `draw`, `batch` of them at a time."""
        span = self.scaling.high - self.scaling.low  # far beyond, an asinh's inverse overflows
        for at in range(first, first + n, batch):
            count = min(batch, first + n - at)
            context = self._context(self.asked(count, seed, at, table))
            x = self.inner.images(_seeds(seed, at, count), context).cpu()
            yield self.scaling.inverse(
                x.clamp(self.scaling.low - span, self.scaling.high + span)
            ).numpy()

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


def find_device(name="auto"):
    """The torch device that a recipe asks for; "auto" takes a GPU where there is one. Raises InputError for one that is not there."""
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    best = next(kind for kind, available in there.items() if available)
    if name != "auto" and not there[name]:
        raise InputError(f"device: {name} is asked for, and this machine offers {best}")
    return torch.device(best if name == "auto" else name)


def _seeds(seed, first, n):
    return [derived_seed(seed, IMAGES, i) for i in range(first, first + n)]


def untrained(model, params, dataset):
    """The untrained network that the generator "diffusion" or "gan" of a recipe draws from."""
    return {"diffusion": untrained_denoiser, "gan": untrained_gan}[model](params, dataset)


def load_generator(params, name, dataset, *weights):
    """The trained Generator of the method `name`, its weights in one file or in several; raises InputError for those of another recipe."""
    method = params.sample.methods[name]
    device = find_device(params.device)
    net = untrained(method.model, params, dataset)
    try:
        net.load_state_dict(
            {
                key: value
                for path in weights
                for key, value in safetensors.torch.load_file(path).items()
            }
        )
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise InputError(
            f"{weights[0]}: not the weights of this recipe ({' '.join(str(error).split())[:120]}); "
            "delete its folder and run notebooks/02_train.ipynb again"
        ) from None
    return Generator(params, method, dataset, net.to(device).eval(), device)


def untrained_denoiser(params, dataset):
    """The untrained Denoiser of a recipe for the images of a Dataset."""
    width = conditions.width(params.model.context, dataset)
    return denoiser_of(params, dataset.images.shape[1], dataset.sigma_data, width)


GAN_NETWORKS = {"published": gan_deeplense, "modern": gan_r3}


def untrained_gan(params, dataset):
    """The untrained generator of a recipe, for the images of a Dataset."""
    channels, size = dataset.images.shape[1:3]
    context = conditions.width(params.model.context, dataset)
    scaling = dataset.scaling
    return GAN_NETWORKS[params.gan.kind].Generator(
        size, channels, params.gan.latent, params.gan.width, context, scaling.low, scaling.high
    )


def untrained_discriminator(params, dataset):
    """The untrained discriminator of a recipe."""
    channels, size = dataset.images.shape[1:3]
    return GAN_NETWORKS[params.gan.kind].Discriminator(
        size, channels, params.gan.width, conditions.width(params.model.context, dataset)
    )


def denoiser_of(params, channels, sigma_data, context=0):
    """The untrained Denoiser of a recipe, for images of `channels` and a context vector of length `context`."""
    shape = params.model.network_options()
    net = denoiser.NETWORKS[params.model.network](channels=channels, context=context, **shape)
    return denoiser.Denoiser(net, params.diffusion.prediction, sigma_data, params.diffusion.level)
