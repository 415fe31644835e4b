"""The diffusion model's task in the training loop: one update of the denoiser, and its average.

All that is random is drawn for the whole batch from the generator of the step, and then cut, so that
neither the number of processes nor that of pieces changes what is trained.
"""

import math

import torch
from torch.optim.swa_utils import AveragedModel

from lensnb import denoiser, schedule
from lensnb.generator import untrained_denoiser
from lensnb.training import optimise


class DiffusionTask:
    """One update of the denoiser: AdamW along the shape of the rate, accumulation, clipping, EMA."""

    def __init__(self, params, dataset, accelerator):
        self.train = params.train
        self.weighting = params.diffusion.weighting
        self.accelerator = accelerator
        self.schedule = schedule.from_params(params.diffusion)
        self.denoiser = untrained_denoiser(params, dataset).to(
            accelerator.device, memory_format=torch.channels_last
        )
        self.optimiser = torch.optim.AdamW(
            self.denoiser.parameters(),
            self.train.rate,
            (0.9, 0.99),
            weight_decay=self.train.decay,
            fused=optimise.fused(accelerator.device.type),
        )
        self.updated = optimise.Update(self.denoiser, self.optimiser, accelerator, self.train.clip)
        self.model = AveragedModel(
            self.denoiser, avg_fn=optimise.ramped_average(self.train.ema), use_buffers=True
        )
        if self.train.compile:
            self.denoiser.compile()
        self.pieces = self.train.accumulate
        self.nets = (self.denoiser,)
        self.parts = {
            "denoiser": self.denoiser,
            "ema": self.model,
            "optimiser": self.optimiser,
            **optimise.scaler(accelerator),
        }

    def step(self, k, x0, context, generator):
        """Update once with the batch x0 (B, C, H, W); returns the loss, a scalar tensor, and the learning rate."""
        rate = optimise.pace(k, self.train, self.optimiser)
        sigma = self.schedule.train_sigmas(len(x0), generator)
        noise = torch.randn(x0.shape, generator=generator, device=x0.device)
        if context is not None:  # rows of NaN stand for a dropped context
            dropped = (
                torch.rand(len(x0), 1, generator=generator, device=x0.device)
                < self.train.drop_context
            )
            context = context.masked_fill(dropped, math.nan)
        value = self.updated(
            self._losses(x0, sigma, noise, self.denoiser.weight(sigma, self.weighting), context)
        )
        if not self.updated.skipped:
            self.model.update_parameters(self.denoiser)
        return {"loss": value, "rate": rate, **optimise.skipped(self.updated)}

    def _losses(self, *batch):
        """The loss of each piece, with its share of the batch."""
        for piece, share in optimise.share(batch, self.pieces, self.accelerator):
            with self.accelerator.autocast():
                value = denoiser.loss(self.denoiser, *piece)
            yield value * share
