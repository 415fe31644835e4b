"""The evaluation of one method: its images against held-out ones, each number with error and floor.

The floor of a distance is the same distance between two sets of real images.
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from lensnb import io, metrics
from lensnb.datasets import conditions
from lensnb.datasets.dataset import Dataset, comparison_rows
from lensnb.devices import find_device, with_doubles
from lensnb.errors import InputError
from lensnb.evaluation import (
    image_stats,
    lens_fit,
    lens_fit_by_class,
    lensnet,
    memorisation,
    obedience,
    pixel_classifier,
    regressors,
    uncertainty,
    usefulness,
)
from lensnb.evaluation.measures import LEAST, MEASURES, Measure
from lensnb.evaluation.parts import parts
from lensnb.evaluation.rows import Fitted, Reference, Rows, all_rows, fit, rows_of
from lensnb.evaluation.workers import HERE, workers_for
from lensnb.lensing.priors import PRIORS
from lensnb.recipes.recipe import Params
from lensnb.runs.run_folder import FINDER, LENSNET

READ = "read"  # the key of the rows that hold what LensNet reads
LEAST_CHI2 = 1e-6  # a constant image has chi2 = 0, which has no logarithm

Asked = Mapping[str, np.ndarray]  # what images were asked to be: column -> (N,)
Classes = tuple[np.ndarray, np.ndarray, np.ndarray]  # of generated, reference and other images
Tree = dict[str, Any]
T = TypeVar("T")


class Judge:
    """The real images of a comparison, and what is measured on them once for all methods of a run.

    The reference images fix what must not depend on the generated ones: units, bins and levels.
    Networks run on the recipe's device. Other work on many images is shared by worker processes.
    Raises InputError if there are fewer than LEAST images on a side.
    """

    def __init__(self, params: Params, dataset: Dataset) -> None:
        self.settings = params.evaluate
        self.seed = params.seed
        self.dataset = dataset
        self.context = conditions.resolve(params.model.context, dataset)
        most = min(params.evaluate.n, params.sample.n)
        self.held, self.other = comparison_rows(dataset, most, params.data_seed)
        self.n = len(self.held)
        if self.n < LEAST:
            raise InputError(
                f"evaluate: {self.n} images on each side, and {LEAST} are needed; bring more "
                "images, or raise data.holdout, evaluate.n or sample.n"
            )
        self.device = with_doubles(find_device(params.device))
        self.workers = workers_for(self.n, params.evaluate.workers)
        self.reference = Reference(
            dataset.images[self.held], params.evaluate.inception, self.device, self.workers
        )
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
        self._floors: dict[tuple[Any, ...], Any] = {}
        self._last: tuple[Any, dict[str, np.ndarray]] | None = None
        self._last_chi2: tuple[Any, np.ndarray] | None = None

    def _fitted_rows(self) -> dict[str, Rows]:
        """Measure -> function from images to rows; measures of the same rows share the function."""
        distinct = dict.fromkeys(measure.rows for measure in self.measures.values())
        fitted = {rows: fit(rows, self.reference) for rows in distinct}
        return {name: fitted[measure.rows] for name, measure in self.measures.items()}

    def rows(self, images: Any) -> dict[str, np.ndarray]:
        """The rows (N, d) of images (N, C, H, W) for each measure; shared rows are one array.

        Beside the measures, READ holds what LensNet reads: the class, and lensnet.READS.
        """
        networks = {READ}
        for name, measure in self.measures.items():
            if isinstance(measure.rows, Fitted) and measure.rows.on_device:
                networks.add(name)
        makers = self.makers | {READ: self.reference.reader.table}
        return all_rows(makers, networks, images, self.reference)

    def _rows_of_made(self, images: Any) -> dict[str, np.ndarray]:
        """The rows of generated images; the last ones are kept, because several parts ask."""
        if self._last is None or self._last[0] is not images:
            self._last = images, self.rows(images)
        return self._last[1]

    # ---- classes

    def classes(self, images: np.ndarray, asked: Asked | None) -> Classes:
        """Classes of generated, reference and other images: asked and known, or read by LensNet."""
        if asked is not None and "class" in asked and self.dataset.labels is not None:
            known = self.dataset.labels
            return asked["class"][: self.n], known[self.held], known[self.other]
        sets = (self._rows_of_made(images), self.real, self.others)
        made, real, others = (rows[READ][:, 0].astype(int) for rows in sets)
        return made, real, others

    # ---- distances

    def measured(self, images: np.ndarray, asked: Asked | None = None) -> Tree:
        """All measures of images (n, C, H, W): key -> tree of value, error, floor, z and more.

        The lens-model fit takes longer than all others and has a method of its own.
        """
        made = self._rows_of_made(images)
        classes = self.classes(images, asked)
        found: Tree = {}
        for name in self.measures:
            found |= self.compared(name, made[name], classes)
        if useful := self.usefulness(made["frechet_lensnet"], classes, asked):
            found["usefulness"] = useful
        told = pixel_classifier.told_apart(images, self.reference.images, self.seed)
        name = "pixels_told_apart"
        found[name] = told | _reading(MEASURES[name], name)
        found["frechet_lensnet"] |= self._more_of_frechet(made["frechet_lensnet"])
        for name, measure in self.measures.items():
            if measure.mean_unit:
                found[name]["mean"] = self._means(name, measure.mean_unit, made[name])
            if measure.columns:
                real = np.concatenate([self.real[name], self.others[name]])
                scale = self.dataset.pixel_scale
                found[name]["parts"] = parts(measure, made[name], real, scale)
        return found

    def compared(self, name: str, made: np.ndarray, classes: Classes | None) -> Tree:
        """The tree of one measure for generated rows (n, d): key -> tree, one or several keys."""
        measure = self.measures[name]
        most = measure.most or self.n
        distance = self.distances[name]
        real = self.real[name][:most]
        others = self.others[name][: 4 * most]
        labels = classes if measure.by_class else None
        s = self.settings

        def floor() -> np.ndarray:
            # what has a faster way is not worth the way to the workers
            workers = HERE if measure.resampled else self.workers
            known = None if labels is None else labels[1:]
            return uncertainty.floor_values(
                distance, real, others, s.floors, self.seed, known, workers
            )

        found = uncertainty.measure(
            distance,
            made[:most],
            real,
            others,
            measure.unit,
            s.bootstrap,
            s.floors,
            self.seed,
            **measure.options,
            labels=labels,
            resampled=measure.resampled and measure.resampled(distance),
            floor=self._once(floor, name, most, labels),
            workers=self.workers,
        )
        trees = {name: found} if isinstance(measure.unit, str) else found
        return {key: tree | _reading(measure, key) for key, tree in trees.items()}

    def _once(
        self, make: Callable[[], T], name: str, most: int, labels: Classes | None = None
    ) -> T:
        """What `make` finds of real images with these classes, found once for all methods."""
        classes = () if labels is None else tuple(part.tobytes() for part in labels[1:])
        key = (name, most, *classes)
        if key not in self._floors:
            self._floors[key] = make()
        found: T = self._floors[key]
        return found

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
        read = asked is None or "class" not in asked
        one_class = self.dataset.labels is None or len(np.unique(classes[1])) < 2
        if one_class or (read and "lenses_found" not in self.measures):
            return None
        s = self.settings
        real = self.real["frechet_lensnet"]
        others = self.others["frechet_lensnet"]

        def of_real() -> usefulness.Real:
            return usefulness.of_real(real, others, classes[1:], s.floors, self.seed, self.workers)

        found = usefulness.measure(
            made,
            real,
            others,
            classes,
            s.bootstrap,
            s.floors,
            self.seed,
            self._once(of_real, "usefulness", self.n, classes),
            self.workers,
        )
        whose = "read" if read else "asked"
        return found | _reading(MEASURES["usefulness"], "usefulness") | {"labels": whose}

    def copies(self, images: np.ndarray, training: Any) -> Tree:
        """What `memorisation.memorised` finds of images (n, C, H, W), in pixels and features."""
        heldout = self.dataset.part(self.dataset.heldout)
        maker = self.makers["frechet_lensnet"]
        some = training[memorisation.part_of(len(training))]

        def of_real() -> list[np.ndarray]:
            sets = (some, heldout)
            return [rows_of([maker], part, *self.reference.by_networks)[0] for part in sets]

        train, held = self._once(of_real, "copies", self.n)
        return memorisation.memorised(
            images,
            training,
            heldout,
            device=self.device,
            workers=self.workers,
            features=(self._rows_of_made(images)["frechet_lensnet"], train, held),
        )

    def lens_fit_by_class(self, images: np.ndarray, asked: Asked | None = None) -> Tree | None:
        """Reduced chi2 of the best smooth lens class by class; None for images of no lenses."""
        if not self.reference.shows_lenses:
            return None
        measure = MEASURES["lens_fit_by_class"]
        s = self.settings
        found = lens_fit_by_class.measured(
            self._log_chi2(images),
            self.classes(images, asked),
            str(measure.unit),
            times=s.bootstrap,
            floors=s.floors,
            seed=self.seed,
        )
        return found | _reading(measure, "lens_fit_by_class")

    def _log_chi2(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """log10 chi2 (n, 1) of generated, reference and other images; the last ones are kept."""
        if self._last_chi2 is None or self._last_chi2[0] is not images:
            self._last_chi2 = images, self._chi2(images[: self._fitted_images])
        made, real, others = (
            np.log10(chi2.clip(LEAST_CHI2))[:, None]
            for chi2 in (self._last_chi2[1], *self._real_chi2)
        )
        return made, real, others

    def lens_fit(self, images: np.ndarray) -> Tree:
        """Can the images be lenses? Reduced chi2 of the best smooth lens, against real images.

        The first evaluate.fit images of each side are fitted, and twice as many others for the
        floor. The distance is between the distributions of log10 chi2.
        """
        measure = MEASURES["lens_fit"]
        rows = self._log_chi2(images)
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
        for whose, logs in (("generated", rows[0]), ("real", np.concatenate(rows[1:]))):
            chi2 = 10 ** logs[:, 0]
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
        """Reduced chi2 (N,); on a CPU each batch is fitted by one of the workers."""
        if self.device.type == "cpu":
            chi2_of = functools.partial(_reduced_chi2, optics=self.optics or {})
            return rows_of([chi2_of], images, self.workers, lens_fit.CACHED)[0]
        return _reduced_chi2(images, self.optics or {}, self.device)

    def curves(self, images: np.ndarray) -> Tree:
        """Mean power spectrum and radial profile with the standard error of the mean, as lists."""
        makers = (image_stats.log_power, image_stats.radial_profile)
        power, profile = rows_of(makers, images, self.workers)
        scale = self.dataset.pixel_scale
        return image_stats.mean_curves(power, profile, images.shape[-1], scale)

    @functools.cached_property
    def real_curves(self) -> Tree:
        """`curves` of the reference."""
        return self.curves(self.reference.images)

    def obedience(self, images: np.ndarray, asked: Asked) -> Tree | None:
        """What was asked for against what LensNet reads, and the same for real images.

        Returns generated and real -> `obedience.compared`; None if nothing can be compared.
        """
        told = {name: column[: self.n] for name, column in asked.items()}
        known = obedience.known_of(self.dataset, self.held)
        both = {
            "generated": (self._rows_of_made(images), told),
            "real": (self.real, known),
        }
        found = {
            whose: obedience.compared(lensnet.columns(rows[READ]), columns, self.dataset, asked)
            for whose, (rows, columns) in both.items()
        }
        if not isinstance(self.context, str):
            found = obedience.without_the_unread(found, known)
        return found if found["real"] else None

    def obeyed(self, images: np.ndarray, asked: Asked) -> Tree:
        """What was asked for against what is read off the images, for every column asked for.

        Returns obedience: generated and real -> column -> numbers, if anything is read; and
        readers: column -> who reads it, with its skill or the reason why nothing is said.
        """
        found = self.obedience(images, asked) or {"generated": {}, "real": {}}
        readers: Tree = dict.fromkeys(found["real"], {"reader": "LensNet"})
        rest = [name for name in asked if name not in readers]
        for name, reading in self._regressed(images, asked, rest).items():
            reader = "regressor" if reading.found else None
            readers[name] = {"reader": reader, "skill": reading.skill, "why": reading.why}
            for whose, numbers in reading.found.items():
                found[whose][name] = numbers
        return {"obedience": found, "readers": readers} if found["real"] else {"readers": readers}

    def _regressed(
        self, images: np.ndarray, asked: Asked, names: list[str]
    ) -> dict[str, regressors.Reading]:
        """What regressors read of these columns, see `regressors.read`."""
        if not names:
            return {}
        known = conditions.table(self.context, self.dataset)
        columns = conditions.columns(self.context, self.dataset)
        rows = self._once(self._rows_of_real, "regressors", self.n)
        made = self._rows_of_made(images)["frechet_lensnet"]
        bands = rows_of((image_stats.bands,), images, self.workers)[0]
        rows = rows | {"generated": np.concatenate([made, bands], axis=1)}
        parts = {"train": self.other, "real": self.held}
        return {
            name: regressors.read(
                rows,
                {w: known[name][part] for w, part in parts.items()}
                | {"generated": asked[name][: self.n]},
                isinstance(columns[name], conditions.Number),
            )
            for name in names
            if name in known
        }

    def _rows_of_real(self) -> dict[str, np.ndarray]:
        """LensNet's features and the brightness of each band, of training and held-out images."""
        real = {"train": self.dataset.part(self.other), "real": self.reference.images}
        features = {"train": self.others, "real": self.real}
        return {
            whose: np.concatenate(
                [
                    features[whose]["frechet_lensnet"],
                    rows_of((image_stats.bands,), images, self.workers)[0],
                ],
                axis=1,
            )
            for whose, images in real.items()
        }


def _reduced_chi2(
    images: np.ndarray, optics: Mapping[str, Any], device: str | torch.device = "cpu"
) -> np.ndarray:
    return lens_fit.fit(images, **optics, device=device).chi2


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
        "memorisation": judge.copies(some, dataset.part(dataset.train)),
    }
    tree["metrics"]["copies"] = memorisation.as_measure(tree["memorisation"], judge.seed)
    if judge.settings.fit and judge.optics:
        tree["metrics"]["lens_fit"] = judge.lens_fit(some)
        if by_class := judge.lens_fit_by_class(some, asked):
            tree["metrics"]["lens_fit_by_class"] = by_class
    if asked is not None:
        tree |= judge.obeyed(some, asked)
    columns = {key: found.pop("deviations") for key, found in tree["metrics"].items()}
    deviations = {key: column for key, column in columns.items() if column}
    io.write_table(folder / "deviations.csv", deviations)
    io.write_json(folder / "metrics.json", tree)
    drawn = {"generated": judge.curves(some), "real": judge.real_curves}
    io.write_json(folder / "curves.json", {"pixel_scale": dataset.pixel_scale, **drawn})
