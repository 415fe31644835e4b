"""Does a generator repeat its training images? Nearest neighbours, compared with real images.

Images are compared as small smoothed maps under all eight symmetries of the square, so that noisy,
flipped and turned copies are found.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch

from lensnb.evaluation.uncertainty import share_error

RARE = 0.01  # share of real images below the threshold under which an image counts as a copy
# Most held-out images that fix the threshold; so many make RARE right to 0.2 %. Time grows as the
# square of their number.
YARDSTICK = 2500


def maps(images: Any, size: int = 16, chunk: int = 1024) -> torch.Tensor:
    """Images (N, C, H, W) as rows (N, size^2) of area means, each with mean 0 and length 1.

    float32; `chunk` images are read at a time.
    """
    grey = (
        torch.tensor(np.asarray(images[i : i + chunk], np.float32)).mean(dim=1, keepdim=True)
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


def blocks(images: Any, chunk: int = 1024) -> Iterator[torch.Tensor]:
    """The maps of images (N, C, H, W), `chunk` at a time: a memory map is read piecewise."""
    return (maps(images[at : at + chunk]) for at in range(0, len(images), chunk))


def nearest(
    rows: torch.Tensor,
    pool: Iterable[torch.Tensor],
    own: np.ndarray | None = None,
    chunk: int = 256,
) -> tuple[np.ndarray, np.ndarray]:
    """Distance to the nearest map of a pool and its index, for each map of `rows` (N, d).

    The distance is the least over all symmetries.
    pool : its maps, in blocks (m, d) that are read once
    own : the map of the pool that is the row's own image and does not count (N,), -1 for none
    Returns (N,) float64 and (N,) int64.
    """
    best = torch.full((len(rows),), -2.0)
    index = torch.zeros(len(rows), dtype=torch.int64)
    first = 0
    itself = torch.full((len(rows),), -1) if own is None else torch.as_tensor(own)
    for block in pool:
        turned = symmetric(block).flatten(0, 1)
        for some in torch.arange(len(rows)).split(chunk):
            # the cosine at the best symmetry: (n, m)
            cosine = (rows[some] @ turned.T).view(len(some), 8, len(block)).amax(1)
            here = (itself[some] >= first) & (itself[some] < first + len(block))
            cosine[here, itself[some][here] - first] = -1
            value, at = cosine.max(1)
            closer = some[value > best[some]]
            best[closer] = value[closer - some[0]]
            index[closer] = first + at[closer - some[0]]
        first += len(block)
    return (2 - 2 * best.double()).clamp(min=0).sqrt().numpy(), index.numpy()


def memorised(generated: np.ndarray, train: Any, heldout: Any, pairs: int = 8) -> dict[str, Any]:
    """How often images (n, C, H, W) lie closer to a training image than real images do.

    The measure of an image is a ratio: the distance to its nearest training image over the
    distance to its nearest held-out image. Held-out images themselves, at most YARDSTICK of them,
    give the usual ratio. It is not 1, because the larger pool is nearer to all images. A generated
    image below the RARE quantile of their ratios counts as a copy.
    Returns a tree with the `share` of copies and its standard error, the `floor`, n, the median
    ratio of generated and of real images, and the closest `pairs` as [generated index, training
    index, ratio]. The floor is the rate of false alarms. It is above RARE: the quantile of m
    ratios leaves (RARE (m - 1) + 1) / (m + 1) of other ratios below it on average.
    `train` and `heldout` are read once, a block at a time.
    """
    n = len(generated)
    most = min(len(heldout), YARDSTICK)
    own = np.arange(most) * len(heldout) // most  # evenly spread: files may be ordered by class
    usual_parts = np.array_split(own, most // 1024 + 1)
    rows = torch.cat([maps(generated), *(maps(heldout[some]) for some in usual_parts)])
    to_train, index = nearest(rows, blocks(train))
    to_held, _ = nearest(rows, blocks(heldout), np.concatenate([np.full(n, -1), own]))
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
