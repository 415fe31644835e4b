"""An artefact: a folder that appears whole or not at all, with the recipe that made it.

An artefact is built in a folder beside its place, gets a list of its files with their hashes, and
is renamed. `recipe.yaml` inside says what made it. So a second run finds it, and a changed
parameter does not. What another run has made by the same recipe is taken from there: its files are
hard links, or copies where the file system has none.
"""

import contextlib
import functools
import hashlib
import json
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from lensnb import io
from lensnb.errors import InputError, of_files
from lensnb.runs.locks import locked
from lensnb.runs.provenance import provenance, version

LIST = "artefact.json"  # of the files of an artefact, with sizes and hashes
RECIPE = "recipe.yaml"
CHECKPOINT = "checkpoint.pt"
# What a training resumes from. These files go once the artefact has its name.
SCRATCH = (CHECKPOINT, "best.safetensors")
NO_CONTENT = ("timing.json", RECIPE)  # files that do not count as content
UNCOUNTED = ("log_every",)  # keys that lensnb 0.3.0 wrote into recipes, and that decide no content
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C loader is ten times as fast


def digest(folder: Path) -> str:
    """One short hash of what an artefact holds: of its files, without its recipe and times."""
    hashes = sorted(
        (name, entry["sha256"]) for name, entry in listed(folder).items() if name not in NO_CONTENT
    )
    return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()[:16]


def fingerprint(path: str | Path) -> str | None:
    """A hash of names, sizes and times of the user's files at or below a path; None for no file.

    Links are followed, as they are when the files are read. Inside `scanned_once` the same path is
    scanned only once.
    """
    top = io.locate(path)
    if top in _scanned:
        return _scanned[top]
    found = sorted(_files(str(top)), key=lambda entry: entry[0].split("/"))
    value = hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16] if found else None
    if _depth:
        _scanned[top] = value
    return value


_scanned: dict[Path, str | None] = {}
_depth: list[None] = []


@contextlib.contextmanager
def scanned_once() -> Iterator[None]:
    """A context in which the user's files count as they are when they are looked at first."""
    _depth.append(None)
    try:
        yield
    finally:
        _depth.pop()
        if not _depth:
            _scanned.clear()


def _files(top: str) -> Iterator[tuple[str, int, int]]:
    """Name below `top`, size and time of every file there, through links; each folder once.

    A file costs one call to the system, and no object: there may be 130,000 of them, and every
    stage that is built looks whether they have changed.
    """
    if not os.path.isdir(top):
        if os.path.isfile(top):
            state = os.stat(top)
            yield ".", state.st_size, state.st_mtime_ns
        return
    below = len(os.path.join(top, ""))
    seen = set()
    waiting = [top]
    while waiting:
        here = waiting.pop()
        real = os.path.realpath(here)
        if real in seen:
            continue
        seen.add(real)
        with contextlib.suppress(OSError), os.scandir(here) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):  # a link that leads nowhere
                    if entry.is_dir():
                        waiting.append(entry.path)
                    elif entry.is_file():
                        state = entry.stat()
                        yield entry.path[below:], state.st_size, state.st_mtime_ns


def is_whole(folder: str | Path) -> bool:
    """Whether an artefact and every file of its list are there. Sizes are compared, not hashes."""
    folder = Path(folder)
    if not (folder / LIST).is_file():
        return False
    return all(
        (folder / name).is_file() and (folder / name).stat().st_size == entry["bytes"]
        for name, entry in listed(folder).items()
    )


def listed(folder: str | Path) -> dict[str, dict[str, Any]]:
    """The files of an artefact, out of its list: name -> {"bytes", "sha256"}."""
    path = Path(folder) / LIST
    return _listed(path, *state(path))


def state(path: Path) -> tuple[int, int, int]:
    """Time, size and inode of a file, zeros where there is none: another file has another state."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0, 0
    return found.st_mtime_ns, found.st_size, found.st_ino


@functools.lru_cache(maxsize=512)
def _listed(path: Path, *state: int) -> dict[str, dict[str, Any]]:
    """The list in the file `path`, read once for each `state` of the file."""
    files = io.read_json(path).get("files")
    if not isinstance(files, dict) or not all(
        isinstance(entry, dict) and {"bytes", "sha256"} <= entry.keys() for entry in files.values()
    ):
        raise InputError(f"{path}: damaged (no list of files); delete it and run its step again")
    return files


def recipe_of(folder: str | Path) -> dict[str, Any] | None:
    """The recipe that made an artefact, or None if there is none that can be read.

    Raises InputError for an artefact that a newer lensnb has made.
    """
    path = Path(folder) / RECIPE
    try:
        if not path.is_file():
            return None
        return io.known(path.parent, yaml.load(path.read_text(encoding="utf-8"), _Loader))
    except (yaml.YAMLError, UnicodeDecodeError):
        return None


def made_by(folder: str | Path, recipe: Mapping[str, Any]) -> bool:
    """Whether an artefact is whole and was made by this recipe, which is `stamped`."""
    return is_whole(folder) and same(recipe_of(folder), recipe)


def same(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> bool:
    """Whether two recipes decide the same content."""
    return one is not None and other is not None and _counted(one) == _counted(other)


def _counted(recipe: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _counted(value) if isinstance(value, Mapping) else value
        for key, value in recipe.items()
        if key not in UNCOUNTED
    }


def build(
    folder: str | Path,
    recipe: Mapping[str, Any],
    make: Callable[[Path], object],
    others: Iterable[Path] = (),
    before: Callable[[], object] | None = None,
) -> Path:
    """The artefact `folder`, made by `make(partial_folder)` unless this recipe has made it before.

    recipe : a plain tree of dicts, lists, numbers and text
    others : artefacts of other runs; the first that this recipe has made is taken over
    before : called before anything in the place of `folder` is replaced

    A partial folder of the same recipe is handed to `make` as it was left, so that a training can
    resume from its checkpoint. Raises InputError if another process builds the artefact, if the
    disk is full or closed, and if a newer lensnb has made it.
    """
    folder = Path(folder)
    wanted = stamped(recipe)
    if not made_by(folder, wanted):
        io.make_folder(folder.parent)
        with locked(folder), of_files(folder):
            if not made_by(folder, wanted):  # another process may have made it meanwhile
                if before:
                    before()
                if take(folder, wanted, others):
                    shutil.rmtree(partial(folder), ignore_errors=True)
                else:
                    _make(folder, wanted, make)
    return folder


def take(folder: Path, recipe: Mapping[str, Any], others: Iterable[Path]) -> bool:
    """Whether one of `others` was made by this recipe; if so, its files now stand in `folder`, too.

    Every file is compared with its hash. The place appears whole or not at all.
    """
    for other in others:
        # It may vanish meanwhile, or be of a newer lensnb.
        with contextlib.suppress(FileNotFoundError, InputError):
            if made_by(other, recipe) and _taken(folder, other):
                return True
    return False


def _taken(folder: Path, other: Path) -> bool:
    beside = folder.with_name(f".{folder.name}.taken")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        if not share(other, beside):
            print(f"{other}: a file has changed since it was made; not taken", flush=True)
            return False
        run = other.relative_to(_outputs_of(folder, other)).parts[0]
        origin = {"taken_from": run} | io.read_json(other / LIST)
        io.write_json(beside / LIST, origin)
        replace(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    name = folder.relative_to(_outputs_of(folder, other))
    print(f"{name}: taken from the run {run}, which has the same recipe and inputs", flush=True)
    return True


def _outputs_of(folder: Path, other: Path) -> Path:
    """The folder of all runs, in which both artefacts lie."""
    return Path(os.path.commonpath([folder, other]))


def share(folder: Path, new: Path) -> bool:
    """Give the files of an artefact a second place `new`; whether all still have their hashes.

    Hard links, or copies where there can be none. A file with two places is made read-only, so
    that a program that writes in place cannot change both. All of lensnb replaces files by new
    ones, which leaves the other place as it is.
    """
    files = listed(folder)
    for name in (*files, LIST):
        (new / name).parent.mkdir(parents=True, exist_ok=True)
        _link(folder / name, new / name)
    return all(io.sha256(new / name) == entry["sha256"] for name, entry in files.items())


def _link(old: Path, new: Path) -> None:
    try:
        os.chmod(old, stat.S_IMODE(old.stat().st_mode) & ~0o222)
        os.link(old, new)
    except FileNotFoundError:
        raise
    except OSError:  # another disk, another owner, a file system without links
        shutil.copyfile(old, new)


def _make(folder: Path, recipe: Mapping[str, Any], make: Callable[[Path], object]) -> None:
    unfinished = partial(folder)
    if unfinished.exists() and not same(recipe_of(unfinished), recipe):
        shutil.rmtree(unfinished)
    unfinished.mkdir(exist_ok=True)
    with io.atomic(unfinished / RECIPE) as file:
        yaml.safe_dump(recipe, file, sort_keys=False)
    start = time.time()
    try:
        make(unfinished)
        _seal(unfinished, time.time() - start)
    except (InputError, OSError):
        if not (unfinished / CHECKPOINT).is_file():  # nothing to resume from: leave nothing
            shutil.rmtree(unfinished)
        raise
    replace(unfinished, folder)
    for name in SCRATCH:
        (folder / name).unlink(missing_ok=True)


def partial(folder: Path) -> Path:
    """The folder in which an artefact is made before it takes its name."""
    return folder.with_name(f".{folder.name}.partial")


def stamped(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe with the version of the code and of the file formats."""
    return {"format": io.FORMAT, "lensnb": version(), **recipe}


def _seal(folder: Path, seconds: float) -> None:
    """Write the list of the files of a finished folder, with hashes and provenance."""
    files = {
        str(p.relative_to(folder)): {"bytes": p.stat().st_size, "sha256": io.sha256(p)}
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name not in (LIST, *SCRATCH)
    }
    told = {"format": io.FORMAT, "seconds": round(seconds, 2), **provenance(), "files": files}
    io.write_json(folder / LIST, told)


def replace(new: Path, old: Path) -> None:
    """Let the folder `new` take the place of `old`, which goes only once `new` stands there."""
    trash = old.with_name(f".{old.name}.old")
    shutil.rmtree(trash, ignore_errors=True)
    if old.exists():
        os.rename(old, trash)
    os.rename(new, old)
    shutil.rmtree(trash, ignore_errors=True)
