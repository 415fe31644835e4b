"""The evaluation of one method: its images against held-out ones, each number with error and floor.

The floor of a distance is the same distance between two sets of real images.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lensnb import io, metrics
from lensnb.datasets.dataset import Dataset, comparison_rows
from lensnb.errors import InputError
from lensnb.evaluation import (
    image_stats,
    lens_fit,
    lensnet,
    memorisation,
    obedience,
    uncertainty,
    usefulness,
)
from lensnb.evaluation.measures import LEAST, MEASURES, Measure, Reference, Rows, fit
from lensnb.lensing.priors import PRIORS
from lensnb.recipes.recipe import Params
from lensnb.runs.run_folder import FINDER, LENSNET

CHUNK = 1024  # images that are measured at a time
LEAST_CHI2 = 1e-6  # a constant image has chi2 = 0, which has no logarithm

Asked = Mapping[str, np.ndarray]  # what images were asked to be: column -> (N,)
Classes = tuple[np.ndarray, np.ndarray, np.ndarray]  # of generated, reference and other images
Tree = dict[str, Any]


class Judge:
    """The real images of a comparison, and what is measured on them once for all methods of a run.

    The reference images fix what must not depend on the generated ones: units, bins and levels.
    Raises InputError if there are fewer than LEAST images on a side.
    """

    def __init__(self, params: Params, dataset: Dataset) -> None:
        self.settings = params.evaluate
        self.seed = params.seed
        self.dataset = dataset
        most = min(params.evaluate.n, params.sample.n)
        self.held, self.other = comparison_rows(dataset, most, params.data_seed)
        self.n = len(self.held)
        if self.n < LEAST:
            raise InputError(
                f"evaluate: {self.n} images on each side, and {LEAST} are needed; bring more "
                "images, or raise data.holdout, evaluate.n or sample.n"
            )
        self.reference = Reference(dataset.images[self.held], params.evaluate.inception)
        self.measures = {
            name: measure
            for name, measure in MEASURES.items()
            if measure.rows is not None and measure.available(self.reference)
        }
        self.makers = self._fitted_rows()
        self.distances = {
            name: fit(measure.distance, self.reference) for name, measure in self.measures.items()
        }
        self.real = self.rows(self.reference.images)
        self.others = self.rows(dataset.part(self.other))
        self.optics = optics(params, dataset)

    def _fitted_rows(self) -> dict[str, Rows]:
        """Measure -> function from images to rows; measures of the same rows share the function."""
        distinct = dict.fromkeys(measure.rows for measure in self.measures.values())
        fitted = {rows: fit(rows, self.reference) for rows in distinct}
        return {name: fitted[measure.rows] for name, measure in self.measures.items()}

    def rows(self, images: Any) -> dict[str, np.ndarray]:
        """The rows (N, d) of images (N, C, H, W) for each measure; shared rows are one array."""
        parts: dict[Rows, list[np.ndarray]] = {make: [] for make in self.makers.values()}
        for at in range(0, len(images), CHUNK):
            some = images[at : at + CHUNK]
            for make, found in parts.items():
                found.append(make(some))
        whole = {make: np.concatenate(found) for make, found in parts.items()}
        return {name: whole[make] for name, make in self.makers.items()}

    # ---- classes

    def classes(self, images: np.ndarray, asked: Asked | None) -> Classes:
        """Classes of generated, reference and other images: asked and known, or read by LensNet."""
        if asked is not None and self.dataset.labels is not None:
            known = self.dataset.labels
            return asked["class"][: self.n], known[self.held], known[self.other]
        return self._read(images)["class"], *self._real_classes

    @functools.cached_property
    def _real_classes(self) -> tuple[np.ndarray, np.ndarray]:
        others = self.dataset.part(self.other)
        return self._read(self.reference.images)["class"], self._read(others)["class"]

    def _read(self, images: Any) -> dict[str, np.ndarray]:
        return lensnet.readings(images, self.reference.units, self.reference.net)

    # ---- distances

    def measured(self, images: np.ndarray, asked: Asked | None = None) -> Tree:
        """All measures of images (n, C, H, W): key -> tree of value, error, floor, z and more.

        The lens-model fit takes longer than all others and has a method of its own.
        """
        made = self.rows(images)
        classes = self.classes(images, asked)
        found: Tree = {}
        for name in self.measures:
            found |= self.compared(name, made[name], classes)
        if useful := self.usefulness(made["frechet_lensnet"], classes, asked):
            found["usefulness"] = useful
        found["frechet_lensnet"] |= self._more_of_frechet(made["frechet_lensnet"])
        for name, measure in self.measures.items():
            if measure.mean_unit:
                found[name]["mean"] = self._means(name, measure.mean_unit, made[name])
        return found

    def compared(self, name: str, made: np.ndarray, classes: Classes | None) -> Tree:
        """The tree of one measure for generated rows (n, d): key -> tree, one or several keys."""
        measure = self.measures[name]
        most = measure.most or self.n
        found = uncertainty.measure(
            self.distances[name],
            made[:most],
            self.real[name][:most],
            self.others[name][: 4 * most],
            measure.unit,
            self.settings.bootstrap,
            self.settings.floors,
            self.seed,
            **measure.options,
            labels=classes if measure.by_class else None,
        )
        trees = {name: found} if isinstance(measure.unit, str) else found
        return {key: tree | _reading(measure, key) for key, tree in trees.items()}

    def _more_of_frechet(self, made: np.ndarray) -> Tree:
        """The Frechet distance to training images, and its value without the bias of finite n.

        The latter is None for fewer than 3 d rows, where the distance is not a line in 1/n.
        """
        training = self.others["frechet_lensnet"][: self.n]
        found: Tree = {"to_training": metrics.frechet(made, training), "at_infinity": None}
        if len(made) >= 3 * made.shape[1]:
            value, error = uncertainty.frechet_at_infinity(
                made, self.real["frechet_lensnet"], seed=self.seed
            )
            found["at_infinity"] = {"value": value, "error": error}
        return found

    def _means(self, name: str, unit: str, made: np.ndarray) -> Tree:
        """Means of generated and real rows with their errors; pixels become arcsec if possible."""
        scale = self.dataset.pixel_scale if unit == "pixels" else None
        return {
            "unit": "arcsec" if scale else unit,
            "generated": uncertainty.mean((scale or 1) * made),
            "real": uncertainty.mean((scale or 1) * self.real[name]),
        }

    # ---- measures with a procedure of their own

    def usefulness(self, made: np.ndarray, classes: Classes, asked: Asked | None) -> Tree | None:
        """How well a classifier learns real classes from generated images (LensNet's features).

        None if real images have no classes. If no class was asked for, LensNet reads one off each
        image. It knows lenses only, so the result is None where the finder finds no lenses.
        """
        read = asked is None
        one_class = self.dataset.labels is None or len(np.unique(classes[1])) < 2
        if one_class or (read and "lenses_found" not in self.measures):
            return None
        found = usefulness.measure(
            made,
            self.real["frechet_lensnet"],
            self.others["frechet_lensnet"],
            classes,
            self.settings.bootstrap,
            self.settings.floors,
            self.seed,
        )
        whose = "read" if read else "asked"
        return found | _reading(MEASURES["usefulness"], "usefulness") | {"labels": whose}

    def lens_fit(self, images: np.ndarray) -> Tree:
        """Can the images be lenses? Reduced chi2 of the best smooth lens, against real images.

        The first evaluate.fit images of each side are fitted, and twice as many others for the
        floor. The distance is between the distributions of log10 chi2.
        """
        measure = MEASURES["lens_fit"]
        made = self._chi2(images[: self._fitted_images])
        real = self._real_chi2
        rows = [np.log10(chi2.clip(LEAST_CHI2))[:, None] for chi2 in (made, *real)]
        s = self.settings
        found = uncertainty.measure(
            fit(measure.distance, self.reference),
            rows[0],
            rows[1],
            rows[2],
            measure.unit,
            s.bootstrap,
            s.floors,
            self.seed,
        )
        found |= _reading(measure, "lens_fit")
        for whose, chi2 in (("generated", made), ("real", np.concatenate(real))):
            above = uncertainty.share(chi2 > 1.1)
            found[whose] = {"median": float(np.median(chi2)), "above_1.1": above}
        return found

    @property
    def _fitted_images(self) -> int:
        return min(self.settings.fit, self.n, len(self.other) // 2)

    @functools.cached_property
    def _real_chi2(self) -> tuple[np.ndarray, np.ndarray]:
        n = self._fitted_images
        others = self.dataset.images[self.other[: 2 * n]]
        return self._chi2(self.reference.images[:n]), self._chi2(others)

    def _chi2(self, images: np.ndarray) -> np.ndarray:
        return lens_fit.fit(images, **(self.optics or {})).chi2

    def obedience(self, images: np.ndarray, asked: Asked) -> Tree | None:
        """What was asked for against what LensNet reads, and the same for real images.

        Returns generated and real -> `obedience.compared`; None if nothing can be compared.
        """
        told = {name: column[: self.n] for name, column in asked.items()}
        known = obedience.known_of(self.dataset, self.held)
        both = {
            "generated": obedience.compared(self._read(images), told, self.dataset, asked),
            "real": obedience.compared(
                self._read(self.reference.images), known, self.dataset, asked
            ),
        }
        return both if both["real"] else None


def _reading(measure: Measure, key: str) -> Tree:
    """How to read the value under a key of metrics.json: its group and its good side."""
    larger = measure.larger_is_better
    return {
        "group": measure.group,
        "larger_is_better": larger[key] if isinstance(larger, Mapping) else larger,
    }


def optics(params: Params, dataset: Dataset) -> Tree | None:
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


def curves(images: np.ndarray, pixel_scale: float | None) -> Tree:
    """Mean power spectrum and radial profile with the standard error of the mean, as lists."""
    size = images.shape[-1]
    root = np.sqrt(len(images))
    power = image_stats.log_power(images)
    profile = image_stats.radial_profile(images)
    return {
        "frequency": image_stats.frequencies(size, pixel_scale).tolist(),
        "log_power": power.mean(0).tolist(),
        "log_power_error": (power.std(0, ddof=1) / root).tolist(),
        "radius": ((np.arange(size // 2) + 0.5) * (pixel_scale or 1)).tolist(),
        "profile": profile.mean(0).tolist(),
        "profile_error": (profile.std(0, ddof=1) / root).tolist(),
    }


def evaluate(
    judge: Judge, name: str, images: np.ndarray, asked: Asked | None, folder: Path
) -> None:
    """Judge the images (N, C, H, W) of method `name`; writes three files to `folder`.

    metrics.json holds all measures. deviations.csv holds the resampled values behind the error of
    each measure, one row a resampling. All methods are resampled alike: the error of a difference
    between two methods is the scatter of the difference of their columns. curves.json holds the
    mean spectrum and profile.
    asked : what the images were asked to be, column -> (N,), or None.
    Both sides of every distance have the same n: the least of evaluate.n, the images drawn and
    the held-out images.
    """
    dataset = judge.dataset
    some = np.asarray(images[: judge.n])
    tree = {
        "method": name,
        "n": judge.n,
        "lensnet": LENSNET,
        "finder": FINDER,
        "metrics": judge.measured(some, asked),
        "memorisation": memorisation.memorised(
            some, dataset.part(dataset.train), dataset.part(dataset.heldout)
        ),
    }
    if judge.settings.fit and judge.optics:
        tree["metrics"]["lens_fit"] = judge.lens_fit(some)
    if asked is not None and dataset.labels is not None:
        obeyed = judge.obedience(some, asked)
        tree |= {"obedience": obeyed} if obeyed else {}
    columns = {key: found.pop("deviations") for key, found in tree["metrics"].items()}
    deviations = {key: column for key, column in columns.items() if column}
    io.write_table(folder / "deviations.csv", deviations)
    io.write_json(folder / "metrics.json", tree)
    whose = {"generated": some, "real": judge.reference.images}
    scale = dataset.pixel_scale
    drawn = {key: curves(images, scale) for key, images in whose.items()}
    io.write_json(folder / "curves.json", {"pixel_scale": scale, **drawn})
