"""Image files behind data.path or data.download: which are read, by what, with which labels."""

import dataclasses
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lensnb import io
from lensnb.datasets import archives, arrays, mnist, tiffs
from lensnb.datasets.readers import (
    READERS,
    ImageShape,
    NamedFile,
    Reader,
    all_suffixes,
    format_of,
    look_at_all,
    reading,
    walk,
)
from lensnb.errors import InputError

LABELS = ("labels", "label", "class", "y")  # columns that hold the class of an image
FEWEST = 20  # images of which each has a class or word of its own: it names the image
DEEPLENSE = {"no": "no_sub", "sphere": "cdm", "vort": "vortex"}  # its folders, our class names
# Names of folders that are no classes, in any spelling: name -> split.
SPLITS = {
    **dict.fromkeys(("train", "training", "trainset", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "testset", "tst", "heldout", "holdout"), "test"),
}


@dataclasses.dataclass
class FileSource:
    """Image files, and what is known of them once every file has been surveyed."""

    files: Sequence[NamedFile]
    title: str  # where the images come from, in words
    reader: Reader
    counts: list[int]  # images in each file
    shape: ImageShape  # (C, H, H) of every image; H is None for pictures of different sizes
    labels: np.ndarray | None = None  # (N,) into classes
    classes: tuple[str, ...] = ()
    truth: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)  # name -> (N,) numbers
    beside: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)  # name -> (N,) text

    def pixel_scale(self) -> float | None:
        """Arcsec a pixel, where all files say the same to a hundredth."""
        ask = getattr(self.reader, "pixel_scale", None)
        scales = look_at_all(self.files, ask) if ask else [None]
        known = [scale for scale in scales if scale is not None]
        if len(known) < len(scales) or max(known) > 1.01 * min(known):
            return None
        return float(np.median(known))


def find_source(params: Any, unpacked: Path) -> FileSource:
    """The `FileSource` behind params.path or params.download; params is a recipe's data section.

    Archives and MNIST's files are unpacked into the new folder `unpacked`. Raises InputError for
    anything wrong with the files.
    """
    if params.download is not None:
        columns, title = mnist.download(unpacked)
        return _from_columns(columns, params.download, title, params)
    with reading(params.path):
        path = io.locate(params.path)
        is_folder = stat.S_ISDIR(os.stat(path).st_mode)
    if not is_folder:
        return _from_file(path, params, unpacked)
    if params.labels is not None:
        raise InputError(
            f"data.labels: {params.labels} can label a single file alone, and {params.path} is a "
            "folder; use class sub-folders there, or a table with a column `class` (data.table)"
        )
    return _from_folder(path, params, unpacked)


def _survey(files: Sequence[NamedFile], title: str, reader: Reader, params: Any) -> FileSource:
    told = getattr(reader, "told", None)
    reader = told(params) if told else reader
    counts, shape = reader.survey(files)
    _, height, width = shape
    if height != width and getattr(params, "crop", None) is None:
        raise InputError(
            f"{title}: images of {height} x {width} pixels, not square; data.crop=centre takes the "
            "central square of each"
        )
    if shape[0] > 1 and max(counts) == 1 and len(files) > 1 and ".npy" in reader.suffixes:
        title += f", each file one image of {shape[0]} bands"
    return FileSource(files, title, reader, counts, shape)


def _add_columns(source: FileSource) -> None:
    """Add what the files say of their images beside pixels; NaN where a file does not say it."""
    ask = getattr(source.reader, "columns", None)
    if ask is None:
        return
    found = look_at_all(source.files, ask)
    names = dict.fromkeys(name for columns in found for name in columns)
    whole = {}
    for name in names:
        is_text = any(name in c and c[name].dtype.kind == "U" for c in found)
        parts = [
            c[name] if name in c else np.full(n, "" if is_text else np.nan)
            for c, n in zip(found, source.counts, strict=True)
        ]
        whole[name] = np.concatenate([part.astype(str) if is_text else part for part in parts])
    text = {name: column for name, column in whole.items() if column.dtype.kind == "U"}
    source.truth |= {name: column for name, column in whole.items() if name not in text}
    source.beside |= text
    label_by_columns(source, whole)


def label_by_columns(source: FileSource, columns: Mapping[str, np.ndarray]) -> None:
    """Set classes and labels by a column of `LABELS`, unless folders did; it is no truth then."""
    name = next((key for key in columns if key.lower() in LABELS), None)
    if name is None or source.labels is not None:
        return
    column = columns[name]
    if column.dtype.kind == "f":
        if not (np.isfinite(column) & (column == np.round(column))).all():
            return
        column = column.astype(int)
    if names_images(column):
        source.title += f", its column {name} taken for no class as each image has its own"
        return
    _label(source, column)
    source.truth.pop(name, None)
    source.beside.pop(name, None)


def names_images(values: Any) -> bool:
    """Whether each image has a value of its own (N,): a name or a number, and no class."""
    return len(np.unique(values)) == len(values) >= FEWEST


def _label(source: FileSource, values: np.ndarray) -> None:
    """Set classes and labels by these values (N,)."""
    names, source.labels = np.unique(values, return_inverse=True)
    source.classes = tuple(str(value) for value in names.tolist())


# One file -----------------------------------------------------------------------------------------


def _from_file(path: Path, params: Any, unpacked: Path) -> FileSource:
    """The source in a single file that holds many images."""
    name, labels = params.path, params.labels
    if path.suffix.lower() == ".npz":
        columns = archives.unpack(path, unpacked, params.key)
        return _from_columns(columns, name, name, params)
    reader = format_of(path)
    if reader is None:
        hint = ""
        if path.name.lower().endswith((".zip", ".tar", ".tgz", ".tar.gz", ".7z", ".rar")):
            hint = "an archive; unpack it and name the folder; "
        raise InputError(f"{name}: {hint}{_expected()}, such as .npy or .npz")
    source = _survey([(path, name)], name, _reader_of(reader, [path]), params)
    if labels is not None:
        _read_labels(source, io.locate(labels), labels)
    _add_columns(source)
    if source.counts == [1]:
        raise InputError(
            f"{name}: found 1 image, where training needs 2 and the evaluation 2 more; "
            f"{_expected()}"
        )
    return source


def _expected() -> str:
    return f"expected a folder of {_listed()} files, or one file of many images"


def _listed() -> str:
    """The formats that a folder may hold, in words."""
    return f"{', '.join(READERS)} or MNIST"


def _reader_of(name: str, paths: Sequence[Path]) -> Reader:
    """The reader of this format; TIFF files that no picture can be have a reader of their own."""
    if name == "picture" and tiffs.are_stacks(paths):
        return READERS["tiff"]
    return READERS[name]


def _from_columns(columns: dict[str, Path], name: str, title: str, params: Any) -> FileSource:
    """A source of .npy files that belong together.

    columns : role -> path, as `archives.unpack` and `mnist.unpack` return it.
    params : the data section; its file of labels replaces the ones in `columns`.
    """
    labels = params.labels
    rest = dict(columns)
    images = rest.pop("images")
    own_labels = rest.pop("labels", None)
    source = _survey([(images, name)], title, READERS["npy"], params)
    if labels is not None:
        _read_labels(source, io.locate(labels), labels)
    elif own_labels is not None:
        _read_labels(source, own_labels, f"{name}, labels")
    for column, path in rest.items():
        values, _ = arrays.open_array(path, f"{name}, {column}")
        if values.shape == (sum(source.counts),) and values.dtype.kind in "US":
            source.beside[column] = values.astype(str)
        elif values.shape == (sum(source.counts),):
            source.truth[column] = np.array(values, float)
    return source


def _read_labels(source: FileSource, path: Path, name: str) -> None:
    """Set class names and labels from a file of integers."""
    values, _ = arrays.open_array(path, name)
    n = sum(source.counts)
    if values.dtype.kind not in "iub" or values.shape != (n,):
        raise InputError(
            f"{name}: labels have shape {values.shape} and type {values.dtype}; expected one "
            f"integer for each of the {n} images"
        )
    if names_images(values):
        raise InputError(
            f"{name}: each of the {n} images has a label of its own, which numbers images and is "
            "no class; leave it out, or give images of one class one label"
        )
    _label(source, values)


# A folder -----------------------------------------------------------------------------------------


def _from_folder(top: Path, params: Any, unpacked: Path) -> FileSource:
    """The source in a folder: MNIST's files in it, or all files of one reader in it and below."""
    title = params.path
    with reading(top):
        idx, note = mnist.find_files(top)
        by_format = _files_by_format(top, params.table)
    _check_one_kind(top, {**by_format, "MNIST": list(idx.values())})
    if idx:
        columns = mnist.unpack(idx, unpacked)
        return _from_columns(columns, str(idx["images"]), title + note, params)
    [(name, found)] = by_format.items()
    paths, class_folders, note = _choose_split(top, found)
    files = [(path, str(path)) for path in paths]
    source = _survey(files, title + note, _reader_of(name, paths), params)
    if len(set(class_folders)) > 1:
        _label_by_folder(source, class_folders)
    _add_columns(source)
    return source


def _files_by_format(top: Path, table: str | None) -> dict[str, list[Path]]:
    """The files of each reader below a folder, in order: name of the format -> paths, not empty.

    table : in that folder, and no image.
    """
    found = sorted(walk(top, all_suffixes()), key=lambda path: _parts(top, path))
    found = [path for path in found if table is None or path not in (top / table, io.locate(table))]
    by_format = {name: [path for path in found if format_of(path) == name] for name in READERS}
    return {name: paths for name, paths in by_format.items() if paths}


def _check_one_kind(top: Path, by_format: dict[str, list[Path]]) -> None:
    found = [f"{name} files such as {paths[0].name}" for name, paths in by_format.items() if paths]
    if len(found) > 1:
        raise InputError(f"{top}: holds {' and '.join(found)}; keep one kind there")
    if not found:
        raise InputError(
            f"{top}: no {_listed()} file in this folder or below; expected images saved with "
            f"np.save, or files that end in {', '.join(all_suffixes())}"
        )


def _parts(top: Path, path: Path) -> tuple[str, ...]:
    """The folders and the name of a file below `top`.

    Archives of Windows, unpacked elsewhere, give names such as `train\\no\\1.npy`.
    """
    return tuple(str(path.relative_to(top)).replace("\\", "/").split("/"))


def _choose_split(top: Path, paths: list[Path]) -> tuple[list[Path], list[str], str]:
    """The files to read, the class folder of each, and a note on what is left unread.

    Of folders such as train, val and test, in any spelling and at any depth, only the training
    folders are read. The list of class folders is empty where the files lie in no such folder.
    Raises InputError where training images cannot be told from others.
    """
    tails = [_parts(top, path) for path in paths]
    note = ""
    for depth in range(min(map(len, tails)) - 1):
        heads = {tail[depth] for tail in tails}
        splits = {head: SPLITS.get(head.strip().lower()) for head in sorted(heads)}
        if not any(splits.values()):
            continue
        kept = _kept_splits(top, splits)
        others = " and ".join(head for head in splits if head not in kept)
        if others:
            note = f", its {' and '.join(kept)} folder alone ({others} left unread)"
        both = [(p, t) for p, t in zip(paths, tails, strict=True) if t[depth] in kept]
        paths = [path for path, _ in both]
        tails = [tail[:depth] + tail[depth + 1 :] for _, tail in both]
        break
    for tail in tails:
        if len(tail) != len(tails[0]):
            raise InputError(
                f"{top}: {Path(*tails[0])} and {Path(*tail)} lie at different depths; put all "
                "images into one folder, or each into the folder of its class"
            )
    while len(tails[0]) > 2 and len({tail[0] for tail in tails}) == 1:  # a folder in a folder
        tails = [tail[1:] for tail in tails]
    return paths, [tail[0] for tail in tails if len(tail) > 1], note


def _kept_splits(top: Path, splits: Mapping[str, str | None]) -> list[str]:
    """The folders of training images among these; the only folder, whatever it is called."""
    if len(splits) == 1:
        return list(splits)
    known = [head for head, split in splits.items() if split]
    kept = [head for head, split in splits.items() if split == "train"]
    if len(known) < len(splits):
        other = next(head for head in splits if head not in known)
        raise InputError(
            f"{top}: {' and '.join(known)} name parts of a split, and {other} beside does not; put "
            "it into a part, or name the folder to train on"
        )
    if not kept:
        raise InputError(
            f"{top}: {' and '.join(known)}, and no folder of training images; name the folder to "
            "train on as data.path"
        )
    return kept


def _label_by_folder(source: FileSource, class_folders: list[str]) -> None:
    """Set classes and labels from the class folder of each file; DeepLense's have our names.

    Where each image lies in a folder of its own, the folders name images.
    """
    if names_images(np.repeat(class_folders, source.counts)):
        source.title += f", its {len(class_folders)} folders taken for no classes as each holds one"
        return
    names, index = np.unique(class_folders, return_inverse=True)
    folders = tuple(str(name) for name in names)
    renamed = tuple(DEEPLENSE.get(name, name) for name in folders)
    source.classes = renamed if len(set(renamed)) == len(renamed) else folders
    source.labels = np.repeat(index, source.counts)
