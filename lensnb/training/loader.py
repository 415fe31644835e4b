"""Batches of training images, flipped and turned; batch k depends only on (seed, k).

Images that fit stay on the device, so that a batch costs an index. Others are read from their
memory map by workers that run ahead. Both ways give the same bits.
"""

import functools
import itertools
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import psutil
import torch
from torch.utils.data import DataLoader

from lensnb.datasets.dataset import Dataset
from lensnb.errors import InputError
from lensnb.kinds import KINDS
from lensnb.recipes.schema import Optimiser
from lensnb.seeds import Purpose, derived_seed

DEVICE_SHARE = 0.25  # share of the free memory that images may take to stay on the device
WORKERS = 2
AHEAD = 2 * WORKERS + 2  # batches that workers and their queue hold at a time, and some room
SHARED = Path("/dev/shm")  # where Linux keeps the memory that processes share
CPU = torch.device("cpu")


@functools.lru_cache(maxsize=4)
def epoch_order(n: int, seed: int, epoch: int, device: torch.device = CPU) -> torch.Tensor:
    """The random order of n images in an epoch, on a device (n,)."""
    generator = torch.Generator().manual_seed(derived_seed(seed, Purpose.BATCHES, epoch))
    order = torch.randperm(n, generator=generator)
    # from pinned memory a GPU fetches it while it works
    return (order.pin_memory() if device.type == "cuda" else order).to(device, non_blocking=True)


class Batches:
    """Random batches of images (N, C, H, W), all on one device, with their context (N, K) or None.

    batch : images in a batch; flips : a key of SYMMETRIES. Raises InputError for a batch above N.
    """

    def __init__(
        self, images: Any, context: torch.Tensor | None, batch: int, flips: str, seed: int
    ) -> None:
        self.images = images
        self.context = context
        self.n = len(images)
        self.batch = batch
        self.flips = flips
        self.seed = seed
        if batch > self.n:
            raise InputError(
                f"batch {batch} is above the {self.n} training images; "
                "lower it or bring more images"
            )

    def rows(self, k: int, device: torch.device = CPU) -> torch.Tensor:
        """The rows of the images in batch k, on a device (B,)."""
        epoch, first = divmod(k * self.batch, self.n)
        rows = epoch_order(self.n, self.seed, epoch, device)[first : first + self.batch]
        missing = self.batch - len(rows)
        if missing:
            rest = epoch_order(self.n, self.seed, epoch + 1, device)[:missing]
            rows = torch.cat([rows, rest])
        return rows

    def read(self, k: int) -> torch.Tensor:
        """The images of batch k (B, C, H, W) on the device."""
        return self.images[self.rows(k, self.images.device)]

    def __call__(
        self, k: int, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Batch k: images (B, C, H, W), flipped and turned, and their context (B, K) or None."""
        x = flipped_and_turned(self.read(k), self.flips, generator)
        if self.context is None:
            return x, None
        return x, self.context[self.rows(k, self.context.device)]


class MappedBatches(Batches):
    """The same batches, read from a file by workers."""

    def __init__(self, file: "MappedImages", device: torch.device, *rest: Any) -> None:
        """rest : context, batch, flips and seed of `Batches`."""
        super().__init__(file.index, *rest)
        self.file = file
        self.device = device
        self.workers = workers_for(4 * self.batch * file.pixels())
        self.next_k: int | None = None
        self.read_ahead: Iterator[torch.Tensor] = iter(())

    def read(self, k: int) -> torch.Tensor:
        """The images of batch k (B, C, H, W) on the device.

        They were read ahead if batch k - 1 came before; otherwise reading starts again at k.
        """
        if k != self.next_k:
            self.read_ahead = self._start_reading(k)
        self.next_k = k + 1
        return next(self.read_ahead).to(self.device, non_blocking=True)

    def _start_reading(self, k: int) -> Iterator[torch.Tensor]:
        """An iterator over the images of batches k, k + 1, ..., read ahead if there are workers."""
        return iter(
            DataLoader(
                self.file,
                batch_size=None,
                sampler=(self.rows(later) for later in itertools.count(k)),
                num_workers=self.workers,
                generator=torch.Generator(),
                pin_memory=self.device.type == "cuda",
            )
        )


class MappedImages(torch.utils.data.Dataset[torch.Tensor]):
    """Scaled images of a .npy file by their rows; each worker opens the file for itself.

    index : the rows of the file that are trained on (N,); forward : the scaling, from the user's
    units to model units
    """

    def __init__(
        self, path: str, index: np.ndarray, forward: Callable[[torch.Tensor], torch.Tensor]
    ) -> None:
        self.path = path
        self.index = index
        self.forward = forward
        self.images: np.ndarray | None = None

    def pixels(self) -> int:
        """How many numbers an image holds."""
        return math.prod(np.load(self.path, mmap_mode="r", allow_pickle=False).shape[1:])

    def __getitem__(self, rows: torch.Tensor) -> torch.Tensor:
        """The scaled images (B, C, H, W) of these rows of the index (B,)."""
        if self.images is None:
            self.images = np.load(self.path, mmap_mode="r", allow_pickle=False)
        return self.forward(torch.from_numpy(self.images[self.index[rows.numpy()]]))


def batches_of(
    dataset: Dataset,
    context: torch.Tensor | None,
    settings: Optimiser,
    seed: int,
    device: torch.device,
) -> Batches:
    """The Batches of a Dataset's training images.

    context : (N, K) of all images, or None; settings : the section of the recipe that trains.
    Raises InputError where the images are to stay on the device and do not fit.
    """
    needed = 4 * len(dataset.train) * dataset.images[0].size
    hold = settings.hold
    if hold == "auto":
        hold = "device" if needed < DEVICE_SHARE * free_memory(device) else "disk"
    context = None if context is None else context[dataset.train].to(device)
    rest = context, settings.batch, settings.flips, seed
    if hold == "disk":
        path = str(cast(np.memmap, dataset.images).filename)
        file = MappedImages(path, dataset.train, dataset.scaling.forward)
        return MappedBatches(file, device, *rest)
    try:
        return Batches(scaled_on_device(dataset, device), *rest)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        knobs = " and ".join(f"{kind.section}.hold" for kind in KINDS.values())
        raise InputError(
            f"hold device: {len(dataset.train)} training images take {needed / 2**30:.1f} GiB, "
            f"more than is free on {device.type}; "
            f"set {knobs} to disk, which gives the same result"
        ) from None


def scaled_on_device(dataset: Dataset, device: torch.device, chunk: int = 256) -> torch.Tensor:
    """All training images of a Dataset, scaled, on the device (N, C, H, W).

    `chunk` images are scaled at a time, so that no second copy of all images is in memory.
    """
    out = torch.empty((len(dataset.train), *dataset.images.shape[1:]), device=device)
    for first in range(0, len(out), chunk):
        images = dataset.images[dataset.train[first : first + chunk]]
        out[first : first + chunk] = dataset.scaling.forward(torch.from_numpy(images))
    return out


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def workers_for(batch_bytes: int) -> int:
    """How many workers read batches of this size ahead; 0 where shared memory has no room.

    Workers hand over batches in shared memory, of which a container often has 64 MB. They would
    wait for ever, or die, where it is full.
    """
    needed, free = AHEAD * batch_bytes, free_shared_memory()
    if free is None or needed <= free:
        return WORKERS
    print(
        f"hold disk: {SHARED} has {free / 2**20:.0f} MiB free, and workers need "
        f"{needed / 2**20:.0f} MiB; images are read without workers, with the same result",
        flush=True,
    )
    return 0


def free_shared_memory() -> int | None:
    """Bytes of memory that processes can still share; None where no folder tells."""
    return shutil.disk_usage(SHARED).free if SHARED.is_dir() else None


# Symmetries -------------------------------------------------------------------------------------

# flips -> the symmetries of the square that an image may take. A symmetry is a number: 0 to 3 are
# quarter turns; 4 to 7 are the same turns, then a mirroring from left to right.
SYMMETRIES = {"none": (0,), "mirror": (0, 4), "square": tuple(range(8))}


def flipped_and_turned(x: torch.Tensor, flips: str, generator: torch.Generator) -> torch.Tensor:
    """Each image of x (B, C, H, W) under a random symmetry, by one gather for all of them."""
    table = symmetry_table(flips, x.shape[2], x.shape[3], x.device)  # (S, H W)
    chosen = torch.randint(len(table), (len(x),), generator=generator, device=x.device)
    if len(table) == 1:  # nothing but the identity
        return x
    pixels = table[chosen][:, None].expand(-1, x.shape[1], -1)  # (B, C, H W)
    return x.flatten(2).gather(2, pixels).view(x.shape)


@functools.lru_cache(maxsize=4)
def symmetry_table(flips: str, height: int, width: int, device: torch.device) -> torch.Tensor:
    """Which pixel goes where: a row for each symmetry that `flips` allows, (S, H W)."""
    pixels = torch.arange(height * width).view(height, width)
    rows = []
    for symmetry in SYMMETRIES[flips]:
        turned = torch.rot90(pixels, symmetry % 4, (0, 1))
        rows.append((turned.flip(1) if symmetry >= 4 else turned).flatten())
    return torch.stack(rows).to(device)
