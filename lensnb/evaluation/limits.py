"""What a later step would refuse, and what the numbers of the judge cannot say, in sentences."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from lensnb.datasets import conditions
from lensnb.datasets.dataset import Dataset, comparison_rows, monitoring_rows
from lensnb.datasets.pixels import chunks
from lensnb.errors import InputError
from lensnb.evaluation.lensnet import LensNet
from lensnb.evaluation.measures import LEAST
from lensnb.kinds import KINDS, trained_for
from lensnb.recipes.recipe import Params

FEATURES = LensNet.FEATURES


def judged(params: Params, dataset: Dataset) -> int:
    """How many images stand on each side of every distance."""
    most = min(params.evaluate.n, params.sample.n)
    return len(comparison_rows(dataset, most, params.data_seed)[0])


def of_steps(params: Params, dataset: Dataset) -> list[str]:
    """One sentence for each thing that a later step would refuse or that would mislead there.

    The step that would refuse is named. An empty list: nothing was found.
    """
    return [
        *_of_the_split(dataset),
        *_of_training(params, dataset),
        *_of_conditions(params, dataset),
        *_of_the_judge(params, dataset),
    ]


def _of_the_split(dataset: Dataset) -> list[str]:
    shared = shared_images(dataset)
    if not shared:
        return []
    return [
        f"{shared} of {len(dataset.heldout)} held-out images are training images, too, pixel by "
        "pixel: the distances of 04_evaluate will be too small; remove the duplicates"
    ]


def shared_images(dataset: Dataset) -> int:
    """How many held-out images equal a training image in every pixel."""
    seen = set(_digests(dataset, dataset.train))
    return sum(digest in seen for digest in _digests(dataset, dataset.heldout))


def _digests(dataset: Dataset, rows: np.ndarray) -> Iterable[bytes]:
    for chunk in chunks(len(rows), int(np.prod(dataset.images.shape[1:]))):
        for image in dataset.images[rows[chunk]]:
            yield hashlib.blake2b(image.tobytes(), digest_size=16).digest()


def _of_training(params: Params, dataset: Dataset) -> list[str]:
    n = len(dataset.train)
    found = []
    for name in trained_for(method.model for method in params.sample.methods.values()):
        section = KINDS[name].section
        batch = getattr(params, section).batch
        if batch > n:
            found.append(
                f"02_train would refuse: {section}.batch is {batch}, and there are {n} training "
                "images; lower it or bring more images"
            )
    if not found and not len(monitoring_rows(dataset, params.data_seed)):
        found.append(
            "too few images are held out to watch the training with some of them: 02_train "
            "watches with training images, which cannot show that a model repeats them"
        )
    return found


def _of_conditions(params: Params, dataset: Dataset) -> list[str]:
    kind = params.model.context
    try:
        told = conditions.columns(kind, dataset)
        directed = conditions.directed(kind, dataset)
    except InputError as error:
        return [f"02_train would refuse: {error}"]
    same = [
        name
        for name, column in told.items()
        if not isinstance(kind, str)
        and (column.std == 0 if isinstance(column, conditions.Number) else column.width < 2)
    ]
    found = []
    if same:
        found.append(
            f"model.context: {', '.join(same)} is the same in all training images and tells nothing"
        )
    found += _unseen(told, conditions.table(kind, dataset), dataset)
    flipped = {params.train.flips, params.gan.flips} - {"none"}
    if directed and flipped:
        found.append(
            f"model.context: by its name {', '.join(directed)} is a place or an angle, and "
            "training turns and flips the images but not these numbers; set train.flips and "
            "gan.flips to none"
        )
    return found


def _unseen(told: Mapping[str, Any], table: Mapping[str, Any], dataset: Dataset) -> list[str]:
    """One sentence a column with classes or words that no training image has."""
    found = []
    for name, column in told.items():
        if not isinstance(column, conditions.Names):
            continue
        seen = column.encode(table[name][dataset.train]).any(dim=0).tolist()
        unseen = [word for word, is_seen in zip(column.names, seen, strict=True) if not is_seen]
        if unseen:
            more = f" and {len(unseen) - 3} more" if len(unseen) > 3 else ""
            found.append(
                f"model.context: all images whose {name} is {', '.join(unseen[:3])}{more} are held "
                "out, so that no network learns to draw them; bring more of them"
            )
    return found


def _of_the_judge(params: Params, dataset: Dataset) -> list[str]:
    n = judged(params, dataset)
    if n < LEAST:
        return [
            f"04_evaluate would refuse: {n} images on each side of a distance, and {LEAST} are "
            f"needed ({len(dataset.heldout)} are held out); bring more images, or raise "
            "data.holdout, evaluate.n or sample.n"
        ]
    if n < FEATURES:
        return [
            f"04_evaluate will compare {n} images with {n}, fewer than LensNet's {FEATURES} "
            "features: Frechet distances are then mostly chance"
        ]
    return []


# ---- what the judge cannot say


def of_judge(
    params: Params, dataset: Dataset, metrics: Iterable[Any], n: int | None = None
) -> list[str]:
    """What the numbers of 04_evaluate cannot say of these images, one sentence each.

    metrics : the names of the measures, or the rows of table.json
    n : images on each side, by default what the recipe leads to
    """
    names = {row["metric"] if isinstance(row, Mapping) else row for row in metrics}
    n = judged(params, dataset) if n is None else n
    channels = dataset.images.shape[1]
    sentences = {
        "LensNet and the finder have learned from simulated lenses alone. On these images their "
        "features still rank methods, but what they read off a single image may be wrong": (
            not params.data.simulated
        ),
        f"LensNet and all shapes see the mean of the {channels} bands. Only the pixel intensities "
        "and the brightness of each band see colours": channels > 1,
        f"{n} images on each side are fewer than LensNet's {FEATURES} features: the Gaussians "
        "behind the Frechet distance are not determined, and only its ratio to the floor, with "
        "its error, means something": n < FEATURES,
        "No lens model was fitted, because the PSF is not known (evaluate.psf_fwhm): nothing says "
        "whether an image can be a lens": "lens_fit" not in names and params.evaluate.fit > 0,
        "No lens model was fitted (evaluate.fit is 0)": params.evaluate.fit == 0,
        "The finder is left out: it finds fewer than half of the real images": (
            "lenses_found" not in names
        ),
        "The pixel scale is not known (data.pixel_scale): lengths are in pixels": (
            dataset.pixel_scale is None
        ),
    }
    return [f"{sentence}." for sentence, holds in sentences.items() if holds]
