"""Every random stream has a seed of its own, derived from the run's seed and a purpose.

Two purposes never share a stream, and image i or step k can be drawn again without the others.
"""

from enum import IntEnum
from typing import Any

import numpy as np

from lensnb.noise import halves, philox

SEEDS = 2**32 - 1  # the last word of a counter that makes a seed, and no noise


class Purpose(IntEnum):
    """What a derived seed is for. A number must never change: it decides what is drawn."""

    BATCHES = 1  # order of the training images, by epoch
    UPDATES = 2  # noise, noise levels and dropout of a training step
    WEIGHTS = 3  # initial weights of a network
    IMAGES = 11  # noise of a generated image
    NOISE = 12  # noise added to an image
    POSTERIOR = 13  # noise of a draw of a posterior, by observation and draw
    TRACE = 14  # probes of a trace
    CHOOSE = 21  # which images are judged, and which are watched during training
    NON_LENSES = 31  # images without a lens
    WATCH = 41  # images that a training is watched with
    TRUTH = 51  # what a simulated image shows
    SUBHALOS = 52  # its dark substructure
    PHOTONS = 53  # its noise


def derived_seed(*keys: int) -> int:
    """An independent 63-bit seed for a tuple of whole numbers, such as (seed, purpose, step)."""
    return int(np.random.SeedSequence(keys).generate_state(1, np.uint64)[0] >> 1)


def image_seeds(seed: int, first: int, count: int, purpose: Purpose = Purpose.IMAGES) -> list[int]:
    """Seeds of the images first .. first + count - 1; each depends only on seed and number."""
    seeds: list[int] = seeds_of(seed, np.arange(first, first + count), purpose).tolist()
    return seeds


def seeds_of(seed: Any, index: np.ndarray, purpose: Purpose) -> np.ndarray:
    """An independent 63-bit seed for each image, int64 (n,).

    seed : a number, or one for each image (n,); index : the images' numbers (n,)
    """
    low, high = halves(index)
    own = np.full_like(low, purpose), np.full_like(low, SEEDS)
    key = halves(seed if isinstance(seed, np.ndarray) else [seed])
    words = philox((low, high, *own), (key[0], key[1]))
    seeds: np.ndarray = ((words[0] << 32 | words[1]) >> 1).astype(np.int64)
    return seeds
