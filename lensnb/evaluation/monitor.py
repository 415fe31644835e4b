"""The monitor of a training: every so often it draws images from the averaged network and measures.

Monitoring uses separate held-out images, so it cannot bias the evaluation. With too few held-out
images it uses training images. It draws from the same latents each time. No verdict sees these
images.
"""

from typing import Any

import numpy as np
import torch

from lensnb import generator, metrics, sampler
from lensnb.datasets.dataset import Dataset, monitoring_rows
from lensnb.devices import with_doubles
from lensnb.errors import InputError
from lensnb.evaluation import lensnet
from lensnb.kinds import KINDS
from lensnb.recipes.recipe import Params
from lensnb.recipes.schema import Method
from lensnb.seeds import Purpose, derived_seed

DRAWN = 64  # images drawn each time
SHOWN = 16  # of them are kept
QUICK = Method.model_validate({"sampler": "ddim", "steps": 20})
# Share of the earlier diversity below which a generator has collapsed; sets of this size agree
# within a few per cent.
COLLAPSED = 0.5
SAME = 1e-5  # features that differ by less than this share differ by rounding


def method_of(params: Params, model: str) -> Method:
    """The recipe's method of a model with the fewest network evaluations.

    DDIM in 20 steps if the recipe has none with 50 evaluations or fewer.
    """
    own = [m for m in params.sample.methods.values() if m.model == model and m.guidance == 1]
    if not KINDS[model].sampled:
        least = Method.model_validate({"model": model, "steps": KINDS[model].own_steps or None})
        return min(own, key=lambda m: m.steps or 1, default=least)

    def cost(m: Method) -> int:
        return sampler.evaluations(m.sampler or "", m.steps or 0)

    best = min(own, key=cost, default=QUICK)
    if cost(best) <= 50:
        return best
    return QUICK.model_copy(update={"steps": min(20, params.diffusion.timesteps)})


class Monitor:
    """Draws from a network in training and measures the images.

    Call it with the averaged network; it returns a row of numbers and the images. Raises InputError
    if the real images are all the same: distances are told in deviations of theirs.
    """

    def __init__(self, params: Params, name: str, dataset: Dataset, device: torch.device) -> None:
        self.collapsed = COLLAPSED
        self.device = device
        self.seed = params.seed
        self.params = params
        self.dataset = dataset
        self.method = method_of(params, name)
        rows = monitoring_rows(dataset, params.data_seed)
        self.compared_with = "held-out images" if len(rows) else "training images"
        if not len(rows):
            rng = np.random.default_rng(derived_seed(params.seed, Purpose.WATCH))
            rows = rng.permutation(dataset.train)[: 4 * DRAWN]
        real = dataset.images[np.sort(rows)]
        self.reader = lensnet.Reader(lensnet.Units(real), lensnet.load(with_doubles(device)))
        read = self.reader.features(real)
        std = read.std(axis=0)
        if std.max() <= SAME * np.abs(read).max():
            raise InputError(
                f"{KINDS[name].section}.watch_every: all {self.compared_with} are the same, so "
                "nothing can be measured against them; set it to 0, or give images that differ"
            )
        # A dead feature divided by its scatter would outweigh all others.
        self.alive = std > 1e-3 * std.max()
        self.feature_std = std[self.alive]
        self.real = self._scaled(read)
        self.error = self._kid_error(self.real)

    def _scaled(self, features: np.ndarray) -> np.ndarray:
        """Features (N, 64) in deviations of the real ones, (N, <= 64)."""
        scaled: np.ndarray = features[:, self.alive] / self.feature_std
        return scaled

    def _kid_error(self, rows: np.ndarray, times: int = 20) -> float:
        """Standard deviation of the kernel distance between DRAWN real images and the others."""
        rng = np.random.default_rng(0)
        n = min(DRAWN, len(rows) // 2)
        orders = (rng.permutation(len(rows)) for _ in range(times))
        return float(np.std([metrics.kid(rows[o[:n]], rows[o[n:]]) for o in orders], ddof=1))

    @torch.inference_mode()
    def __call__(self, model: Any) -> tuple[dict[str, float], np.ndarray]:
        """Draw from the network `model`.

        Returns {"kid", "kid_error", "diversity"} and images (SHOWN, C, H, W) in the user's units.
        """
        was_training = model.training
        drawn = generator.Generator(
            self.params, self.method, self.dataset, model.eval(), self.device
        ).draw(DRAWN, derived_seed(self.seed, Purpose.WATCH, 1), DRAWN)
        model.train(was_training)
        rows = self._scaled(self.reader.features(drawn))
        row = {
            "kid": metrics.kid(rows, self.real),
            "kid_error": self.error,
            "diversity": diversity(rows) / diversity(self.real),
        }
        return row, drawn[:SHOWN]


def diversity(rows: np.ndarray) -> float:
    """Mean distance between two rows of (n, d)."""
    return torch.pdist(torch.from_numpy(rows)).mean().item()
