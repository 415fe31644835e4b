"""The measures of what an astronomer sees: pixels, sky, spectrum, shapes, the lens-model fit."""

import functools
from typing import Any

import numpy as np

from lensnb import metrics
from lensnb.evaluation import (
    image_stats,
    lens_fit_by_class,
    morphology,
    pixel_grid,
    scattering,
    sky_stats,
    uncertainty,
)
from lensnb.evaluation.measure import (
    IMAGE_UNIT,
    MEASURES,
    REAL_STD,
    Distance,
    Measure,
    of_lenses,
)
from lensnb.evaluation.morphology import mean_vector, wasserstein_columns, wasserstein_worst
from lensnb.evaluation.rows import Fitted, Reference, Rows, on_device, rows_of
from lensnb.lensing.priors import CLASSES

PIXEL_STD = "pixel standard deviations"
SOME = 500  # reference images that tell the level and the noise of the sky

# ---- pixels, spectrum, profile


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


def _brightness_map(reference: Reference) -> Rows:
    some = reference.images[:SOME]
    level = float(np.median(image_stats.grey(some)))
    noise = float(np.median(image_stats.noise_level(some))) or reference.units.std or 1.0
    return functools.partial(pixel_grid.brightness_map, level=level, noise=noise)


brightness_rows = Fitted(_brightness_map)


@Fitted
def brightness_distance(reference: Reference) -> Distance:
    """Root mean square and largest step of the mean brightness map, in deviations of an image."""
    rows = rows_of([_brightness_map(reference)], reference.images, reference.workers)[0]
    std = rows.std(axis=0, dtype=float)
    std = np.where(std > 1e-6 * std.max(), std, 1)

    def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        gap = (a.mean(axis=0, dtype=float) - b.mean(axis=0, dtype=float)) / std
        return np.array([np.sqrt((gap**2).mean()), np.abs(gap).max()])

    return distance


def thirds_of_power(rows: np.ndarray) -> np.ndarray:
    """Mean log10 power (N, 3) of the rings (N, size / 2 - 1) at low, middle and high frequencies.

    The bounds are 1/16 and 1/4 cycles a pixel.
    """
    rings = np.arange(1, rows.shape[1] + 1) / (2 * rows.shape[1] + 2)  # cycles a pixel
    which = np.digitize(rings, (1 / 16, 1 / 4))
    return np.stack([rows[:, which == k].mean(axis=1) for k in range(3)], axis=1)


def _add_means(
    name: str, rows: Rows | Fitted, distance: Any, unit: Any, text: Any, **more: Any
) -> None:
    """Enter a measure whose distance depends on the mean rows alone."""
    MEASURES.add(
        name, Measure(rows, distance, unit, "physics", text, resampled=uncertainty.by_means, **more)
    )


_add_means("intensity", intensity_shares, intensity_distance, PIXEL_STD, "pixel intensities")
_add_means(
    "spectrum",
    image_stats.log_power,
    metrics.mean_distance,
    "dex",
    "power spectrum",
    columns=dict.fromkeys(("low", "middle", "high"), "dex"),
    of_columns=thirds_of_power,
)
_add_means("profile", profile_rows, metrics.mean_distance, PIXEL_STD, "radial profile")
_add_means(
    "mean_image",
    brightness_rows,
    brightness_distance,
    dict.fromkeys(("mean_image", "mean_image_largest"), REAL_STD),
    {"mean_image": "mean image", "mean_image_largest": "mean image, largest pixel"},
    larger_is_better=dict.fromkeys(("mean_image", "mean_image_largest"), False),
)


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


def _add_shape(name: str, rows: Rows | Fitted, distance: Distance, text: str, **more: Any) -> None:
    MEASURES.add(name, Measure(rows, distance, REAL_STD, "physics", text, **more))


def _add_number(name: str, rows: Rows, text: str, unit: str, **more: Any) -> None:
    """Enter a measure of one number an image, whose mean is told, too."""
    _add_shape(name, rows, wasserstein_columns, text, mean_unit=unit, columns={name: unit}, **more)


_add_number("noise_level", image_stats.noise_level, "noise level", IMAGE_UNIT)
_add_number("light_detail", image_stats.light_detail, "fine detail of bright light", IMAGE_UNIT)
_add_number("sky_level", sky_stats.sky_level, "sky level", IMAGE_UNIT)
_add_shape(
    "sky_gradient",
    sky_stats.sky_gradient,
    mean_vector,
    "sky gradient",
    columns=dict.fromkeys(("x", "y"), "sky noise"),
)
_add_shape(
    "sky_stripes",
    sky_stats.sky_stripes,
    wasserstein_columns,
    "stripes in the sky",
    columns=dict.fromkeys(("rows", "columns"), "1"),
)
_add_number("total_flux", image_stats.total_flux, "total flux", IMAGE_UNIT + " * pixel")
_add_number("ring_radius", morphology.ring_radius, "ring radius", "pixels", available=of_lenses)
_add_number("ellipticity", morphology.ellipticity, "ellipticity", "1")
_add_shape("multipoles", morphology.multipoles, mean_vector, "multipoles")
_add_shape(
    "handedness",
    pixel_grid.handedness,
    mean_vector,
    "handedness and centre",
    columns=dict.fromkeys(("m1_cos", "m1_sin", "m2_cos", "m2_sin"), "1")
    | dict.fromkeys(("centre_x", "centre_y"), "pixels"),
)
_add_shape(
    "mirror",
    pixel_grid.mirror,
    wasserstein_worst,
    "mirror symmetry",
    columns=dict.fromkeys(("light", "detail"), "1"),
)
_add_shape(
    "spectrum_2d",
    pixel_grid.log_power_2d,
    mean_vector,
    "power by direction",
    columns={"corner": "dex"},
    of_columns=pixel_grid.corner,
)
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
    "lens_fit",
    Measure(
        rows=None,
        distance=wasserstein_columns,
        unit=REAL_STD + " of log chi2",
        group="model",
        label="lens-model fit",
    ),
)
MEASURES.add(
    "lens_fit_by_class",
    Measure(
        rows=None,
        distance=lens_fit_by_class.distance,
        unit=REAL_STD + " of log chi2",
        group="model",
        label="lens-model fit, class by class",
        by_class=True,
        columns=dict.fromkeys(CLASSES, "dex"),
        available=of_lenses,
    ),
)
