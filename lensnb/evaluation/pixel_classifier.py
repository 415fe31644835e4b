"""Can a small convolutional network tell generated from real images by their pixels?

A classifier two-sample test (Lopez-Paz & Oquab 2017, arXiv:1610.06545): the network learns on one
half of the images and is tested on the other, then the other way round. It has no idea of lenses
and no blind spot by design: it sees gradients, checkerboards, orientation, correlated noise. What
it needs is images enough to learn from; it misses faults of a few images, and copies.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from lensnb.evaluation.workers import HERE, Workers

UNIT = "area under the curve"
MOST = 1000  # images on each side: about 6 s of one core
EPOCHS = 12
BATCH = 50
SIDE = 64  # larger images are averaged down to about this
Tree = dict[str, Any]


class PixelNet(nn.Module):
    """Images (N, 1, H, W) -> log odds (N,) that they are generated.

    The last layer sees where a feature lies, and its mean over the image beside.
    """

    WIDTHS = (8, 16, 24)

    def __init__(self, side: int) -> None:
        super().__init__()
        first, second, third = self.WIDTHS
        self.convs = nn.Sequential(
            nn.Conv2d(1, first, 5, stride=2, padding=2),
            nn.BatchNorm2d(first),
            nn.ReLU(),
            nn.Conv2d(first, second, 3, stride=2, padding=1),
            nn.BatchNorm2d(second),
            nn.ReLU(),
            nn.Conv2d(second, third, 3, stride=2, padding=1),
            nn.BatchNorm2d(third),
            nn.ReLU(),
        )
        cells = math.ceil(side / 8) ** 2
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(third * (cells + 1), 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Log odds (N,) of images (N, 1, H, W)."""
        h = self.convs(x)
        seen = torch.cat([h.flatten(1), h.mean((2, 3))], dim=1)
        return self.head(self.drop(seen))[:, 0]


def told_apart(
    made: np.ndarray, real: np.ndarray, seed: int = 0, folds: int = 2, workers: Workers = HERE
) -> Tree:
    """The tree of metrics.json for images made and real, (n, C, H, W) each: area under the curve.

    The first MOST images of both sides count. The floor is 1/2, which no image can move, and its
    error is that of equal sets (Mann & Whitney 1947). The error is the scatter of the tested
    images' placements (DeLong et al. 1988). Trained on the CPU: the seed fixes the bits. Each
    worker trains one of the networks.
    """
    n = min(len(made), len(real), MOST)
    sides = [_prepared(images[:n], real[:n]) for images in (made, real)]
    rng = np.random.default_rng(seed)
    parts = [np.array_split(rng.permutation(n), folds) for _ in sides]
    jobs = []
    for fold in range(folds):
        test = [x[part[fold]] for x, part in zip(sides, parts, strict=True)]
        rest = [
            x[np.concatenate(part[:fold] + part[fold + 1 :])]
            for x, part in zip(sides, parts, strict=True)
        ]
        jobs.append((rest, test, seed + fold))
    placed: list[list[np.ndarray]] = [[], []]
    for scores in workers.map(_scores, jobs):
        for side, values in enumerate(placements(*scores)):
            placed[side].append(values)
    above, below = (np.concatenate(values) for values in placed)
    value = float(above.mean())
    error = math.sqrt(above.var(ddof=1) / n + below.var(ddof=1) / n)
    chance = math.sqrt((2 * n + 1) / 12) / n
    return {
        "unit": UNIT,
        "n": n,
        "resample": "own",
        "seed": seed,
        "bootstrap": 0,
        "floors": 0,
        "value": value,
        "error": error,
        "floor": 0.5,
        "floor_error": chance,
        "z": (value - 0.5) / chance,
        "ratio": None,
        "deviations": [],
    }


def placements(made: np.ndarray, real: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of the other side's scores that each score beats: of made (n,) and of real (m,).

    Ties count half. The mean of the first is the area under the curve, that of the second is one
    less this area.
    """

    def below(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        ordered = np.sort(b)
        left = np.searchsorted(ordered, a, side="left")
        return (left + np.searchsorted(ordered, a, side="right")) / (2 * len(b))

    return below(made, real), below(real, made)


def _prepared(images: np.ndarray, real: np.ndarray) -> torch.Tensor:
    """Images (n, C, H, W) as float32 maps (n, 1, S, S) that show both ring and noise."""
    x, reference = (
        torch.tensor(np.asarray(i, np.float32)).mean(1, keepdim=True) for i in (images, real)
    )
    level = reference.median()
    spread = 1.4826 * (reference - level).abs().median()
    x = torch.asinh((x - level) / (spread if spread > 0 else 1.0))
    step = max(round(x.shape[-1] / SIDE), 1)
    return F.avg_pool2d(x, step) if step > 1 else x


def _scores(train: list[torch.Tensor], test: list[torch.Tensor], seed: int) -> list[np.ndarray]:
    """Log odds of both tested sets after training on two sets; the first is the generated one."""
    x = torch.cat(train)
    y = torch.cat([torch.full((len(part),), 1.0 - k) for k, part in enumerate(train)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = PixelNet(x.shape[-1]).train()
        steps = EPOCHS * math.ceil(len(x) / BATCH)
        adam = torch.optim.AdamW(net.parameters(), weight_decay=0.05)
        rate = torch.optim.lr_scheduler.OneCycleLR(adam, max_lr=4e-3, total_steps=steps)
        for _ in range(EPOCHS):
            for some in torch.randperm(len(x)).split(BATCH):
                if len(some) < 2:  # one image has no scatter to normalise by
                    rate.step()
                    continue
                adam.zero_grad()
                loss = F.binary_cross_entropy_with_logits(net(x[some]), y[some])
                loss.backward()
                adam.step()
                rate.step()
    net.eval()
    with torch.inference_mode():
        return [torch.cat([net(some) for some in part.split(256)]).numpy() for part in test]
