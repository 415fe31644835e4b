"""The evaluation of one method: its images against the held-out ones, every number with error and floor."""

import functools
from typing import NamedTuple

import numpy as np

from lensnb import io, metrics
from lensnb.datasets import conditions
from lensnb.datasets.dataset import comparison_rows
from lensnb.errors import InputError
from lensnb.evaluation import (
    finder,
    image_stats,
    inception,
    lens_fit,
    lensnet,
    memorisation,
    morphology,
    uncertainty,
    usefulness,
)
from lensnb.lensing.priors import CLASSES, PRIORS
from lensnb.runs.run_folder import FINDER, LENSNET
from lensnb.two_sample import two_sample

LEAST = 8  # images on each side
CHUNK = 1024  # images that are measured at a time
LEAST_CHI2 = 1e-6  # that of a constant image is 0
MOST = 10_000  # images a side, of measures whose time or memory would outgrow all others


class Ruler(NamedTuple):
    """One metric: which rows it compares, by what distance, and how the result is to be read."""

    rows: str  # a key of Judge.makers
    distance: object  # of two sets of rows
    unit: str | dict  # or name -> unit, of a distance that gives several
    group: str  # features, physics or model
    options: dict = {}  # of metrics.measure
    larger: bool | dict = (
        False  # whether larger is better, or name -> the same; None: as much as of real images is best
    )
    most: int | None = None  # images on each side, at most


SCORE = {"ratio": False}
NEAR = {"ratio": False, "resample": "subsample"}
LARGER = {"precision": True, "recall": True, "density": None, "coverage": True}
SIGMAS = "standard deviations of real images"


def _auc(a, b):
    found = two_sample(
        a, b, permutations=40
    )  # the error to an eighth: the p-value is not used
    return found["auc"], found["auc_error"]


def _share_found(a, b):
    found = _share(a)
    return found["share"], found["error"]


FEATURES = {
    "frechet_lensnet": Ruler(
        "features", metrics.frechet, "standard deviations of a real feature, squared", "features"
    ),
    "frechet_lensnet_by_class": Ruler(
        "features",
        metrics.frechet_by_class,
        "standard deviations of a real feature, squared",
        "features",
        {"labels": True},
    ),
    "kid": Ruler("features", metrics.kid, "1", "features", SCORE),
    "neighbours": Ruler(
        "features", metrics.neighbours, metrics.NEIGHBOURS, "features", NEAR, LARGER, MOST
    ),
    "told_apart": Ruler(
        "features",
        _auc,
        "area under the curve",
        "features",
        {"ratio": False, "resample": "own"},
        most=MOST,
    ),
    "readings": Ruler("readings", morphology.wasserstein_columns, SIGMAS, "features"),
}


class Judge:
    """The real images of a comparison and what is measured on them, once for all methods of a run.

    Everything that must be fixed beforehand (units of the features, bins, levels) is taken from the reference.
    """

    def __init__(self, params, dataset):
        self.settings = params.evaluate
        self.seed = params.seed
        self.dataset = dataset
        self.kind = conditions.resolve(params.model.context, dataset)
        self.held, self.other = comparison_rows(
            dataset, min(params.evaluate.n, params.sample.n), params.data_seed
        )
        self.n = len(self.held)
        self.reference = dataset.images[self.held]
        if self.n < LEAST:
            raise InputError(
                f"evaluate: {self.n} images on each side, and {LEAST} are needed; bring more images, or raise "
                "data.holdout, evaluate.n or sample.n"
            )
        self.units = lensnet.Units(self.reference)
        self.net = lensnet.load()
        self.makers = self._features()
        self.rulers = dict(FEATURES)
        self.lenses = self._add_finder()
        self._add_physics()
        if params.evaluate.inception:
            self._add_inception(params.evaluate.inception)
        self.real = self.rows(self.reference)
        self.others = self.rows(dataset.part(self.other))
        self.optics = optics(params, dataset)
        self._fitted = None

    def _features(self):
        spread = lensnet.features(self.reference, self.units, self.net).std(axis=0)
        alive = (
            spread > 1e-3 * spread.max()
        )  # a dead feature divided by its scatter would outweigh all others

        def columns(read):
            return np.stack([read[name] for name in lensnet.READS], axis=1)

        return {
            "features": lambda x: (
                lensnet.features(x, self.units, self.net)[:, alive] / spread[alive]
            ),
            "readings": lambda x: columns(lensnet.readings(x, self.units, self.net)),
        }

    def _add_finder(self):
        """Whether the finder, which knows lenses only, says anything here: it must find half of the real images."""
        net = finder.load()
        self.makers["found"] = lambda x: finder.found(x, self.units, net)[:, None]
        if sensible := self.makers["found"](self.reference).mean() >= 0.5:
            self.rulers["lenses_found"] = Ruler(
                "found",
                _share_found,
                "share",
                "features",
                {"ratio": False, "resample": "own"},
                True,
            )
        return bool(sensible)

    def _add_physics(self):
        edges = image_stats.intensity_edges(self.reference)
        std = float(self.reference.std(dtype=float))

        def add(name, make, distance, unit):
            return (
                self.makers.update({name: make}),
                self.rulers.update({name: Ruler(name, distance, unit, "physics")}),
            )

        add(
            "intensity",
            lambda x: image_stats.cumulative_shares(x, edges),
            lambda a, b: metrics.wasserstein(a, b, np.diff(edges)) / std,
            "pixel standard deviations",
        )
        add("spectrum", image_stats.log_power, metrics.mean_distance, "dex")
        add(
            "profile",
            lambda x: image_stats.radial_profile(x) / std,
            metrics.mean_distance,
            "pixel standard deviations",
        )
        for name, (make, distance, unit) in morphology.summaries(self.reference).items():
            add(name, make, distance, unit)

    def _add_inception(self, weights):
        net = inception.load(weights)
        low = float(self.reference.min())
        high = float(self.reference.max())
        self.makers["inception"] = lambda x: inception.features(x, low, high, net)
        self.rulers["fid"] = Ruler("inception", metrics.frechet, "1", "features")

    def rows(self, images):
        """What is measured on images (N, C, H, W): name of the maker -> rows (N, d)."""
        parts = [
            {name: make(some) for name, make in self.makers.items()}
            for some in (images[i : i + CHUNK] for i in range(0, len(images), CHUNK))
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in self.makers}

    def labels(self, images, asked):
        """Classes of generated, reference and other images: asked for and known, or all read by LensNet."""
        if asked is not None and self.dataset.labels is not None:
            return (
                asked["class"][: self.n],
                self.dataset.labels[self.held],
                self.dataset.labels[self.other],
            )
        return self._read(images), *self._real_classes

    @functools.cached_property
    def _real_classes(self):
        return self._read(self.reference), self._read(self.dataset.part(self.other))

    def _read(self, images):
        return lensnet.readings(images, self.units, self.net)["class"]

    def measured(self, images, asked=None):
        """Every metric of images (n, C, H, W): name -> tree of value, error, floor and how it is to be read."""
        made = self.rows(images)
        labels = self.labels(images, asked)
        found = {}
        for name, ruler in self.rulers.items():
            found |= self._measured(name, ruler, made[ruler.rows], labels)
        if useful := self._usefulness(made["features"], labels, asked):
            found["usefulness"] = useful
        found["frechet_lensnet"]["to_training"] = metrics.frechet(
            made["features"], self.others["features"][: self.n]
        )
        found["frechet_lensnet"]["at_infinity"] = self._at_infinity(made["features"])
        for name in ("noise_level", "total_flux", "ring_radius", "ellipticity"):
            scale, unit = (
                (self.dataset.pixel_scale, "arcsec")
                if name == "ring_radius" and self.dataset.pixel_scale
                else (1, morphology.SUMMARIES[name][1])
            )
            found[name]["mean"] = {
                "unit": unit,
                **{
                    whose: _mean(scale * rows[name])
                    for whose, rows in (("generated", made), ("real", self.real))
                },
            }
        return found

    def _at_infinity(self, made):
        """The Frechet distance without its bias, or None: of too few images for so many features it is not a line in 1/n."""
        if len(made) < 3 * made.shape[1]:
            return None
        return dict(
            zip(
                ("value", "error"),
                uncertainty.frechet_at_infinity(made, self.real["features"], seed=self.seed),
                strict=True,
            )
        )

    def _measured(self, name, ruler, made, labels):
        """The trees of one ruler: that of its own name, or of the names that it measures."""
        s = self.settings
        options = ruler.options | ({"labels": labels} if ruler.options.get("labels") else {})
        most = ruler.most or self.n
        found = uncertainty.measure(
            ruler.distance,
            made[:most],
            self.real[ruler.rows][:most],
            self.others[ruler.rows][: 4 * most],
            ruler.unit,
            s.bootstrap,
            s.floors,
            self.seed,
            **options,
        )
        trees = found if isinstance(ruler.unit, dict) else {name: found}
        larger = ruler.larger if isinstance(ruler.larger, dict) else {name: ruler.larger}
        return {
            key: tree | {"group": ruler.group, "larger_is_better": larger[key]}
            for key, tree in trees.items()
        }

    def _usefulness(self, made, labels, asked):
        """How well a classifier learns real classes from generated images, or None.

        Real images must have classes. Where generated ones were not asked for theirs, all are read by
        LensNet, which knows those of lenses only.
        """
        whose = "read" if asked is None else "asked"
        if (
            self.dataset.labels is None
            or len(np.unique(labels[1])) < 2
            or (whose == "read" and not self.lenses)
        ):
            return None
        s = self.settings
        found = usefulness.measure(
            made,
            self.real["features"],
            self.others["features"],
            labels,
            s.bootstrap,
            s.floors,
            self.seed,
        )
        return found | {"group": "features", "larger_is_better": True, "labels": whose}

    def lens_fit(self, images):
        """Can the images be lenses? Reduced chi2 of the best smooth lens, as a distribution against that of real images.

        The first evaluate.fit images of each side are fitted, and twice as many others for the floor.
        """
        n = min(self.settings.fit, self.n, len(self.other) // 2)

        def chi2(x):
            return lens_fit.fit(x, **self.optics).chi2

        if self._fitted is None:
            self._fitted = chi2(self.reference[:n]), chi2(self.dataset.images[self.other[: 2 * n]])
        made = chi2(images[:n])
        rows = [np.log10(values.clip(LEAST_CHI2))[:, None] for values in (made, *self._fitted)]
        found = uncertainty.measure(
            morphology.wasserstein_columns,
            *rows,
            SIGMAS + " of log chi2",
            self.settings.bootstrap,
            self.settings.floors,
            self.seed,
        )
        found |= {"group": "model", "larger_is_better": False}
        for whose, values in (("generated", made), ("real", np.concatenate(self._fitted))):
            found[whose] = {"median": float(np.median(values)), "above_1.1": _share(values > 1.1)}
        return found

    def obedience(self, images, asked):
        """What was asked for against what LensNet reads, and the same for real images: column -> bias, scatter, n; share of right classes.

        Classes go by name, and there is no share where LensNet does not know one; a length, read in its own field of view,
        is compared where the pixel scale is known. None where nothing is left.
        """
        read, real = (lensnet.readings(x, self.units, self.net) for x in (images, self.reference))
        known = {
            "class": self.dataset.labels[self.held],
            **{
                k: np.asarray(v)[self.held]
                for k, v in self.dataset.truth.items()
                if k in conditions.PHYSICS
            },
        }
        broad = PRIORS["broad"]
        scale = self.dataset.pixel_scale
        arcsec = {"theta_E": scale and scale * images.shape[-1] / (broad.pixel_scale * broad.size)}
        columns = [name for name in conditions.PHYSICS if name in asked and arcsec.get(name, 1)]
        numbers = np.array(
            [CLASSES.index(name) if name in CLASSES else -1 for name in self.dataset.classes]
        )

        def compared(seen, told):
            found = {
                name: _errors(arcsec.get(name, 1) * seen[name] - told[name]) for name in columns
            }
            return (
                found
                if (numbers < 0).any()
                else found | {"class": _share(seen["class"] == numbers[told["class"]])}
            )

        both = {
            "generated": compared(read, {k: v[: self.n] for k, v in asked.items()}),
            "real": compared(real, known),
        }
        return both if both["real"] else None


def optics(params, dataset):
    """What `fit.fit` must know of the images: pixel scale and PSF, and the noise where it is simulated; None if the PSF is not known."""
    data = params.data
    psf_fwhm = params.evaluate.psf_fwhm
    if data.path is None and data.download is None:
        prior = PRIORS[data.prior]
        known = (
            data.scaling != "minmax" and prior.snr is not None
        )  # units in which the background's noise is 1
        return {
            "pixel_scale": dataset.pixel_scale,
            "psf_fwhm": prior.psf_fwhm,
            "noise": prior.background if known else None,
        }
    return {"pixel_scale": dataset.pixel_scale or 1, "psf_fwhm": psf_fwhm} if psf_fwhm else None


def _errors(gap):
    """Bias and scatter of differences (n,), with their standard errors."""
    n = len(gap)
    scatter = float(gap.std(ddof=1))
    return {
        "bias": float(gap.mean()),
        "bias_error": scatter / n**0.5,
        "scatter": scatter,
        "scatter_error": scatter / (2 * n - 2) ** 0.5,
        "n": n,
    }


def _mean(values):
    """Mean of the finite numbers with its standard error."""
    values = values[np.isfinite(values)]
    return (
        {"value": float(values.mean()), "error": float(values.std(ddof=1) / len(values) ** 0.5)}
        if len(values) > 1
        else None
    )


def _share(hits):
    """A share of yes among (n,) with its binomial standard error, which is never zero."""
    n = len(hits)
    share = float(np.mean(hits))
    return {"share": share, "error": max(share * (1 - share) / n, 1 / n**2) ** 0.5, "n": n}


def curves(images, pixel_scale):
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


def evaluate(judge, name, images, asked, folder):
    """Judge the images (N, C, H, W) of method `name`; writes metrics.json, deviations.csv and curves.json to `folder`.

    deviations.csv holds what is behind the error of each metric, one row a resampling, which is the same
    for all methods: what two methods differ by has the scatter of the difference of their columns.
    asked : what they were asked to be, column -> (N,), or None. Both sides of every distance have the
    same n: the least of evaluate.n, the images drawn and the held-out ones.
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
    if asked is not None and dataset.labels is not None and (told := judge.obedience(some, asked)):
        tree["obedience"] = told
    deviations = {key: found.pop("deviations") for key, found in tree["metrics"].items()}
    io.write_table(
        folder / "deviations.csv", {key: column for key, column in deviations.items() if column}
    )
    io.write_json(folder / "metrics.json", tree)
    io.write_json(
        folder / "curves.json",
        {
            "pixel_scale": dataset.pixel_scale,
            "generated": curves(some, dataset.pixel_scale),
            "real": curves(judge.reference, dataset.pixel_scale),
        },
    )
