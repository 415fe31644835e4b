"""Readers of image files: what a reader offers, the registry, and what all readers share.

Strangers' files are parsed and never executed. Whatever is wrong with a file becomes an InputError
of one sentence that names the file.

A new format needs a class with the members of `Reader`, registered under the name of the format:

    READERS.add("raw", RawReader())

Folders of such files then work as data.path, and messages name the format.
"""

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lensnb.errors import FULL, InputError, one_line
from lensnb.registry import Registry

NamedFile = tuple[Path, str]  # where a file lies, and its name in messages
ImageShape = tuple[int, int | None, int | None]  # (C, H, H); H is None where sizes differ


class Reader(Protocol):
    """Reads the image files of one format.

    suffixes : how the names of the files end, in lower case with the dot, such as (".png", ".gif").

    A reader refuses a file by InputError. The message is one sentence that begins with the file's
    name as it was given: what was found, what was expected. `reading` turns whatever a parser
    raises into such a sentence. A reader refuses

    - a file that is damaged, or of another format than its suffix says;
    - a path that is no regular file (`check_regular`), before it is opened;
    - a file that promises more than it holds, before memory for it is taken;
    - content that would have to be executed.

    Pixels that are not finite and constant images are refused later, for all formats alike.
    """

    suffixes: tuple[str, ...]

    def survey(self, named: Sequence[NamedFile]) -> tuple[list[int], ImageShape]:
        """How many images each file holds, and the one shape (C, H, H) of all images.

        H is None where the images differ in size. Every file is looked at, so that a bad one is
        refused before any work is done. Raises InputError for files whose images do not belong
        into one array.
        """
        ...

    def open_images(self, path: Path, name: str) -> tuple[np.ndarray, float]:
        """The images (N, C, H, H) of one file, of any real type, and their mass or NaN.

        The values are the file's own. A memory map is best for large files: the caller reads a
        few images at a time.
        """
        ...


READERS: Registry[Reader] = Registry("reader")


def all_suffixes() -> tuple[str, ...]:
    """The suffixes that any reader reads."""
    return tuple(suffix for reader in READERS.values() for suffix in reader.suffixes)


def format_of(path: Path) -> str | None:
    """The name of the reader of this file's suffix, or None."""
    for name, reader in READERS.items():
        if path.name.lower().endswith(tuple(reader.suffixes)):
            return name
    return None


def walk(top: Path, suffixes: tuple[str, ...]) -> Iterator[Path]:
    """Every visible file below the folder `top` with one of the suffixes, in any order.

    Links to folders are followed. Raises InputError for a folder that is met twice, and OSError
    for a folder that cannot be read.
    """
    seen: dict[str, str] = {}
    for here, folders, files in os.walk(top, onerror=_raise, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:
            raise InputError(
                f"{here}: a link to {seen[real]}, which was read already; remove the link"
            )
        seen[real] = here
        folders[:] = [folder for folder in folders if not folder.startswith(".")]
        for file in files:
            if file.lower().endswith(suffixes) and not file.startswith("."):
                yield Path(here, file)


def _raise(error: OSError) -> None:
    raise error


@contextlib.contextmanager
def reading(
    name: Any,
    form: str = "NumPy's format",
    wanted: str = "a file as np.save or np.savez writes it",
) -> Iterator[None]:
    """A context that turns whatever a parser raises on a damaged or hostile file into one sentence.

    Raises InputError, whose message begins with `name`. An InputError raised inside passes
    unchanged, and so does the error of a full disk, which is not the file's fault.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # parsers of foreign bytes raise anything, MemoryError included
        if isinstance(error, OSError) and error.errno in FULL:
            raise
        if isinstance(error, OSError) and error.strerror:  # from the system, not from a parser
            raise InputError(
                f"{name}: {error.strerror}; expected a readable file or folder"
            ) from None
        raise InputError(
            f"{name}: cannot be read as {form} ({one_line(error)}); expected {wanted}"
        ) from None


def check_regular(path: Path, name: str) -> None:
    """Refuse a path that is no regular file: opening a pipe would wait forever."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise InputError(f"{name}: expected a file, found a folder or a device")
