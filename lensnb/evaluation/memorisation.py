"""Does a generator repeat its training images? Nearest neighbours, compared with real images.

Images are compared as small smoothed maps, centred and under all eight symmetries of the square, so
that noisy, shifted, flipped and turned copies are found; and in the features of LensNet, so that
copies turned by any angle are found, too.
"""

import math
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
# Training images whose features are compared, at most; evenly spread.
MOST_READ = 20_000
IN_MEMORY = 1_200_000  # distances of features in memory
CACHED = 256  # maps that are compared with a block at a time on a CPU
AT_A_TIME = 8192  # and on other devices: 0.3 GiB of cosines


def maps(
    images: Any, size: int = 16, chunk: int = 256, device: str | torch.device = "cpu"
) -> torch.Tensor:
    """Images (N, C, H, W) as rows (N, size^2) of area means, each with mean 0 and length 1.

    The light is centred first, so that a shift makes no other image. float32, on the device;
    `chunk` images are read at a time.
    """
    grey = (
        torch.tensor(np.asarray(images[i : i + chunk], np.float32), device=device).mean(
            dim=1, keepdim=True
        )
        for i in range(0, len(images), chunk)
    )
    small = torch.cat(
        [torch.nn.functional.adaptive_avg_pool2d(centred(x), size).flatten(1) for x in grey]
    )
    small = small - small.mean(dim=1, keepdim=True)
    return small / small.norm(dim=1, keepdim=True).clamp(min=1e-12)


def centred(grey: torch.Tensor) -> torch.Tensor:
    """Images (N, 1, H, W) rolled by whole pixels, so that their bright light is in the middle.

    Bright is what lies above 0.3 of the way from the median to the maximum, after a 5 x 5 mean.
    """
    n, _, height, width = grey.shape
    smooth = torch.nn.functional.avg_pool2d(grey, 5, 1, 2, count_include_pad=False)[:, 0]
    level, top = smooth.flatten(1).median(1).values, smooth.amax((1, 2))
    light = (smooth - (0.7 * level + 0.3 * top)[:, None, None]).clamp(min=0)
    total = light.sum((1, 2)).clamp(min=1e-12)
    rows, columns = (torch.arange(side, device=grey.device) for side in (height, width))
    down = (light.sum(2) @ (rows - (height - 1) / 2) / total).round().long()
    right = (light.sum(1) @ (columns - (width - 1) / 2) / total).round().long()
    i = (rows + down[:, None]) % height
    j = (columns + right[:, None]) % width
    image = torch.arange(n, device=grey.device)[:, None, None]
    return grey[:, 0][image, i[:, :, None], j[:, None, :]][:, None]


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


def nearest_rows(
    rows: np.ndarray, pool: np.ndarray, own: np.ndarray | None = None, chunk: int = 256
) -> tuple[np.ndarray, np.ndarray]:
    """Distance (N,) of rows (N, d) to the nearest of a pool (M, d), and its index (N,).

    own : the pool's row that is the row itself and does not count (N,), -1 for none
    """
    own = np.full(len(rows), -1) if own is None else own
    there = torch.as_tensor(pool)
    chunk = min(chunk, max(IN_MEMORY // len(pool), 1))
    found = []
    for at in range(0, len(rows), chunk):
        some = torch.cdist(torch.as_tensor(rows[at : at + chunk]), there)
        same = torch.as_tensor(own[at : at + chunk])[:, None] == torch.arange(len(pool))
        found.append(some.masked_fill_(same, math.inf).min(1))
    distance, index = (torch.cat(part).numpy() for part in zip(*found, strict=True))
    return distance, index


def memorised(
    generated: np.ndarray,
    train: Any,
    heldout: Any,
    pairs: int = 8,
    device: str | torch.device = "cpu",
    workers: Workers = HERE,
    features: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
) -> dict[str, Any]:
    """How often images (n, C, H, W) lie closer to a training image than real images do.

    The measure of an image is a ratio: the distance to its nearest training image over the
    distance to its nearest held-out image. Held-out images themselves, at most YARDSTICK of them,
    give the usual ratio. It is not 1, because the larger pool is nearer to all images. A generated
    image below the RARE quantile of their ratios counts as a copy.
    features : rows (n, d), (m, d) and (k, d) of LensNet's features for generated, training and
        held-out images. The ratio is then the smaller of those by pixels and by features, the
        latter scaled so that both have the same RARE quantile. Training rows may be an evenly
        spread part of the training images.
    Returns a tree with the `share` of copies and its standard error, the `floor`, its error, `z`,
    n, the median ratio of generated and of real images, and the closest `pairs` as [generated
    index, training index, ratio]. The floor is the rate of false alarms. It is above RARE: the
    quantile of m ratios leaves (RARE (m - 1) + 1) / (m + 1) of other ratios below it on average.
    `train` and `heldout` are read once, a block at a time. They are searched on the device; on a
    CPU by the workers.
    """
    n = len(generated)
    most = min(len(heldout), YARDSTICK)
    own = np.arange(most) * len(heldout) // most  # evenly spread: files may be ordered by class
    usual_parts = np.array_split(own, most // 1024 + 1)
    parts = [generated, *(heldout[some] for some in usual_parts)]
    rows = torch.cat([maps(part, device=device) for part in parts])
    itself = np.concatenate([np.full(n, -1), own])
    to_train, index = nearest(rows, train, workers=workers)
    to_held, _ = nearest(rows, heldout, itself, workers=workers)
    both = to_train / np.maximum(to_held, 1e-12)
    if features is not None:
        both, index = _closer_of_two(both, index, features, itself, len(train))
    ratio, usual = np.split(both, [n])
    threshold = float(np.quantile(usual, RARE))
    hits = int((ratio < threshold).sum())
    return chance(hits, n, most) | {
        "n": n,
        "threshold": threshold,
        "ratio": float(np.median(ratio)),
        "real_ratio": float(np.median(usual)),
        "training_images": len(train),
        "pairs": [[int(i), int(index[i]), float(ratio[i])] for i in np.argsort(ratio)[:pairs]],
    }


def _closer_of_two(
    by_pixels: np.ndarray,
    index: np.ndarray,
    features: tuple[np.ndarray, np.ndarray, np.ndarray],
    itself: np.ndarray,
    training: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The smaller ratio (N,) of pixels and features, and the training image (N,) behind it.

    itself : which held-out row each row is (N,), -1 for generated ones
    """
    made, train, held = features
    n = len(made)
    rows = np.concatenate([made, held[itself[n:]]])
    to_train, nearer = nearest_rows(rows, train)
    to_held, _ = nearest_rows(rows, held, itself)
    ratio = to_train / np.maximum(to_held, 1e-12)
    at_pixels, at_features = (np.quantile(r[n:], RARE) for r in (by_pixels, ratio))
    ratio *= at_pixels / max(at_features, 1e-12)
    index = np.where(ratio < by_pixels, part_of(training)[nearer], index)
    return np.minimum(ratio, by_pixels), index


def part_of(training: int) -> np.ndarray:
    """Numbers of the training images whose features are compared: all, or MOST_READ of them."""
    most = min(training, MOST_READ)
    return np.arange(most) * training // max(most, 1)


def chance(hits: int, n: int, m: int) -> dict[str, float]:
    """share, error, floor, floor_error and z of `hits` copies among n, by the ratios of m images.

    The error counts the scatter of the threshold, the RARE quantile of m numbers, beside that of
    the n. If nothing is copied, the share below that quantile follows a beta distribution and the
    hits a beta-binomial one (Wilks 1941); z is as rare as they are, ties counted half.
    """
    from scipy import stats

    share = hits / n
    rank = RARE * (m - 1) + 1  # of the quantile, as numpy interpolates it
    usual = stats.betabinom(n, rank, m + 1 - rank)
    floor = rank / (m + 1)
    by_threshold = min(share, floor) / math.sqrt(RARE * m)
    rarer = usual.sf(hits) + usual.pmf(hits) / 2
    return {
        "share": share,
        "error": math.hypot(share_error(share, n), by_threshold),
        "floor": floor,
        "floor_error": float(usual.std()) / n,
        "z": float(stats.norm.isf(min(max(rarer, 1e-300), 1 - 1e-16))),
    }


def as_measure(found: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    """The tree of metrics.json, key `copies`, of what `memorised` found."""
    value, error, floor, floor_error, z = (
        found[name] for name in ("share", "error", "floor", "floor_error", "z")
    )
    sides = {"generated": (value, error), "real": (floor, floor_error)}
    part = {whose: {"value": v, "error": e} for whose, (v, e) in sides.items()}
    return {
        "unit": "share",
        "n": found["n"],
        "resample": "own",
        "seed": seed,
        "bootstrap": 0,
        "floors": 0,
        "value": value,
        "error": error,
        "floor": floor,
        "floor_error": floor_error,
        "z": z,
        "ratio": value / floor,
        "deviations": [],
        "group": "features",
        "larger_is_better": False,
        "parts": {"copies": {"unit": "share", **part, "z": z}},
    }
