"""Trained generators behind one contract: draw(n, seed) -> images, trajectory(n, seed) -> frames.

This is all that the sampling notebook needs of any method. It cannot tell a diffusion model from a
GAN. What differs between the kinds of generator is entered in KINDS at the end of this file.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import nn

from lensnb import consistency, denoiser, devices, sampler, schedule
from lensnb.batches import Batches
from lensnb.datasets import conditions
from lensnb.datasets.dataset import Dataset
from lensnb.devices import find_device
from lensnb.errors import InputError, one_line
from lensnb.kinds import KINDS
from lensnb.networks import GAN_NETWORKS, NETWORKS
from lensnb.networks.registries import of_section
from lensnb.prior import Prior
from lensnb.recipes.recipe import Params
from lensnb.recipes.schema import Diffusion, Method
from lensnb.seeds import image_seeds

Table = Mapping[str, Any]  # column name -> values, one for each row
Frames = tuple[dict[str, Any], torch.Tensor, torch.Tensor]  # table, x, x0


def sigmas_of(method: Method, diffusion: Diffusion) -> torch.Tensor:
    """The noise levels that a method samples along, falling to 0; float64 (steps + 1,)."""
    assert method.steps is not None, "the recipe's schema demands steps of such a method"
    if method.spacing == "schedule":
        return schedule.from_params(diffusion).sample_sigmas(method.steps)
    levels = schedule.karras(method.steps, method.sigma_min, method.sigma_max, method.rho)
    return torch.cat([levels, torch.zeros(1, dtype=torch.float64)])


# How each kind draws ------------------------------------------------------------------------------


@dataclass
class Drawer:
    """What each kind draws with; it adds `nfe`, the number of network evaluations for an image.

    guide : the worse network of a method with autoguidance, or None
    precision : in which the networks compute, fp32 or bf16; all else is float32
    compiled : the network as torch.compile made it, or None to call the network itself
    """

    net: Any
    params: Params
    method: Method
    dataset: Dataset
    device: str | torch.device
    guide: Any = None
    precision: str = "fp32"
    compiled: devices.Compiled | None = None

    def evaluate(self, *tensors: Any, net: Any = None, **more: Any) -> torch.Tensor:
        """The network, or another `net`, of these tensors, in its precision."""
        with devices.in_precision(self.precision, torch.device(self.device)):
            out: torch.Tensor = (net or self.compiled or self.net)(*tensors, **more)
        return out

    def trial(self, seeds: list[int], context: torch.Tensor | None = None) -> None:
        """What takes as much memory as drawing images of these seeds does."""
        self.images(seeds, context)

    def images(self, seeds: list[int], context: torch.Tensor | None = None) -> torch.Tensor:
        """Finished images (B, C, H, W) in model units."""
        raise NotImplementedError


@dataclass
class DiffusionDrawer(Drawer):
    """Draws from a denoiser: a sampler walks along `steps` noise levels."""

    def __post_init__(self) -> None:
        method = self.method
        assert method.sampler is not None and method.steps is not None
        self.sampler = sampler.SAMPLERS.find(method.sampler)
        self.sigmas = sigmas_of(method, self.params.diffusion)
        self.nfe = self.sampler.evaluations(method.steps) + self._guided_evaluations()
        self.nfe += method.start == "mean"

    def _guided_evaluations(self) -> int:
        """How many evaluations ask for a second prediction: those within guidance's interval."""
        method = self.method
        if method.guidance == 1:
            return 0
        asked: list[float] = []

        def note(x: torch.Tensor, sigma: float) -> torch.Tensor:
            asked.append(sigma)
            return x

        noise = sampler.ImageNoise([0])
        x = self._moved(note, torch.zeros(1, 1, 1, 1))
        list(self.sampler.run(note, self.sigmas, x, noise))
        return sum(method.guidance_low < sigma <= method.guidance_high for sigma in asked)

    def _moved(self, denoise: sampler.Denoise, x: torch.Tensor) -> torch.Tensor:
        """The noise x (B, C, H, W), about what the method starts at."""
        if self.method.start == "noise":
            return x
        return sampler.about_the_mean(denoise, self.sigmas, x)

    def denoise(
        self,
        x: torch.Tensor,
        sigma: float,
        context: torch.Tensor | None = None,
        net: nn.Module | None = None,
    ) -> torch.Tensor:
        """The clean images as the network, or another `net`, predicts them (B, C, H, W)."""
        level = x.new_full((len(x),), sigma)  # filled on the device, so that nothing waits
        # One layout in memory, also of what the network itself returned: it is compiled once.
        return self.evaluate(x.flatten().view(x.shape), level, context, net=net)

    def states(self, seeds: list[int], context: torch.Tensor | None = None) -> sampler.States:
        """The sampler's States for images of these seeds and contexts (B, K), in model units."""
        noise = sampler.ImageNoise(seeds)
        shape = self.dataset.images.shape[1:]
        x = sampler.start(self.sigmas, shape, noise, device=self.device)
        method = self.method
        denoise = denoiser.guided(
            self.denoise,
            context,
            method.guidance,
            method.guidance_low,
            method.guidance_high,
            functools.partial(self.denoise, net=self.guide) if self.guide else None,
        )
        if method.clip:
            scaling = self.dataset.scaling
            denoise = denoiser.clipped(denoise, scaling.low, scaling.high)
        options = {name: getattr(method, name) for name in self.sampler.options}
        x = self._moved(denoise, x)
        return self.sampler.run(denoise, self.sigmas, x, noise, **options)

    def trial(self, seeds: list[int], context: torch.Tensor | None = None) -> None:
        """The first step: all steps take the same memory."""
        next(self.states(seeds, context))

    def images(self, seeds: list[int], context: torch.Tensor | None = None) -> torch.Tensor:
        """Finished images (B, C, H, W) in model units."""
        for state in self.states(seeds, context):
            x = state.x
        return x

    def frames(self, seeds: list[int], count: int, context: torch.Tensor | None = None) -> Frames:
        """Up to `count` states, evenly spread: table, x, x0.

        x is divided by sqrt(1 + sigma^2); x and x0 have the shape (F, B, C, H, W).
        """
        states = list(self.states(seeds, context))
        states = [states[i] for i in spread(len(states), count)]
        table = {"step": [s.step for s in states], "sigma": [s.sigma for s in states]}
        x = torch.stack([s.x / (1 + s.sigma**2) ** 0.5 for s in states])
        return table, x, torch.stack([s.x0 for s in states])


@dataclass
class ConsistencyDrawer(DiffusionDrawer):
    """Draws from a consistency model in one evaluation, or in two with noise in between."""

    def __post_init__(self) -> None:
        method = self.method
        assert method.steps is not None, "the recipe's schema demands steps of such a method"
        levels = [method.sigma_max, method.sigma_mid][: method.steps]
        self.sigmas = torch.tensor([*levels, 0], dtype=torch.float64)
        self.nfe = method.steps

    def states(self, seeds: list[int], context: torch.Tensor | None = None) -> sampler.States:
        """The States for images of these seeds and contexts (B, K), in model units."""
        noise = sampler.ImageNoise(seeds)
        shape = self.dataset.images.shape[1:]
        x = sampler.start(self.sigmas, shape, noise, device=self.device)
        denoise = denoiser.guided(self.denoise, context)
        if self.method.clip:
            scaling = self.dataset.scaling
            denoise = denoiser.clipped(denoise, scaling.low, scaling.high)
        return consistency.walk(denoise, self.sigmas, x, noise)


class GanDrawer(Drawer):
    """Draws from a GAN's generator; its trajectory is a closed walk through the latent space."""

    nfe = 1

    def images(self, seeds: list[int], context: torch.Tensor | None = None) -> torch.Tensor:
        """Finished images (B, C, H, W) in model units."""
        noise = sampler.ImageNoise(seeds)
        drawn = [noise(shape, device=self.device) for shape in self.net.shapes]
        return self.evaluate(*drawn, context=context)

    def frames(self, seeds: list[int], count: int, context: torch.Tensor | None = None) -> Frames:
        """`count` images on the great circle through two latents of each seed: table, x, x0.

        All other noise stays the same. x and x0 are the same images (F, B, C, H, W).
        """
        noise = sampler.ImageNoise(seeds)
        a, *rest = [noise(shape, device=self.device) for shape in self.net.shapes]
        b = noise(self.net.shapes[0], device=self.device)
        angle = np.linspace(0, 2 * np.pi, count)
        circle = [np.cos(t) * a + np.sin(t) * b for t in angle]
        x = torch.stack([self.evaluate(z, *rest, context=context) for z in circle])
        return {"step": list(range(count)), "angle_deg": np.degrees(angle).tolist()}, x, x


def spread(n: int, count: int) -> list[int]:
    """At most `count` indices of 0..n-1, evenly spread, the first and the last among them."""
    return sorted(set(np.linspace(0, n - 1, min(n, count)).round().astype(int).tolist()))


# The contract -------------------------------------------------------------------------------------


class Generator:
    """Any trained generator of a run, under one method of its recipe.

    net : the network in evaluation mode, on the device; nfe : network evaluations for an image
    precision : in which the network computes, fp32 or bf16; all else is float32
    Image i of draw(n, seed) and trajectory(n, seed) is the same in any batch.
    """

    def __init__(
        self,
        params: Params,
        method: Method,
        dataset: Dataset,
        net: nn.Module,
        device: str | torch.device,
        guide: nn.Module | None = None,
    ) -> None:
        self.params = params
        self.method = method
        self.device = device
        self.dataset = dataset
        self.scaling = dataset.scaling
        self.kind = KINDS.find(method.model)
        self.inner = self.kind.drawer(net, params, method, dataset, device, guide)
        self.inner.precision = self.precision = self._precision()
        self.nfe = self.inner.nfe
        self.context = conditions.resolve(params.model.context, dataset)
        path = params.sample.context
        if self.context == "none" and (path or (method.guidance != 1 and guide is None)):
            raise InputError(
                "sample.context and guidance are for images of which something is known, "
                "and these have no labels; leave them out"
            )
        self.table = conditions.read(path, self.context, dataset) if path else None

    def _precision(self) -> str:
        """What the recipe asks for; "auto" leaves fp32 to a network that is called only once."""
        wish = self.params.sample.precision
        if wish == "auto" and not self.kind.sampled:
            return "fp32"
        return devices.find_precision(wish, torch.device(self.device))

    def variant(self, steps: int, guidance: float = 1.0) -> "Generator":
        """The same network, drawn from in this number of steps and with this guidance.

        A kind that draws in steps of its own takes at most so many, and no guidance. A kind without
        steps, such as a GAN, is returned unchanged.
        """
        if not self.kind.sampled and not self.kind.own_steps:
            return self
        changed: dict[str, Any] = {"steps": steps, "guidance": guidance}
        if not self.kind.sampled:
            changed = {"steps": min(steps, self.kind.own_steps)}
        method = self.method.model_copy(update=changed)
        inner = self.inner
        return Generator(self.params, method, self.dataset, inner.net, self.device, inner.guide)

    def prior(self) -> Prior:
        """The denoiser as a prior of images of which nothing is known, for `posterior.draw`.

        Raises InputError for a generator without a denoiser, such as a GAN.
        """
        if not self.kind.sampled:
            raise InputError(
                f"a {self.kind.label} has no denoiser and can be no prior; "
                "take a method with a sampler"
            )
        net = self.inner.net
        known = conditions.width(self.context, self.dataset)

        def denoise(x: torch.Tensor, sigma: float) -> torch.Tensor:
            clean: torch.Tensor = net(x, sigma, x.new_full((len(x), known), torch.nan))
            return clean

        def alone(x: torch.Tensor, sigma: float) -> torch.Tensor:
            clean: torch.Tensor = net(x, sigma)
            return clean

        shape = self.dataset.images.shape[1:]
        spread = self.dataset.sigma_data
        return Prior(denoise if known else alone, shape, self.scaling, spread, self.device)

    def parameters(self) -> int:
        """The number of trained weights."""
        return sum(p.numel() for p in self.inner.net.parameters())

    def asked(
        self, n: int, seed: int = 0, first: int = 0, table: Table | None = None
    ) -> dict[str, np.ndarray] | None:
        """What images first .. first + n - 1 are asked to be: column name -> (n,).

        The rows of `table`, or else of the recipe's sample.context, come in turn. A column may be
        one value. For what `table` leaves out, each seed picks the row of a training image. None
        if the model takes no context. Raises InputError for what the model is not told.
        """
        if self.context == "none":
            if table:
                raise InputError(
                    f"draw: {', '.join(table)} cannot be asked for, because this model is told "
                    "nothing (model.context)"
                )
            return None
        given = table or self.table or {}
        order = self.dataset.train
        rows = [order[s % len(order)] for s in image_seeds(seed, first, n)]
        return conditions.completed(self.context, self.dataset, given, rows, first)

    def _encoded(self, asked: Table | None) -> torch.Tensor | None:
        """The rows of `asked` as context vectors (B, K) on the device."""
        if asked is None:
            return None
        encoded: torch.Tensor = conditions.encode(self.context, self.dataset, asked)
        return encoded.to(self.device)

    def draw(
        self,
        n: int,
        seed: int = 0,
        batch: int | None = None,
        first: int = 0,
        table: Table | None = None,
    ) -> np.ndarray:
        """n images (n, C, H, W) in the user's units, float32.

        batch : images at a time; None: as the recipe says, or as many as fit on the device

        Image i depends only on (seed, first + i) and its context. Pixels are clamped to a range
        three times as wide as the range of the training pixels, about the same middle.
        """
        drawn = np.empty((n, *self.dataset.images.shape[1:]), np.float32)
        at = 0
        for images in self.batches(n, seed, batch, first, table):
            drawn[at : at + len(images)] = images
            at += len(images)
        return drawn

    @torch.inference_mode()
    def batches(
        self,
        n: int,
        seed: int = 0,
        batch: int | None = None,
        first: int = 0,
        table: Table | None = None,
    ) -> Iterator[np.ndarray]:
        """The images of `draw`, `batch` of them at a time.

        While a batch travels to the host, the device draws the next one.
        """
        seeds = image_seeds(seed, first, n)
        context = self._encoded(self.asked(n, seed, first, table))
        many = Batches(self.inner, self.device)
        batch = batch or self.params.sample.batch or many.fitting(seeds, context)
        many.compile(self.params.sample.compile, n)
        waiting: devices.Arriving | None = None
        for x in many.drawn(seeds, context, batch):
            arriving = devices.Arriving(self._in_units(x))
            if waiting is not None:
                yield waiting.array()
            waiting = arriving
        if waiting is not None:
            yield waiting.array()

    def _in_units(self, x: torch.Tensor) -> torch.Tensor:
        """Images in the user's units; far outside, the inverse of asinh overflows."""
        span = self.scaling.high - self.scaling.low
        return self.scaling.inverse(x.clamp(self.scaling.low - span, self.scaling.high + span))

    @torch.inference_mode()
    def trajectory(
        self, n: int, seed: int = 0, count: int = 40, table: Table | None = None
    ) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
        """How the first n images of draw(n, seed) come about: (table, x, x0).

        table : columns with one entry a frame; x : (F, n, C, H, W), the noisy state at unit
        variance, in model units; x0 : (F, n, C, H, W), the predicted image, in the user's units.
        """
        context = self._encoded(self.asked(n, seed, table=table))
        frames, x, x0 = self.inner.frames(image_seeds(seed, 0, n), count, context)
        x0 = self.scaling.inverse(x0.clamp(self.scaling.low, self.scaling.high))
        return frames, x.cpu().numpy(), x0.cpu().numpy()


def load_generator(params: Params, name: str, dataset: Dataset, *weights: str | Path) -> Generator:
    """The trained Generator of the method `name`.

    weights : one file, or several that each hold a part; a guide lies beside them
    Raises InputError for the weights of another recipe, and for a guide that is not there.
    """
    method = params.sample.methods[name]
    device = find_device(params.device)
    net = devices.placed(_trained(method.model, params, dataset, weights), device)
    guide = None
    if method.guide:
        path = Path(weights[0]).with_name(f"{method.guide}.safetensors")
        if not path.is_file():
            raise InputError(
                f"sample.methods.{name}.guide: no {path.name} beside {weights[0]}; train with "
                "train.keep, which keeps the weights of some steps"
            )
        guide = devices.placed(_trained(method.model, params, dataset, [path]), device)
    return Generator(params, method, dataset, net, device, guide)


def _trained(
    model: str, params: Params, dataset: Dataset, weights: Sequence[str | Path]
) -> nn.Module:
    """The network of a kind of generator with these weights."""
    net = untrained(model, params, dataset)
    try:
        state: dict[str, torch.Tensor] = {}
        for path in weights:
            state |= safetensors.torch.load_file(path)
        net.load_state_dict(state)
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise InputError(
            f"{weights[0]}: not the weights of this recipe ({one_line(error, 120)}); "
            "delete its folder and run notebooks/02_train.ipynb again"
        ) from None
    return net


# Untrained networks of a recipe -------------------------------------------------------------------


def untrained(model: str, params: Params, dataset: Dataset) -> nn.Module:
    """The untrained network that the kind of generator `model` draws from."""
    make = KINDS.find(model).untrained
    assert make is not None, f"the generator {model} has no network"
    net: nn.Module = make(params, dataset)
    return net


def denoiser_of(
    params: Params, channels: int, sigma_data: float, context: int = 0
) -> denoiser.Denoiser:
    """The untrained Denoiser of a recipe.

    channels : of the images; context : length of the context vector
    """
    network = NETWORKS.find(params.model.network, "model.network")
    net = network(channels=channels, context=context, **network.options(params.network))
    return denoiser.Denoiser(net, params.diffusion.prediction, sigma_data, params.diffusion.level)


def untrained_denoiser(params: Params, dataset: Dataset) -> denoiser.Denoiser:
    """The untrained Denoiser of a recipe, for the images of a Dataset."""
    width = conditions.width(params.model.context, dataset)
    return denoiser_of(params, dataset.images.shape[1], dataset.sigma_data, width)


def untrained_gan(params: Params, dataset: Dataset) -> nn.Module:
    """The untrained generator of a recipe's GAN, for the images of a Dataset."""
    channels, size = dataset.images.shape[1:3]
    context = conditions.width(params.model.context, dataset)
    scaling = dataset.scaling
    make = GAN_NETWORKS.find(params.gan.kind, "gan.kind").Generator
    return make(
        size=size,
        channels=channels,
        context=context,
        low=scaling.low,
        high=scaling.high,
        **of_section(make, params.gan),
    )


def untrained_discriminator(params: Params, dataset: Dataset) -> nn.Module:
    """The untrained discriminator of a recipe's GAN, for the images of a Dataset."""
    channels, size = dataset.images.shape[1:3]
    context = conditions.width(params.model.context, dataset)
    make = GAN_NETWORKS.find(params.gan.kind, "gan.kind").Discriminator
    return make(size=size, channels=channels, context=context, **of_section(make, params.gan))


# How the kinds of generator draw: kinds.py holds their other properties ---------------------------

KINDS["diffusion"].untrained = untrained_denoiser
KINDS["diffusion"].drawer = DiffusionDrawer
KINDS["gan"].untrained = untrained_gan
KINDS["gan"].drawer = GanDrawer
KINDS["consistency"].untrained = untrained_denoiser
KINDS["consistency"].drawer = ConsistencyDrawer
