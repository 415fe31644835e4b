"""Readers of image files: what a reader offers, the registry, and what all readers share.

Strangers' files are parsed and never executed. Whatever is wrong with a file becomes an InputError
of one sentence that names the file.

A new format needs a class with the members of `Reader`, registered under the name of the format:

    READERS.add("raw", RawReader())

Folders of such files then work as data.path, and messages name the format.
"""

import contextlib
import importlib
import os
import stat
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from tqdm import tqdm

from lensnb.errors import FULL, InputError, one_line
from lensnb.registry import Registry

NamedFile = tuple[Path, str]  # where a file lies, and its name in messages
ImageShape = tuple[int, int | None, int | None]  # (C, H, W); H and W are None where sizes differ
T = TypeVar("T")
READING_THREADS = 8  # the system reads a file while others are converted
PIECE = 8  # files that a thread takes at a time
# What stands in place of the data: first bytes -> what it is and what to do.
NO_DATA = {
    b"version https://git-lfs": "a pointer of Git LFS and not the data; run git lfs pull",
    b"/annex/objects/": "a pointer of git-annex and not the data; run git annex get",
    b"../.git/annex": "a pointer of git-annex and not the data; run git annex get",
    b"<!DOCTYPE": "a web page and not the data; download the file again",
    b"<!doctype": "a web page and not the data; download the file again",
    b"<html": "a web page and not the data; download the file again",
    b"<?xml": "an XML page and not the data; download the file again",
    b"PK\x03\x04": "an archive (zip); unpack it and name the folder",
    b"\x1f\x8b": "compressed (gzip); unpack it first",
    b"BZh": "compressed (bzip2); unpack it first",
    b"\xfd7zXZ": "compressed (xz); unpack it first",
    b"7z\xbc\xaf": "an archive (7z); unpack it and name the folder",
}


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

    A reader may have more members, and is asked for each only where it has it:

    told(data) -> Reader : the same reader, which heeds the data section of a recipe
    columns(path, name) -> dict : what the file says of its images beside pixels, name -> (N,)
    pixel_scale(path, name) -> float or None : arcsec a pixel
    """

    suffixes: tuple[str, ...]

    def survey(self, named: Sequence[NamedFile]) -> tuple[list[int], ImageShape]:
        """How many images each file holds, and the one shape (C, H, W) of all images.

        H and W are None where the images differ in size. Every file is looked at, so that a bad
        one is refused before any work is done. Raises InputError for files whose images do not
        belong into one array.
        """
        ...

    def open_images(self, path: Path, name: str) -> tuple[np.ndarray, float]:
        """The images (N, C, H, W) of one file, of any real type, and their mass or NaN.

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

    Links to folders are followed. Hidden files are skipped, and so is what macOS adds to archives.
    Raises InputError for a folder that is met twice, and OSError for a folder that cannot be read.
    """
    seen: dict[str, str] = {}
    for here, folders, files in os.walk(top, onerror=_raise, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:
            raise InputError(
                f"{here}: a link to {seen[real]}, which was read already; remove the link"
            )
        seen[real] = here
        folders[:] = [folder for folder in folders if _is_visible(folder)]
        for file in files:
            if file.lower().endswith(suffixes) and _is_visible(file):
                yield Path(here, file)


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


def look_at_all(named: Sequence[NamedFile], look: Callable[[Path, str], T]) -> list[T]:
    """look(path, name) of every file, in order.

    Several threads look, and a bar shows the time left where it takes seconds. Raises InputError
    once all files were looked at: it counts the bad ones and names the first few.
    """
    found: list[T] = []
    bad: list[tuple[str, str]] = []
    for (_, name), seen in zip(named, _looks(named, look), strict=True):
        if isinstance(seen, InputError):
            bad.append((name, str(seen)))
        else:
            found.append(seen)
    refuse_all(bad)
    return found


def _looks(named: Sequence[NamedFile], look: Callable[[Path, str], T]) -> Iterator[T | InputError]:
    def attempt(file: NamedFile) -> T | InputError:
        try:
            return look(*file)
        except InputError as error:
            return error

    yield from ahead(attempt, named, "files")


def ahead(
    function: Callable[[Any], T], jobs: Sequence[Any], unit: str, threads: int = READING_THREADS
) -> Iterator[T]:
    """function(job) of every job in order, a few of them ahead in threads, with a bar.

    Only a few results wait at a time, so that memory stays constant.
    """
    with _bar(len(jobs), unit) as bar:
        if threads == 1 or len(jobs) < 4 * threads:  # not worth a thread
            for job in jobs:
                yield function(job)
                bar.update()
            return
        pieces = [jobs[k : k + PIECE] for k in range(0, len(jobs), PIECE)]
        with ThreadPoolExecutor(threads) as pool:
            waiting: deque[Any] = deque()
            for piece in [*pieces, *[None] * 2 * threads]:
                if piece is not None:
                    waiting.append(pool.submit(lambda piece: [function(j) for j in piece], piece))
                if waiting and (piece is None or len(waiting) >= 2 * threads):
                    for result in waiting.popleft().result():
                        yield result
                        bar.update()


def _bar(total: int, unit: str) -> tqdm:
    """A bar with the time left; it appears after some seconds and leaves nothing behind."""
    return tqdm(total=total, unit=f" {unit}", delay=5, leave=False, disable=total < 1000)


def library(module: str, what: str, name: str) -> Any:
    """The module that reads a format; InputError says what to install where it is missing.

    what : the format and its verb, such as "FITS is"; name : of the file, in the message
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise InputError(
            f"{name}: {what} read with {package}, which is not installed; pip install {package}"
        ) from None


def refuse_all(bad: Sequence[tuple[str, str]]) -> None:
    """Raise InputError for files (or images) that are bad, if any: (name, why) of each."""
    if not bad:
        return
    (place, first), *others = bad
    if not others:
        raise InputError(first)
    beside = place[: place.rfind("/") + 1]  # the folder is named once
    names = ", ".join(dict.fromkeys(name.removeprefix(beside) for name, _ in others[:4]))
    more = f" and {len(others) - 4} more" if len(others) > 4 else ""
    raise InputError(f"{first} ({len(bad)} are bad: this one, {names}{more})")


def _raise(error: OSError) -> None:
    raise error


@contextlib.contextmanager
def reading(
    name: Any,
    form: str = "NumPy's format",
    wanted: str = "a file as np.save or np.savez writes it",
    path: Path | None = None,
) -> Iterator[None]:
    """A context that turns whatever a parser raises on a damaged or hostile file into one sentence.

    path : of the file, if its first bytes may tell what it is instead.

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
            gone = isinstance(error, FileNotFoundError) and path is not None and path.is_symlink()
            raise InputError(
                f"{name}: {error.strerror}; "
                + (
                    "the link leads nowhere, so bring the data or remove it"
                    if gone
                    else "expected a readable file or folder"
                )
            ) from None
        instead = None if path is None else _instead(path)
        if instead:
            raise InputError(f"{name}: {instead}") from None
        raise InputError(
            f"{name}: cannot be read as {form} ({one_line(error)}); expected {wanted}"
        ) from None


def _instead(path: Path) -> str | None:
    """What a file is that is no image, by its first bytes, and what to do; None if unknown."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return None
        with open(path, "rb") as file:
            head = file.read(40).lstrip()
    except OSError:
        return None
    if (path.suffix, head[:2]) in ((".npz", b"PK"), (".gz", b"\x1f\x8b")):  # as it should be
        return None
    return next((what for magic, what in NO_DATA.items() if head.startswith(magic)), None)


def check_regular(path: Path, name: str) -> None:
    """Refuse a path that is no regular file: opening a pipe would wait forever."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise InputError(f"{name}: expected a file, found a folder or a device")
