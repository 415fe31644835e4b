import contextlib
import csv
import hashlib
import json
import os
from pathlib import Path

import numpy as np

from lensnb.errors import InputError, of_files

FORMAT = 1  # of the files in a run folder


def locate(path):
    """A path of the user's: absolute, or relative to the working directory, or to `home()`."""
    path = Path(path).expanduser()
    return path if path.is_absolute() or path.exists() else home() / path


@contextlib.contextmanager
def atomic(path, mode="w", **kwargs):
    """Open a temporary file that takes the name `path` only once it is written without error."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, mode, **kwargs) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_json(path, tree):
    """Write `tree` as JSON, atomically; NaN and infinity are refused."""
    with atomic(path) as file:
        json.dump(tree, file, indent=1, allow_nan=False)
        file.write("\n")


def read_json(path):
    """Read a JSON file of a run, or say that it is missing, damaged or of a newer lensnb."""
    try:
        tree = json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: not there; run the step that writes it") from None
    except ValueError as error:
        raise InputError(f"{path}: damaged ({error}); delete it and run its step again") from None
    if not isinstance(tree, dict):
        raise InputError(
            f"{path}: damaged (found {type(tree).__name__}, not names and values); delete it and run its step again"
        )
    return known(path, tree)


def known(path, tree):
    """What was read from `path`, unless a newer lensnb has written it, whose results are neither read nor replaced."""
    if isinstance(tree, dict) and isinstance(tree.get("format"), int) and tree["format"] > FORMAT:
        raise InputError(
            f"{path}: made by a newer lensnb ({tree.get('lensnb')}, format {tree['format']}; this one knows {FORMAT}); "
            "update lensnb, or give this run another name (run=...)"
        )
    return tree


def write_table(path, columns):
    """Write equally long columns (a mapping of name to sequence) as CSV, atomically."""
    with atomic(path, newline="") as file:
        rows = csv.writer(file)
        rows.writerow(columns)
        rows.writerows(zip(*columns.values(), strict=True))


def write_rows(path, rows):
    """The same from rows, one dict each, all with the keys of the first."""
    write_table(path, {key: [row[key] for row in rows] for key in rows[0]})


def read_table(path):
    """Read a CSV file into a mapping of name to array; columns that are no numbers stay text."""
    with open(path, newline="") as file:
        names, *rows = list(csv.reader(file)) or [[]]
    columns = {}
    for name, column in zip(names, zip(*rows, strict=True), strict=False):
        try:
            columns[name] = np.array(column, dtype=float)
        except ValueError:
            columns[name] = np.array(column)
    return columns


def sha256(path):
    """Hex digest of a file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_folder(path):
    """Make a folder and those above it, or say in one sentence that nothing can be written there."""
    with of_files(path):
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".writable"
        probe.touch()
        probe.unlink()


def home():
    """The project's folder, which has `notebooks/`: the nearest one above the working directory, or the code's own."""
    here = Path.cwd()
    likely = (here, *here.parents, Path(__file__).parents[1])
    return next((p for p in likely if (p / "notebooks").is_dir() and (p / "params").is_dir()), here)


def write_images(path, shape, batches):
    """Write images (N, C, H, W) that come a batch at a time as float32 .npy, atomically; returns how many hold a pixel that is not finite.

    Not through a memory map, in which a full disk would end the process without a word.
    """
    bad = 0
    with atomic(path, "wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": shape}
        )
        for some in batches:
            bad += int((~np.isfinite(some)).any(axis=(1, 2, 3)).sum())
            file.write(np.ascontiguousarray(some, "<f4"))
    return bad
