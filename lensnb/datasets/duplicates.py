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
SMALL = 8  # pixels on a side of what is searched for near images
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

    Every training image that is near a held-out one at 8 x 8 pixels is compared with it at full
    size, under the eight symmetries of the square. A tree over `_symmetric` finds them: near copies
    are near there as well, however they are turned, and there are few numbers to search.
    """
    from scipy.spatial import cKDTree

    tree = cKDTree(
        np.concatenate([_symmetric(_shrunk(block)) for _, block in _blocks(images, train)])
    )
    found = set()
    for rows, block in _blocks(images, heldout):
        small = _shrunk(block)
        reach = np.sqrt([2 * NEAR**2 * SMALL**2 * _variance(image) for image in block])
        for i, place in enumerate(_symmetric(small)):
            others = train[np.sort(tree.query_ball_point(place, reach[i])).astype(int)]
            near = _near(images, block[i], small[i], reach[i], others)
            found |= {(int(rows[i]), k) for k in near}
    return sorted(found)


def _near(
    images: np.ndarray, image: np.ndarray, small: np.ndarray, reach: float, others: np.ndarray
) -> set[int]:
    """Which of these rows are near copies of an image, under any symmetry.

    small : the image at 8 x 8 pixels; reach : how far from it near copies lie there at most
    """
    found = set()
    turned = np.stack([_turned(small, k) for k in range(8)])  # (8, C, 8, 8)
    for rows, block in _blocks(images, others):
        apart = ((_shrunk(block)[:, None] - turned) ** 2).sum(axis=(2, 3, 4))  # (B, 8)
        for i, k in np.argwhere(apart <= reach**2):
            if int(rows[i]) not in found and _are_near(_turned(image, k), block[i]):
                found.add(int(rows[i]))
    return found


def _blocks(images: np.ndarray, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows, and the images there, a chunk at a time."""
    for chunk in chunks(len(rows), math.prod(images.shape[1:])):
        yield rows[chunk], images[rows[chunk]]


def _shrunk(images: np.ndarray) -> np.ndarray:
    """Images at SMALL x SMALL pixels (B, C, 8, 8)."""
    return resize(images.astype(np.float64), SMALL).astype(np.float32)


def _symmetric(small: np.ndarray) -> np.ndarray:
    """The part of images (B, C, 8, 8) that no symmetry of the square changes, (B, 10 C).

    It is an orthogonal projection, so that no two images are farther apart there.
    """
    mean = np.mean([_turned(small, k) for k in range(8)], axis=0)
    i, j = np.triu_indices(SMALL // 2)
    return (mean[..., i, j] * np.sqrt(np.where(i == j, 4, 8))).reshape(len(small), -1)


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
