"""The self-attention GAN: generator, discriminator, and their task in the training loop.

After the DeepLense GAN: transposed convolutions with batch norm and self-attention against a patch
discriminator with spectral norm (Zhang et al. 2019, arXiv:1805.08318; Miyato et al. 2018,
arXiv:1802.05957), cross entropy with smoothed labels (Salimans et al. 2016, arXiv:1606.03498).
"""

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lensnb.blocks import Attention

BLOCKS = 4      # doublings between the first map and the image


class Generator(nn.Module):
    """Latent (B, latent) -> image (B, channels, size, size) within [low, high]."""

    def __init__(self, size=64, channels=1, latent=64, width=32, low=-1.0, high=1.0):
        super().__init__()
        widths = [8 * width, 4 * width, 2 * width, width, width // 2]
        self.latent, self.first = latent, (widths[0], size // 2**BLOCKS, size // 2**BLOCKS)
        self.project = nn.Linear(latent, self.first[0] * self.first[1] * self.first[2])
        blocks = [self._block(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True)]
        self.body = nn.Sequential(*blocks[:2], Attention(widths[2], heads=1), *blocks[2:], nn.Conv2d(widths[4], channels, 3, padding=1))
        self.middle, self.half = (high + low) / 2, (high - low) / 2

    @staticmethod
    def _block(before, after):
        return nn.Sequential(nn.ConvTranspose2d(before, after, 4, 2, 1), nn.BatchNorm2d(after), nn.ReLU())

    def forward(self, z):
        return self.middle + self.half * torch.tanh(self.body(self.project(z).view(-1, *self.first)))


class Discriminator(nn.Module):
    """Image (B, channels, size, size) -> one logit for each patch (B, 1, h, w)."""

    def __init__(self, channels=1, width=32):
        super().__init__()
        conv = lambda a, b, k, s: spectral_norm(nn.Conv2d(a, b, k, s, padding=1))
        widths = [channels, width, 2 * width, 4 * width]
        stages = [nn.Sequential(conv(a, b, 4, 2), nn.LeakyReLU(0.2)) for a, b in zip(widths[:-1], widths[1:], strict=True)]
        self.body = nn.Sequential(*stages[:2], Attention(widths[2], heads=1), *stages[2:], conv(widths[3], 1, 3, 1))

    def forward(self, x):
        return self.body(x)


def smoothed(logits, real, smoothing):
    """Cross entropy of patch logits against the label 1 - smoothing (real) or smoothing (generated)."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, 1 - smoothing if real else smoothing))


def generator(params, dataset):
    """The untrained Generator of a recipe, for the images of a Dataset."""
    channels, size = dataset.images.shape[1], dataset.images.shape[-1]
    return Generator(size, channels, params.gan.latent, params.gan.width, dataset.scaling.low, dataset.scaling.high)


class GanTask:
    """One update: the discriminator `critic_updates` times, then the generator, then its average."""

    def __init__(self, params, dataset, accelerator):
        self.gan, self.accelerator = params.gan, accelerator
        adam = lambda net: torch.optim.Adam(net.parameters(), self.gan.rate, (0.5, 0.999))
        made, judge = (net.to(memory_format=torch.channels_last) for net in     # twice as fast on a CPU
                       (generator(params, dataset), Discriminator(dataset.images.shape[1], self.gan.width)))
        self.generator, self.judge, self.adam_g, self.adam_d = accelerator.prepare(made, judge, adam(made), adam(judge))
        self.model = AveragedModel(accelerator.unwrap_model(self.generator), use_buffers=True,
                                   multi_avg_fn=get_ema_multi_avg_fn(self.gan.ema))
        self.parts = {"generator": self.generator, "discriminator": self.judge, "ema": self.model,
                      "adam_g": self.adam_g, "adam_d": self.adam_d}

    def step(self, k, x, context, generator):
        """Update both networks with the batch x (B, C, H, W); returns losses and the discriminator's accuracy."""
        for _ in range(self.gan.critic_updates):
            fake = self._draw(len(x), generator).detach()
            real_logits, fake_logits = self.judge(x), self.judge(fake)
            loss_d = smoothed(real_logits, True, self.gan.smoothing) + smoothed(fake_logits, False, self.gan.smoothing)
            self._update(self.adam_d, loss_d)
        loss_g = smoothed(self.judge(self._draw(len(x), generator)), True, 0)   # the generator aims at 1 itself
        self._update(self.adam_g, loss_g)
        self.model.update_parameters(self.accelerator.unwrap_model(self.generator))
        accuracy = ((real_logits > 0).float().mean() + (fake_logits < 0).float().mean()) / 2
        return {"generator": loss_g.item(), "discriminator": loss_d.item(), "accuracy": accuracy.item()}

    def _draw(self, n, generator):
        return self.generator(torch.randn(n, self.gan.latent, generator=generator, device=generator.device))

    def _update(self, optimiser, loss):
        optimiser.zero_grad()
        self.accelerator.backward(loss)
        optimiser.step()
