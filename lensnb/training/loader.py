"""Batches of training images, flipped and turned; batch k depends on (seed, k) alone.

Images that fit stay on the device, so that a batch costs an index; others are read from their memory
map by workers that run ahead. Both give the same bits.
"""

import functools
import itertools

import numpy as np
import psutil
import torch
from torch.utils.data import DataLoader

from lensnb.errors import InputError
from lensnb.seeds import Purpose, derived_seed

FITS = 0.25  # share of the free memory that images may take to stay on the device
WORKERS = 2


@functools.lru_cache(maxsize=2)
def order(n, seed, epoch):
    """n images in the order of an epoch, (n,)."""
    return torch.randperm(
        n, generator=torch.Generator().manual_seed(derived_seed(seed, Purpose.BATCHES, epoch))
    )


class Batches:
    """Random batches of images (N, C, H, W), all on one device, and what belongs to them."""

    def __init__(self, images, context, batch, flips, seed):
        self.images = images
        self.context = context
        self.n = len(images)
        self.batch = batch
        self.flips = flips
        self.seed = seed
        if batch > self.n:
            raise InputError(
                f"batch {batch} is above the {self.n} training images; lower it or bring more images"
            )

    def rows(self, k):
        """Which images batch k has, (B,)."""
        place = range(k * self.batch, (k + 1) * self.batch)
        return torch.stack([order(self.n, self.seed, p // self.n)[p % self.n] for p in place])

    def pick(self, k, rows):
        """The images of batch k (B, C, H, W) on the device."""
        return self.images[rows.to(self.images.device)]

    def __call__(self, k, generator):
        """Batch k: images (B, C, H, W), and their context (B, K) or None."""
        rows = self.rows(k)
        x = self.pick(k, rows)
        x = turned(x, ways(self.flips, len(x), generator, x.device))
        return x, None if self.context is None else self.context[rows.to(self.context.device)]


class Mapped(Batches):
    """The same batches read from a .npy file by workers.

    index : which of the file's images are trained on (N,); forward : the scaling, user's units -> model units
    """

    def __init__(self, path, index, forward, device, context, batch, flips, seed):
        super().__init__(index, context, batch, flips, seed)
        self.reader = Reader(path, index, forward)
        self.device = device
        self.following = None
        self.ahead = None

    def pick(self, k, rows):
        """The images of batch k (B, C, H, W) on the device, read ahead where k follows the last one."""
        if k != self.following:
            following = (self.rows(j) for j in itertools.count(k))
            self.ahead = iter(
                DataLoader(
                    self.reader,
                    batch_size=None,
                    sampler=following,
                    num_workers=WORKERS,
                    generator=torch.Generator(),
                    pin_memory=self.device.type == "cuda",
                )
            )
        self.following = k + 1
        return next(self.ahead).to(self.device, non_blocking=True)


class Reader(torch.utils.data.Dataset):
    """Scaled images of a .npy file by their rows; each worker opens the file for itself."""

    def __init__(self, path, index, forward):
        self.path = path
        self.index = index
        self.forward = forward
        self.images = None

    def __getitem__(self, rows):
        if self.images is None:
            self.images = np.load(self.path, mmap_mode="r", allow_pickle=False)
        return self.forward(torch.from_numpy(self.images[self.index[rows.numpy()]]))


def source(dataset, context, settings, seed, device):
    """The Batches of a Dataset's training images for `settings`, a section of the recipe; context (N, K) of all images or None."""
    needed = 4 * len(dataset.train) * dataset.images[0].size
    hold = settings.hold
    if hold == "auto":
        hold = "device" if needed < FITS * free_memory(device) else "disk"
    context = None if context is None else context[dataset.train].to(device)
    rest = context, settings.batch, settings.flips, seed
    if hold == "disk":
        return Mapped(
            dataset.images.filename, dataset.train, dataset.scaling.forward, device, *rest
        )
    try:
        return Batches(on_device(dataset, device), *rest)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        raise InputError(
            f"hold device: {len(dataset.train)} training images take {needed / 2**30:.1f} GiB, more than is free on {device.type}; "
            "set train.hold and gan.hold to disk, which gives the same result"
        ) from None


def on_device(dataset, device, chunk=256):
    """All training images of a Dataset, scaled, on the device: with them alone in memory, and no second copy."""
    out = torch.empty((len(dataset.train), *dataset.images.shape[1:]), device=device)
    for at in range(0, len(out), chunk):
        out[at : at + chunk] = dataset.scaling.forward(
            torch.from_numpy(dataset.images[dataset.train[at : at + chunk]])
        )
    return out


def free_memory(device):
    """Bytes that are free on a device."""
    return (
        torch.cuda.mem_get_info(device)[0]
        if device.type == "cuda"
        else psutil.virtual_memory().available
    )


WAYS = {
    "none": (0,),
    "mirror": (0, 4),
    "square": tuple(range(8)),
}  # flips: which of the square's symmetries an image may take


def ways(flips, n, generator, device):
    """Which of the eight symmetries each of n images takes, (n,): quarter turns, from 4 on mirrored left to right after them."""
    allowed = torch.tensor(WAYS[flips], device=device)
    return allowed[torch.randint(len(allowed), (n,), generator=generator, device=device)]


def turned(x, ways):
    """Each image of x (B, C, H, W) under its symmetry, as of `ways`."""
    out = torch.empty_like(x)
    for way in ways.unique().tolist():
        some = torch.rot90(x[ways == way], way % 4, (2, 3))
        out[ways == way] = some.flip(3) if way >= 4 else some
    return out
