"""The consistency model's task in the training loop: one update of the tuned denoiser.

It starts from the weights of the trained denoiser, which `loop.task` loads. All random numbers are
drawn for the whole batch from the generator of the step, and then cut.
"""

from collections.abc import Iterator

import torch
from accelerate import Accelerator

from lensnb import consistency, schedule
from lensnb.datasets.dataset import Dataset
from lensnb.generator import untrained_denoiser
from lensnb.kinds import KINDS
from lensnb.recipes.recipe import Params
from lensnb.recipes.schema import Consistency
from lensnb.training import optimise
from lensnb.training.average import Average
from lensnb.training.compiling import Compiler
from lensnb.training.task import Losses


class ConsistencyTask:
    """The denoiser in tuning: two noise levels an image, micro-batches, average."""

    def __init__(self, params: Params, dataset: Dataset, accelerator: Accelerator) -> None:
        self.tuning = params.consistency
        self.weighting = consistency.WEIGHTS.find(self.tuning.weighting)
        self.accelerator = accelerator
        # Only its training levels count: it is sampled along no list of levels.
        self.levels = schedule.edm(self.tuning.mean, self.tuning.std)
        device = accelerator.device
        self.denoiser = optimise.on_device(
            untrained_denoiser(_with_dropout(params), dataset), device
        )
        self.optimiser = optimise.optimiser_of(self.denoiser, self.tuning)
        self.compiler = Compiler(self.tuning, device)
        self.target = self.compiler(self._target)
        self.compiled_loss = self.compiler(self._loss)
        self.update = optimise.Update(self.denoiser, self.optimiser, accelerator, self.tuning.clip)
        self.model = Average(self.denoiser, self.tuning.ema)
        self.pieces = self.tuning.accumulate
        self.nets: tuple[torch.nn.Module, ...] = (self.denoiser,)
        self.parts = {
            "denoiser": self.denoiser,
            "ema": self.model,
            "optimiser": self.optimiser,
            **optimise.scaler_part(accelerator),
        }

    @staticmethod
    def planned(k: int, settings: Consistency) -> tuple[float, ...]:
        """All numbers of step k that depend on how many steps there are."""
        return optimise.rate_factor(k, settings), consistency.stage(k, settings)

    def step(
        self, k: int, x0: torch.Tensor, context: torch.Tensor | None, generator: torch.Generator
    ) -> Losses:
        """Update once with the batch x0 (B, C, H, W) and its context (B, K) or None.

        Returns the loss, a scalar tensor, the stage and the learning rate.
        """
        tuning = self.tuning
        rate = optimise.set_rate(k, tuning, self.optimiser)
        stage = consistency.stage(k, tuning)
        t = self.levels.train_sigmas(len(x0), generator)
        r = consistency.lower_levels(t, stage, tuning.q, tuning.k, tuning.b)
        noise = torch.randn(x0.shape, generator=generator, device=x0.device)
        batch = (x0, t, r, noise, self.weighting(t, r), context)
        (loss,) = self.update(self._losses(batch, generator.initial_seed()))
        self.model.update()
        return {
            "loss": loss,
            "stage": stage,
            "rate": rate,
            **optimise.skipped_entry(self.update),
        }

    def _losses(
        self, batch: tuple[torch.Tensor | None, ...], seed: int
    ) -> Iterator[tuple[torch.Tensor]]:
        """Yields the loss of each piece, times its share of the batch.

        The network drops the same activations at both noise levels, as ECT does: dropout draws from
        the global generator, which is seeded alike before both passes.
        """
        parts = optimise.split_batch(batch, self.pieces, self.accelerator)
        for number, (piece, share) in enumerate(parts):
            x0, t, r, noise, weight, context = piece
            with self.accelerator.autocast():
                torch.manual_seed(seed + number)
                aim = self.target(x0, r, noise, context)
                torch.manual_seed(seed + number)
                value = self.compiled_loss(x0, t, noise, weight, aim, context)
            yield (value * share,)

    def _target(self, *piece: torch.Tensor) -> torch.Tensor:
        """The target of a piece: of images, lower noise levels, noise and context."""
        return consistency.target(self.denoiser, *piece)

    def _loss(self, *piece: torch.Tensor) -> torch.Tensor:
        """The loss of a piece: of images, noise levels, noise, weights, target and context."""
        return consistency.loss(self.denoiser, *piece, huber=self.tuning.huber)


def _with_dropout(params: Params) -> Params:
    """The recipe with the dropout of the tuning, where it has one of its own."""
    dropout = params.consistency.dropout
    if dropout is None:
        return params
    model = params.model.model_copy(update={"dropout": dropout})
    return params.model_copy(update={"model": model})


KINDS["consistency"].task = ConsistencyTask
