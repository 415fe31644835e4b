import math

import torch
from torch.optim.swa_utils import AveragedModel

from lensnb import gan
from lensnb.generator import untrained_discriminator, untrained_gan
from lensnb.networks import gan_r3
from lensnb.training import optimise

GRAIN_IMAGES = 500  # training images on which the pixel noise is measured


class GanTask:
    """One update: the discriminator `critic_updates` times, then the generator, then its average."""

    pieces = 1

    def __init__(self, params, dataset, accelerator):
        self.gan = params.gan
        self.accelerator = accelerator
        losses = gan.LOSSES.find(params.gan.kind)
        self.critic_loss, self.generator_loss = losses.discriminator, losses.generator

        def place(net):
            return net.to(
                accelerator.device, memory_format=torch.channels_last
            )  # twice as fast on a CPU

        self.generator = place(untrained_gan(params, dataset))
        self.judge = place(untrained_discriminator(params, dataset))
        if self.gan.kind == "modern":
            some = dataset.images[dataset.train[:: math.ceil(len(dataset.train) / GRAIN_IMAGES)]]
            self.generator.grain.copy_(
                gan_r3.noise_law(dataset.scaling.forward(torch.from_numpy(some)))[:, :, None, None]
            )

        def adam(net):
            return torch.optim.Adam(
                net.parameters(),
                self.gan.rate,
                self.gan.betas,
                fused=optimise.fused(accelerator.device.type),
            )

        self.adam_g = adam(self.generator)
        self.adam_d = adam(self.judge)
        self.update_g, self.update_d = (
            optimise.Update(*both, accelerator)
            for both in ((self.generator, self.adam_g), (self.judge, self.adam_d))
        )
        self.model = AveragedModel(
            self.generator, avg_fn=optimise.ramped_average(self.gan.ema), use_buffers=True
        )
        self.nets = self.generator, self.judge
        self.parts = {
            "generator": self.generator,
            "discriminator": self.judge,
            "ema": self.model,
            "adam_g": self.adam_g,
            "adam_d": self.adam_d,
            **optimise.scaler(accelerator),
        }

    def step(self, k, x, context, generator):
        """Update both networks with the batch x (B, C, H, W); returns losses, the discriminator's accuracy and the rate."""
        rate = optimise.pace(k, self.gan, self.adam_g, self.adam_d)
        gamma = gan.penalty(k, self.gan)
        for _ in range(self.gan.critic_updates):
            pairs = list(self._pairs(x, context, generator))
            loss_d = self.update_d(self._critic(pair, gamma) for pair in pairs)
        self.judge.requires_grad_(False)
        loss_g = self.update_g(self._deceive(pair) for pair in pairs)
        self.judge.requires_grad_(True)
        if not self.update_g.skipped:
            self.model.update_parameters(self.generator)
        right = (
            ((pair["real"] > 0).float().mean() + (pair["fake"] < 0).float().mean())
            / 2
            * pair["share"]
            for pair in pairs
        )
        accuracy = sum(right, start=torch.zeros((), device=x.device))  # a process may have no pair
        return {
            "generator": loss_g,
            "discriminator": loss_d,
            "accuracy": self.accelerator.reduce(accuracy),
            "rate": rate,
            **optimise.skipped(self.update_d, self.update_g),
        }

    def _pairs(self, x, context, generator):
        """This process's real images, and as many generated ones.

        Only real images are flipped and turned: were the generated ones, too, the discriminator would not see it if all
        of them lay in the same way.
        """
        drawn = [
            torch.randn(len(x), *shape, generator=generator, device=x.device)
            for shape in self.generator.shapes
        ]
        for (real, told, *noise), share in optimise.share(
            (x, context, *drawn), self.pieces, self.accelerator
        ):
            with self.accelerator.autocast():
                made = self.generator(*noise, context=told)
            yield {"x": real, "made": made, "context": told, "share": share}

    def _critic(self, pair, gamma):
        """Loss of the discriminator on a pair, with its penalties where gamma is not 0; notes the logits in the pair."""
        both = torch.cat([pair["x"], pair["made"].detach()]).requires_grad_(gamma > 0)
        with self.accelerator.autocast():
            logits = self.judge(
                both, None if pair["context"] is None else pair["context"].repeat(2, 1)
            )
            pair["real"], pair["fake"] = logits.float().chunk(2)
            loss = self.critic_loss(pair["real"], pair["fake"], self.gan.smoothing)
        steep = gamma / 2 * gan.steepness(logits, both) / len(pair["x"]) if gamma else 0
        return (loss + steep) * pair["share"]

    def _deceive(self, pair):
        """Loss of the generator on a pair that the discriminator has just seen."""
        with self.accelerator.autocast():
            fake = self.judge(pair["made"], pair["context"])
            return self.generator_loss(pair["real"], fake.float()) * pair["share"]
