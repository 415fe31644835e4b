"""How a training is watched: every so often a few images are drawn from the averaged network and measured.

Measured against real images that are neither trained on nor ever part of a verdict's reference (where too
few are held out, against training images), and on generated images that no verdict sees, so that nothing
is tuned to what later judges. All images come from the same latents each time.
"""

import numpy as np
import torch

from lensnb import generator, metrics, sampler
from lensnb.datasets.dataset import spared
from lensnb.evaluation import lensnet
from lensnb.recipes.schema import Method
from lensnb.seeds import Purpose, derived_seed

# images drawn, and kept
N = 64
SHOWN = 16
QUICK = Method(sampler="ddim", steps=20)
COLLAPSED = (
    0.5  # of the diversity that was there before; sets of this size agree within a few per cent
)


def method_of(params, model):
    """The recipe's method of a model with the fewest network evaluations, or DDIM in 20 steps where all are longer."""
    own = [m for m in params.sample.methods.values() if m.model == model and m.guidance == 1]
    if model == "gan":
        return own[0] if own else Method(model="gan")

    def cost(m):
        return sampler.evaluations(m.sampler, m.steps)

    best = min(own, key=cost, default=QUICK)
    return (
        best
        if cost(best) <= 50
        else QUICK.model_copy(update={"steps": min(20, params.diffusion.timesteps)})
    )


class Monitor:
    """Call it with the averaged network to draw from it; returns a row of what was measured and the images."""

    def __init__(self, params, name, dataset, device):
        self.collapsed = COLLAPSED
        self.device = device
        self.seed = params.seed
        self.params = params
        self.dataset = dataset
        self.method = method_of(params, name)
        rows = spared(dataset, params.data_seed)
        self.against = "held-out images" if len(rows) else "training images"
        if not len(rows):
            rows = np.random.default_rng(derived_seed(params.seed, Purpose.WATCH)).permutation(
                dataset.train
            )[: 4 * N]
        real = dataset.images[np.sort(rows)]
        self.units = lensnet.Units(real)
        self.net = lensnet.load()
        read = lensnet.features(real, self.units, self.net)
        self.spread = np.maximum(read.std(axis=0), 1e-3 * read.std(axis=0).max())
        self.real = read / self.spread
        self.error = self._scatter(read / self.spread)

    def _scatter(self, rows, times=20):
        """Standard deviation of the kernel distance of N real images to the others: what chance does to a row."""
        rng = np.random.default_rng(0)
        n = min(N, len(rows) // 2)
        orders = (rng.permutation(len(rows)) for _ in range(times))
        return float(np.std([metrics.kid(rows[o[:n]], rows[o[n:]]) for o in orders], ddof=1))

    @torch.inference_mode()
    def __call__(self, model):
        """Draw from the network `model`; returns {"kid", "kid_error", "diversity"} and images (SHOWN, C, H, W) in the user's units."""
        was = model.training
        drawn = generator.Generator(
            self.params, self.method, self.dataset, model.eval(), self.device
        ).draw(N, derived_seed(self.seed, Purpose.WATCH, 1), N)
        model.train(was)
        rows = lensnet.features(drawn, self.units, self.net) / self.spread
        row = {
            "kid": metrics.kid(rows, self.real),
            "kid_error": self.error,
            "diversity": diversity(rows) / diversity(self.real),
        }
        return row, drawn[:SHOWN]


def diversity(rows):
    """Mean distance between two rows of (n, d)."""
    return torch.pdist(torch.from_numpy(rows)).mean().item()
