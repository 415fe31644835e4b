r"""Train LensNet anew on simulated lenses: python -m tools.train_lensnet FOLDER.

The published weights of version 2 come from this program, without changes of its numbers. Its card
names the processor and the torch that made them: there, one thread gives the same sha256 again. A
processor with AVX-512 adds in another order. It gives the same sha256 if it is held to AVX2:

    ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 \
    NPY_DISABLE_CPU_FEATURES="X86_V4 AVX512_ICL AVX512_SPR" python -m tools.train_lensnet FOLDER

A training that is stopped goes on when the command is given again. (Version 1 came from images of
lensnb 0.1's simulator, which today's simulator cannot draw.)
"""

import argparse
import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch.nn import functional as F

from lensnb import io
from lensnb.evaluation import lensnet
from lensnb.lensing.priors import PRIORS, Prior
from lensnb.lensing.simulate import joined, render
from lensnb.lensing.truth_tables import draw_truth
from lensnb.training import loader, loop

RATE = 2e-3  # learning rate
# The number of LensNet's first image. `simulate` counts from 0, so no recipe reaches this stream,
# whatever its seed: it would have to draw 3e18 images.
FIRST = 3 * 2**60
APART = 3 * 2**40  # between the first images of two priors
PHYSICAL = replace(PRIORS["broad"], cdm_slope=-1.9)  # subhalos as cold dark matter makes them
# name -> prior, and its share of the images. The broad prior gives the readings, too.
PRIORS_AND_SHARES: dict[str, tuple[Prior, float]] = {
    "broad": (PRIORS["broad"], 0.76),
    "physical": (PHYSICAL, 0.06),
    "deeplensesim-1": (PRIORS["deeplensesim-1"], 0.06),
    "deeplensesim-2": (PRIORS["deeplensesim-2"], 0.06),
    "deeplensesim-3": (PRIORS["deeplensesim-3"], 0.06),
}
PIXELS = io.read_json(lensnet.weights_of(1).with_suffix(".json"))["pixels"]  # of the broad prior
READ, LABEL = len(lensnet.READS), 1
COLUMNS = ("class", *lensnet.READS, *lensnet.ORIENTED)


class LensNetTask:
    """LensNet in the training loop: each image is turned by any angle, and half are mirrored."""

    def __init__(self, steps: int) -> None:
        self.net = lensnet.LensNet2()
        self.optimiser = torch.optim.AdamW(self.net.parameters(), RATE, weight_decay=0.01)
        self.rate = torch.optim.lr_scheduler.OneCycleLR(self.optimiser, RATE, steps)
        self.parts = {"net": self.net, "optimiser": self.optimiser, "rate": self.rate}

    def step(
        self, k: int, x: torch.Tensor, target: torch.Tensor, generator: torch.Generator
    ) -> dict[str, float]:
        """Update once with images x (B, 1, H, W); returns the losses.

        target (B, 1 + 5 + 10) : the class; the standardised readings and ORIENTED, or NaN
        """
        angle = 2 * torch.pi * torch.rand(len(x), generator=generator)
        mirror = 1 - 2 * torch.randint(2, (len(x),), generator=generator)
        label, readings, oriented = target.split([LABEL, READ, len(lensnet.ORIENTED)], dim=1)
        maps = self.net.maps(x, orthogonal(angle, mirror))
        logits, read = self.net.head(self.net.blind(maps)).split([lensnet.CLASSES, READ], dim=1)
        losses = {
            "class": F.cross_entropy(logits, label[:, 0].long()),
            "readings": squared_error(read, readings),
            "oriented": squared_error(
                self.net.oriented(maps), turned_targets(oriented, angle, mirror)
            ),
        }
        self.optimiser.zero_grad()
        sum(losses.values()).backward()
        self.optimiser.step()
        self.rate.step()
        return {name: loss.item() for name, loss in losses.items()}


def squared_error(found: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Mean squared error of the rows (B, K) whose truth is known, that is, not NaN."""
    known = ~true.isnan()
    return (torch.where(known, found - true, 0) ** 2).sum() / known.sum().clamp(min=1)


def orthogonal(angle: torch.Tensor, mirror: torch.Tensor) -> torch.Tensor:
    """Matrices (B, 2, 2): y changes its sign where mirror (B,) is -1, then a turn by angle (B,)."""
    cos = angle.cos()
    sin = angle.sin()
    return torch.stack([cos, -sin * mirror, sin, cos * mirror], dim=1).view(-1, 2, 2)


def turned_targets(
    oriented: torch.Tensor, angle: torch.Tensor, mirror: torch.Tensor
) -> torch.Tensor:
    """The columns ORIENTED (B, 10) of images that `orthogonal` has turned."""
    z = torch.view_as_complex(oriented.reshape(len(oriented), -1, 2))
    z = torch.where(mirror[:, None] < 0, z.conj(), z)
    m = torch.tensor([1] * len(lensnet.OFFSETS) + [2] * len(lensnet.STRETCHES))
    turn = torch.polar(torch.ones(len(z), len(m)), m * angle[:, None])
    return torch.view_as_real(z * turn).flatten(1)


def targets(truth: Mapping[str, Any]) -> torch.Tensor:
    """Truth columns as a tensor (N, 1 + 5 + 10) in their own units; the logarithm of snr."""
    t = {name: np.asarray(column, float) for name, column in truth.items()}
    columns = [t["class"], *(t[name] for name in lensnet.READS[:-1]), np.log(t["snr"])]
    columns += [t["source_x"] - t["x"], t["source_y"] - t["y"], t["x"], t["y"]]
    for size, phi in (
        ((1 - t["q"]) / (1 + t["q"]), t["phi"]),
        (t["gamma"], t["phi_gamma"]),
        ((1 - t["source_q"]) / (1 + t["source_q"]), t["source_phi"]),
    ):
        columns += [size * np.cos(2 * phi), size * np.sin(2 * phi)]
    return torch.from_numpy(np.stack(columns, axis=1)).float()


def stream(
    n: int, prior: Prior, number: int, seed: int
) -> tuple[torch.Tensor, dict[str, np.ndarray]]:
    """n images (n, 1, 64, 64) of LensNet's own stream in its units, and their truth.

    number : of the prior, whose images lie apart from those of the others
    """
    start = FIRST + number * APART
    images = []
    tables = []
    for at in range(0, n, 64):
        tables.append(draw_truth(min(64, n - at), prior, seed, start + at))
        images.append(render(tables[-1], prior))
    x = torch.cat(images)
    if x.shape[-1] != lensnet.LensNet.SIZE:
        size = (lensnet.LensNet.SIZE,) * 2
        x = F.interpolate(x, size, mode="bilinear", antialias=True)
    if prior.snr is None:  # of another unit than the broad prior
        x = (x - x.mean()) / x.std() * PIXELS["std"] + PIXELS["mean"]
    return x, joined(tables)


def drawn(n: int, seed: int, folder: Path) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """All images (N, 1, 64, 64), their targets (N, 16), and the prior of each; kept in `folder`."""
    parts = {}
    for number, (name, (prior, share)) in enumerate(PRIORS_AND_SHARES.items()):
        file = folder / f"{name}.pt"
        if not file.is_file():
            x, truth = stream(max(3, round(share * n)), prior, number, seed)
            target = targets(truth)
            if prior.snr is None:
                target[:, LABEL:] = torch.nan  # fixed lenses in another field of view
            with io.atomic(file, "wb") as opened:
                torch.save((x, target), opened)
        parts[name] = torch.load(file)
    x, target = (torch.cat(columns) for columns in zip(*parts.values(), strict=True))
    return x, target, [name for name, (some, _) in parts.items() for _ in some]


@torch.inference_mode()
def report(
    net: lensnet.LensNet2,
    x: torch.Tensor,
    target: torch.Tensor,
    mean: torch.Tensor,
    std: torch.Tensor,
) -> dict[str, Any]:
    """Accuracy of the class, and root-mean-square errors, on images x (N, 1, H, W) not seen before.

    mean, std (15,) : of the training images' readings and ORIENTED
    """
    said = []
    for some in x.split(256):
        maps = net.maps(some)
        said.append(torch.cat([net.head(net.blind(maps)), net.oriented(maps)], dim=1))
    logits, values = torch.cat(said).split([lensnet.CLASSES, len(COLUMNS) - LABEL], dim=1)
    found: dict[str, Any] = {
        "n": len(x),
        "accuracy": (logits.argmax(1) == target[:, 0]).float().mean().item(),
    }
    if not target.isnan().any():
        rms = ((values * std + mean - target[:, LABEL:]) ** 2).mean(0).sqrt()
        found |= {"rms": _named(rms), "prior_mean": _named(mean), "prior_std": _named(std)}
    return found


def _named(values: torch.Tensor) -> dict[str, float]:
    """Values (15,) under the names of the readings and of ORIENTED."""
    return dict(zip(COLUMNS[LABEL:], values.tolist(), strict=True))


def moments(target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation (15,) of the targets (N, 16) that are known.

    ORIENTED has no preferred direction: mean 0, and one deviation for both numbers of a pair.
    """
    known = target[~target.isnan().any(1), LABEL:]
    mean = known.mean(0)
    std = known.std(0)
    mean[READ:] = 0
    pairs = known[:, READ:].square().mean(0).view(-1, 2).mean(1).sqrt()
    std[READ:] = pairs.repeat_interleave(2)
    return mean, std


def retrain(
    folder: Path,
    n: int = 22000,
    held: float = 0.1,
    steps: int = 4500,
    batch: int = 32,
    seed: int = 2,
) -> dict[str, Any]:
    """Train LensNet on n simulated images without the share `held` of them.

    Writes weights, training log and card to `folder`; returns the card.
    """
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    x, target, priors = drawn(n, seed, folder)
    kept_back = torch.arange(len(x)) % round(1 / held) == 0
    mean, std = moments(target[~kept_back])
    goal = torch.cat([target[:, :LABEL], (target[:, LABEL:] - mean) / std], dim=1)
    torch.manual_seed(seed)
    task = LensNetTask(steps)
    settings = SimpleNamespace(steps=steps, batch=batch, log_every=100, checkpoint_every=100)
    batches = loader.Batches(x[~kept_back], goal[~kept_back], batch, "none", seed)
    history = loop.fit(task, batches, settings, seed, folder, "cpu")["history"]
    io.write_rows(folder / "lensnet-history.csv", history)
    weights = safetensors.torch.save(task.net.state_dict())
    with io.atomic(folder / lensnet.WEIGHTS.name, "wb") as file:
        file.write(weights)
    task.net.eval()
    reports = {}
    for name in PRIORS_AND_SHARES:
        rows = kept_back & torch.tensor([prior == name for prior in priors])
        reports[name] = report(task.net, x[rows], target[rows], mean, std)
    card = {
        "version": lensnet.VERSION,
        "licence": "MIT",
        "prior": "broad",
        "images": int((~kept_back).sum()),
        "steps": steps,
        "batch": batch,
        "seed": seed,
        "first_image": FIRST,
        "sha256": hashlib.sha256(weights).hexdigest(),
        "made_with": {"torch": torch.__version__, "processor": processor(), "threads": 1},
        "pixels": PIXELS,
        "held_out": reports.pop("broad"),
        "held_out_of": reports,
    }
    io.write_json(folder / lensnet.WEIGHTS.with_suffix(".json").name, card)
    for name in ("checkpoint.pt", *(f"{prior}.pt" for prior in PRIORS_AND_SHARES)):
        (folder / name).unlink(missing_ok=True)
    return card


def processor() -> str:
    """The name of this machine's processor, and the instructions that torch uses on it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train LensNet anew on simulated lenses.")
    parser.add_argument(
        "folder", type=Path, help="where lensnet.safetensors and lensnet.json are written"
    )
    print(json.dumps(retrain(parser.parse_args().folder), indent=1))
