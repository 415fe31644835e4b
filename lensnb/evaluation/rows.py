"""From images to rows of numbers: on the device, in worker processes, or here.

A maker is a function from images (N, C, H, W) to rows (N, d). `Fitted` makers take their units,
bins and levels from the reference images first.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lensnb.evaluation import finder, image_stats, lensnet
from lensnb.evaluation.workers import HERE, Workers

CHUNK = 256  # images that a worker measures at a time
DEVICE_CHUNK = 1024  # images at a time on a device that is no CPU
SHARED = 4_200_000  # pixels up to which measures share what they have in common, in memory
SOME = 512  # images that tell whether all show lenses

Rows = Callable[[np.ndarray], np.ndarray]  # images (N, C, H, W) -> rows (N, d)


class Reference:
    """The real images that fix all units, bins and levels before anything is measured.

    images : (N, C, H, W); inception : the weights of Inception, or None to do without it
    device : where networks run; workers : who measures many images, if the device is a CPU
    reader : LensNet in the units of these images
    """

    def __init__(
        self,
        images: np.ndarray,
        inception: str | None = None,
        device: str | torch.device = "cpu",
        workers: Workers = HERE,
    ) -> None:
        self.images = images
        self.inception = inception
        self.device = torch.device(device)
        self.workers = workers
        self.units = lensnet.Units(images)
        self.reader = lensnet.Reader(self.units, lensnet.load(device))

    def rows(self, make: Rows) -> np.ndarray:
        """The rows (N, d) of the reference images, by a maker that works on the device."""
        return rows_of([make], self.images, *self.by_networks)[0]

    @property
    def by_networks(self) -> tuple[Workers, int]:
        """Who calls makers that work on the device, and for how many images at a time."""
        is_cpu = self.device.type == "cpu"
        return (self.workers, CHUNK) if is_cpu else (HERE, DEVICE_CHUNK)

    @functools.cached_property
    def said(self) -> dict[str, np.ndarray]:
        """What LensNet says of these images, read once: `features`, `oriented` and `table`."""
        names = ("features", "oriented", "table")
        makers = [getattr(self.reader, name) for name in names]
        found = rows_of(makers, self.images, *self.by_networks)
        return dict(zip(names, found, strict=True))

    @functools.cached_property
    def shows_lenses(self) -> bool:
        """Whether the finder, which knows lenses only, finds half of the images or more.

        SOME images tell, evenly spread.
        """
        net = finder.load(self.device)
        found = functools.partial(finder.found, units=self.units, net=net)
        some = self.images[:: math.ceil(len(self.images) / SOME)]
        return bool(rows_of([found], some, *self.by_networks)[0].mean() >= 0.5)

    @functools.cached_property
    def edges(self) -> np.ndarray:
        """Edges of the bins of pixel intensity."""
        return image_stats.intensity_edges(self.images)


def rows_of(
    makers: Sequence[Rows], images: Any, workers: Workers = HERE, chunk: int = CHUNK
) -> list[np.ndarray]:
    """The rows (N, d) of images (N, C, H, W) for each maker; workers measure `chunk` at a time."""
    jobs = ((makers, images[at : at + chunk]) for at in range(0, len(images), chunk))
    parts = workers.map(_rows_of_some, jobs)
    return [np.concatenate(found) for found in zip(*parts, strict=True)]


def _rows_of_some(makers: Sequence[Rows], images: np.ndarray) -> list[np.ndarray]:
    few = images.size <= SHARED
    with image_stats.sharing() if few else contextlib.nullcontext():
        return [make(images) for make in makers]


@dataclass(frozen=True)
class Fitted:
    """Rows or a distance that the reference images fix first: `make(reference)` returns them.

    Use it as a decorator of `make`. Worker processes get a copy of the rows: what they hold on to
    should not be the reference with all its images.
    on_device : whether the rows are computed on the reference's device
    """

    make: Callable[[Reference], Callable[..., Any]]
    on_device: bool = False


def on_device(make: Callable[[Reference], Callable[..., Any]]) -> Fitted:
    """A decorator: `Fitted` rows that are computed on the reference's device."""
    return Fitted(make, on_device=True)


def fit(part: Any, reference: Reference) -> Any:
    """The function behind rows or a distance, fitted to the reference images where it must be."""
    return part.make(reference) if isinstance(part, Fitted) else part


def all_rows(
    makers: Mapping[str, Rows], networks: Collection[str], images: Any, reference: Reference
) -> dict[str, np.ndarray]:
    """Name -> rows (N, d) of images (N, C, H, W); rows of a shared maker are one array.

    networks : the names of those that work on the device
    """
    found: dict[Rows, np.ndarray] = {}
    groups = {True: reference.by_networks, False: (reference.workers, CHUNK)}
    if reference.device.type == "cpu":
        networks = makers.keys()  # all in one go
    for is_network, (workers, chunk) in groups.items():
        some = {make: None for name, make in makers.items() if (name in networks) == is_network}
        if some:
            found |= zip(some, rows_of(list(some), images, workers, chunk), strict=True)
    return {name: found[make] for name, make in makers.items()}
