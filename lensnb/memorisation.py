"""Does a generator repeat its training images? Nearest neighbours, with what real images do as the yardstick.

Images are compared as small smoothed maps under all eight symmetries of the square, so that noisy,
flipped and turned copies are found.
"""

import numpy as np
import torch

RARE = 0.01     # share of real images that lie as close to a training image as what counts as a copy


def maps(images, size=16, chunk=1024):
    """Images (N, C, H, W) as rows (N, size^2) of area means, each at mean 0 and length 1; float32, `chunk` images at a time."""
    grey = (torch.tensor(np.asarray(images[i:i + chunk], np.float32)).mean(dim=1, keepdim=True) for i in range(0, len(images), chunk))
    small = torch.cat([torch.nn.functional.adaptive_avg_pool2d(some, size).flatten(1) for some in grey])
    small = small - small.mean(dim=1, keepdim=True)
    return small / small.norm(dim=1, keepdim=True).clamp(min=1e-12)


def symmetric(rows):
    """The eight flips and quarter turns of maps (N, size^2): (8, N, size^2)."""
    size = int(rows.shape[1] ** 0.5)
    square = rows.view(-1, size, size)
    turned = [torch.rot90(square, k, (1, 2)) for k in range(4)]
    return torch.stack([t.flatten(1) for s in turned for t in (s, s.flip(2))])


def nearest(rows, pool, chunk=256, skip_self=False):
    """Distance to and index of the nearest map of `pool` (M, d) for each map of `rows` (N, d), under any symmetry.

    skip_self : row i of both is the same image and does not count. Returns (N,) float64 and (N,) int64.
    """
    turned, found = symmetric(pool), []
    for at in range(0, len(rows), chunk):
        some = rows[at:at + chunk]
        likeness = torch.stack([some @ t.T for t in turned]).amax(0)            # (n, M): cosine of the best symmetry
        if skip_self:
            own = torch.arange(len(some))
            likeness[own, at + own] = -1
        found.append(likeness.max(dim=1))
    best, index = (torch.cat([getattr(f, key) for f in found]) for key in ("values", "indices"))
    return (2 - 2 * best.double()).clamp(min=0).sqrt().numpy(), index.numpy()


def memorised(generated, train, heldout, pairs=8):
    """How often images (n, C, H, W) lie closer to a training image than real images do.

    The measure of an image is the distance to its nearest training image over that to its nearest
    held-out one. Held-out images themselves say what is usual (the larger pool is nearer to all of
    them): an image below the RARE quantile of theirs counts as a copy. Returns a tree: `share` of
    copies, its standard error, `floor` (RARE, the rate of false alarms), n, the median ratio of
    generated and of real images, and the closest `pairs` as [generated index, training index, ratio].
    """
    train_maps, held_maps, made = maps(train), maps(heldout), maps(generated)
    to_train, index = nearest(made, train_maps)
    ratio = to_train / np.maximum(nearest(made, held_maps)[0], 1e-12)
    usual = nearest(held_maps, train_maps)[0] / np.maximum(nearest(held_maps, held_maps, skip_self=True)[0], 1e-12)
    threshold, n = float(np.quantile(usual, RARE)), len(ratio)
    share = float((ratio < threshold).mean())
    return {"share": share, "error": max(share * (1 - share) / n, 1 / n**2) ** 0.5, "floor": RARE, "n": n, "threshold": threshold,
            "ratio": float(np.median(ratio)), "real_ratio": float(np.median(usual)), "training_images": len(train_maps),
            "pairs": [[int(i), int(index[i]), float(ratio[i])] for i in np.argsort(ratio)[:pairs]]}
