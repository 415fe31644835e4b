"""Every measure of the evaluation: one record each, in the order of metrics.json.

A measure turns each image into a row of numbers and compares two sets of rows by a distance.
The judge takes every registered measure, `compare.py` compares them and the figures show them.
A measure of your own takes a few lines, in any module that is imported before a Judge is made:

    def brightest_pixel(images):                              # (N, C, H, W)
        return images.max(axis=(1, 2, 3))[:, None]            # (N, 1)

    MEASURES.add("brightest_pixel", Measure(
        rows=brightest_pixel, distance=wasserstein_columns, unit=REAL_STD,
        group="physics", label="brightest pixel"))

Give it `columns={"brightest_pixel": IMAGE_UNIT}`, and its mean is compared too, see `parts.py`.
"""

# Importing a module of entries registers its measures.
from lensnb.evaluation import measures_of_features, measures_of_physics
from lensnb.evaluation.measure import (
    IMAGE_UNIT,
    LEAST,
    MEASURES,
    MOST,
    REAL_STD,
    Distance,
    Measure,
    label,
    labels,
    of_lenses,
)
from lensnb.evaluation.measures_of_features import area_under_curve, lensnet_features
from lensnb.evaluation.rows import Fitted, Reference, Rows, on_device

__all__ = [
    "IMAGE_UNIT",
    "LEAST",
    "MEASURES",
    "MOST",
    "REAL_STD",
    "Distance",
    "Fitted",
    "Measure",
    "Reference",
    "Rows",
    "area_under_curve",
    "label",
    "labels",
    "lensnet_features",
    "measures_of_features",
    "measures_of_physics",
    "of_lenses",
    "on_device",
]
