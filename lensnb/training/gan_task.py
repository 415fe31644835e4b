"""The GAN's task in the training loop: updates of discriminator and generator, and the average.

All random numbers are drawn for the whole batch from the generator of the step, and then cut. So
the number of processes does not change what is trained.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator

from lensnb import gan
from lensnb.datasets.dataset import Dataset
from lensnb.errors import InputError
from lensnb.generator import untrained_discriminator, untrained_gan
from lensnb.kinds import KINDS
from lensnb.networks import gan_r3
from lensnb.networks.minibatch import GROUP
from lensnb.recipes.recipe import Params
from lensnb.recipes.schema import Gan
from lensnb.training import optimise
from lensnb.training.average import Average
from lensnb.training.compiling import Compiler
from lensnb.training.task import Losses

NOISE_IMAGES = 500  # training images on which the pixel noise is measured


class GanTask:
    """Generator and discriminator in training.

    One step updates the discriminator `critic_updates` times, then the generator, then its average.
    """

    pieces = 1

    def __init__(self, params: Params, dataset: Dataset, accelerator: Accelerator) -> None:
        self.gan = params.gan
        self.accelerator = accelerator
        self.losses = gan.losses_of(params.gan)
        if self.gan.statistics and self.gan.batch % (GROUP * accelerator.num_processes):
            raise InputError(
                f"gan.batch {self.gan.batch}: statistics compare {GROUP} images at a time, so each "
                f"of {accelerator.num_processes} processes needs a multiple of {GROUP}"
            )
        device = accelerator.device
        self.generator = optimise.on_device(untrained_gan(params, dataset), device)
        self.discriminator = optimise.on_device(untrained_discriminator(params, dataset), device)
        buffers = dict(self.generator.named_buffers())
        if "grain" in buffers:  # a generator that draws pixel noise
            buffers["grain"].copy_(pixel_noise(dataset))
        self.shapes: Any = self.generator.shapes  # of the noise that an image is made of
        self.adam_g = self._adam(self.generator)
        self.adam_d = self._adam(self.discriminator)
        self.update_g = optimise.Update(self.generator, self.adam_g, accelerator)
        self.update_d = optimise.Update(self.discriminator, self.adam_d, accelerator, scalars=2)
        self.model = Average(self.generator, self.gan.ema)
        self.compiler = Compiler(self.gan, device)
        self.generate = self.compiler(self.generator)
        self.discriminate = self.compiler(self.discriminator)
        self.nets: tuple[torch.nn.Module, ...] = (self.generator, self.discriminator)
        self.parts = {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "ema": self.model,
            "adam_g": self.adam_g,
            "adam_d": self.adam_d,
            **optimise.scaler_part(accelerator),
        }

    def _adam(self, net: torch.nn.Module) -> torch.optim.Adam:
        fused = optimise.has_fused(self.accelerator.device.type)
        return torch.optim.Adam(net.parameters(), self.gan.rate, self.gan.betas, fused=fused)

    @staticmethod
    def planned(k: int, settings: Gan) -> tuple[float, ...]:
        """All numbers of step k that depend on how many steps there are."""
        return optimise.rate_factor(k, settings), gan.penalty(k, settings)

    def step(
        self, k: int, x: torch.Tensor, context: torch.Tensor | None, generator: torch.Generator
    ) -> Losses:
        """Update both networks with the batch x (B, C, H, W) and its context (B, K) or None.

        Returns both losses, the discriminator's accuracy and the learning rate.
        """
        rate = optimise.set_rate(k, self.gan, self.adam_g, self.adam_d)
        gamma = gan.penalty(k, self.gan)
        for _ in range(self.gan.critic_updates):
            pairs = list(self._pairs(x, context, generator))
            loss_d, accuracy = self.update_d(self._judged(pair, gamma) for pair in pairs)
        self.discriminator.requires_grad_(False)
        (loss_g,) = self.update_g((self._generator_loss(pair),) for pair in pairs)
        self.discriminator.requires_grad_(True)
        self.model.update()
        return {
            "generator": loss_g,
            "discriminator": loss_d,
            "accuracy": accuracy,
            "rate": rate,
            **optimise.skipped_entry(self.update_d, self.update_g),
        }

    def _pairs(
        self, x: torch.Tensor, context: torch.Tensor | None, generator: torch.Generator
    ) -> Iterator[dict[str, Any]]:
        """Yields this process's real images, with as many generated ones.

        Only real images are flipped and turned. If generated images were turned, too, the
        discriminator would not see it if all of them had the same orientation.
        """
        noise = [
            torch.randn(len(x), *shape, generator=generator, device=x.device)
            for shape in self.shapes
        ]
        batch = (x, context, *noise)
        for part, share in optimise.split_batch(batch, self.pieces, self.accelerator):
            real, context_part, *noise_part = part
            with self.accelerator.autocast():
                made = self.generate(*noise_part, context=context_part)
            yield {"x": real, "made": made, "context": context_part, "share": share}

    def _judged(self, pair: dict[str, Any], gamma: float) -> tuple[torch.Tensor, torch.Tensor]:
        """The discriminator's loss on a pair, and how often it is right about the pair.

        Both are times the pair's share of the batch. The loss has gradient penalties where gamma is
        not 0. Enters the logits of the real images into the pair.
        """
        both = torch.cat([pair["x"], pair["made"].detach()]).requires_grad_(gamma > 0)
        context = None if pair["context"] is None else pair["context"].repeat(2, 1)
        # A penalty differentiates gradients once more, which compiled networks cannot.
        discriminate = self.discriminator if gamma else self.discriminate
        with self.accelerator.autocast():
            logits = discriminate(both, context)
            real, fake = logits.float().chunk(2)
            loss = self.losses.discriminator(real, fake, self.gan.smoothing)
        penalty = gamma / 2 * gan.steepness(logits, both) / len(pair["x"]) if gamma else 0
        pair["real"] = real.detach()
        return (loss + penalty) * pair["share"], share_right(real, fake) * pair["share"]

    def _generator_loss(self, pair: dict[str, Any]) -> torch.Tensor:
        """The generator's loss on a pair that the discriminator has just seen."""
        with self.accelerator.autocast():
            fake = self.discriminate(pair["made"], pair["context"])
            return self.losses.generator(pair["real"], fake.float()) * pair["share"]


def pixel_noise(dataset: Dataset) -> torch.Tensor:
    """The law of the pixel noise, measured on some hundred scaled training images; (4, C, 1, 1)."""
    every = math.ceil(len(dataset.train) / NOISE_IMAGES)
    images = torch.from_numpy(dataset.images[dataset.train[::every]])
    return gan_r3.noise_law(dataset.scaling.forward(images))[:, :, None, None]


def share_right(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """How often the discriminator is right, from its logits of real and of generated images."""
    return ((real > 0).float().mean() + (fake < 0).float().mean()) / 2


KINDS["gan"].task = GanTask
