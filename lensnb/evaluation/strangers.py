"""Images of any generator and real ones, without a recipe or a run: read, checked, laid out.

They become a recipe and a dataset, so that the judge of runs judges them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lensnb.datasets.dataset import Dataset, Rows, Scaling
from lensnb.datasets.file_source import find_source
from lensnb.datasets.sources import read_images
from lensnb.errors import InputError
from lensnb.evaluation.measures import LEAST
from lensnb.recipes.recipe import Params, validate
from lensnb.recipes.schema import Data

Images = str | Path | np.ndarray | Any  # a file or folder that data.path reads, or an array
AXES = {3: "NHW", 4: "NCHW"}
SIDES = (8, 1024)
MOST = 2000  # images on each side: minutes of two cores, and errors of a few per cent
OTHERS = 4  # times as many other real images, at most


class Given(NamedTuple):
    """Images as they were given: (N, C, H, W) in their own units, and arcsec a pixel or None."""

    name: str
    images: np.ndarray
    pixel_scale: float | None


class Laid(NamedTuple):
    """What a judge is made of, and what there is to say of it.

    params, dataset, chosen : see `real_rows.RealRows`
    made : name -> (n, C, H, W); training : the images learned from, where they were given
    footing : sentences on how many images were compared with which
    """

    params: Params
    dataset: Dataset
    chosen: tuple[np.ndarray, np.ndarray]
    made: dict[str, np.ndarray]
    training: Rows | None
    footing: list[str]


def read(images: Images, name: str, most: int, seed: int, folder: Path) -> Given:
    """At most `most` images of a file, a folder or an array, picked at random, in their own size.

    folder : a new one, for what is unpacked. Raises InputError for whatever data.path refuses.
    """
    data: dict[str, Any] = {"holdout": 0.5, "n": max(most, 20)}
    folder.mkdir(parents=True)
    if isinstance(images, str | Path):
        data["path"] = str(images)
    else:
        data |= _saved(np.asarray(images), name, folder / "given.npy")
    source = find_source(Data(**data), folder / "unpacked")
    side = source.shape[1]
    if side is None:
        raise InputError(f"{name}: images of different sizes; bring all to one size in pixels")
    if not SIDES[0] <= side <= SIDES[1]:
        raise InputError(
            f"{name}: images of {side} pixels a side; the judge takes {SIDES[0]} to {SIDES[1]}"
        )
    (folder / "out").mkdir()
    known = read_images(Data(**data, size=side), seed, folder / "out")
    found = np.load(folder / "out" / "images.npy")
    return Given(
        name, found[np.random.default_rng(seed).permutation(len(found))], known.pixel_scale
    )


def _saved(array: np.ndarray, name: str, path: Path) -> dict[str, Any]:
    """The data section that reads an array."""
    if array.ndim not in AXES or array.dtype.kind not in "fiub":
        raise InputError(
            f"{name}: found an array of {array.dtype} with shape {array.shape}; expected numbers, "
            "(N, H, W) or (N, C, H, W)"
        )
    np.save(path, array)
    return {"path": str(path), "axes": AXES[array.ndim]}


def lay_out(
    made: Mapping[str, Given],
    real: Given,
    train: Given | None,
    settings: Mapping[str, Any],
    pixel_scale: float | None = None,
) -> Laid:
    """Sets of generated images and real ones as a recipe and a dataset.

    settings : seed, device, n and the keys of the recipe's evaluate section
    With training images, `real` is the reference and these give the floor. Without them, a third of
    `real`, picked at random, is the reference, and the rest gives the floor.
    Raises InputError for images of different shapes and for too few.
    """
    for given in (*made.values(), *([train] if train else [])):
        _check_alike(given, real)
    spare = len(train.images) // 2 if train else len(real.images) - len(real.images) // 3
    held = len(real.images) if train else len(real.images) // 3
    limits = {f"{real.name} (real)": held} | {name: len(g.images) for name, g in made.items()}
    if train:
        limits[f"{train.name} (training)"] = spare
    n = min(settings["n"], *limits.values())
    _check_enough(n, limits, real, train)
    others = train.images if train else real.images[n:]
    images = np.concatenate([real.images[:n], others])
    place = np.arange(len(images))
    scale = pixel_scale or real.pixel_scale
    low, high = float(images.min()), float(images.max())
    dataset = Dataset(
        images=images,
        labels=None,
        classes=(),
        truth={},
        pixel_scale=scale,
        train=place[n:],
        heldout=place[:n],
        scaling=Scaling("linear", 1.0, 0.0, 1.0, low, high),
        sigma_data=float(images[:n].std()),
        source=real.name,
    )
    some = {name: given.images[:n] for name, given in made.items()}
    chosen = place[:n], place[n : n + OTHERS * n]
    footing = _footing(n, real, train, limits, len(chosen[1]))
    training = dataset.part(dataset.train) if train else None
    return Laid(_params(n, real, scale, settings), dataset, chosen, some, training, footing)


def _params(n: int, real: Given, scale: float | None, settings: Mapping[str, Any]) -> Params:
    evaluate = {k: v for k, v in settings.items() if k not in ("seed", "device", "n")}
    tree: dict[str, Any] = {
        "seed": settings["seed"],
        "device": settings["device"],
        "data": {"path": real.name, "pixel_scale": scale},
        "sample": {"n": n},
        "evaluate": evaluate | {"n": n},
    }
    return validate(tree, "judge")


def _check_alike(given: Given, real: Given) -> None:
    ours, theirs = given.images.shape[1:], real.images.shape[1:]
    if ours != theirs:
        raise InputError(
            f"{given.name}: images of {' x '.join(map(str, ours))} (bands, height, width), and "
            f"those of {real.name} are {' x '.join(map(str, theirs))}; bring both to one size and "
            "the same bands first"
        )


def _check_enough(n: int, limits: Mapping[str, int], real: Given, train: Given | None) -> None:
    if n >= LEAST:
        return
    few = min(limits, key=lambda name: limits[name])
    why = (
        f"two thirds of {real.name} are needed for the real-vs-real floor, so bring "
        f"{3 * LEAST} real images or more, or name the training images (train)"
        if train is None and few == f"{real.name} (real)"
        else "bring more images"
        if train is None or few != f"{train.name} (training)"
        else f"bring {2 * LEAST} training images or more"
    )
    raise InputError(
        f"{few}: enough for {limits[few]} images on each side, and {LEAST} are needed; {why}"
    )


def _footing(
    n: int, real: Given, train: Given | None, limits: Mapping[str, int], others: int
) -> list[str]:
    spare = train.name if train else real.name
    found = [
        f"{n} generated images of each set are compared with {n} real ones of {real.name}; "
        f"{others} other real images, of {spare}, say what chance does."
    ]
    if train is None:
        found.append(
            "No training images were named: nothing says whether a generator repeats them."
        )
    few = [name for name, count in limits.items() if count == n]
    if few and len(set(limits.values())) > 1:
        found.append(f"More images are there than were compared: {', '.join(few)} sets the limit.")
    return found
