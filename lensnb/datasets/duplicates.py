"""Images that belong together, so that none of them is trained on while another is held out.

They are copies to the bit, near copies, and images of one group that the recipe names. A near copy
differs by less than a fiftieth of an image's contrast, perhaps turned by quarters or mirrored:
the same picture saved again with a little loss, or an augmented set.
"""

import hashlib
import math
from collections.abc import Iterator

import numpy as np

from lensnb.datasets.pixels import chunks, resize

NEAR = 0.02  # rms difference of near copies over the standard deviation of the image
SMALL = 8  # pixels on a side of what is searched for the nearest image
ROUNDS = 5  # splits that are tried; each finds copies that the one before has parted


def exact(images: np.ndarray) -> np.ndarray:
    """A number for each image (N,): the row of the first image with the same bits."""
    first: dict[bytes, int] = {}
    same = np.empty(len(images), int)
    for chunk in chunks(len(images), math.prod(images.shape[1:])):
        for row, image in enumerate(images[chunk], start=chunk.start):
            digest = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
            same[row] = first.setdefault(digest, row)
    return same


def joined(same: np.ndarray, other: np.ndarray | list[tuple[int, int]]) -> np.ndarray:
    """Groups (N,) of images that are connected in `same` or in `other`.

    same : group of each image (N,); other : another (N,) of any values, or pairs of rows.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    n = len(same)
    pairs = [(_first_of(same), np.arange(n))]
    if isinstance(other, list):
        pairs.append((np.array([a for a, _ in other], int), np.array([b for _, b in other], int)))
    else:
        pairs.append((_first_of(other), np.arange(n)))
    rows, columns = (np.concatenate(part) for part in zip(*pairs, strict=True))
    graph = coo_matrix((np.ones(len(rows), bool), (rows, columns)), (n, n))
    return connected_components(graph, directed=False)[1]


def _first_of(values: np.ndarray) -> np.ndarray:
    """For each entry the row of the first entry with its value (N,)."""
    _, first, index = np.unique(values, return_index=True, return_inverse=True)
    return first[index]


def near_pairs(images: np.ndarray, train: np.ndarray, heldout: np.ndarray) -> list[tuple[int, int]]:
    """Rows (held out, training) of near copies on both sides of a split.

    For each held-out image and each of the eight symmetries of the square, the nearest training
    image at 8 x 8 pixels is compared at full size.
    """
    held = np.concatenate(list(_shrunk(images, heldout)))  # (M, C, 8, 8)
    best = np.full((8, len(held)), np.inf, np.float32)
    nearest = np.zeros((8, len(held)), int)
    start = 0
    for small in _shrunk(images, train):
        known = small.reshape(len(small), -1)
        for k in range(8):
            asked = _turned(held, k).reshape(len(held), -1)
            apart = (asked**2).sum(1)[:, None] + (known**2).sum(1) - 2 * asked @ known.T
            at = apart.argmin(axis=1)
            value = apart[np.arange(len(held)), at]
            closer = value < best[k]
            best[k][closer] = value[closer]
            nearest[k][closer] = train[start + at[closer]]
        start += len(small)
    found = {
        (int(row), int(nearest[k, i]))
        for i, row in enumerate(heldout)
        for k in range(8)
        if best[k, i] <= 2 * NEAR**2 * SMALL**2 * _variance(images[row])
        and _are_near(_turned(images[row], k), images[nearest[k, i]])
    }
    return sorted(found)


def _shrunk(images: np.ndarray, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Images of these rows at SMALL x SMALL pixels (B, C, 8, 8), a chunk at a time."""
    for chunk in chunks(len(rows), math.prod(images.shape[1:])):
        yield resize(images[rows[chunk]].astype(np.float64), SMALL).astype(np.float32)


def _turned(x: np.ndarray, symmetry: int) -> np.ndarray:
    """Images (..., H, H) under one of the symmetries of the square, 0 to 7."""
    x = np.rot90(x, symmetry % 4, (-2, -1))
    return x[..., ::-1] if symmetry >= 4 else x


def _variance(image: np.ndarray) -> float:
    """Sum over the bands of the variance of an image (C, H, H)."""
    return float(image.astype(float).var(axis=(1, 2)).sum())


def _are_near(a: np.ndarray, b: np.ndarray) -> bool:
    apart = ((a.astype(float) - b) ** 2).mean(axis=(1, 2)).sum()
    return bool(apart <= NEAR**2 * _variance(b))
