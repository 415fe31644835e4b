"""The measures in the features of networks: LensNet, the lens finder, Inception."""

import functools
import itertools
from typing import Any

import numpy as np

from lensnb import metrics
from lensnb.evaluation import (
    finder,
    fixed_pixels,
    inception,
    lensnet,
    pixel_classifier,
    pqmass,
    uncertainty,
    usefulness,
)
from lensnb.evaluation.measure import MEASURES, MOST, REAL_STD, Distance, Measure, of_lenses
from lensnb.evaluation.morphology import mean_vector, wasserstein_columns, wasserstein_worst
from lensnb.evaluation.rows import Reference, Rows, on_device
from lensnb.lensing.priors import CLASSES
from lensnb.two_sample import two_sample

FEATURE_STD = "standard deviations of a real feature, squared"
PAIRS = tuple(itertools.combinations(range(len(lensnet.READS)), 2))
# Units of what LensNet reads; its lengths are those of the prior that it was trained on.
READ_UNITS = dict(zip(lensnet.READS, ("arcsec", "1", "1", "arcsec", "1"), strict=True))
FAR = 4  # standard deviations beyond which a reading counts no more in a product of two


@on_device
def lensnet_features(reference: Reference) -> Rows:
    """LensNet's features in standard deviations of the reference: (N, <= 64).

    A dead feature divided by its scatter would outweigh all others, so it is left out.
    """
    features = reference.reader.features
    std = reference.said["features"].std(axis=0)
    alive = std > 1e-3 * std.max()
    return lambda images: features(images)[:, alive] / std[alive]


@on_device
def lensnet_oriented(reference: Reference) -> Rows:
    """What LensNet reads that turns with the lens, in deviations of the reference: (N, 10)."""
    oriented = reference.reader.oriented
    std = reference.said["oriented"].std(axis=0)
    return lambda images: oriented(images) / std


@on_device
def lensnet_readings(reference: Reference) -> Rows:
    """The lens parameters that LensNet reads off: (N, 5), columns lensnet.READS."""
    readings = reference.reader.readings

    def rows(images: np.ndarray) -> np.ndarray:
        read = readings(images)
        return np.stack([read[name] for name in lensnet.READS], axis=1)

    return rows


@on_device
def pairs_of_readings(reference: Reference) -> Rows:
    """Products of two standardised readings, whose mean is a correlation: (N, 10)."""
    read = lensnet_readings.make(reference)
    real = reference.said["table"][:, 1:]
    mean = real.mean(axis=0)
    std = real.std(axis=0)
    first, second = np.array(PAIRS).T

    def rows(images: np.ndarray) -> np.ndarray:
        scaled = ((read(images) - mean) / np.where(std > 0, std, 1)).clip(-FAR, FAR)
        return scaled[:, first] * scaled[:, second]

    return rows


@on_device
def class_read(reference: Reference) -> Rows:
    """Which class LensNet reads: (N, classes), 1 for that class and 0 for others."""
    read = reference.reader.readings
    return lambda images: np.eye(len(CLASSES))[read(images)["class"]]


@on_device
def found_by_finder(reference: Reference) -> Rows:
    """Whether the lens finder finds a lens: (N, 1) bool."""
    net = finder.load(reference.device)
    units = reference.units
    return lambda images: finder.found(images, units, net)[:, None]


@on_device
def inception_features(reference: Reference) -> Rows:
    """Inception's features: (N, 2048)."""
    device = reference.device
    net = inception.load(reference.inception, device)
    low = float(reference.images.min())
    high = float(reference.images.max())
    return functools.partial(inception.features, low=low, high=high, net=net, device=device)


def has_inception(reference: Reference) -> bool:
    """Whether the recipe names Inception's weights."""
    return bool(reference.inception)


def area_under_curve(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Area under the curve of `two_sample.two_sample` and its standard error.

    40 permutations give the error to an eighth; the p-value is not used.
    """
    found = two_sample(a, b, permutations=40)
    return found["auc"], found["auc_error"]


def share_found(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Share of true rows in a (n, 1), and its standard error; the reference b does not count."""
    found = uncertainty.share(a)
    return found["share"], found["error"]


def by_pairs(distance: Distance) -> uncertainty.Resampled:
    """The resampled values of the kernel distance."""
    return metrics.kid_resampled


def _add_features(name: str, distance: Distance, unit: Any, text: Any, **more: Any) -> None:
    """Enter a measure whose rows are LensNet's features."""
    MEASURES.add(name, Measure(lensnet_features, distance, unit, "features", text, **more))


_add_features("frechet_lensnet", metrics.frechet, FEATURE_STD, "Frechet distance (LensNet)")
_add_features(
    "frechet_lensnet_by_class",
    metrics.frechet_by_class,
    FEATURE_STD,
    "Frechet distance (LensNet) by class",
    by_class=True,
)
_add_features(
    "kid",
    metrics.kid,
    "1",
    "kernel distance (LensNet)",
    options={"ratio": False, "skewed": True},
    resampled=by_pairs,
)
_add_features(
    "neighbours",
    metrics.neighbours,
    metrics.NEIGHBOURS,
    {name: name for name in metrics.NEIGHBOURS},
    options={"ratio": False, "resample": "subsample"},
    # a generator that is safer than reality is not better
    larger_is_better=dict.fromkeys(metrics.NEIGHBOURS),
    most=MOST,
)
_add_features(
    "told_apart",
    area_under_curve,
    "area under the curve",
    "told from real (AUC)",
    options={"ratio": False, "resample": "own"},
    most=MOST,
)


def _add_readings(name: str, rows: Any, distance: Distance, text: str, **more: Any) -> None:
    """Enter a measure of what LensNet reads, which means something for lenses alone."""
    unit = more.pop("unit", REAL_STD)
    MEASURES.add(name, Measure(rows, distance, unit, "features", text, available=of_lenses, **more))


_add_readings(
    "frechet_oriented",
    lensnet_oriented,
    metrics.frechet,
    "orientation, as read (Frechet)",
    unit=FEATURE_STD,
    columns=dict.fromkeys(lensnet.ORIENTED, REAL_STD),
)
_add_readings("readings", lensnet_readings, wasserstein_columns, "lens parameters, as read")
_add_readings(
    "readings_each",
    lensnet_readings,
    wasserstein_worst,
    "worst lens parameter, as read",
    columns=READ_UNITS,
)
_add_readings(
    "readings_pairs",
    pairs_of_readings,
    mean_vector,
    "pairs of lens parameters, as read",
    columns={f"{lensnet.READS[i]} * {lensnet.READS[j]}": "1" for i, j in PAIRS},
)
_add_readings(
    "class_shares",
    class_read,
    metrics.mean_distance,
    "shares of classes, as read",
    unit="share",
    columns=dict.fromkeys(CLASSES, "share"),
    resampled=uncertainty.by_means,
)
MEASURES.add(
    "lenses_found",
    Measure(
        rows=found_by_finder,
        distance=share_found,
        unit="share",
        group="features",
        label="found to be lenses",
        larger_is_better=None,  # too many easy images are found too often
        options={"ratio": False, "resample": "own"},
        available=of_lenses,
    ),
)


MEASURES.add(
    "fid",
    Measure(
        rows=inception_features,
        distance=metrics.frechet,
        unit="1",
        group="features",
        label="Frechet distance (Inception)",
        available=has_inception,
    ),
)
MEASURES.add(
    "pqmass",
    Measure(
        rows=pqmass.cells,
        distance=pqmass.distance,
        unit="chi2 / degrees of freedom",
        group="features",
        label="PQMass (pixels)",
        most=MOST,
    ),
)


def _add_of_judge(name: str, unit: str, group: str, text: str, **more: Any) -> None:
    """Enter a measure that compares no rows: the judge has a method for it."""
    MEASURES.add(name, Measure(None, None, unit, group, text, **more))


PIXEL = fixed_pixels.UNIT
_add_of_judge(
    "usefulness", usefulness.UNIT, "features", "usefulness in training", larger_is_better=True
)
_add_of_judge(
    "pixels_told_apart", pixel_classifier.UNIT, "features", "told from real by pixels (AUC)"
)
_add_of_judge(
    "fixed_pixels",
    PIXEL,
    "physics",
    "one pixel in all images",
    columns={"pixel": PIXEL, "grid": PIXEL},
)
_add_of_judge(
    "copies", "share", "features", "copies of training images", columns={"copies": "share"}
)
