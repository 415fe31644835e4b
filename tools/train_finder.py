import argparse
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import safetensors.torch
import torch
from torch.nn import functional as F

from lensnb import io
from lensnb.evaluation import finder
from lensnb.lensing import nonlenses
from lensnb.lensing.priors import PRIORS

WIDER = {
    "theta_E": (0.75, 1.7),
    "centre": (-0.1, 0.1),
    "snr": (15.0, 60.0),
}  # what it trains on, so that other lenses are found too
LOST = 0.01  # share of real lenses below the threshold: strict, for it is generated ones that are in doubt


# ---- training


class FinderTask:
    """One update of the finder by cross entropy, as the training loop wants it."""

    def __init__(self, steps, rate=2e-3):
        self.net = finder.Finder()
        self.optimiser = torch.optim.AdamW(self.net.parameters(), rate, weight_decay=0.01)
        self.rate = torch.optim.lr_scheduler.OneCycleLR(self.optimiser, rate, steps)
        self.parts = {"net": self.net, "optimiser": self.optimiser, "rate": self.rate}

    def step(self, k, x, target, generator):
        """Update once with images x (B, 1, H, W) and whether they are lenses (B, 1)."""
        loss = F.binary_cross_entropy_with_logits(self.net.odds(x), target[:, 0])
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.rate.step()
        return {"loss": loss.item()}


def auc(above, below):
    """Area under the ROC curve: how often a number of `above` (n,) exceeds one of `below` (m,), ties by half."""
    below = np.sort(below)
    return float(
        (np.searchsorted(below, above, "left") + np.searchsorted(below, above, "right")).mean()
        / 2
        / len(below)
    )


def report(lenses, others, kinds=tuple(nonlenses.KINDS)):
    """What log odds of lenses (n,) and of non-lenses (m,), whose kinds come in turn, say of a finder, and its threshold."""
    threshold = float(np.quantile(lenses, LOST))

    def passed(odds):
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


def both(n, seed, prior):
    """n lenses and n non-lenses of a Prior: float32 (n, 1, H, W) each."""
    from lensnb.lensing.simulate import simulate

    return simulate(n, prior, seed)[0], nonlenses.non_lenses(n, seed, prior=prior)


def retrain(folder, n=4200, held=3000, steps=600, batch=64, seed=2026):
    """Train on n lenses and as many non-lenses of the wider prior, judge on `held` of the broad one; writes weights and card."""
    from lensnb.training import loader, loop

    broad = PRIORS["broad"]
    x = torch.from_numpy(np.concatenate(both(n, seed, replace(broad, **WIDER))))
    target = torch.tensor([1.0, 0.0]).repeat_interleave(n)[:, None]
    torch.manual_seed(seed)
    task = FinderTask(steps)
    settings = SimpleNamespace(steps=steps, batch=batch, log_every=50, checkpoint_every=100)
    folder.mkdir(parents=True, exist_ok=True)
    loop.fit(task, loader.Batches(x, target, batch, "square", seed), settings, seed, folder, "cpu")
    weights = safetensors.torch.save(task.net.state_dict())
    with io.atomic(folder / finder.WEIGHTS.name, "wb") as file:
        file.write(weights)
    odds = [finder.log_odds(images, net=task.net.eval()) for images in both(held, seed + 1, broad)]
    recipe = {
        "prior": "broad",
        "wider": WIDER,
        "kinds": list(nonlenses.KINDS),
        "images": 2 * n,
        "steps": steps,
        "batch": batch,
        "seed": seed,
    }
    made = {
        "version": 1,
        "licence": "MIT",
        **recipe,
        "sha256": hashlib.sha256(weights).hexdigest(),
        "held_out": report(*odds),
    }
    io.write_json(folder / finder.WEIGHTS.with_suffix(".json").name, made)
    (folder / "checkpoint.pt").unlink(missing_ok=True)
    return made


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train the lens finder anew.")
    parser.add_argument(
        "folder", type=Path, help="where finder.safetensors and finder.json are written"
    )
    print(json.dumps(retrain(parser.parse_args().folder), indent=1))
