"""The Frechet distance of two sets of images in one call, with its error and real-vs-real floor."""

from dataclasses import dataclass, fields

import numpy as np

from lensnb import metrics
from lensnb.devices import find_device, with_doubles
from lensnb.errors import InputError
from lensnb.evaluation import image_stats, uncertainty
from lensnb.evaluation.measures import LEAST, lensnet_features
from lensnb.evaluation.rows import Reference


@dataclass(frozen=True)
class Distance:
    """A distance and the real-vs-real floor (the same distance between two sets of real images).

    value, error : the distance and its standard error
    floor, floor_error : mean and scatter of the distance between real images
    z : how far the value is beyond the floor, in deviations of chance; None without any scatter
    ratio : value / floor; None if the floor is 0
    n : images on each side
    """

    value: float
    error: float
    floor: float
    floor_error: float
    z: float | None
    ratio: float | None
    n: int

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        floor = f"{self.floor:.1f} +- {self.floor_error:.1f}"
        beyond = "" if self.z is None else f"z = {self.z:.1f}, "
        if self.ratio is None:
            against = f"the real-vs-real floor is {floor}"
        else:
            against = f"{self.ratio:.1f} times the real-vs-real floor of {floor}"
        return f"{self.value:.1f} +- {self.error:.1f}, {against} ({beyond}n = {self.n})"


def frechet(
    made: np.ndarray,
    real: np.ndarray,
    seed: int = 0,
    times: int = 200,
    floors: int = 20,
    device: str = "auto",
) -> Distance:
    """Frechet distance of images `made` from images `real`, in the features of LensNet.

    made, real : images (N, C, H, W) and (M, C, H, W) in the same unit. The distance is in squared
        standard deviations of a real feature.
    seed : of all random draws; the same seed gives the same number.
    times, floors : resamplings behind the error, and real-vs-real draws behind the floor.
    device : where LensNet runs: auto, cpu or cuda.

    n = min(N, M // 3) images are compared on each side, because the bias of the distance depends
    on n. They are drawn at random. The reference is n of the real images; it fixes the units of the
    features. For the floor, n of the other real images (at least 2 n) are compared with it.
    Raises InputError for other shapes, too few images, pixels that are not finite, and real images
    that do not vary.
    """
    made = _checked("made", made)
    real = _checked("real", real)
    n = _images_a_side(made, real)
    rng = np.random.default_rng([seed, 3])
    chosen = made[np.sort(rng.permutation(len(made))[:n])]
    order = rng.permutation(len(real))
    reference = real[np.sort(order[:n])]
    if not reference.std(dtype=float) > 0:
        raise InputError("real: all pixels are the same, expected images that vary")
    where = with_doubles(find_device(device))
    rows = lensnet_features.make(Reference(reference, device=where))
    found = uncertainty.measure(
        metrics.frechet,
        rows(chosen),
        rows(reference),
        rows(real[np.sort(order[n:])]),
        "",
        times,
        floors,
        seed,
    )
    return Distance(**{part.name: found[part.name] for part in fields(Distance)})


def _images_a_side(made: np.ndarray, real: np.ndarray) -> int:
    """How many images are compared on each side; refuses sets that cannot be compared."""
    if made.shape[1:] != real.shape[1:]:
        raise InputError(
            f"made and real hold images of shapes {made.shape[1:]} and {real.shape[1:]}, "
            "expected the same channels and pixels"
        )
    n = min(len(made), len(real) // 3)
    if n < LEAST:
        raise InputError(
            f"found {len(made)} made and {len(real)} real images, expected at least {LEAST} made "
            f"and {3 * LEAST} real ones"
        )
    return n


def _checked(name: str, images: np.ndarray) -> np.ndarray:
    """Images as float32 (N, C, H, W), all finite."""
    images = np.asarray(images)
    if images.ndim != 4 or min(images.shape[1:]) < 1 or images.dtype.kind not in "fiu":
        raise InputError(
            f"{name} has shape {images.shape} and type {images.dtype}, expected images "
            "(N, C, H, W) of numbers"
        )
    image_stats.refuse_not_finite(images, f"{name}: ")
    return images.astype(np.float32)
