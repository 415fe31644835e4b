"""What a run holds is kept under another name, <run>~1, before other results take its place.

The kept run is a run like any other: it can be opened, compared, drawn from and continued. Its
artefacts are hard links to the same files, so it takes hardly any room.
"""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from lensnb import io
from lensnb.runs import artefact
from lensnb.runs.locks import locked

PAGES = ("notebooks", "report")  # folders that are copied: an editor may write them in place


def kept_runs(path: Path) -> list[Path]:
    """The folders in which the run `path` was kept, the oldest first."""
    stem = path.name.partition("~")[0]
    found = [p for p in path.parent.glob(f"{stem}~*") if p.name.rpartition("~")[2].isdecimal()]
    return sorted(found, key=lambda p: int(p.name.rpartition("~")[2]))


def is_kept(path: Path, stages: Iterable[str]) -> bool:
    """Whether each of these stages of the run `path` also lies in one of its kept runs."""
    return all(
        any(_same_artefact(other / stage, path / stage) for other in kept_runs(path))
        for stage in stages
    )


def _same_artefact(one: Path, other: Path) -> bool:
    whole = artefact.is_whole(one) and artefact.is_whole(other)
    return whole and artefact.same(artefact.recipe_of(one), artefact.recipe_of(other))


def keep(path: Path, tree: Mapping[str, Any]) -> str:
    """Keep all that the run `path` holds under the next free name; returns that name.

    tree : the recipe of what is kept
    Trainings that are not finished are copied with their checkpoints. The kept run appears whole.
    """
    with locked(path, patience=60):
        last = kept_runs(path)[-1:]
        number = int(last[0].name.rpartition("~")[2]) + 1 if last else 1
        name = f"{path.name.partition('~')[0]}~{number}"
        beside = path.with_name(f".{name}.partial")
        shutil.rmtree(beside, ignore_errors=True)
        try:
            _fill(beside, path, dict(tree) | {"run": name})
            beside.rename(path.with_name(name))
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    return name


def _fill(new: Path, old: Path, tree: Mapping[str, Any]) -> None:
    """Everything of the run `old` but its locks and what an unfinished stage has not saved."""
    new.mkdir()
    for listing in (*old.glob(f"[!.]*/{artefact.LIST}"), *old.glob(f"*/[!.]*/{artefact.LIST}")):
        stage = listing.parent
        if artefact.is_whole(stage):
            artefact.share(stage, new / stage.relative_to(old))
    for checkpoint in old.glob(f"*/.*.partial/{artefact.CHECKPOINT}"):
        unfinished = checkpoint.parent
        shutil.copytree(unfinished, new / unfinished.relative_to(old))
    for part in PAGES:
        if (old / part).is_dir():
            shutil.copytree(old / part, new / part, ignore=shutil.ignore_patterns(".*"))
    (new / artefact.RECIPE).write_text(yaml.safe_dump(dict(tree), sort_keys=False))
    noted = old / "run.json"
    if noted.is_file():
        told = {"run": tree["run"], "params": dict(tree)}
        io.write_json(new / "run.json", io.read_json(noted) | told)
