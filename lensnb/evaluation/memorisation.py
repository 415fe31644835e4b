"""Does a generator repeat its training images? Nearest neighbours, compared with real images.

Images are compared as small smoothed maps under all eight symmetries of the square, so that noisy,
flipped and turned copies are found.
"""

from typing import Any

import numpy as np
import torch

from lensnb.evaluation.uncertainty import share_error
from lensnb.evaluation.workers import HERE, Workers

RARE = 0.01  # share of real images below the threshold under which an image counts as a copy
# Most held-out images that fix the threshold; so many make RARE right to 0.2 %. Time grows as the
# square of their number.
YARDSTICK = 2500
BLOCK = 1024  # images of a pool that are compared at a time
CACHED = 256  # rows that are compared with them at a time on a CPU
AT_A_TIME = 8192  # and on other devices: 0.3 GiB of cosines


def maps(
    images: Any, size: int = 16, chunk: int = 1024, device: str | torch.device = "cpu"
) -> torch.Tensor:
    """Images (N, C, H, W) as rows (N, size^2) of area means, each with mean 0 and length 1.

    float32, on the device; `chunk` images are read at a time.
    """
    grey = (
        torch.tensor(np.asarray(images[i : i + chunk], np.float32), device=device).mean(
            dim=1, keepdim=True
        )
        for i in range(0, len(images), chunk)
    )
    small = torch.cat(
        [torch.nn.functional.adaptive_avg_pool2d(some, size).flatten(1) for some in grey]
    )
    small = small - small.mean(dim=1, keepdim=True)
    return small / small.norm(dim=1, keepdim=True).clamp(min=1e-12)


def symmetric(rows: torch.Tensor) -> torch.Tensor:
    """The eight flips and quarter turns of maps (N, size^2): (8, N, size^2)."""
    size = int(rows.shape[1] ** 0.5)
    square = rows.view(-1, size, size)
    turned = [torch.rot90(square, k, (1, 2)) for k in range(4)]
    return torch.stack([t.flatten(1) for s in turned for t in (s, s.flip(2))])


def nearest(
    rows: torch.Tensor,
    pool: Any,
    own: np.ndarray | None = None,
    chunk: int | None = None,
    workers: Workers = HERE,
) -> tuple[np.ndarray, np.ndarray]:
    """Distance to the nearest image of a pool and its index, for each map of `rows` (N, d).

    The distance is the least over all symmetries. It is sought where the rows are.
    pool : images (M, C, H, W), read once, BLOCK of them at a time
    own : the image of the pool that is the row's own and does not count (N,), -1 for none
    chunk : rows at a time
    Returns (N,) float64 and (N,) int64.
    """
    own = np.full(len(rows), -1) if own is None else own
    chunk = chunk or (CACHED if rows.device.type == "cpu" else AT_A_TIME)
    firsts = range(0, len(pool), BLOCK)
    jobs = ((rows, pool[at : at + BLOCK], torch.as_tensor(own - at), chunk) for at in firsts)
    best = torch.full((len(rows),), -2.0, device=rows.device)
    index = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
    for at, (value, here) in zip(firsts, workers.map(_nearest_in, jobs), strict=True):
        closer = value > best
        best = torch.where(closer, value, best)
        index = torch.where(closer, here + at, index)
    distance = (2 - 2 * best.cpu().double()).clamp(min=0).sqrt()
    return distance.numpy(), index.cpu().numpy()


def _nearest_in(
    rows: torch.Tensor, images: Any, own: torch.Tensor, chunk: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest cosine (N,) of each row with a map of these images, and its index (N,).

    On a GPU nothing waits for another block.
    """
    block = maps(images, size=int(rows.shape[1] ** 0.5), device=rows.device)
    turned = symmetric(block).flatten(0, 1).T  # (d, 8 m)
    itself = own.to(rows.device)[:, None] == torch.arange(len(block), device=rows.device)
    found = []
    for some, same in zip(rows.split(chunk), itself.split(chunk), strict=True):
        cosine = (some @ turned).view(len(some), 8, len(block)).amax(1)  # at the best symmetry
        found.append(cosine.masked_fill_(same, -1).max(1))
    value, index = (torch.cat(part) for part in zip(*found, strict=True))
    return value, index


def memorised(
    generated: np.ndarray,
    train: Any,
    heldout: Any,
    pairs: int = 8,
    device: str | torch.device = "cpu",
    workers: Workers = HERE,
) -> dict[str, Any]:
    """How often images (n, C, H, W) lie closer to a training image than real images do.

    The measure of an image is a ratio: the distance to its nearest training image over the
    distance to its nearest held-out image. Held-out images themselves, at most YARDSTICK of them,
    give the usual ratio. It is not 1, because the larger pool is nearer to all images. A generated
    image below the RARE quantile of their ratios counts as a copy.
    Returns a tree with the `share` of copies and its standard error, the `floor`, n, the median
    ratio of generated and of real images, and the closest `pairs` as [generated index, training
    index, ratio]. The floor is the rate of false alarms. It is above RARE: the quantile of m
    ratios leaves (RARE (m - 1) + 1) / (m + 1) of other ratios below it on average.
    `train` and `heldout` are read once, a block at a time. They are searched on the device; on a
    CPU by the workers.
    """
    n = len(generated)
    most = min(len(heldout), YARDSTICK)
    own = np.arange(most) * len(heldout) // most  # evenly spread: files may be ordered by class
    usual_parts = np.array_split(own, most // 1024 + 1)
    parts = [generated, *(heldout[some] for some in usual_parts)]
    rows = torch.cat([maps(part, device=device) for part in parts])
    to_train, index = nearest(rows, train, workers=workers)
    to_held, _ = nearest(rows, heldout, np.concatenate([np.full(n, -1), own]), workers=workers)
    ratio, usual = np.split(to_train / np.maximum(to_held, 1e-12), [n])
    threshold = float(np.quantile(usual, RARE))
    share = float((ratio < threshold).mean())
    return {
        "share": share,
        "error": share_error(share, n),
        "floor": (RARE * (most - 1) + 1) / (most + 1),
        "n": n,
        "threshold": threshold,
        "ratio": float(np.median(ratio)),
        "real_ratio": float(np.median(usual)),
        "training_images": len(train),
        "pairs": [[int(i), int(index[i]), float(ratio[i])] for i in np.argsort(ratio)[:pairs]],
    }
