"""Train LensNet anew on simulated lenses of the broad prior: python -m tools.train_lensnet FOLDER.

The published weights come from this program, without changes of its numbers, and from images of
lensnb 0.1's simulator. Today's images have other random numbers of the same distributions.
"""

import argparse
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import safetensors.torch
import torch
from torch.nn import functional as F

from lensnb import io
from lensnb.evaluation import lensnet
from lensnb.lensing.simulate import simulate
from lensnb.training import loader, loop

RATE = 2e-3  # learning rate


class LensNetTask:
    """LensNet in the training loop: cross entropy of the class, squared error of the readings."""

    def __init__(self, steps: int) -> None:
        self.net = lensnet.LensNet()
        self.optimiser = torch.optim.AdamW(self.net.parameters(), RATE, weight_decay=0.01)
        self.rate = torch.optim.lr_scheduler.OneCycleLR(self.optimiser, RATE, steps)
        self.parts = {"net": self.net, "optimiser": self.optimiser, "rate": self.rate}

    def step(
        self, k: int, x: torch.Tensor, target: torch.Tensor, generator: torch.Generator
    ) -> dict[str, float]:
        """Update once with images x (B, 1, H, W); returns both losses.

        target (B, 1 + 5) : the class and the standardised readings
        """
        logits, readings = self.net.read(x)
        class_loss = F.cross_entropy(logits, target[:, 0].long())
        reading_loss = F.mse_loss(readings, target[:, 1:])
        self.optimiser.zero_grad()
        (class_loss + reading_loss).backward()
        self.optimiser.step()
        self.rate.step()
        return {"class": class_loss.item(), "readings": reading_loss.item()}


def targets(truth: Mapping[str, Any]) -> torch.Tensor:
    """Truth columns as a tensor (N, 1 + 5) in their own units, signal-to-noise as its logarithm."""
    columns = {name: torch.as_tensor(truth[name]).float() for name in ("class", *lensnet.READS)}
    columns["snr"] = columns["snr"].log()
    return torch.stack(list(columns.values()), dim=1)


@torch.inference_mode()
def report(
    net: lensnet.LensNet,
    x: torch.Tensor,
    target: torch.Tensor,
    mean: torch.Tensor,
    std: torch.Tensor,
) -> dict[str, Any]:
    """Accuracy of the class and root-mean-square error of each reading on images x (N, 1, H, W).

    The network has not seen these images. mean, std (5,) : of the training images' readings
    """
    parts = [net.read(some) for some in x.split(256)]
    logits, readings = (torch.cat(part) for part in zip(*parts, strict=True))
    rms = (((readings * std + mean) - target[:, 1:]) ** 2).mean(0).sqrt()
    accuracy = (logits.argmax(1) == target[:, 0]).float().mean().item()
    return {
        "n": len(x),
        "accuracy": accuracy,
        "rms": _by_reading(rms),
        "prior_mean": _by_reading(mean),
        "prior_std": _by_reading(std),
    }


def _by_reading(values: torch.Tensor) -> dict[str, float]:
    """Values (5,) under the names of the readings."""
    return dict(zip(lensnet.READS, values.tolist(), strict=True))


def retrain(
    folder: Path,
    n: int = 14000,
    held: int = 2000,
    steps: int = 3000,
    batch: int = 64,
    seed: int = 2026,
) -> dict[str, Any]:
    """Train LensNet on n simulated images of the broad prior without the last `held`.

    Writes weights, training log and card to `folder`; returns the card.
    """
    images, truth = simulate(n, "broad", seed)
    x = torch.from_numpy(images)
    target = targets(truth)
    mean = target[:-held, 1:].mean(0)
    std = target[:-held, 1:].std(0)
    goal = torch.cat([target[:, :1], (target[:, 1:] - mean) / std], dim=1)
    torch.manual_seed(seed)
    task = LensNetTask(steps)
    settings = SimpleNamespace(steps=steps, batch=batch, log_every=100, checkpoint_every=500)
    batches = loader.Batches(x[:-held], goal[:-held], batch, "square", seed)
    folder.mkdir(parents=True, exist_ok=True)
    history = loop.fit(task, batches, settings, seed, folder, "cpu")["history"]
    io.write_rows(folder / "lensnet-history.csv", history)
    weights = safetensors.torch.save(task.net.state_dict())
    with io.atomic(folder / lensnet.WEIGHTS.name, "wb") as file:
        file.write(weights)
    card = {
        "version": 1,
        "licence": "MIT",
        "prior": "broad",
        "images": n - held,
        "steps": steps,
        "batch": batch,
        "seed": seed,
        "sha256": hashlib.sha256(weights).hexdigest(),
        "pixels": {"mean": x.mean().item(), "std": x.std().item()},
        "held_out": report(task.net.eval(), x[-held:], target[-held:], mean, std),
    }
    io.write_json(folder / lensnet.WEIGHTS.with_suffix(".json").name, card)
    (folder / "checkpoint.pt").unlink(missing_ok=True)
    return card


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train LensNet anew on the broad prior.")
    parser.add_argument(
        "folder", type=Path, help="where lensnet.safetensors and lensnet.json are written"
    )
    print(json.dumps(retrain(parser.parse_args().folder), indent=1))
