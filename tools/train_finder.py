"""Train the lens finder anew: python -m tools.train_finder FOLDER.

The published weights come from this program, without changes of its numbers, and from images of
lensnb 0.1's simulator. Today's images have other random numbers of the same distributions.
"""

import argparse
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch.nn import functional as F

from lensnb import io
from lensnb.evaluation import finder
from lensnb.lensing import nonlenses
from lensnb.lensing.priors import PRIORS, Prior
from lensnb.lensing.simulate import simulate
from lensnb.training import loader, loop

# The prior of the training images is wider than the broad one, so that other lenses are found too.
WIDER = {
    "theta_E": (0.75, 1.7),
    "centre": (-0.1, 0.1),
    "snr": (15.0, 60.0),
}
# Share of real lenses below the threshold. It is small, because generated images are in doubt.
LOST = 0.01


class FinderTask:
    """The finder in the training loop: cross entropy of lens against non-lens."""

    def __init__(self, steps: int, rate: float = 2e-3) -> None:
        self.net = finder.Finder()
        self.optimiser = torch.optim.AdamW(self.net.parameters(), rate, weight_decay=0.01)
        self.rate = torch.optim.lr_scheduler.OneCycleLR(self.optimiser, rate, steps)
        self.parts = {"net": self.net, "optimiser": self.optimiser, "rate": self.rate}

    def step(
        self, k: int, x: torch.Tensor, target: torch.Tensor, generator: torch.Generator
    ) -> dict[str, float]:
        """Update once with images x (B, 1, H, W); returns the loss.

        target (B, 1) : 1 for a lens, 0 for a non-lens
        """
        loss = F.binary_cross_entropy_with_logits(self.net.odds(x), target[:, 0])
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.rate.step()
        return {"loss": loss.item()}


def auc(above: np.ndarray, below: np.ndarray) -> float:
    """Area under the ROC curve: how often a number of `above` (n,) exceeds one of `below` (m,).

    A tie counts one half.
    """
    below = np.sort(below)
    smaller = np.searchsorted(below, above, "left") + np.searchsorted(below, above, "right")
    return float(smaller.mean() / 2 / len(below))


def report(
    lenses: np.ndarray, others: np.ndarray, kinds: tuple[str, ...] = tuple(nonlenses.KINDS)
) -> dict[str, Any]:
    """A finder's threshold and its rates, from its log odds of lenses (n,) and of non-lenses (m,).

    kinds : of the non-lenses, which come in turn
    """
    threshold = float(np.quantile(lenses, LOST))

    def passed(odds: np.ndarray) -> float:
        return float((odds > threshold).mean())

    return {
        "lenses": len(lenses),
        "non_lenses": len(others),
        "accuracy": float(((lenses > 0).mean() + (others <= 0).mean()) / 2),
        "auc": auc(lenses, others),
        "threshold": threshold,
        "lenses_found": passed(lenses),
        "non_lenses_found": {kind: passed(others[i :: len(kinds)]) for i, kind in enumerate(kinds)},
    }


def both(n: int, seed: int, prior: Prior) -> tuple[np.ndarray, np.ndarray]:
    """n lenses and n non-lenses of a Prior: float32 (n, 1, H, W) each."""
    return simulate(n, prior, seed)[0], nonlenses.non_lenses(n, seed, prior=prior)


def retrain(
    folder: Path,
    n: int = 4200,
    held: int = 3000,
    steps: int = 600,
    batch: int = 64,
    seed: int = 2026,
) -> dict[str, Any]:
    """Train the finder on n lenses and n non-lenses of the wider prior.

    Tests it on `held` lenses and as many non-lenses of the broad prior. Writes weights and card to
    `folder`; returns the card.
    """
    broad = PRIORS["broad"]
    x = torch.from_numpy(np.concatenate(both(n, seed, replace(broad, **WIDER))))
    target = torch.tensor([1.0, 0.0]).repeat_interleave(n)[:, None]
    torch.manual_seed(seed)
    task = FinderTask(steps)
    settings = SimpleNamespace(steps=steps, batch=batch, log_every=50, checkpoint_every=100)
    batches = loader.Batches(x, target, batch, "square", seed)
    folder.mkdir(parents=True, exist_ok=True)
    loop.fit(task, batches, settings, seed, folder, "cpu")
    weights = safetensors.torch.save(task.net.state_dict())
    with io.atomic(folder / finder.WEIGHTS.name, "wb") as file:
        file.write(weights)
    odds = [finder.log_odds(images, net=task.net.eval()) for images in both(held, seed + 1, broad)]
    card = {
        "version": 1,
        "licence": "MIT",
        "prior": "broad",
        "wider": WIDER,
        "kinds": list(nonlenses.KINDS),
        "images": 2 * n,
        "steps": steps,
        "batch": batch,
        "seed": seed,
        "sha256": hashlib.sha256(weights).hexdigest(),
        "held_out": report(*odds),
    }
    io.write_json(folder / finder.WEIGHTS.with_suffix(".json").name, card)
    (folder / "checkpoint.pt").unlink(missing_ok=True)
    return card


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train the lens finder anew.")
    parser.add_argument(
        "folder", type=Path, help="where finder.safetensors and finder.json are written"
    )
    print(json.dumps(retrain(parser.parse_args().folder), indent=1))
