"""Tables beside images: CSV, a FITS table or Parquet, one row an image, joined to the images.

A column that names the files joins row and image. Without one, the rows stand in the order of the
files, and there must be as many.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lensnb import io
from lensnb.datasets.file_source import FileSource, label_by_columns
from lensnb.datasets.readers import check_regular, reading
from lensnb.errors import InputError

Columns = dict[str, np.ndarray]  # name -> (N,) numbers or text
FITS = (".fits", ".fit", ".fts", ".fits.gz")
FORMS = "a CSV, FITS or Parquet table"


def attach(source: FileSource, table: str, images: str | None) -> None:
    """Add the columns of a table to what is known of a source's images.

    table : the recipe's data.table, in the folder of the images or where io.locate finds it.

    Text, too: it can name groups, classes and conditions. Raises InputError for a table that cannot
    be read, and for one whose rows are not the images.
    """
    path = _find(table, images)
    columns = read(path, table)
    order, how = _order(source, columns, table)
    source.title += f", with {table} ({how})"
    columns = {name: column[order] for name, column in columns.items()}
    for name, column in columns.items():
        if column.dtype.kind == "f":
            source.truth[name] = column
        else:
            source.beside[name] = column
    label_by_columns(source, columns)


def read(path: Path, name: str) -> Columns:
    """The columns of a table; a column that holds anything but numbers is text."""
    with reading(name, "a table", FORMS, path):
        check_regular(path, name)
        low = path.name.lower()
        if low.endswith(FITS):
            columns = _read_fits(path)
        elif low.endswith((".parquet", ".pq")):
            columns = _read_parquet(path, name)
        else:
            columns = io.read_table(path)
    if not columns or not len(next(iter(columns.values()))):
        raise InputError(f"{name}: no row below the header; expected {FORMS}")
    return columns


def _find(table: str, images: str | None) -> Path:
    inside = io.locate(images or ".") / table
    return inside if inside.is_file() else io.locate(table)


def _read_fits(path: Path) -> Columns:
    from astropy.table import Table

    table = Table.read(path, format="fits")
    return _plain({str(name): _known(table[name]) for name in table.colnames})


def _known(column: Any) -> np.ndarray:
    """A column of FITS (N,) where masked numbers are NaN and masked text is empty."""
    values, mask = np.ma.getdata(column), np.ma.getmaskarray(column)
    if values.dtype.kind in "fiub" and values.ndim == 1 and mask.any():
        return np.where(mask, np.nan, values)
    return np.where(mask, np.array("", values.dtype), values) if mask.any() else values


def _read_parquet(path: Path, name: str) -> Columns:
    import pandas

    try:
        table = pandas.read_parquet(path)
    except ImportError:
        raise InputError(
            f"{name}: Parquet is read with pyarrow, which is not installed; pip install pyarrow, "
            "or save the table as CSV"
        ) from None
    if table.index.name is not None:
        table = table.reset_index()
    return _plain({str(key): _of_pandas(table[key]) for key in table.columns})


def _of_pandas(column: Any) -> np.ndarray:
    """A column of pandas (N,) where missing numbers are NaN and other missing values empty text."""
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    if is_numeric_dtype(column) or is_bool_dtype(column):
        return column.to_numpy(float, na_value=np.nan)
    return np.where(column.isna(), "", column.astype(object))


def _plain(columns: Mapping[str, Any]) -> Columns:
    """Columns (N,) as floats or as text; others are left out."""
    found = {}
    for name, column in columns.items():
        if column.ndim == 1 and column.dtype.kind in "fiub":
            found[name] = column.astype(float)
        elif column.ndim == 1:
            found[name] = np.array(
                [v.decode() if isinstance(v, bytes) else str(v) for v in column.tolist()]
            )
    return found


def _order(source: FileSource, columns: Columns, table: str) -> tuple[np.ndarray, str]:
    """The row of each image, and how it was found, in words."""
    n = sum(source.counts)
    rows = len(next(iter(columns.values())))
    if source.counts == [1] * len(source.files):
        keys = [_keys(path) for path, _ in source.files]
        for name, column in columns.items():
            at = {
                str(_number(value)).replace("\\", "/"): i for i, value in enumerate(column.tolist())
            }
            found = [next((at[k] for k in known if k in at), None) for known in keys]
            missing = [
                file for (_, file), row in zip(source.files, found, strict=True) if row is None
            ]
            if len(missing) == n or (len(missing) > n // 2 and rows == n):
                continue
            if missing:
                raise InputError(
                    f"{table}: column {name} names no row for {len(missing)} of {n} files, the "
                    f"first {missing[0]}; add the rows or remove the files"
                )
            if len(set(found)) < n or len(at) < rows:
                raise InputError(
                    f"{table}: column {name} names a file twice, or two files have one name; "
                    "give each its row"
                )
            return np.array(found, int), f"by its column {name}"
    if rows != n:
        raise InputError(
            f"{table}: {rows} rows for {n} images, and no column names the files; give it one row "
            "an image, or a column with the names of the files"
        )
    return np.arange(n), "in the order of the files"


def _number(value: Any) -> Any:
    """Whole floats as integers: a column of names may hold 12 for 12.npy."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _keys(path: Path) -> list[str]:
    """What a table may call a file: its path's end or its name, with and without the suffix."""
    stem = path.name.split(".")[0]
    folder = path.parent.name
    return [f"{folder}/{path.name}", path.name, f"{folder}/{stem}", path.stem, stem]
