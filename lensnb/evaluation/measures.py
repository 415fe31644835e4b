"""Every measure of the evaluation: one record each, in the order of metrics.json.

A measure turns each image into a row of numbers and compares two sets of rows by a distance.
The judge takes every registered measure, `compare.py` compares them and the figures show them.
A measure of your own takes a few lines, in any module that is imported before a Judge is made:

    def brightest_pixel(images):                              # (N, C, H, W)
        return images.max(axis=(1, 2, 3))[:, None]            # (N, 1)

    MEASURES.add("brightest_pixel", Measure(
        rows=brightest_pixel, distance=wasserstein_columns, unit=REAL_STD,
        group="physics", label="brightest pixel"))
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lensnb import metrics
from lensnb.evaluation import (
    finder,
    image_stats,
    inception,
    lensnet,
    morphology,
    pqmass,
    scattering,
    uncertainty,
    usefulness,
)
from lensnb.evaluation.morphology import mean_vector, wasserstein_columns
from lensnb.evaluation.rows import Fitted, Reference, Rows, on_device
from lensnb.registry import Registry
from lensnb.two_sample import two_sample

REAL_STD = "standard deviations of real images"
FEATURE_STD = "standard deviations of a real feature, squared"
PIXEL_STD = "pixel standard deviations"
LEAST = 8  # images on each side of any distance
# Images on each side, at most, for measures whose time or memory would outgrow all others.
MOST = 10_000


def always(reference: Reference) -> bool:
    """True: the measure says something about any images."""
    return True


Distance = Callable[..., Any]  # of two sets of rows: a number, an array, or (value, error)


@dataclass(frozen=True)
class Measure:
    """One measure: which rows it compares, by what distance, and how the result is read.

    rows : images (N, C, H, W) -> rows (N, d), or Fitted. Measures that share the same rows
        compute them once. None: the judge has a method of the measure's name instead.
    distance : of generated rows from reference rows, or Fitted
    unit : unit of the distance; or name -> unit, of a distance that returns several numbers
    group : "features", "physics" or "model"
    label : its name in figures and tables; or name -> label
    larger_is_better : True, False, or None where the value of real images is best; or name -> one
    options : `resample` and `ratio` of `uncertainty.measure`
    resampled : distance -> a faster way to its resampled values, an `uncertainty.Resampled`
    by_class : whether the distance takes the classes of both sets, too
    most : images on each side, at most; None: no limit
    mean_unit : unit of the rows, whose mean is then told beside the distance; None: no mean
    available : whether the measure says anything about images like the reference
    """

    rows: Rows | Fitted | None
    distance: Distance | Fitted | None
    unit: str | Mapping[str, str]
    group: str
    label: str | Mapping[str, str]
    larger_is_better: bool | None | Mapping[str, bool | None] = False
    options: Mapping[str, Any] = field(default_factory=dict)
    resampled: Callable[[Distance], uncertainty.Resampled] | None = None
    by_class: bool = False
    most: int | None = None
    mean_unit: str | None = None
    available: Callable[[Reference], bool] = always


MEASURES: Registry[Measure] = Registry("measure")


def labels() -> dict[str, str]:
    """Key of metrics.json -> its label, for all measures."""
    found: dict[str, str] = {}
    for name, measure in MEASURES.items():
        found |= {name: measure.label} if isinstance(measure.label, str) else measure.label
    return found


def label(key: str) -> str:
    """The label of a key of metrics.json; the key itself if no measure has it."""
    return labels().get(key, key)


# ---- features of networks


@on_device
def lensnet_features(reference: Reference) -> Rows:
    """LensNet's features in standard deviations of the reference: (N, <= 64).

    A dead feature divided by its scatter would outweigh all others, so it is left out.
    """
    features = reference.reader.features
    std = reference.rows(features).std(axis=0)
    alive = std > 1e-3 * std.max()
    return lambda images: features(images)[:, alive] / std[alive]


@on_device
def lensnet_readings(reference: Reference) -> Rows:
    """The lens parameters that LensNet reads off: (N, 5), columns lensnet.READS."""
    readings = reference.reader.readings

    def rows(images: np.ndarray) -> np.ndarray:
        read = readings(images)
        return np.stack([read[name] for name in lensnet.READS], axis=1)

    return rows


@on_device
def found_by_finder(reference: Reference) -> Rows:
    """Whether the lens finder finds a lens: (N, 1) bool."""
    net = finder.load(reference.device)
    units = reference.units
    return lambda images: finder.found(images, units, net)[:, None]


def finder_knows(reference: Reference) -> bool:
    """Whether the finder, which knows lenses only, finds half of the real images or more."""
    return bool(reference.rows(found_by_finder.make(reference)).mean() >= 0.5)


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
    options={"ratio": False},
    resampled=by_pairs,
)
_add_features(
    "neighbours",
    metrics.neighbours,
    metrics.NEIGHBOURS,
    {name: name for name in metrics.NEIGHBOURS},
    options={"ratio": False, "resample": "subsample"},
    larger_is_better={"precision": True, "recall": True, "density": None, "coverage": True},
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
MEASURES.add(
    "readings",
    Measure(
        rows=lensnet_readings,
        distance=wasserstein_columns,
        unit=REAL_STD,
        group="features",
        label="lens parameters, as read",
    ),
)
MEASURES.add(
    "lenses_found",
    Measure(
        rows=found_by_finder,
        distance=share_found,
        unit="share",
        group="features",
        label="found to be lenses",
        larger_is_better=True,
        options={"ratio": False, "resample": "own"},
        available=finder_knows,
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


# ---- physics: pixels, spectrum, profile


@Fitted
def intensity_shares(reference: Reference) -> Rows:
    """Shares of an image's pixels at or below the edges of the intensity bins."""
    return functools.partial(image_stats.cumulative_shares, edges=reference.edges)


@Fitted
def intensity_distance(reference: Reference) -> Distance:
    """Wasserstein-1 distance of pixel intensities, in standard deviations of real pixels."""
    widths = np.diff(reference.edges)
    std = reference.units.std
    return lambda a, b: metrics.wasserstein(a, b, widths) / std


@Fitted
def profile_rows(reference: Reference) -> Rows:
    """Radial profile in standard deviations of real pixels."""
    std = reference.units.std
    return lambda images: image_stats.radial_profile(images) / std


def _add_means(name: str, rows: Rows | Fitted, distance: Any, unit: str, text: str) -> None:
    """Enter a measure whose distance depends on the mean rows alone."""
    MEASURES.add(
        name, Measure(rows, distance, unit, "physics", text, resampled=uncertainty.by_means)
    )


_add_means("intensity", intensity_shares, intensity_distance, PIXEL_STD, "pixel intensities")
_add_means("spectrum", image_stats.log_power, metrics.mean_distance, "dex", "power spectrum")
_add_means("profile", profile_rows, metrics.mean_distance, PIXEL_STD, "radial profile")


# ---- physics: shapes
# Single numbers are compared as distributions, because their scatter may be wrong. Columns that
# move together are compared by their whitened means.


@Fitted
def minkowski_rows(reference: Reference) -> Rows:
    """Minkowski functionals above the levels that shares of the reference pixels exceed."""
    levels = morphology.excursion_levels(reference.images)
    return functools.partial(morphology.minkowski, levels=levels)


@on_device
def scattering_rows(reference: Reference) -> Rows:
    """Wavelet scattering, on the device."""
    return functools.partial(scattering.scattering, device=reference.device)


def _add_shape(
    name: str, rows: Rows | Fitted, distance: Distance, text: str, mean_unit: str | None = None
) -> None:
    MEASURES.add(name, Measure(rows, distance, REAL_STD, "physics", text, mean_unit=mean_unit))


_add_shape("noise_level", image_stats.noise_level, wasserstein_columns, "noise level", "image unit")
_add_shape(
    "total_flux", image_stats.total_flux, wasserstein_columns, "total flux", "image unit * pixel"
)
_add_shape("ring_radius", morphology.ring_radius, wasserstein_columns, "ring radius", "pixels")
_add_shape("ellipticity", morphology.ellipticity, wasserstein_columns, "ellipticity", "1")
_add_shape("multipoles", morphology.multipoles, mean_vector, "multipoles")
_add_shape("peak_counts", morphology.peak_counts, wasserstein_columns, "peak counts")
_add_shape("minkowski", minkowski_rows, mean_vector, "Minkowski functionals")
_add_shape("scattering", scattering_rows, mean_vector, "wavelet scattering")


# ---- measures that not every run has


def has_colours(reference: Reference) -> bool:
    """Whether the images have more than one band."""
    return reference.images.shape[1] > 1


MEASURES.add(
    "bands",
    Measure(
        rows=image_stats.bands,
        distance=wasserstein_columns,
        unit=REAL_STD,
        group="physics",
        label="brightness of each band",
        available=has_colours,
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
    "usefulness",
    Measure(
        rows=None,
        distance=None,
        unit=usefulness.UNIT,
        group="features",
        label="usefulness in training",
        larger_is_better=True,
    ),
)
MEASURES.add(
    "lens_fit",
    Measure(
        rows=None,
        distance=wasserstein_columns,
        unit=REAL_STD + " of log chi2",
        group="model",
        label="lens-model fit",
    ),
)
