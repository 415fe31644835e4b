"""Does a generator repeat its training images? Nearest neighbours, with what real images do as the yardstick.

Images are compared as small smoothed maps under all eight symmetries of the square, so that noisy,
flipped and turned copies are found.
"""

import numpy as np
import torch

RARE = 0.01  # share of real images that lie as close to a training image as what counts as a copy
YARDSTICK = 2500  # held-out images at most that say what is usual, RARE to 0.2 %: more would let the time grow as their square


def maps(images, size=16, chunk=1024):
    """Images (N, C, H, W) as rows (N, size^2) of area means, each at mean 0 and length 1; float32, `chunk` images at a time."""
    grey = (
        torch.tensor(np.asarray(images[i : i + chunk], np.float32)).mean(dim=1, keepdim=True)
        for i in range(0, len(images), chunk)
    )
    small = torch.cat(
        [torch.nn.functional.adaptive_avg_pool2d(some, size).flatten(1) for some in grey]
    )
    small = small - small.mean(dim=1, keepdim=True)
    return small / small.norm(dim=1, keepdim=True).clamp(min=1e-12)


def symmetric(rows):
    """The eight flips and quarter turns of maps (N, size^2): (8, N, size^2)."""
    size = int(rows.shape[1] ** 0.5)
    square = rows.view(-1, size, size)
    turned = [torch.rot90(square, k, (1, 2)) for k in range(4)]
    return torch.stack([t.flatten(1) for s in turned for t in (s, s.flip(2))])


def blocks(images, chunk=1024):
    """The maps of images (N, C, H, W), `chunk` of them at a time: a memory map is read as it goes."""
    return (maps(images[at : at + chunk]) for at in range(0, len(images), chunk))


def nearest(rows, pool, own=None, chunk=256):
    """Distance to and index of the nearest map of a pool for each map of `rows` (N, d), under any symmetry.

    pool : its maps, in blocks (m, d) that are gone through once; own : which map of the pool is the row's
    own image and does not count (N,), -1 for none. Returns (N,) float64 and (N,) int64.
    """
    best = torch.full((len(rows),), -2.0)
    index = torch.zeros(len(rows), dtype=torch.int64)
    first = 0
    own = torch.full((len(rows),), -1) if own is None else torch.as_tensor(own)
    for block in pool:
        turned = symmetric(block).flatten(0, 1)
        for some in torch.arange(len(rows)).split(chunk):
            likeness = (
                (rows[some] @ turned.T).view(len(some), 8, len(block)).amax(1)
            )  # (n, m): cosine of the best symmetry
            here = (own[some] >= first) & (own[some] < first + len(block))
            likeness[here, own[some][here] - first] = -1
            value, at = likeness.max(1)
            closer = some[value > best[some]]
            best[closer] = value[closer - some[0]]
            index[closer] = first + at[closer - some[0]]
        first += len(block)
    return (2 - 2 * best.double()).clamp(min=0).sqrt().numpy(), index.numpy()


def memorised(generated, train, heldout, pairs=8):
    """How often images (n, C, H, W) lie closer to a training image than real images do.

    The measure of an image is the distance to its nearest training image over that to its nearest
    held-out one. Held-out images themselves, YARDSTICK of them at most, say what is usual (the larger pool is
    nearer to all of them): an image below the RARE quantile of theirs counts as a copy. Returns a tree: `share` of
    copies, its standard error, `floor` (the rate of false alarms: above RARE, since the quantile of m of them leaves
    (RARE (m - 1) + 1) / (m + 1) of others below it on average), n, the median ratio of generated and of real
    images, and the closest `pairs` as [generated index, training index, ratio].
    `train` and `heldout` are read once, a block at a time.
    """
    n = len(generated)
    most = min(len(heldout), YARDSTICK)
    own = np.arange(most) * len(heldout) // most  # evenly spread: files may be ordered by class
    rows = torch.cat(
        [maps(generated), *(maps(heldout[some]) for some in np.array_split(own, most // 1024 + 1))]
    )
    to_train, index = nearest(rows, blocks(train))
    to_held, _ = nearest(rows, blocks(heldout), np.concatenate([np.full(n, -1), own]))
    ratio, usual = np.split(to_train / np.maximum(to_held, 1e-12), [n])
    threshold = float(np.quantile(usual, RARE))
    share = float((ratio < threshold).mean())
    return {
        "share": share,
        "error": max(share * (1 - share) / n, 1 / n**2) ** 0.5,
        "floor": (RARE * (most - 1) + 1) / (most + 1),
        "n": n,
        "threshold": threshold,
        "ratio": float(np.median(ratio)),
        "real_ratio": float(np.median(usual)),
        "training_images": len(train),
        "pairs": [[int(i), int(index[i]), float(ratio[i])] for i in np.argsort(ratio)[:pairs]],
    }
