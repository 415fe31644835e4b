"""The lens-model fit of many images: what it must know of them, and who fits them."""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from lensnb.datasets.dataset import Dataset
from lensnb.evaluation import lens_fit
from lensnb.evaluation.rows import rows_of
from lensnb.evaluation.workers import HERE, Workers
from lensnb.lensing.priors import PRIORS
from lensnb.recipes.recipe import Params

LEAST_CHI2 = 1e-6  # a constant image has chi2 = 0, which has no logarithm


def optics(params: Params, dataset: Dataset) -> dict[str, Any] | None:
    """What `lens_fit.fit` must know of the images; None if the PSF is not known.

    The pixel scale, the width of the PSF and, for simulated images in units in which the
    background's noise is 1, that noise.
    """
    data = params.data
    psf_fwhm = params.evaluate.psf_fwhm
    if data.path is None and data.download is None:
        prior = PRIORS[data.prior]
        known = data.scaling != "minmax" and prior.snr is not None
        return {
            "pixel_scale": dataset.pixel_scale,
            "psf_fwhm": prior.psf_fwhm,
            "noise": prior.background if known else None,
        }
    return {"pixel_scale": dataset.pixel_scale or 1, "psf_fwhm": psf_fwhm} if psf_fwhm else None


def reduced_chi2(
    images: np.ndarray, optics: Mapping[str, Any], device: torch.device, workers: Workers = HERE
) -> np.ndarray:
    """Reduced chi2 (N,) of the best smooth lens; on a CPU each batch is fitted by a worker."""
    if device.type == "cpu":
        return rows_of([functools.partial(_fit, optics=optics)], images, workers, lens_fit.CACHED)[
            0
        ]
    return _fit(images, optics, device)


def _fit(
    images: np.ndarray, optics: Mapping[str, Any], device: str | torch.device = "cpu"
) -> np.ndarray:
    return lens_fit.fit(images, **optics, device=device).chi2
