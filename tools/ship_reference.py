"""Make a finished run the reference that ships: `python -m tools.ship_reference params/reference-cpu.yaml`."""

import shutil
import sys
from pathlib import Path

import numpy as np

from lensnb import io
from lensnb.errors import InputError, nearest, told
from lensnb.pretrained import SHIPPED, WEIGHTS
from lensnb.recipes.recipe import load_recipe
from lensnb.runs import artefact
from lensnb.runs.run_folder import STEPS, Run

VERSION = 1
# bytes of a file that ships, and what its list of tensors may take of them
MOST = 16 * 2**20
HEADER = 2**17


# From a finished run -------------------------------------------------------------------------------


def ship(run, name, weights=WEIGHTS, results=None):
    """Make a finished run the reference `name`: its models go to lensnb/weights/<name>/, its results to outputs/reference/.

    Both take the place of what was there only once they are whole. Raises InputError for a run that is not
    finished and for a name that is not in SHIPPED.
    """
    if name not in SHIPPED:
        raise InputError(
            f"{name}: not the name of a reference; did you mean {nearest(name, SHIPPED) or SHIPPED[0]}?"
        )
    _swap(Path(weights) / name, lambda folder: _weights(run, name, folder))
    _swap(Path(results or run.outputs / "reference"), lambda folder: _results(run, folder))


def _swap(folder, make):
    partial = artefact.partial(folder)
    shutil.rmtree(partial, ignore_errors=True)
    io.make_folder(partial)
    make(partial)
    artefact.replace(partial, folder)


def _weights(run, name, folder):
    from lensnb import pipeline

    dataset = pipeline.load_data(run)
    costs = io.read_json(run.need("comparison") / "timing.json")
    for model in dict.fromkeys(method.model for method in run.params.sample.methods.values()):
        source = run.need(f"models/{model}")
        _cut(source / "model.safetensors", folder, model)
        for log in ("history", "watch"):
            if (source / f"{log}.csv").is_file():
                shutil.copyfile(source / f"{log}.csv", folder / f"{model}-{log}.csv")
    shutil.copyfile(run.write_recipe(), folder / "recipe.yaml")
    _tell(run, dataset, folder)
    origin = io.read_json(run.path / "run.json")
    training = {
        cost["model"]: {
            key: cost[key] for key in ("parameters", "training_images_seen", "training_minutes")
        }
        for cost in costs.values()
    }
    io.write_json(
        folder / "card.json",
        {
            "format": io.FORMAT,
            "name": name,
            "version": VERSION,
            "licence": "MIT",
            **{key: origin[key] for key in ("lensnb", "commit", "hardware", "packages")},
            "training": training,
            "sha256": {path.name: io.sha256(path) for path in sorted(folder.iterdir())},
        },
    )


def _cut(weights, folder, model):
    """The weights of a model as one file, or as several of at most MOST bytes where they are more."""
    from safetensors.torch import load_file, save

    pieces = [{}]
    room = MOST - HEADER
    for key, tensor in load_file(weights).items():
        if pieces[-1] and sum(t.nbytes for t in pieces[-1].values()) + tensor.nbytes > room:
            pieces.append({})
        pieces[-1][key] = tensor
    for i, piece in enumerate(pieces, 1):
        (
            folder
            / (f"{model}.safetensors" if len(pieces) == 1 else f"{model}-{i:02d}.safetensors")
        ).write_bytes(save(piece))


def _tell(run, dataset, folder):
    from lensnb.datasets import conditions

    kind = conditions.resolve(run.params.model.context, dataset)
    columns = (
        {}
        if kind == "none"
        else {key: column[dataset.train] for key, column in conditions.table(kind, dataset).items()}
    )
    rows = (
        np.stack(list(columns.values()), axis=1).astype(float)
        if columns
        else np.empty((len(dataset.train), 0))
    )
    with io.atomic(folder / "context.npy", "wb") as file:
        np.save(file, rows, allow_pickle=False)
    notes = io.read_json(run.need("data") / "dataset.json")
    io.write_json(
        folder / "dataset.json",
        notes | {"shape": list(dataset.images.shape[1:]), "columns": list(columns)},
    )


def _results(run, folder):
    import nbformat

    from tools import publish_notebooks

    for part in ("comparison", "figures"):
        shutil.copytree(run.need(part), folder / part)
    (folder / "notebooks").mkdir()
    for step in STEPS:
        if not run.is_current(run.stages(step)[0]):
            raise InputError(
                f"{run.path}: {step} is not done; the reference is a whole run, so call make run first"
            )
        nbformat.write(
            publish_notebooks.cleaned(run.path / "notebooks" / f"{step}.ipynb"),
            folder / "notebooks" / f"{step}.ipynb",
        )
    for file in ("run.json", "recipe.yaml"):
        shutil.copyfile(run.path / file, folder / file)


if __name__ == "__main__":
    sys.exit(told(lambda: ship(Run(recipe := load_recipe(sys.argv[1])), recipe.run)))
