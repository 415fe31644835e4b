"""Files of a run: written atomically, read with one sentence about what is wrong.

Also `locate` and `home`, which say where a relative path of the user leads.
"""

import codecs
import contextlib
import csv
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import IO, Any

import numpy as np

from lensnb.errors import InputError, of_files

FORMAT = 1  # of the files in a run folder


# Where things are ---------------------------------------------------------------------------------


def locate(path: str | Path) -> Path:
    """A path of the user's: absolute, or looked up in the folders to which it may belong.

    They are the folder in which the command was given (LENSNB_FROM, set by the command line), the
    working directory, and the project's folder.
    """
    try:
        path = Path(path).expanduser()
    except RuntimeError:  # an unknown user after ~
        path = Path(path)
    given = os.environ.get("LENSNB_FROM")
    if given and not path.is_absolute() and (Path(given) / path).exists():
        return Path(given) / path
    return path if path.is_absolute() or path.exists() else home() / path


def home() -> Path:
    """The project's folder: the nearest one with `notebooks/` and `params/`.

    It is searched from the working directory upwards, then in the folder of the code. The working
    directory itself is returned if there is none.
    """
    here = Path.cwd()
    for folder in (here, *here.parents, Path(__file__).parents[1]):
        if (folder / "notebooks").is_dir() and (folder / "params").is_dir():
            return folder
    return here


def make_folder(path: Path) -> None:
    """Make a folder and its parents; raises InputError if nothing can be written there."""
    with of_files(path):
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):  # each of several processes has its own
            pass


@contextlib.contextmanager
def atomic(path: str | Path, mode: str = "w", **kwargs: Any) -> Iterator[IO[Any]]:
    """Open a temporary file that gets the name `path` only once it is written without error.

    mode and kwargs are passed to `open`. Text is UTF-8, whatever the locale.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    if "b" not in mode:
        kwargs.setdefault("encoding", "utf-8")
    try:
        with open(partial, mode, **kwargs) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def sha256(path: str | Path) -> str:
    """Hex digest of a file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# JSON ---------------------------------------------------------------------------------------------


def write_json(path: str | Path, tree: Any) -> None:
    """Write `tree` as JSON, atomically; raises ValueError for NaN and infinity."""
    with atomic(path) as file:
        json.dump(tree, file, indent=1, allow_nan=False)
        file.write("\n")


def read_json(path: str | Path) -> dict[str, Any]:
    """The names and values in a JSON file of a run.

    Raises InputError if the file is missing, damaged or written by a newer lensnb.
    """
    try:
        tree = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: not there; run the step that writes it") from None
    except ValueError as error:
        raise InputError(f"{path}: damaged ({error}); delete it and run its step again") from None
    if not isinstance(tree, dict):
        raise InputError(
            f"{path}: damaged (found {type(tree).__name__}, not names and values); "
            "delete it and run its step again"
        )
    known(path, tree)
    return tree


def known(path: str | Path, tree: Any) -> Any:
    """The tree read from `path`, unchanged.

    Raises InputError if a newer lensnb has written it: such results are neither read nor replaced.
    """
    if isinstance(tree, dict) and isinstance(tree.get("format"), int) and tree["format"] > FORMAT:
        raise InputError(
            f"{path}: made by a newer lensnb "
            f"({tree.get('lensnb')}, format {tree['format']}; this one knows {FORMAT}); "
            "update lensnb, or give this run another name (run=...)"
        )
    return tree


# Tables -------------------------------------------------------------------------------------------


def write_table(path: str | Path, columns: Mapping[str, Sequence[Any] | np.ndarray]) -> None:
    """Write equally long columns (name -> sequence) as CSV, atomically."""
    with atomic(path, newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(columns)
        rows.writerows(zip(*columns.values(), strict=True))


def write_rows(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows, one mapping each, as CSV, atomically; all have the keys of the first."""
    write_table(path, {key: [row[key] for row in rows] for key in rows[0]})


def read_table(path: str | Path) -> dict[str, np.ndarray]:
    """The columns of a CSV file, name -> array; a column that holds no numbers stays text.

    Other programs' tables are read, too: with a byte-order mark, with `;` or tabs between cells
    and then perhaps decimal commas, with blank lines, with spaces around cells. An empty cell in a
    column of numbers is NaN. Raises ValueError for rows of different lengths.
    """
    text = _decoded(Path(path).read_bytes())
    header = text.lstrip().partition("\n")[0]
    mark = max(",;\t", key=header.count)
    rows = [[cell.strip() for cell in row] for row in _rows(text, mark)]
    names, *rows = [row for row in rows if any(row)] or [[]]
    for i, row in enumerate(rows):
        if len(row) != len(names):
            raise ValueError(f"row {i + 1} has {len(row)} cells where the header has {len(names)}")
    columns = zip(*rows, strict=True)
    return {name: _column(cells, mark) for name, cells in zip(names, columns, strict=False)}


def _rows(text: str, mark: str) -> Iterator[list[str]]:
    """The rows of a CSV; a quoted cell may hold line breaks and stand behind a space."""
    return csv.reader(StringIO(text, newline=""), delimiter=mark, skipinitialspace=True)


def _decoded(content: bytes) -> str:
    """Text as UTF-8, as UTF-16 where a byte-order mark says so, or else as Windows writes it."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252")


def _column(cells: Sequence[str], mark: str) -> np.ndarray:
    """Cells as numbers if all are, else as they are."""
    given = [cell or "nan" for cell in cells]
    if mark == ";":
        given = [cell.replace(",", ".") for cell in given]
    try:
        if any(cells):
            return np.array(given, dtype=float)
    except ValueError:
        pass
    return np.array(cells)


# Images -------------------------------------------------------------------------------------------


def write_images(path: str | Path, shape: tuple[int, ...], batches: Iterable[np.ndarray]) -> int:
    """Write images that come a batch at a time as float32 .npy, atomically.

    shape : of all images together, (N, C, H, W)
    Returns the number of images with a pixel that is not finite. There is no memory map: with one,
    a full disk would end the process without a message.
    """
    bad = 0
    with atomic(path, "wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": shape}
        )
        for images in batches:
            bad += int((~np.isfinite(images)).any(axis=(1, 2, 3)).sum())
            file.write(np.ascontiguousarray(images, "<f4"))
    return bad
