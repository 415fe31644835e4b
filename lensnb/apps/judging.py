"""Judge images of any generator: no run, no recipe and no notebook is needed."""

import itertools
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lensnb.errors import InputError
from lensnb.evaluation import compare, limits, strangers
from lensnb.evaluation.closer import closer
from lensnb.evaluation.judge import Judge, judged
from lensnb.evaluation.kept_rows import MEASURED, Kept
from lensnb.evaluation.measures import MEASURES, label, of_lenses
from lensnb.evaluation.strangers import MOST, OTHERS, Given, Images, Laid, lay_out
from lensnb.runs.run_folder import outputs_folder

# Left out where the finder finds no lenses, beside the measures that tell so themselves: without
# known classes, LensNet reads them.
BY_CLASSES_READ = ("frechet_lensnet_by_class", "usefulness", "lens_fit")
ALL = 10**9  # training images: each counts where copies are sought
SHOWN = 8  # images of each set in the gallery


def judge(
    made: Images | Sequence[Any] | Mapping[str, Any],
    real: Images,
    train: Images | None = None,
    *,
    pixel_scale: float | None = None,
    psf: float | None = None,
    n: int = MOST,
    fit: int = 32,
    seed: int = 0,
    device: str = "auto",
    to: str | Path | None = None,
) -> Any:
    """How far generated images are from real ones, a `display.judged.Judged`; a notebook shows it.

    made : a file or folder that data.path reads, an array (N, C, H, W) or (N, H, W), a list of
        these, or a mapping name -> one of these; real, train : one of these each
    train : the images that the generator learned from; without them, nothing is said of copies
    pixel_scale : arcsec a pixel; psf : full width at half maximum of the PSF, in arcsec (in pixels
        without a pixel scale), without which no lens model is fitted
    n : images on each side, at most; fit : how many of them a lens model is fitted to
    to : a folder for index.html, table.csv, metrics.json and the figures

    Both sides have the same n. The real-vs-real floor needs other real images: those are `train`,
    or else two thirds of `real`. Images are compared as they are, in their own units and pixels.
    Raises InputError, one sentence, for what cannot be read, has another shape, or is too few.
    """
    settings = {"seed": seed, "device": device, "n": n, "psf_fwhm": psf, "fit": fit}
    sets = _named(made)
    with tempfile.TemporaryDirectory() as folder:
        laid = _read(sets, real, train, settings, pixel_scale, Path(folder))
    outputs = outputs_folder()
    found = _judged(laid, Kept(outputs / MEASURED if outputs.is_dir() else None))
    if to is not None:
        found.save(to)
    return found


def _named(made: Any) -> dict[str, Any]:
    """The sets by name: of the mapping, of the file, or by number."""
    if isinstance(made, Mapping):
        sets = {str(name): images for name, images in made.items()}
    else:
        several = list(made) if isinstance(made, list | tuple) else [made]
        sets = {}
        for images in several:
            name = Path(images).stem if isinstance(images, str | Path) else "made"
            while not name or name in sets or name == "real":
                name = f"{name or 'made'}'"
            sets[name] = images
    if not sets:
        raise InputError("judge: no generated images given; name a file, a folder or an array")
    return sets


def _read(
    sets: Mapping[str, Any],
    real: Images,
    train: Images | None,
    settings: Mapping[str, Any],
    pixel_scale: float | None,
    folder: Path,
) -> Laid:
    most, seed = settings["n"], settings["seed"]

    def read(images: Images, name: str, count: int, part: str) -> Given:
        name = str(images) if isinstance(images, str | Path) else name
        return strangers.read(images, name, count, seed, folder / part)

    reference = read(real, "real", most if train is not None else (1 + OTHERS) * most, "real")
    learned = None if train is None else read(train, "train", ALL, "train")
    made = {
        name: read(images, name, most, f"made-{i}") for i, (name, images) in enumerate(sets.items())
    }
    return lay_out(made, reference, learned, settings, pixel_scale)


def _judged(laid: Laid, kept: Kept) -> Any:
    from lensnb.display.judged import Judged

    on = Judge(laid.params, laid.dataset, laid.chosen, kept)
    are_lenses = "lenses_found" in on.measures
    if not are_lenses:
        on.optics = None
    metrics, deviations, curves = {}, {}, {}
    for name, images in laid.made.items():
        tree, columns, curves[name] = judged(on, name, images, training=laid.training)
        if not are_lenses:
            tree["metrics"] = {k: v for k, v in tree["metrics"].items() if k not in lens_only()}
        metrics[name] = tree
        deviations[name] = {key: np.asarray(column) for key, column in columns.items()}
    rows = compare.table_of({name: tree["metrics"] for name, tree in metrics.items()}, deviations)
    found = {
        "metrics": metrics,
        "rows": rows,
        "curves": curves,
        "verdict": compare.verdict(rows, metrics),
        "footing": laid.footing,
        "limits": _limits(laid, rows, are_lenses, on.n),
        "closer": [closer(rows, deviations, *pair) for pair in itertools.combinations(metrics, 2)],
    }
    real = {"real": on.reference.images[:SHOWN]}
    return Judged(found, real | {name: images[:SHOWN] for name, images in laid.made.items()})


def lens_only() -> list[str]:
    """Keys of the measures that say something about lenses alone."""
    named = [name for name, measure in MEASURES.items() if measure.available is of_lenses]
    return [*named, *BY_CLASSES_READ]


def _limits(laid: Laid, rows: Sequence[Any], are_lenses: bool, n: int) -> list[str]:
    """What the numbers cannot say, in words that fit images without a recipe."""
    own = {"(evaluate.psf_fwhm)": "(psf)", "(evaluate.fit is 0)": "(fit is 0)"}
    own |= {"(data.pixel_scale)": "(pixel_scale)"}
    found = limits.of_judge(laid.params, laid.dataset, rows, n)
    if not are_lenses:
        left_out = ", ".join(map(label, lens_only()))
        found = [text for text in found if "lens model" not in text and "finder is" not in text]
        found.append(
            "The lens finder finds fewer than half of the real images: they are no lenses to it. "
            f"What says something about lenses alone does not apply and is left out: {left_out}."
        )
    for ours, theirs in own.items():
        found = [text.replace(ours, theirs) for text in found]
    return found
