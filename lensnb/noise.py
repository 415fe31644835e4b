"""One generator for all noise: Philox 4x32-10, the same on every device.

A counter-based generator has no state. Each number is a function of its place: of the image's seed,
of the call (step) and of its place in the image. So image i is the same in any batch, the numbers
of a whole batch are computed at once, and they are computed where they are wanted.

Salmon, Moraes, Dror & Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3".
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

Words = Any  # 32-bit words in a uint64 array of numpy, or in an int64 tensor

MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
WEYL = 0x9E3779B9, 0xBB67AE85  # what the key grows by from round to round
ROUNDS = 10
LOW = 0xFFFFFFFF  # the low word of 64 bits
DRAWN = 0, 0  # key of all numbers; the seeds stand in the counter, so that no two blocks are equal

CACHED_BLOCKS = 2**13  # computed at once on a CPU: they stay in its cache
DEVICE_BLOCKS = 2**22  # and elsewhere: some 300 MB


def philox(counter: Sequence[Words], key: tuple[Any, Any]) -> tuple[Words, Words, Words, Words]:
    """Four random words for each counter, of four words, under a key of two.

    The words broadcast: they are arrays, tensors, or for the key numbers, and hold 0 .. 2^32 - 1.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        p0 = c0 * MULTIPLIERS[0]
        p1 = c2 * MULTIPLIERS[1]
        # c1 and c3 keep the high word of their product, and lose it in the next line's mask
        c0, c1, c2, c3 = ((p1 >> 32) ^ c1 ^ k0) & LOW, p1, ((p0 >> 32) ^ c3 ^ k1) & LOW, p0
        k0 = (k0 + WEYL[0]) & LOW
        k1 = (k1 + WEYL[1]) & LOW
    return c0, c1 & LOW, c2, c3 & LOW


def halves(numbers: Any) -> np.ndarray:
    """The low and the high words (2, B) of whole numbers (B,), of which 64 bits count."""
    if not isinstance(numbers, np.ndarray):
        numbers = np.array([int(number) % 2**64 for number in numbers], np.uint64)
    numbers = numbers.astype(np.uint64)
    return np.stack([numbers & LOW, numbers >> 32])


def uniforms(seeds: np.ndarray, count: int, step: int = 0) -> np.ndarray:
    """Numbers uniform in [0, 1), float64 (B, count) with 53 random bits.

    seeds : (2, B), of `halves`

    Number j of row i depends on (seeds[:, i], step, j) alone.
    """
    low, high = seeds[:, :, None]  # (B, 1) each
    blocks = np.arange((count + 1) // 2, dtype=np.uint64)[None]
    words = philox((blocks, np.full_like(blocks, step), low, high), DRAWN)
    pairs = [(a >> 5 << 26 | b >> 6) * 2.0**-53 for a, b in (words[:2], words[2:])]
    return np.stack(pairs, -1).reshape(len(low), -1)[:, :count]


def normals(seeds: Words, count: int, step: int = 0, precision: str = "float32") -> Any:
    """Standard normal numbers (B, count), an array or tensor like the seeds.

    seeds : (2, B), of `halves`; precision : float32 or float64, the same numbers to rounding

    Row i depends on (seeds[:, i], step, count) alone. The largest is 6.76, which one number in 1e11
    would exceed.
    """
    kind = torch if torch.is_tensor(seeds) else np
    at = {"device": seeds.device} if kind is torch else {}
    blocks = -(-count // 4)
    rows = seeds.shape[1]
    out = kind.empty((rows, 4, blocks), dtype=getattr(kind, precision), **at)
    index = kind.arange(blocks, dtype=seeds.dtype, **at)[None]
    calls = kind.full_like(index[:, :1], step)
    for some, part in _tiles(rows, blocks, DEVICE_BLOCKS if at else CACHED_BLOCKS):
        low, high = seeds[:, some, None]
        words = philox((index[:, part], calls, low, high), DRAWN)
        for g in (0, 2):
            _box_muller(words[g], words[g + 1], out[some, g : g + 2, part])
    return out.reshape(rows, 4 * blocks)[:, :count]


def _tiles(rows: int, columns: int, most: int) -> Iterator[tuple[slice, slice]]:
    """Tiles of at most `most` entries that cover rows x columns."""
    width = max(1, min(columns, most))
    height = max(1, most // width)
    for top in range(0, rows, height):
        for left in range(0, columns, width):
            yield slice(top, top + height), slice(left, left + width)


def _box_muller(a: Words, b: Words, out: Any) -> None:
    """Two words to two standard normal numbers, out[:, 0] and out[:, 1] (Box & Muller 1958).

    The radius is sqrt(-2 log u). u lies within 2^-33 and 1 - 2^-24, so that the radius is finite
    and its square positive whatever the rounding.
    """
    kind = torch if torch.is_tensor(out) else np
    radius = _as_float(a, out)
    radius *= 2.0**-32 * (1 - 2.0**-24)
    radius += 2.0**-33
    kind.log(radius, out=radius)
    radius *= -2
    kind.sqrt(radius, out=radius)
    angle = _as_float(b, out)
    angle *= 2 * math.pi * 2.0**-32
    kind.multiply(radius, kind.cos(angle), out=out[:, 0])
    kind.multiply(radius, kind.sin(angle), out=out[:, 1])


def _as_float(words: Words, like: Any) -> Any:
    return words.to(like.dtype) if torch.is_tensor(words) else words.astype(like.dtype)


class ImageNoise:
    """Standard normal noise with a seed of its own for each image.

    Image i is the same in any batch: the same bits on one device, and on any other to rounding.
    Each call draws fresh noise, as its number says.
    """

    def __init__(self, seeds: Iterable[int] | np.ndarray) -> None:
        self.seeds = halves(seeds)  # (2, B)
        self.calls = 0
        self._there: dict[torch.device, torch.Tensor] = {}  # the seeds on other devices

    def __call__(
        self,
        shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ) -> torch.Tensor:
        """Noise (B, *shape); `shape` is the shape of one image.

        float64 noise is that of float32 to more digits. Lower precisions are rounded from float32.
        """
        precision = "float64" if dtype == torch.float64 else "float32"
        seeds = self._seeds_on(torch.device(device))
        drawn = torch.as_tensor(normals(seeds, math.prod(shape), self.calls, precision))
        self.calls += 1
        return drawn.to(device, dtype).reshape(len(drawn), *shape)

    def like(self, x: torch.Tensor) -> torch.Tensor:
        """Noise of the shape, type and device of x (B, ...)."""
        return self(x.shape[1:], x.dtype, x.device)

    def _seeds_on(self, device: torch.device) -> Words:
        """The seeds where noise for a device is computed: there on CUDA, else by numpy.

        Elsewhere 64-bit integers may be missing; numpy is twice as fast as torch on a CPU.
        """
        if device.type != "cuda":
            return self.seeds
        if device not in self._there:
            words = torch.as_tensor(self.seeds.astype(np.int64))
            self._there[device] = words.to(device, non_blocking=True)
        return self._there[device]
