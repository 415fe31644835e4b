"""The diffusion model's task in the training loop: one update of the denoiser, and its average.

All that is random is drawn for the whole batch from the generator of the step, and then cut, so that
neither the number of processes nor that of pieces changes what is trained.
"""

import math

import torch
from torch.optim.swa_utils import AveragedModel

from lensnb import context as contexts
from lensnb import denoiser, devices, schedule


def untrained(params, dataset):
    """The untrained Denoiser of a recipe for the images of a Dataset."""
    width = contexts.width(params.model.context, dataset)
    return denoiser.from_params(params, dataset.images.shape[1], dataset.sigma_data, width)


def ramped_average(share):
    """EMA over the last `share` of the steps so far: the decay grows with the number of steps."""
    return lambda average, new, n: average + (new - average) / (1 + share * n)


def rate_share(k, settings):
    """Share of the full learning rate at step k of settings.steps.

    trapezium : linear warm-up, plateau, linear fall to zero; cosine : linear warm-up, half a cosine;
    onecycle : a cosine up from 1/25 and down to 1/250,000 (Smith & Topin 2018, arXiv:1708.07120, as in torch).
    """
    steps = settings.steps
    rise = settings.warmup if settings.warmup >= 1 else settings.warmup * steps
    half_cosine = lambda a, b, place: b + (a - b) * (1 + math.cos(math.pi * place)) / 2     # from a to b
    if settings.shape == "trapezium":
        return min(1, (k + 1) / (rise + 1), (steps - k) / (settings.cooldown * steps + 1))
    if settings.shape == "cosine":
        return (k + 1) / (rise + 1) if k < rise else half_cosine(1, 0, (k - rise) / (steps - rise))
    peak = rise - 1
    return half_cosine(1 / 25, 1, k / max(peak, 1)) if k <= peak else half_cosine(1, 1 / 25e4, (k - peak) / (steps - 1 - peak))


class DiffusionTask:
    """One update of the denoiser: AdamW along the shape of the rate, accumulation, clipping, EMA."""

    def __init__(self, params, dataset, accelerator):
        self.train, self.weighting, self.accelerator = params.train, params.diffusion.weighting, accelerator
        self.schedule = schedule.from_params(params.diffusion)
        self.denoiser = untrained(params, dataset).to(accelerator.device, memory_format=torch.channels_last)
        self.optimiser = torch.optim.AdamW(self.denoiser.parameters(), self.train.rate, (0.9, 0.99), weight_decay=self.train.decay,
                                           fused=devices.fused(accelerator.device.type))
        self.update = devices.Update(self.denoiser, self.optimiser, accelerator, self.train.clip)
        self.model = AveragedModel(self.denoiser, avg_fn=ramped_average(self.train.ema), use_buffers=True)
        if self.train.compile:
            self.denoiser.compile()
        self.pieces, self.nets = self.train.accumulate, (self.denoiser,)
        self.parts = {"denoiser": self.denoiser, "ema": self.model, "optimiser": self.optimiser, **devices.scaler(accelerator)}

    def step(self, k, x0, context, generator):
        """Update once with the batch x0 (B, C, H, W); returns the loss, a scalar tensor, and the learning rate."""
        rate = self.train.rate * rate_share(k, self.train)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        sigma = self.schedule.train_sigmas(len(x0), generator)
        noise = torch.randn(x0.shape, generator=generator, device=x0.device)
        if context is not None:     # rows of NaN stand for a dropped context
            dropped = torch.rand(len(x0), 1, generator=generator, device=x0.device) < self.train.drop_context
            context = context.masked_fill(dropped, math.nan)
        value = self.update(self._losses(x0, sigma, noise, self.denoiser.weight(sigma, self.weighting), context))
        if not self.update.skipped:
            self.model.update_parameters(self.denoiser)
        return {"loss": value, "rate": rate, **devices.skipped(self.update)}

    def _losses(self, *batch):
        """The loss of each piece, with its share of the batch."""
        for piece, share in devices.share(batch, self.pieces, self.accelerator):
            with self.accelerator.autocast():
                value = denoiser.loss(self.denoiser, *piece)
            yield value * share
