"""The GAN's task in the training loop: what generator and discriminator want, and one update of both.

published : cross entropy with smoothed labels (Salimans et al. 2016, arXiv:1606.03498), as in the
DeepLense GAN; modern : the relativistic pairing loss with zero-centred gradient penalties on real and
on generated images (R3GAN; Huang et al. 2024, arXiv:2501.05441).
"""

import math

import torch
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from lensnb import adversaries, modern, update
from lensnb import context as contexts

GRAIN_IMAGES = 500       # training images on which the pixel noise is measured
NETWORKS = {"published": adversaries, "modern": modern}


def untrained(params, dataset):
    """The untrained generator of a recipe, for the images of a Dataset."""
    channels, size = dataset.images.shape[1:3]
    context, scaling = contexts.width(params.model.context, dataset), dataset.scaling
    return NETWORKS[params.gan.kind].Generator(size, channels, params.gan.latent, params.gan.width, context, scaling.low, scaling.high)


def judge(params, dataset):
    """The untrained discriminator of a recipe."""
    channels, size = dataset.images.shape[1:3]
    return NETWORKS[params.gan.kind].Discriminator(size, channels, params.gan.width, contexts.width(params.model.context, dataset))


# What the two want: (logits of real images, of generated ones) -> a scalar --------------------------

def smoothed(logits, real, smoothing):
    """Cross entropy of logits against the label 1 - smoothing (real) or smoothing (generated)."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, 1 - smoothing if real else smoothing))


def pairing(better, worse):
    """Relativistic pairing loss of logits of equal shape: softplus(-(better - worse)) (R3GAN, eq. 2)."""
    return F.softplus(worse - better).mean()


LOSSES = {      # (critic, generator); the published generator aims at the label 1 itself
    "published": (lambda real, fake, smoothing: smoothed(real, True, smoothing) + smoothed(fake, False, smoothing),
                  lambda real, fake: smoothed(fake, True, 0)),
    "modern": (lambda real, fake, smoothing: pairing(real, fake), lambda real, fake: pairing(fake, real.detach()))}


def steepness(logits, x):
    """Squared norm of the logits' gradient at the images x (B, C, H, W), added up over them: R1 and R2 where x holds real and generated ones."""
    slope, = torch.autograd.grad(logits.sum(), x, create_graph=True)    # an image's logit depends on that image alone
    return slope.square().sum()


def penalty(k, settings):
    """Weight gamma of the penalties at step k: it falls along the training, and what is computed at every few steps weighs as much more."""
    if settings.kind != "modern" or k % settings.penalty_every:
        return 0
    return settings.penalty * (settings.penalty_end / settings.penalty) ** (k / settings.steps) * settings.penalty_every


class GanTask:
    """One update: the discriminator `critic_updates` times, then the generator, then its average."""

    pieces = 1

    def __init__(self, params, dataset, accelerator):
        self.gan, self.accelerator, (self.critic_loss, self.generator_loss) = params.gan, accelerator, LOSSES[params.gan.kind]
        place = lambda net: net.to(accelerator.device, memory_format=torch.channels_last)       # twice as fast on a CPU
        self.generator, self.judge = place(untrained(params, dataset)), place(judge(params, dataset))
        if self.gan.kind == "modern":
            some = dataset.images[dataset.train[::math.ceil(len(dataset.train) / GRAIN_IMAGES)]]
            self.generator.grain.copy_(modern.noise_law(dataset.scaling.forward(torch.from_numpy(some)))[:, :, None, None])
        adam = lambda net: torch.optim.Adam(net.parameters(), self.gan.rate, self.gan.betas, fused=update.fused(accelerator.device.type))
        self.adam_g, self.adam_d = adam(self.generator), adam(self.judge)
        self.update_g, self.update_d = (update.Update(*both, accelerator) for both in
                                        ((self.generator, self.adam_g), (self.judge, self.adam_d)))
        self.model = AveragedModel(self.generator, avg_fn=update.ramped_average(self.gan.ema), use_buffers=True)
        self.nets = self.generator, self.judge
        self.parts = {"generator": self.generator, "discriminator": self.judge, "ema": self.model,
                      "adam_g": self.adam_g, "adam_d": self.adam_d, **update.scaler(accelerator)}

    def step(self, k, x, context, generator):
        """Update both networks with the batch x (B, C, H, W); returns losses, the discriminator's accuracy and the rate."""
        rate = update.pace(k, self.gan, self.adam_g, self.adam_d)
        gamma = penalty(k, self.gan)
        for _ in range(self.gan.critic_updates):
            pairs = list(self._pairs(x, context, generator))
            loss_d = self.update_d(self._critic(pair, gamma) for pair in pairs)
        self.judge.requires_grad_(False)
        loss_g = self.update_g(self._deceive(pair) for pair in pairs)
        self.judge.requires_grad_(True)
        if not self.update_g.skipped:
            self.model.update_parameters(self.generator)
        right = (((pair["real"] > 0).float().mean() + (pair["fake"] < 0).float().mean()) / 2 * pair["share"] for pair in pairs)
        accuracy = sum(right, start=torch.zeros((), device=x.device))      # a process may have no pair
        return {"generator": loss_g, "discriminator": loss_d, "accuracy": self.accelerator.reduce(accuracy), "rate": rate,
                **update.skipped(self.update_d, self.update_g)}

    def _pairs(self, x, context, generator):
        """This process's real images, and as many generated ones.

        Only real images are flipped and turned: were the generated ones, too, the discriminator would not see it if all
        of them lay in the same way.
        """
        drawn = [torch.randn(len(x), *shape, generator=generator, device=x.device) for shape in self.generator.shapes]
        for (real, told, *noise), share in update.share((x, context, *drawn), self.pieces, self.accelerator):
            with self.accelerator.autocast():
                made = self.generator(*noise, context=told)
            yield {"x": real, "made": made, "context": told, "share": share}

    def _critic(self, pair, gamma):
        """Loss of the discriminator on a pair, with its penalties where gamma is not 0; notes the logits in the pair."""
        both = torch.cat([pair["x"], pair["made"].detach()]).requires_grad_(gamma > 0)
        with self.accelerator.autocast():
            logits = self.judge(both, None if pair["context"] is None else pair["context"].repeat(2, 1))
            pair["real"], pair["fake"] = logits.float().chunk(2)
            loss = self.critic_loss(pair["real"], pair["fake"], self.gan.smoothing)
        steep = gamma / 2 * steepness(logits, both) / len(pair["x"]) if gamma else 0
        return (loss + steep) * pair["share"]

    def _deceive(self, pair):
        """Loss of the generator on a pair that the discriminator has just seen."""
        with self.accelerator.autocast():
            fake = self.judge(pair["made"], pair["context"])
            return self.generator_loss(pair["real"], fake.float()) * pair["share"]
