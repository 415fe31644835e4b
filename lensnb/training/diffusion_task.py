"""The diffusion model's task in the training loop: one update of the denoiser, and its average.

All random numbers are drawn for the whole batch from the generator of the step, and then cut. So
neither the number of processes nor the number of pieces changes what is trained.
"""

import math
from collections.abc import Iterator

import torch
from accelerate import Accelerator

from lensnb import denoiser, schedule
from lensnb.datasets.dataset import Dataset
from lensnb.generator import untrained_denoiser
from lensnb.kinds import KINDS
from lensnb.recipes.recipe import Params
from lensnb.recipes.schema import Train
from lensnb.training import optimise
from lensnb.training.average import Average
from lensnb.training.compiling import Compiler
from lensnb.training.task import Losses


class DiffusionTask:
    """The denoiser in training: optimiser, rate, micro-batches, clipping, average."""

    def __init__(self, params: Params, dataset: Dataset, accelerator: Accelerator) -> None:
        self.train = params.train
        self.weighting = params.diffusion.weighting
        self.accelerator = accelerator
        self.schedule = schedule.from_params(params.diffusion)
        self.denoiser = optimise.on_device(untrained_denoiser(params, dataset), accelerator.device)
        self.optimiser = optimise.optimiser_of(self.denoiser, self.train)
        self.compiler = Compiler(self.train, accelerator.device)
        self.compiled_loss = self.compiler(self._loss)
        self.update = optimise.Update(
            self.denoiser,
            self.optimiser,
            accelerator,
            self.train.clip,
            keep_gradients=self.compiler.graphs,
        )
        self.model = Average(self.denoiser, self.train.ema)
        self.pieces = self.train.accumulate
        self.nets: tuple[torch.nn.Module, ...] = (self.denoiser,)
        self.parts = {
            "denoiser": self.denoiser,
            "ema": self.model,
            "optimiser": self.optimiser,
            **optimise.scaler_part(accelerator),
        }

    @staticmethod
    def planned(k: int, train: Train) -> tuple[float, ...]:
        """All numbers of step k that depend on how many steps there are."""
        return (optimise.rate_factor(k, train),)

    def step(
        self, k: int, x0: torch.Tensor, context: torch.Tensor | None, generator: torch.Generator
    ) -> Losses:
        """Update once with the batch x0 (B, C, H, W) and its context (B, K) or None.

        Returns the loss, a scalar tensor, and the learning rate.
        """
        rate = optimise.set_rate(k, self.train, self.optimiser)
        sigma = self.schedule.train_sigmas(len(x0), generator)
        noise = torch.randn(x0.shape, generator=generator, device=x0.device)
        if context is not None:
            context = self._drop_some(context, generator)
        weight = self.denoiser.weight(sigma, self.weighting)
        (loss,) = self.update(self._losses(x0, sigma, noise, weight, context))
        self.model.update()
        return {"loss": loss, "rate": rate, **optimise.skipped_entry(self.update)}

    def _drop_some(self, context: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """The context (B, K) with some rows set to NaN, which stands for a dropped context."""
        u = torch.rand(len(context), 1, generator=generator, device=context.device)
        return context.masked_fill(u < self.train.drop_context, math.nan)

    def _losses(self, *batch: torch.Tensor | None) -> Iterator[tuple[torch.Tensor]]:
        """Yields the loss of each piece, times its share of the batch."""
        for piece, share in optimise.split_batch(batch, self.pieces, self.accelerator):
            with self.accelerator.autocast():
                value = self.compiled_loss(*piece)
            yield (value * share,)

    def _loss(self, *piece: torch.Tensor) -> torch.Tensor:
        """The loss of a piece: of images, noise levels, noise, weights and context."""
        return denoiser.loss(self.denoiser, *piece)


KINDS["diffusion"].task = DiffusionTask
