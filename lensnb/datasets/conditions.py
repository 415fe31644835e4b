"""What a generator is told of the image that it shall draw: its class, or its physics, as numbers (N, K).

`class` is the one-hot class. `physics` adds Einstein radius theta_E (arcsec), axis ratio q and shear
strength gamma, each at mean 0 and variance 1 over the training images. None of them has an angle, so
that a flipped or turned image keeps its context.
"""

import numpy as np
import torch

from lensnb import io
from lensnb.datasets import arrays
from lensnb.errors import InputError, nearest

PHYSICS = ("theta_E", "q", "gamma")


def resolve(kind, dataset):
    """`kind`, or for "auto" the most that is known of the images: "physics", "class" or "none"."""
    if kind != "auto":
        return kind
    return (
        "none"
        if dataset.labels is None
        else "physics"
        if set(PHYSICS) <= set(dataset.truth)
        else "class"
    )


def width(kind, dataset):
    """Length K of the context vector; raises InputError where the images do not bring what `kind` asks for."""
    kind = resolve(kind, dataset)
    if kind == "none":
        return 0
    if dataset.labels is None:
        raise InputError(
            f"model.context: {kind} is asked for, and the images have no labels; use none, or bring class folders"
        )
    missing = [name for name in PHYSICS if kind == "physics" and name not in dataset.truth]
    if missing:
        raise InputError(
            f"model.context: physics is asked for, and the images come without {' and '.join(missing)}; use "
            "class or none, or bring these columns in a .npz beside `images`"
        )
    return len(dataset.classes) + (len(PHYSICS) if kind == "physics" else 0)


def table(kind, dataset):
    """What is known of every image of a Dataset: column name -> (N,); the class as an index into dataset.classes."""
    width(kind, dataset)
    return {"class": np.asarray(dataset.labels)} | {
        name: np.asarray(dataset.truth[name], float) for name in PHYSICS if kind == "physics"
    }


def encode(kind, dataset, rows):
    """Rows such as those of `table` -> float32 tensor (N, K)."""
    columns = [
        torch.nn.functional.one_hot(
            torch.as_tensor(rows["class"]).long(), len(dataset.classes)
        ).float()
    ]
    for name in PHYSICS if kind == "physics" else ():
        seen = np.asarray(dataset.truth[name], float)[dataset.train]
        scaled = (np.asarray(rows[name], float) - seen.mean()) / (seen.std() or 1)
        columns.append(torch.from_numpy(scaled).float()[:, None])
    return torch.cat(columns, dim=1)


def read(path, kind, dataset):
    """A table of contexts to draw from: a .csv with the columns that `kind` has, the class by name or number.

    Raises InputError for a missing column, an unknown class, a number that is none, or no row at all.
    """
    path = io.locate(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; sample.context names a .csv with one row an image")
    with arrays.reading(path, "a table", "text with a header and rows of as many values"):
        found = io.read_table(path)
    needed = ["class", *(PHYSICS if kind == "physics" else ())]
    if not set(needed) <= set(found):
        raise InputError(
            f"{path}: columns with rows below are {', '.join(found) or 'none'}; expected a header and rows with {', '.join(needed)}"
        )
    rows = {name: _numbers(path, name, found[name]) for name in needed[1:]}
    return {
        "class": np.array(
            [_class(path, value, dataset.classes) for value in found["class"].tolist()]
        )
    } | rows


def _numbers(path, name, column):
    if column.dtype.kind != "f" or not np.isfinite(column).all():
        raise InputError(f"{path}: column {name} holds something else than finite numbers")
    return column


def _class(path, value, classes):
    whole = (
        isinstance(value, float) and value.is_integer()
    )  # classes may be called by numbers, such as digits
    name = str(int(value)) if whole else str(value)
    if name in classes:
        return classes.index(name)
    if whole and 0 <= value < len(classes):
        return int(value)
    guess = nearest(name, classes)
    raise InputError(
        f"{path}: unknown class {name}; "
        + (f"did you mean {guess}?" if guess else f"known are {', '.join(classes)}")
    )
