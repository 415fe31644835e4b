import argparse
import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import safetensors.torch
import torch
from torch.nn import functional as F

from lensnb import io
from lensnb.evaluation import lensnet


class LensNetTask:
    """One update of LensNet, as the training loop wants it: class by cross entropy, readings by squares."""

    def __init__(self, steps):
        self.net = lensnet.LensNet()
        self.optimiser = torch.optim.AdamW(self.net.parameters(), 2e-3, weight_decay=0.01)
        self.rate = torch.optim.lr_scheduler.OneCycleLR(self.optimiser, 2e-3, steps)
        self.parts = {"net": self.net, "optimiser": self.optimiser, "rate": self.rate}

    def step(self, k, x, target, generator):
        """Update once with images x (B, 1, H, W) and target (B, 1 + 5): class and standardised readings."""
        logits, readings = self.net.read(x)
        tell = F.cross_entropy(logits, target[:, 0].long())
        read = F.mse_loss(lensnet.readings, target[:, 1:])
        self.optimiser.zero_grad()
        (tell + read).backward()
        self.optimiser.step()
        self.rate.step()
        return {"class": tell.item(), "readings": read.item()}


def targets(truth):
    """Truth columns as a tensor (N, 1 + 5) in their own units, signal-to-noise as its logarithm."""
    columns = {name: torch.as_tensor(truth[name]).float() for name in ("class", *lensnet.READS)}
    return torch.stack([*(v.log() if k == "snr" else v for k, v in columns.items())], dim=1)


@torch.inference_mode()
def report(net, x, target, mean, std):
    """Accuracy of the class and root-mean-square error of each reading on images the network never saw."""
    logits, readings = (
        torch.cat(part) for part in zip(*(net.read(some) for some in x.split(256)), strict=True)
    )
    rms = (((lensnet.readings * std + mean) - target[:, 1:]) ** 2).mean(0).sqrt()
    named = {
        key: dict(zip(lensnet.READS, values.tolist(), strict=True))
        for key, values in (("rms", rms), ("prior_mean", mean), ("prior_std", std))
    }
    return {
        "n": len(x),
        "accuracy": (logits.argmax(1) == target[:, 0]).float().mean().item(),
        **named,
    }


def retrain(folder, n=14000, held=2000, steps=3000, batch=64, seed=2026):
    """Simulate n images of the broad prior, train LensNet on all but `held`, write weights, training log and card to `folder`."""
    from lensnb.lensing.simulate import simulate
    from lensnb.training import loader, loop  # which watches itself by these features

    images, truth = simulate(n, "broad", seed)
    x = torch.from_numpy(images)
    target = targets(truth)
    mean = target[:-held, 1:].mean(0)
    std = target[:-held, 1:].std(0)
    goal = torch.cat([target[:, :1], (target[:, 1:] - mean) / std], dim=1)
    torch.manual_seed(seed)
    task = LensNetTask(steps)
    settings = SimpleNamespace(steps=steps, batch=batch, log_every=100, checkpoint_every=500)
    folder.mkdir(parents=True, exist_ok=True)
    history = loop.fit(
        task,
        loader.Batches(x[:-held], goal[:-held], batch, "square", seed),
        settings,
        seed,
        folder,
        "cpu",
    )["history"]
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
