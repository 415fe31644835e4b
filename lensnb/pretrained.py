"""Trained generators: shipped with the package, made by a finished run, or exported to a folder.

    lensnb.load("reference").draw(16)

A shipped or exported folder holds the weights (safetensors), the recipe, the scaling and the
contexts of the training images, the training logs, and card.json with version, licence, hardware
and the sha256 of each file. `sharing` writes it. Nothing in it is executed.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lensnb import generator, io, pipeline
from lensnb.datasets.dataset import Dataset, Scaling
from lensnb.errors import InputError, nearest
from lensnb.kinds import KINDS
from lensnb.recipes.recipe import Params, load_recipe
from lensnb.runs import artefact
from lensnb.runs.run_folder import outputs_folder, run_names

WEIGHTS = Path(__file__).with_name("weights")
CARD = "card.json"
MAIN = "model.safetensors"  # the first model of an exported folder
ASKED = "asked.csv"  # the table of sample.context, in an exported folder
SHIPPED = ("gpu", "reference-cpu")  # recipes of params/; the first is what "reference" means


def load(name: str | Path = "reference", method: str | None = None) -> generator.Generator:
    """A trained generator, drawn from without any training: `load("reference").draw(16, seed=1)`.

    name : "reference" (the best that ships), a shipped one by its own name, a finished run, or a
        folder that `lensnb export` wrote, wherever it lies now
    method : one of its recipe's, by default the cheapest, see `cheapest`
    Raises InputError for an unknown name or method, and for a file whose sha256 is not the
    one in the folder's card.json.
    """
    name = str(name)
    folder = shipped(name) or exported(name)
    if folder is None:
        return _of_run(name, method)
    checked(folder, "install lensnb again" if shipped(name) else "copy the folder again")
    params = _with_asked(load_recipe(folder / artefact.RECIPE), folder)
    method = _method(name, params, method)
    model = params.sample.methods[method].model
    # Where Hugging Face's tools look for weights lies the first model of an exported folder.
    weights = sorted(folder.glob(f"{model}*.safetensors")) or [folder / MAIN]
    return generator.load_generator(params, method, shipped_dataset(folder), *weights)


def exported(name: str) -> Path | None:
    """The exported folder at a path, or None; a run's name goes before a folder's."""
    folder = io.locate(name)
    return folder if (folder / CARD).is_file() and not _is_run(name) else None


def _is_run(name: str) -> bool:
    """Whether this is the name of a run, and not a path."""
    return Path(name).name == name and (outputs_folder() / name / artefact.RECIPE).is_file()


def _with_asked(params: Params, folder: Path) -> Params:
    """The recipe, with the table of sample.context looked up in the folder if it lies there."""
    if params.sample.context != ASKED or not (folder / ASKED).is_file():
        return params
    sample = params.sample.model_copy(update={"context": str((folder / ASKED).absolute())})
    return params.model_copy(update={"sample": sample})


def _of_run(name: str, method: str | None) -> generator.Generator:
    outputs = outputs_folder()
    if io.locate(name).is_dir() and not _is_run(name):
        raise InputError(
            f"{name}: no {CARD} in this folder, so it holds no exported model; "
            "lensnb export RUN --to FOLDER writes one"
        )
    if not _is_run(name):
        names = ["reference", *SHIPPED, *run_names(outputs)]
        guess = nearest(name, names) or names[0]
        raise InputError(
            f"{name}: neither a reference nor a run under {outputs}; did you mean {guess}?"
        )
    run = pipeline.open_run(load_recipe(outputs / name / artefact.RECIPE))
    return pipeline.load_generator(run, _method(name, run.params, method))


def _method(name: str, params: Params, method: str | None) -> str:
    """The method that is asked for, or the cheapest; raises InputError for an unknown one."""
    method = method or cheapest(params)
    if method not in params.sample.methods:
        known = ", ".join(params.sample.methods)
        raise InputError(f"{name}: has no method {method}; it has {known}")
    return method


def shipped(name: str = "reference") -> Path | None:
    """The folder of what ships under a name, or None."""
    folders = [WEIGHTS / known for known in SHIPPED if name in ("reference", known)]
    return next((folder for folder in folders if (folder / CARD).is_file()), None)


def card(name: str = "reference") -> Mapping[str, Any]:
    """Where a shipped generator comes from: version, licence, commit, hardware, training.

    Every file is checked against its sha256; raises InputError for one that differs.
    """
    folder = shipped(name)
    if folder is None:
        raise InputError(f"{name}: nothing ships under this name; known are {', '.join(SHIPPED)}")
    return checked(folder, "install lensnb again")


def checked(folder: Path, remedy: str) -> Mapping[str, Any]:
    """The card of a folder, whose files were compared with their sha256; InputError otherwise."""
    found = io.read_json(folder / CARD)
    for file, sha256 in found["sha256"].items():
        path = folder / file
        if not path.is_file() or io.sha256(path) != sha256:
            raise InputError(f"{path}: not the published file (sha256 differs); {remedy}")
    return found


def cheapest(params: Params) -> str:
    """The sampled method with the fewest steps; the first method if no sampler draws."""
    methods = params.sample.methods
    return min(
        methods, key=lambda name: (not KINDS[methods[name].model].sampled, methods[name].steps or 1)
    )


def shipped_dataset(folder: Path) -> Dataset:
    """The dataset of a shipped generator: its contexts and scaling, with NaN for every pixel."""
    notes = io.read_json(folder / "dataset.json")
    rows = np.load(folder / "context.npy", allow_pickle=False)
    columns = dict(zip(notes["columns"], rows.T, strict=True))
    labels = columns.pop("class").astype(np.int64) if "class" in columns else None
    for name, words in notes.get("words", {}).items():
        columns[name] = np.array([*words, ""])[columns[name].astype(int)]  # -1 stands for ""
    return Dataset(
        images=np.broadcast_to(np.float32(np.nan), (len(rows), *notes["shape"])),
        labels=labels,
        classes=tuple(notes["classes"]),
        truth=columns,
        pixel_scale=notes["pixel_scale"],
        train=np.arange(len(rows)),
        heldout=np.arange(0),
        scaling=Scaling(**notes["scaling"]),
        sigma_data=notes["sigma_data"],
        source=notes["source"],
    )
