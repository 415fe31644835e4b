"""The evaluation of one method: its images against held-out ones, each number with error and floor.

The floor of a distance is the same distance between two sets of real images.
"""

import functools
from pathlib import Path
from typing import Any

import numpy as np

from lensnb import io, metrics
from lensnb.datasets.dataset import Dataset, Rows
from lensnb.evaluation import (
    fixed_pixels,
    image_stats,
    lens_fit_by_class,
    memorisation,
    pixel_classifier,
    pqmass,
    smooth_lenses,
    uncertainty,
    usefulness,
)
from lensnb.evaluation.asked import AskedFor
from lensnb.evaluation.kept_rows import NOTHING, Kept, digest_of
from lensnb.evaluation.measures import MEASURES
from lensnb.evaluation.parts import parts
from lensnb.evaluation.real_rows import READ, Asked, Classes, Tree
from lensnb.evaluation.rows import fit, rows_of
from lensnb.evaluation.smooth_lenses import LEAST_CHI2, optics
from lensnb.evaluation.workers import HERE
from lensnb.recipes.recipe import Params
from lensnb.runs.run_folder import FINDER, LENSNET


class Judge(AskedFor):
    """The real images of a comparison, and the measures of generated ones against them.

    See `RealRows` for its arguments.
    """

    def __init__(
        self,
        params: Params,
        dataset: Dataset,
        chosen: tuple[np.ndarray, np.ndarray] | None = None,
        kept: Kept = NOTHING,
    ) -> None:
        super().__init__(params, dataset, chosen, kept)
        self.optics = optics(params, dataset)
        self._last_chi2: tuple[Any, np.ndarray] | None = None

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
        told = pixel_classifier.told_apart(
            images, self.reference.images, self.seed, workers=self.workers
        )
        name = "pixels_told_apart"
        found[name] = told | MEASURES[name].reading(name)
        found["fixed_pixels"] = self.fixed_pixels(images)
        found["frechet_lensnet"] |= self._more_of_frechet(made["frechet_lensnet"])
        if "pqmass" in found:
            most = self.measures["pqmass"].most
            cells = made["pqmass"][:most], self.real["pqmass"][:most]
            found["pqmass"] |= pqmass.by_permutations(*cells, seed=self.seed)
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
        return measure.trees(name, found)

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
        return found | MEASURES["usefulness"].reading("usefulness") | {"labels": whose}

    def fixed_pixels(self, images: np.ndarray) -> Tree:
        """What `fixed_pixels.found_in` finds of images (n, C, H, W), against all real ones."""
        noise = float(np.median(self.real["noise_level"]))

        def of_real() -> fixed_pixels.Maps:
            others = Rows(self.dataset.images, np.concatenate([self.held, self.other]))
            return fixed_pixels.contrast_maps(others, noise)

        real = self._once(of_real, "fixed_pixels", self.n)
        found = fixed_pixels.found_in(fixed_pixels.contrast_maps(images, noise), real)
        return found | MEASURES["fixed_pixels"].reading("fixed_pixels")

    def copies(self, images: np.ndarray, training: Any) -> Tree:
        """What `memorisation.memorised` finds of images (n, C, H, W), in pixels and features."""
        heldout = self.dataset.part(self.dataset.heldout)
        some = Rows(training, memorisation.part_of(len(training)))  # read a part at a time

        def of_real() -> list[np.ndarray]:
            return [self.features_of(some), self.features_of(heldout)]

        first = np.ascontiguousarray(training[:64]).tobytes()  # tells one training from another
        train, held = self._once(of_real, f"copies of {digest_of(first)}", len(training))
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
        return found | measure.reading("lens_fit_by_class")

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
        found |= measure.reading("lens_fit")
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
        optics = digest_of(repr(sorted((self.optics or {}).items())).encode())

        def of_real() -> np.ndarray:
            others = self.dataset.images[self.other[: 2 * n]]
            return np.concatenate([self._chi2(self.reference.images[:n]), self._chi2(others)])

        chi2 = self.kept.once(f"chi2-{n}-{optics}", of_real)
        return chi2[:n], chi2[n:]

    def _chi2(self, images: np.ndarray) -> np.ndarray:
        return smooth_lenses.reduced_chi2(images, self.optics or {}, self.device, self.workers)

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
    some = np.asarray(images[: judge.n])
    dataset = judge.dataset
    training = dataset.part(dataset.train)
    tree, deviations, curves = judged(judge, name, some, asked, training)
    io.write_table(folder / "deviations.csv", deviations)
    io.write_json(folder / "metrics.json", tree)
    io.write_json(folder / "curves.json", curves)


def judged(
    judge: Judge, name: str, images: np.ndarray, asked: Asked | None = None, training: Any = None
) -> tuple[Tree, dict[str, list[float]], Tree]:
    """What `evaluate` writes of images (n, C, H, W): metrics, deviations and curves.

    training : the images that the generator learned from, where they are known
    """
    dataset = judge.dataset
    tree: Tree = {"method": name, "n": judge.n, "lensnet": LENSNET, "finder": FINDER}
    tree["metrics"] = judge.measured(images, asked)
    if training is not None:
        tree["memorisation"] = judge.copies(images, training)
        tree["metrics"]["copies"] = memorisation.as_measure(tree["memorisation"], judge.seed)
    if judge.settings.fit and judge.optics:
        tree["metrics"]["lens_fit"] = judge.lens_fit(images)
        if by_class := judge.lens_fit_by_class(images, asked):
            tree["metrics"]["lens_fit_by_class"] = by_class
    if asked is not None:
        tree |= judge.obeyed(images, asked)
    columns = {key: found.pop("deviations") for key, found in tree["metrics"].items()}
    deviations = {key: column for key, column in columns.items() if column}
    drawn = {"generated": judge.curves(images), "real": judge.real_curves}
    return tree, deviations, {"pixel_scale": dataset.pixel_scale, **drawn}
