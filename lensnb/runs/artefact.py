"""The run folder: where each thing lies, atomic writes, hashes, provenance.

An artefact is a folder that appears whole or not at all: it is built beside its place, gets a list
of its files with their hashes, and is renamed. `recipe.yaml` inside says what made it, so that a
second run finds it and a changed parameter does not.
"""

import hashlib
import json
import os
import shutil
import time
from pathlib import Path

import yaml

from lensnb import io
from lensnb.errors import InputError, of_files
from lensnb.runs.locks import locked
from lensnb.runs.provenance import provenance, version

CHECKPOINT = "checkpoint.pt"
SCRATCH = (
    CHECKPOINT,
    "best.safetensors",
)  # what a training goes on from; they go once the artefact has its name


def digest(folder):
    """One short hash for what an artefact holds: that of the hashes of its files, but for its recipe and times."""
    files = listed(folder)
    hashes = sorted(
        (name, entry["sha256"])
        for name, entry in files.items()
        if name not in ("timing.json", "recipe.yaml")
    )
    return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()[:16]


def fingerprint(path):
    """A hash of names, sizes and times of the files at or below a path of the user's; None where nothing is."""
    top = io.locate(path)
    listed = [
        (str(p.relative_to(top)), p.stat().st_size, p.stat().st_mtime_ns)
        for p in sorted(top.rglob("*") if top.is_dir() else [top])
        if p.is_file()
    ]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:16] if listed else None


def is_whole(folder):
    """Whether an artefact and every file that it lists are there (by size; hashes are not read)."""
    folder = Path(folder)
    if not (folder / "artefact.json").is_file():
        return False
    return all(
        (folder / f).is_file() and (folder / f).stat().st_size == v["bytes"]
        for f, v in listed(folder).items()
    )


def listed(folder):
    """The files of an artefact as its artefact.json lists them: name -> bytes and sha256."""
    path = Path(folder) / "artefact.json"
    files = io.read_json(path).get("files")
    if not isinstance(files, dict) or not all(
        isinstance(v, dict) and {"bytes", "sha256"} <= v.keys() for v in files.values()
    ):
        raise InputError(f"{path}: damaged (no list of files); delete it and run its step again")
    return files


def recipe_of(folder):
    """The recipe that made an artefact, or None where there is none that can be read; raises InputError for a newer lensnb's."""
    path = Path(folder) / "recipe.yaml"
    try:
        return io.known(path.parent, yaml.safe_load(path.read_text())) if path.is_file() else None
    except (yaml.YAMLError, UnicodeDecodeError):
        return None


def build(folder, recipe, make):
    """The artefact `folder`, made by `make(partial_folder)` unless it is there with this recipe (see `stamped`).

    A partial folder of the same recipe is handed to `make` as it was left, so that training can
    resume from its checkpoints. `recipe` is a plain tree (dicts, lists, numbers, text). Raises InputError
    where another process builds it, where the disk is full or closed, and for what a newer lensnb has made.
    """
    folder = Path(folder)
    recipe = stamped(recipe)
    if not _has(folder, recipe):
        io.make_folder(folder.parent)
        with locked(folder), of_files(folder):
            if not _has(folder, recipe):  # another process may have made it meanwhile
                _make(folder, recipe, make)
    return folder


def _has(folder, recipe):
    return is_whole(folder) and recipe_of(folder) == recipe


def _make(folder, recipe, make):
    unfinished = partial(folder)
    if recipe_of(unfinished) != recipe and unfinished.exists():
        shutil.rmtree(unfinished)
    unfinished.mkdir(exist_ok=True)
    with io.atomic(unfinished / "recipe.yaml") as file:
        yaml.safe_dump(recipe, file, sort_keys=False)
    start = time.time()
    try:
        make(unfinished)
        _seal(unfinished, time.time() - start)
    except (InputError, OSError):
        if not (unfinished / CHECKPOINT).is_file():  # nothing to go on from: leave nothing
            shutil.rmtree(unfinished)
        raise
    replace(unfinished, folder)
    for name in SCRATCH:
        (folder / name).unlink(missing_ok=True)


def partial(folder):
    """Where an artefact is made before it takes its name."""
    return folder.with_name(f".{folder.name}.partial")


def stamped(recipe):
    """A recipe with the version of the code and of the files."""
    return {"format": io.FORMAT, "lensnb": version(), **recipe}


def _seal(folder, seconds):
    files = {
        str(p.relative_to(folder)): {"bytes": p.stat().st_size, "sha256": io.sha256(p)}
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name not in ("artefact.json", *SCRATCH)
    }
    io.write_json(
        folder / "artefact.json",
        {"format": io.FORMAT, "seconds": round(seconds, 2), **provenance(), "files": files},
    )


def replace(new, old):
    """Let the folder `new` take the place of `old`, which goes only once `new` stands there."""
    trash = old.with_name(f".{old.name}.old")
    shutil.rmtree(trash, ignore_errors=True)
    if old.exists():
        os.rename(old, trash)
    os.rename(new, old)
    shutil.rmtree(trash, ignore_errors=True)
