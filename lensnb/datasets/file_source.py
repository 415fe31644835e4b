"""Image files behind data.path or data.download: which are read, by what, with which labels."""

import dataclasses
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lensnb import io
from lensnb.datasets import archives, arrays, mnist
from lensnb.datasets.readers import (
    READERS,
    ImageShape,
    NamedFile,
    Reader,
    all_suffixes,
    format_of,
    reading,
    walk,
)
from lensnb.errors import InputError

DEEPLENSE = {"no": "no_sub", "sphere": "cdm", "vort": "vortex"}  # its folders, our class names
SPLITS = {"train", "val", "test"}  # names of folders that are no classes


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
    truth: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)  # name -> (N,)


def find_source(params: Any, unpacked: Path) -> FileSource:
    """The `FileSource` behind params.path or params.download; params is a recipe's data section.

    Archives and MNIST's files are unpacked into the new folder `unpacked`. Raises InputError for
    anything wrong with the files.
    """
    if params.download is not None:
        columns, title = mnist.download(unpacked)
        return _from_columns(columns, params.download, title)
    with reading(params.path):
        path = io.locate(params.path)
        is_folder = stat.S_ISDIR(os.stat(path).st_mode)
    if not is_folder:
        return _from_file(path, params.path, params.labels, unpacked)
    if params.labels is not None:
        raise InputError(
            f"data.labels: {params.labels} can label a single file alone, and {params.path} is a "
            "folder; use class sub-folders there"
        )
    return _from_folder(path, params.path, unpacked)


def _survey(files: Sequence[NamedFile], title: str, reader: Reader) -> FileSource:
    counts, shape = reader.survey(files)
    return FileSource(files, title, reader, counts, shape)


# One file -----------------------------------------------------------------------------------------


def _from_file(path: Path, name: str, labels: str | None, unpacked: Path) -> FileSource:
    """The source in a single file that holds many images."""
    if path.suffix.lower() == ".npz":
        return _from_columns(archives.unpack(path, unpacked), name, name, labels)
    reader = format_of(path)
    if reader is None:
        raise InputError(f"{name}: {_expected()}, such as .npy or .npz")
    source = _survey([(path, name)], name, READERS[reader])
    if labels is not None:
        _read_labels(source, io.locate(labels), labels)
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


def _from_columns(
    columns: dict[str, Path], name: str, title: str, labels: str | None = None
) -> FileSource:
    """A source of .npy files that belong together.

    columns : role -> path, as `archives.unpack` and `mnist.unpack` return it.
    labels : the user's own file of labels, which replaces the ones in `columns`.
    """
    rest = dict(columns)
    images = rest.pop("images")
    own_labels = rest.pop("labels", None)
    source = _survey([(images, name)], title, READERS["npy"])
    if labels is not None:
        _read_labels(source, io.locate(labels), labels)
    elif own_labels is not None:
        _read_labels(source, own_labels, f"{name}, labels")
    for column, path in rest.items():
        values, _ = arrays.open_array(path, f"{name}, {column}")
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
    names, source.labels = np.unique(values, return_inverse=True)
    source.classes = tuple(str(value) for value in names.tolist())


# A folder -----------------------------------------------------------------------------------------


def _from_folder(top: Path, title: str, unpacked: Path) -> FileSource:
    """The source in a folder: MNIST's files in it, or all files of one reader in it and below."""
    with reading(top):
        idx, note = mnist.find_files(top)
        by_format = _files_by_format(top)
    _check_one_kind(top, {**by_format, "MNIST": list(idx.values())})
    if idx:
        columns = mnist.unpack(idx, unpacked)
        return _from_columns(columns, str(idx["images"]), title + note)
    [(name, found)] = by_format.items()
    paths, class_folders, note = _choose_split(top, found)
    source = _survey([(path, str(path)) for path in paths], title + note, READERS[name])
    if len(set(class_folders)) > 1:
        _label_by_folder(source, class_folders)
    return source


def _files_by_format(top: Path) -> dict[str, list[Path]]:
    """The files of each reader below a folder, in order: name of the format -> paths, not empty."""
    found = sorted(walk(top, all_suffixes()), key=lambda path: path.relative_to(top).parts)
    by_format = {name: [path for path in found if format_of(path) == name] for name in READERS}
    return {name: paths for name, paths in by_format.items() if paths}


def _check_one_kind(top: Path, by_format: dict[str, list[Path]]) -> None:
    found = [f"{name} files such as {paths[0].name}" for name, paths in by_format.items() if paths]
    if len(found) > 1:
        raise InputError(f"{top}: holds {' and '.join(found)}; keep one kind there")
    if not found:
        raise InputError(
            f"{top}: no {_listed()} file in this folder or below; expected images saved with "
            f"np.save, or files that end in {', '.join(all_suffixes())} (name a .npz file itself)"
        )


def _choose_split(top: Path, paths: list[Path]) -> tuple[list[Path], list[str], str]:
    """The files to read, the class folder of each, and a note on what is left unread.

    Of folders train, val and test, only the train folder is read. The list of class folders is
    empty where the files lie in no such folder.
    """
    tails = [path.relative_to(top).parts for path in paths]
    heads = {tail[0] if len(tail) > 1 else "" for tail in tails}
    note = ""
    if heads <= SPLITS:
        if "train" in heads and len(heads) > 1:
            paths = [path for path, tail in zip(paths, tails, strict=True) if tail[0] == "train"]
            others = " and ".join(sorted(heads - {"train"}))
            note = f", its train folder alone ({others} left unread)"
        tails = [path.relative_to(top).parts[1:] for path in paths]
    for tail in tails:
        if len(tail) != len(tails[0]):
            raise InputError(
                f"{top}: {Path(*tails[0])} and {Path(*tail)} lie at different depths; put all "
                "images into one folder, or each into the folder of its class"
            )
    return paths, [tail[0] for tail in tails if len(tail) > 1], note


def _label_by_folder(source: FileSource, class_folders: list[str]) -> None:
    """Set classes and labels from the class folder of each file; DeepLense's have our names."""
    names, index = np.unique(class_folders, return_inverse=True)
    folders = tuple(str(name) for name in names)
    renamed = tuple(DEEPLENSE.get(name, name) for name in folders)
    source.classes = renamed if len(set(renamed)) == len(renamed) else folders
    source.labels = np.repeat(index, source.counts)
