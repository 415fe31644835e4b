"""The GAN's task in the training loop: what generator and discriminator want, and one update of both.

published : cross entropy with smoothed labels (Salimans et al. 2016, arXiv:1606.03498), as in the
DeepLense GAN; modern : the relativistic pairing loss with zero-centred gradient penalties on real and
on generated images (Huang et al. 2024, arXiv:2501.05441).
"""

import torch
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lensnb import context as contexts
from lensnb import devices
from lensnb.adversaries import NETWORKS


def untrained(params, dataset):
    """The untrained generator of a recipe, for the images of a Dataset."""
    channels, size = dataset.images.shape[1], dataset.images.shape[-1]
    made = NETWORKS[params.gan.kind][0]
    return made(size, channels, params.gan.latent, params.gan.width, contexts.width(params.model.context, dataset),
                dataset.scaling.low, dataset.scaling.high)


def judge(params, dataset):
    """The untrained discriminator of a recipe."""
    made = NETWORKS[params.gan.kind][1]
    return made(dataset.images.shape[1], params.gan.width, contexts.width(params.model.context, dataset))


def smoothed(logits, real, smoothing):
    """Cross entropy of logits against the label 1 - smoothing (real) or smoothing (generated)."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, 1 - smoothing if real else smoothing))


def steepness(logits, x):
    """Squared norm of the gradient of the logits with respect to each image x, (B,)."""
    slope, = torch.autograd.grad(logits.sum(), x, create_graph=True)
    return slope.square().sum((1, 2, 3))


class Published:
    """Cross entropy; the generator aims at the label 1 itself."""

    def __init__(self, settings):
        self.smoothing = settings.smoothing

    def critic(self, judge, real, fake, context):
        """Loss of the discriminator, and the logits of real and generated images."""
        a, b = judge(real, context), judge(fake, context)
        return smoothed(a, True, self.smoothing) + smoothed(b, False, self.smoothing), a, b

    def generator(self, judge, real, fake, context):
        """Loss of the generator."""
        return smoothed(judge(fake, context), True, 0)


class Relativistic:
    """Each generated image against a real one; gamma / 2 times R1 + R2 keeps the discriminator from running away."""

    def __init__(self, settings):
        self.penalty = settings.penalty

    def critic(self, judge, real, fake, context):
        """Loss of the discriminator, and the logits of real and generated images."""
        real, fake = real.detach().requires_grad_(), fake.detach().requires_grad_()
        a, b = judge(real, context), judge(fake, context)
        steep = steepness(a, real) + steepness(b, fake)
        return (F.softplus(b - a).mean() + self.penalty / 2 * steep.mean()), a, b

    def generator(self, judge, real, fake, context):
        """Loss of the generator."""
        with torch.no_grad():
            a = judge(real, context)
        return F.softplus(a - judge(fake, context)).mean()


LOSSES = {"published": Published, "modern": Relativistic}


class GanTask:
    """One update: the discriminator `critic_updates` times, then the generator, then its average."""

    def __init__(self, params, dataset, accelerator):
        self.gan, self.accelerator, self.loss = params.gan, accelerator, LOSSES[params.gan.kind](params.gan)
        place = lambda net: net.to(accelerator.device, memory_format=torch.channels_last)       # twice as fast on a CPU
        self.generator, self.judge = place(untrained(params, dataset)), place(judge(params, dataset))
        adam = lambda net: torch.optim.Adam(net.parameters(), self.gan.rate, self.gan.betas, fused=devices.fused(accelerator.device.type))
        self.adam_g, self.adam_d = adam(self.generator), adam(self.judge)
        self.update_g, self.update_d = (devices.Update(*both, accelerator) for both in
                                        ((self.generator, self.adam_g), (self.judge, self.adam_d)))
        self.model = AveragedModel(self.generator, use_buffers=True, multi_avg_fn=get_ema_multi_avg_fn(self.gan.ema))
        self.pieces, self.nets = 1, (self.generator, self.judge)
        self.parts = {"generator": self.generator, "discriminator": self.judge, "ema": self.model,
                      "adam_g": self.adam_g, "adam_d": self.adam_d, **devices.scaler(accelerator)}

    def step(self, k, x, context, generator):
        """Update both networks with the batch x (B, C, H, W); returns losses and the discriminator's accuracy."""
        for _ in range(self.gan.critic_updates):
            loss_d = self.update_d(self._losses(self._critic, x, context, generator))
        self.judge.requires_grad_(False)
        loss_g = self.update_g(self._losses(self._deceive, x, context, generator))
        self.judge.requires_grad_(True)
        if not self.update_g.skipped:
            self.model.update_parameters(self.generator)
        return {"generator": loss_g, "discriminator": loss_d, "accuracy": self.accuracy, **devices.skipped(self.update_d, self.update_g)}

    def _losses(self, of, x, context, generator):
        latents = torch.randn(len(x), self.gan.latent, generator=generator, device=x.device)
        for piece, share in devices.share((latents, x, context), self.pieces, self.accelerator):
            with self.accelerator.autocast():
                value = of(*piece)
            yield value * share

    def _critic(self, latents, real, context):
        with torch.no_grad():
            fake = self.generator(latents, context)
        value, a, b = self.loss.critic(self.judge, real, fake, context)
        self.accuracy = ((a > 0).float().mean() + (b < 0).float().mean()).detach() / 2
        return value

    def _deceive(self, latents, real, context):
        return self.loss.generator(self.judge, real, self.generator(latents, context), context)
