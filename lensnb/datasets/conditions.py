"""Conditions: what a generator is asked to draw, its class or its physics, as numbers (N, K).

`class` is the one-hot class. `physics` adds the Einstein radius theta_E (arcsec), the axis ratio q
and the shear strength gamma, each scaled to mean 0 and variance 1 over the training images. None
of them has an angle, so a flipped or turned image keeps its condition.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lensnb import io
from lensnb.datasets.dataset import Dataset
from lensnb.datasets.readers import reading
from lensnb.errors import InputError, did_you_mean

PHYSICS = ("theta_E", "q", "gamma")

Table = Mapping[str, np.ndarray]  # column name -> (N,)


def resolve(kind: str, dataset: Dataset) -> str:
    """The kind of condition, "none", "class" or "physics".

    "auto" becomes the kind that uses most of what is known of the images.
    """
    if kind != "auto":
        return kind
    if dataset.labels is None:
        return "none"
    return "physics" if set(PHYSICS) <= set(dataset.truth) else "class"


def width(kind: str, dataset: Dataset) -> int:
    """Length K of the condition vector.

    Raises InputError where the images do not bring what `kind` needs.
    """
    kind = resolve(kind, dataset)
    if kind == "none":
        return 0
    if dataset.labels is None:
        raise InputError(
            f"model.context: {kind} is asked for, and the images have no labels; use none, or "
            "bring class folders"
        )
    columns = _physics(kind)
    missing = [name for name in columns if name not in dataset.truth]
    if missing:
        raise InputError(
            "model.context: physics is asked for, and the images come without "
            f"{' and '.join(missing)}; use class or none, or bring these columns in a .npz beside "
            "`images`"
        )
    return len(dataset.classes) + len(columns)


def _physics(kind: str) -> tuple[str, ...]:
    """The columns of physics that belong to this kind."""
    return PHYSICS if kind == "physics" else ()


def table(kind: str, dataset: Dataset) -> dict[str, np.ndarray]:
    """The conditions of every image of a dataset: column name -> (N,).

    The class is an index into dataset.classes.
    """
    width(kind, dataset)
    columns = {"class": np.asarray(dataset.labels)}
    for name in _physics(kind):
        columns[name] = np.asarray(dataset.truth[name], float)
    return columns


def encode(kind: str, dataset: Dataset, rows: Table) -> torch.Tensor:
    """Conditions as float32 numbers (N, K) that a network reads.

    rows : columns as `table` returns them.
    """
    classes = torch.as_tensor(rows["class"]).long()
    columns = [torch.nn.functional.one_hot(classes, len(dataset.classes)).float()]
    for name in _physics(kind):
        seen = np.asarray(dataset.truth[name], float)[dataset.train]
        scaled = (np.asarray(rows[name], float) - seen.mean()) / (seen.std() or 1)
        columns.append(torch.from_numpy(scaled).float()[:, None])
    return torch.cat(columns, dim=1)


def read(path: str | Path, kind: str, dataset: Dataset) -> dict[str, np.ndarray]:
    """A table of conditions to draw from: a .csv with the columns that `kind` has.

    The class stands there by name or number. Raises InputError for a missing column, an unknown
    class, a value that is no finite number, and a table without rows.
    """
    path = Path(io.locate(path))
    if not path.is_file():
        raise InputError(f"{path}: no such file; sample.context names a .csv with one row an image")
    with reading(path, "a table", "text with a header and rows of as many values"):
        found = io.read_table(path)
    needed = ["class", *_physics(kind)]
    if not set(needed) <= set(found):
        raise InputError(
            f"{path}: columns with rows below are {', '.join(found) or 'none'}; expected a header "
            f"and rows with {', '.join(needed)}"
        )
    rows = {name: _check_numbers(path, name, found[name]) for name in needed[1:]}
    classes = [_class_index(path, value, dataset.classes) for value in found["class"].tolist()]
    return {"class": np.array(classes)} | rows


def _check_numbers(path: Path, name: str, column: np.ndarray) -> np.ndarray:
    if column.dtype.kind != "f" or not np.isfinite(column).all():
        raise InputError(f"{path}: column {name} holds something else than finite numbers")
    return column


def _class_index(path: Path, value: Any, classes: Iterable[str]) -> int:
    """The index of a class given by its name or its number."""
    classes = list(classes)
    is_whole = isinstance(value, float) and value.is_integer()
    name = str(int(value)) if is_whole else str(value)  # digits are classes named by numbers
    if name in classes:
        return classes.index(name)
    if is_whole and 0 <= value < len(classes):
        return int(value)
    raise InputError(f"{path}: unknown class {name}; {did_you_mean(name, classes)}")
