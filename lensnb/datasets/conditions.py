"""Conditions: what a generator is asked to draw, as numbers (N, K) that a network reads.

A recipe names them in `model.context`: `class`, `physics` (class, Einstein radius theta_E in
arcsec, axis ratio q and shear strength gamma), or a list of columns of the truth table.

A column of numbers is scaled to mean 0 and variance 1 over the training images. A class, and a
column of text, becomes one number for each of its names, 1 for the one that is meant (one-hot).
A missing value is a dropped condition: the network sees 0, and a second number, 1 where the value
is known. That number is there only where training images miss the value.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lensnb import io
from lensnb.datasets.dataset import Dataset
from lensnb.datasets.file_source import names_images
from lensnb.datasets.readers import reading
from lensnb.errors import InputError, did_you_mean

PHYSICS = ("theta_E", "q", "gamma")
CLASS = "class"  # the name of the labels among the columns
BLANK = ("", "nan", "na", "n/a", "null", "none", "--")  # text that stands for a missing value
MOST_NAMES = 64  # of a column of text: with more it is a list of identifiers
# The last word of the names of columns that a turn or a flip of the image changes.
DIRECTED = frozenset(
    ["x", "y", "ra", "dec", "phi", "angle", "pa", "e1", "e2", "g1", "g2", "gamma1", "gamma2"]
)

Kind = str | tuple[str, ...]  # "none", "class", "physics" or the names of columns
Table = Mapping[str, Any]  # column name -> (N,)


# ---- one column


@dataclass(frozen=True)
class Number:
    """A condition that is a number.

    mean, std : of the known values of training images; gaps : whether training images miss it
    """

    name: str
    mean: float
    std: float
    gaps: bool

    @property
    def width(self) -> int:
        """How many numbers the network reads."""
        return 2 if self.gaps else 1

    def parse(self, values: Any, source: str) -> np.ndarray:
        """The values as float (N,), NaN where they are missing; raises InputError for others."""
        found = _as_numbers(values)
        if found is None or np.isinf(found).any() or (np.isnan(found).any() and not self.gaps):
            raise InputError(
                f"{source}: column {self.name} holds something else than finite numbers"
                + ("" if self.gaps else ", and no training image misses this number")
            )
        return found

    def encode(self, values: np.ndarray) -> torch.Tensor:
        """Float32 (N, width)."""
        scaled = (np.asarray(values, float) - self.mean) / (self.std or 1)
        column = torch.from_numpy(scaled).float()[:, None]
        if not self.gaps:
            return column
        known = ~column.isnan()
        return torch.cat([column.nan_to_num(), known.float()], dim=1)


@dataclass(frozen=True)
class Names:
    """A condition that is one of several names: a class, or text such as a band."""

    name: str
    names: tuple[str, ...]
    of_labels: bool = False  # whether it is told by its index, as dataset.labels is

    @property
    def width(self) -> int:
        """How many numbers the network reads."""
        return len(self.names)

    def parse(self, values: Any, source: str) -> np.ndarray:
        """Indices into the names (N,), of names or numbers; raises InputError for an unknown one.

        For a column of text the names themselves, "" where there is none.
        """
        listed = np.atleast_1d(np.asarray(values)).tolist()
        if self.of_labels:
            return np.array([self._index(value, source) for value in listed], dtype=np.int64)
        texts = [_text(value) for value in listed]
        for text in texts:
            if text and text not in self.names:
                raise InputError(
                    f"{source}: unknown {self.name} {text}; {did_you_mean(text, self.names)}"
                )
        return np.array(texts)

    def _index(self, value: Any, source: str) -> int:
        """The index of a class given by its name or its number.

        A table of classes that are named by numbers is read back as numbers: 1.0 is the class 01.
        """
        whole = isinstance(value, float) and value.is_integer()
        name = str(int(value) if whole else value).strip()
        if name in self.names and not whole:
            return self.names.index(name)
        number = _number(name)
        alike = [
            i
            for i, known in enumerate(self.names)
            if number is not None and _number(known) == number
        ]
        if len(alike) > 1:
            both = " or ".join(self.names[i] for i in alike)
            raise InputError(f"{source}: class {name} may be {both}; rename one of them")
        if alike:
            return alike[0]
        if number is not None and number.is_integer() and 0 <= number < len(self.names):
            return int(number)
        raise InputError(f"{source}: unknown class {name}; {did_you_mean(name, self.names)}")

    def encode(self, values: np.ndarray) -> torch.Tensor:
        """Float32 (N, width), rows of zeros where the name is missing."""
        if self.of_labels:
            classes = torch.as_tensor(values).long()
            return torch.nn.functional.one_hot(classes, len(self.names)).float()
        hits = np.asarray(values)[:, None] == np.array(self.names)
        return torch.from_numpy(hits).float()


def _as_numbers(values: Any) -> np.ndarray | None:
    """The values as float (N,), NaN for missing ones; None if one of them is no number."""
    array = np.atleast_1d(np.asarray(values))
    if array.dtype.kind in "fiub":
        return array.astype(float)
    try:
        return np.array([np.nan if _text(v) == "" else float(v) for v in array.tolist()])
    except (TypeError, ValueError):
        return None


def _number(text: str) -> float | None:
    """The finite number that a text stands for, or None."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _text(value: Any) -> str:
    """A value as a name: whole numbers without a point, "" for a missing one."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = "" if value is None else str(value).strip()
    return "" if text.lower() in BLANK else text


# ---- which columns


def resolve(kind: Kind, dataset: Dataset) -> Kind:
    """The kind of condition: "none", "class", "physics", or the names of columns.

    "auto" becomes the kind that uses most of what is known of the images.
    """
    if kind != "auto":
        return kind
    if dataset.labels is None:
        return "none"
    numbers = {name for name, column in dataset.truth.items() if column.dtype.kind in "fiub"}
    return "physics" if set(PHYSICS) <= numbers else CLASS


def names(kind: Kind, dataset: Dataset) -> tuple[str, ...]:
    """The names of the columns that a model is told.

    Raises InputError where the images do not bring what `kind` needs.
    """
    kind = resolve(kind, dataset)
    if kind == "none":
        return ()
    if not isinstance(kind, str):
        _check_listed(kind, dataset)
        return kind
    if dataset.labels is None:
        raise InputError(
            f"model.context: {kind} is asked for, and the images have no labels; use none, or "
            "bring class folders"
        )
    columns = PHYSICS if kind == "physics" else ()
    missing = [name for name in columns if name not in dataset.truth]
    if missing:
        raise InputError(
            "model.context: physics is asked for, and the images come without "
            f"{' and '.join(missing)}; use class or none, or bring these columns in a .npz beside "
            "`images`"
        )
    return (CLASS, *columns)


def _check_listed(listed: Iterable[str], dataset: Dataset) -> None:
    known = [*([CLASS] if dataset.labels is not None else []), *dataset.truth]
    for name in listed:
        if name not in known:
            told = did_you_mean(name, known) if known else "nothing is known of them"
            raise InputError(
                f"model.context: {name} is asked for, and the images come without it; {told}"
            )


def columns(kind: Kind, dataset: Dataset) -> dict[str, Number | Names]:
    """The columns that a model is told, in order: name -> how the column is read and encoded.

    Raises InputError for a column that is not there, or that cannot be told.
    """
    return {name: _column(name, dataset) for name in names(kind, dataset)}


def _column(name: str, dataset: Dataset) -> Number | Names:
    if name == CLASS and dataset.labels is not None:
        return Names(CLASS, tuple(dataset.classes), of_labels=True)
    numbers = _as_numbers(dataset.truth[name])
    if numbers is None:
        return _column_of_text(name, dataset)
    seen = numbers[dataset.train]
    if np.isinf(seen).any():
        raise InputError(f"model.context: column {name} holds infinite numbers; leave it out")
    known = seen[~np.isnan(seen)]
    if not len(known):
        raise InputError(f"model.context: no training image has a number in column {name}")
    return Number(name, known.mean(), known.std(), len(known) < len(seen))


def _column_of_text(name: str, dataset: Dataset) -> Names:
    known = [text for text in map(_text, dataset.truth[name].tolist()) if text]
    texts = set(known)
    if len(texts) > MOST_NAMES or names_images(known):
        raise InputError(
            f"model.context: column {name} holds {len(texts)} different words for {len(known)} "
            "images: they name images and tell nothing of them; leave it out (at most "
            f"{MOST_NAMES} words can be told)"
        )
    return Names(name, tuple(sorted(texts)))


def width(kind: Kind, dataset: Dataset) -> int:
    """Length K of the condition vector.

    Raises InputError where the images do not bring what `kind` needs.
    """
    return sum(column.width for column in columns(kind, dataset).values())


# ---- tables


def table(kind: Kind, dataset: Dataset) -> dict[str, np.ndarray]:
    """The conditions of every image of a dataset: column name -> (N,).

    The class is an index into dataset.classes. Missing numbers are NaN, missing words "".
    """
    found = {}
    for name, column in columns(kind, dataset).items():
        if isinstance(column, Names) and column.of_labels:
            found[name] = np.asarray(dataset.labels)
        elif isinstance(column, Names):
            found[name] = np.array([_text(value) for value in dataset.truth[name].tolist()])
        else:
            found[name] = np.asarray(_as_numbers(dataset.truth[name]))
    return found


def encode(kind: Kind, dataset: Dataset, rows: Table) -> torch.Tensor:
    """Conditions as float32 numbers (N, K) that a network reads.

    rows : columns as `table` returns them.
    """
    told = columns(kind, dataset)
    return torch.cat([column.encode(rows[name]) for name, column in told.items()], dim=1)


def completed(
    kind: Kind, dataset: Dataset, given: Table, rows: Sequence[int], first: int = 0
) -> dict[str, np.ndarray]:
    """The conditions of len(rows) images, of which `given` fixes some columns: name -> (n,).

    given : name -> a value, or values that come in turn; the class by name or number
    rows : the images of the dataset whose conditions take the places of the columns not given
    first : the place in turn of the first image
    Raises InputError for an unknown column, and for a value that cannot be told.
    """
    told = columns(kind, dataset)
    for name in given:
        if name not in told:
            raise InputError(f"draw: the model is not told {name}; {did_you_mean(name, told)}")
    known = table(kind, dataset) if set(told) - set(given) else {}
    found = {}
    for name, column in told.items():
        values = column.parse(given[name], "draw") if name in given else known[name][rows]
        if name in given and not len(values):
            raise InputError(f"draw: no value is given for {name}")
        turn = np.arange(first, first + len(rows)) % len(values)
        found[name] = values[turn] if name in given else values
    return found


def written(rows: Table, dataset: Dataset) -> dict[str, Any]:
    """The rows as they stand in a .csv: classes by their names, and nan for a missing word.

    A row of empty text would be taken for a blank line.
    """
    found = {name: _without_blanks(column) for name, column in rows.items()}
    if CLASS in rows and dataset.labels is not None:
        found[CLASS] = [dataset.classes[i] for i in rows[CLASS]]
    return found


def _without_blanks(column: Any) -> Any:
    values = np.asarray(column)
    return np.where(values == "", "nan", values) if values.dtype.kind == "U" else column


def read(path: str | Path, kind: Kind, dataset: Dataset) -> dict[str, np.ndarray]:
    """A table of conditions to draw from: a .csv with the columns that `kind` has.

    The class stands there by name or number. Raises InputError for a missing column, an unknown
    class or word, a value that is no finite number, and a table without rows.
    """
    path = Path(io.locate(path))
    if not path.is_file():
        raise InputError(f"{path}: no such file; sample.context names a .csv with one row an image")
    with reading(path, "a table", "text with a header and rows of as many values"):
        found = io.read_table(path)
    told = columns(kind, dataset)
    if not set(told) <= set(found):
        raise InputError(
            f"{path}: columns with rows below are {', '.join(found) or 'none'}; expected a header "
            f"and rows with {', '.join(told)}"
        )
    return {name: column.parse(found[name], str(path)) for name, column in told.items()}


# ---- what is told of them


def directed(kind: Kind, dataset: Dataset) -> list[str]:
    """The columns that by their names are places or angles: a turned image breaks them."""
    listed = () if isinstance(kind, str) else names(kind, dataset)
    return [name for name in listed if _last_word(name) in DIRECTED or name.startswith("phi_")]


def _last_word(name: str) -> str:
    """The last part of a name such as "lens_center_x" or "ra_0" that is no number."""
    parts = [part for part in name.lower().split("_") if part and not part.isdigit()]
    return parts[-1] if parts else ""
