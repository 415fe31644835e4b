"""PQMass: do two sets of images fall into the same cells, as two draws of one distribution would?

Lemos et al. 2024 (arXiv:2402.04355). Some images are taken as centres, and every image belongs to
the cell of its nearest centre (Voronoi cells). If both sets have one distribution, their counts in
the cells differ by chance alone, which chi2 tests. No network and no summary of physics is asked.

Images are compared pixel by pixel, as asinh(pixels / standard deviation of real pixels): without
it, the few brightest pixels would decide every distance. Centres are real images; an image that is
a centre does not count in the cells of that tessellation.
"""

import functools
from typing import Any

import numpy as np

from lensnb.evaluation.rows import Fitted, Reference, Rows

TESSELLATIONS = 20  # each with other centres: one alone depends on which they are
CENTRES = 100  # most centres of a tessellation, as in the paper
PER_CENTRE = 10  # real images a centre, at least: fewer would leave cells empty
POOL = 256  # most images that centres are taken from
PERMUTATIONS = 400


def centres_for(n: int) -> int:
    """How many centres a tessellation has for n images on each side."""
    return int(np.clip(n // PER_CENTRE, 2, CENTRES))


@Fitted
def cells(reference: Reference) -> Rows:
    """The cell of each image in every tessellation, (N, TESSELLATIONS); -1 for a centre."""
    rng = np.random.default_rng(0)
    images = reference.images
    pool = images[np.sort(rng.permutation(len(images))[: min(POOL, len(images) // 2)])]
    size = min(centres_for(len(images)), len(pool))
    chosen = np.stack([rng.permutation(len(pool))[:size] for _ in range(TESSELLATIONS)])
    scale = float(reference.units.std)
    return functools.partial(_cells, pool=_scaled(pool, scale), chosen=chosen, scale=scale)


def _scaled(images: np.ndarray, scale: float) -> np.ndarray:
    return np.arcsinh(np.asarray(images, np.float32) / scale).reshape(len(images), -1)


def _cells(images: np.ndarray, pool: np.ndarray, chosen: np.ndarray, scale: float) -> np.ndarray:
    x = _scaled(images, scale)
    lengths = (x.astype(np.float64) ** 2).sum(1)
    apart = (pool.astype(np.float64) ** 2).sum(1) / 2 - x @ pool.T  # squared distance, up to |x|^2
    found = np.stack([apart[:, some].argmin(1) for some in chosen], axis=1)
    # only an image that is as near as rounding lets it be can be a centre itself
    near = np.flatnonzero(apart.min(1) + lengths / 2 <= 1e-4 * (lengths + 1))
    for i in near:
        itself = np.flatnonzero(np.abs(pool - x[i]).max(1) <= 1e-5)
        found[i, np.isin(chosen, itself).any(1)] = -1
    return found


def counts(cells_: np.ndarray, most: int) -> np.ndarray:
    """How many images each cell of each tessellation holds, (T, most), from cells (n, T)."""
    tessellations = cells_.shape[1]
    place = np.arange(tessellations) * (most + 1) + cells_ + 1  # -1 has a place of its own
    found = np.bincount(place.ravel(), minlength=tessellations * (most + 1))
    return found.reshape(tessellations, most + 1)[:, 1:]


def chi2(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """chi2 of counts a and b (..., cells) being of one distribution, and its degrees of freedom.

    Cells that are empty on both sides are left out.
    """
    both = a + b
    n, m = a.sum(-1, keepdims=True), b.sum(-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        terms = (a * np.sqrt(m / n) - b * np.sqrt(n / m)) ** 2 / both
    return np.nansum(terms, axis=-1), (both > 0).sum(-1) - 1


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """chi2 over degrees of freedom of cells a, b (n, T), averaged over tessellations: 1 if alike.

    It grows with n for sets that differ: compare at one n, as the floor does.
    """
    most = int(max(a.max(), b.max(), 1)) + 1
    found, freedom = chi2(counts(a, most), counts(b, most))
    return float(np.mean(found / np.maximum(freedom, 1)))


def by_permutations(
    a: np.ndarray, b: np.ndarray, times: int = PERMUTATIONS, seed: int = 0
) -> dict[str, Any]:
    """p of cells a (n, T) and b (m, T) being of one distribution, as the images shuffled say.

    The mean chi2 over all tessellations is compared with that of `times` random splits of all
    images into two sets, because tessellations are not independent. Returns chi2 and freedom, both
    means over tessellations, and p, which is never below 1 / (times + 1).
    """
    from scipy import sparse

    both = np.concatenate([a, b])
    rows, tessellations = both.shape
    most = int(max(both.max(), 1)) + 1
    place = (np.arange(tessellations) * most + both)[both >= 0]
    of_row = np.broadcast_to(np.arange(rows)[:, None], both.shape)[both >= 0]
    size = tessellations * most
    member = sparse.csr_array((np.ones(len(place)), (place, of_row)), shape=(size, rows))
    rng = np.random.default_rng([seed, 3])
    is_a = np.arange(rows) < len(a)
    splits = np.stack([is_a, *(rng.permutation(is_a) for _ in range(times))], axis=1)
    of_a = (member @ splits.astype(float)).T.reshape(-1, tessellations, most)
    total = np.asarray(member.sum(axis=1)).reshape(tessellations, most)
    found, freedom = chi2(of_a, total - of_a)
    mean = found.mean(1)
    beyond = int((mean[1:] >= mean[0] * (1 - 1e-12)).sum())
    return {
        "chi2": float(mean[0]),
        "freedom": float(np.mean(freedom[0])),
        "p": (1 + beyond) / (1 + times),
    }
