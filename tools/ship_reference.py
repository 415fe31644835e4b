"""Make a finished run the reference that ships with the package.

python -m tools.ship_reference params/reference-cpu.yaml
"""

import argparse
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import torch
from safetensors.torch import load_file, save

from lensnb import io, pipeline, sharing
from lensnb.errors import InputError, nearest, told
from lensnb.pretrained import SHIPPED, WEIGHTS
from lensnb.recipes.recipe import load_recipe
from lensnb.runs import artefact
from lensnb.runs.run_folder import STEPS, Run
from tools import publish_notebooks

VERSION = 3  # of what is shipped next, as its card says
MOST = 16 * 2**20  # bytes of a file that ships
HEADER = 2**17  # bytes of it that the list of tensors may take


def ship(run: Run, name: str, weights: Path = WEIGHTS, results: Path | None = None) -> None:
    """Make a finished run the reference `name`.

    Its models go to lensnb/weights/<name>/, its results to outputs/reference/. Each takes the place
    of what was there only once it is whole. Raises InputError for a run that is not finished, and
    for a name that is not in SHIPPED.
    """
    if name not in SHIPPED:
        guess = nearest(name, SHIPPED) or SHIPPED[0]
        raise InputError(f"{name}: not the name of a reference; did you mean {guess}?")
    replace(Path(weights) / name, lambda folder: write_weights(run, name, folder))
    replace(Path(results or run.outputs / "reference"), lambda folder: write_results(run, folder))


def replace(folder: Path, make: Callable[[Path], None]) -> None:
    """Replace a folder by what `make` writes into a new one, once that is whole."""
    partial = artefact.partial(folder)
    shutil.rmtree(partial, ignore_errors=True)
    io.make_folder(partial)
    make(partial)
    artefact.replace(partial, folder)


# What ships with the package ---------------------------------------------------------------------


def write_weights(run: Run, name: str, folder: Path) -> None:
    """Write what a generator needs without its run: weights, logs, recipe, contexts, card."""
    for model in sharing.models(run):
        write_pieces(run.need(f"models/{model}") / "model.safetensors", folder, model)
        sharing.write_logs(run, model, folder)
    shutil.copyfile(run.write_recipe(), folder / "recipe.yaml")
    sharing.write_notes(run, pipeline.load_data(run), folder)
    io.write_json(folder / "card.json", card(run, name, folder))


def card(run: Run, name: str, folder: Path) -> dict:
    """The card of an exported folder, with version and licence of what ships."""
    return {"version": VERSION, "licence": "MIT", **sharing.card(run, name, folder)}


def write_pieces(weights: Path, folder: Path, model: str) -> None:
    """Write the weights of a model as one file, or as several where it is larger than MOST.

    Weights that fill more than one file in single precision ship in half precision: 11 bits of
    each number are kept, and loading brings them back to single precision.
    """
    pieces: list[dict] = [{}]
    room = MOST - HEADER
    tensors = load_file(weights)
    if sum(t.nbytes for t in tensors.values()) > room:
        tensors = {key: halved(tensor) for key, tensor in tensors.items()}
    for key, tensor in tensors.items():
        if pieces[-1] and sum(t.nbytes for t in pieces[-1].values()) + tensor.nbytes > room:
            pieces.append({})
        pieces[-1][key] = tensor
    for i, piece in enumerate(pieces, 1):
        stem = model if len(pieces) == 1 else f"{model}-{i:02d}"
        (folder / f"{stem}.safetensors").write_bytes(save(piece))


def halved(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor in half precision, unless it is of whole numbers or beyond the range of that."""
    beyond = not tensor.is_floating_point() or tensor.abs().max() > torch.finfo(torch.half).max
    return tensor if beyond else tensor.half()


# What is shown of the run ------------------------------------------------------------------------


def write_results(run: Run, folder: Path) -> None:
    """Write comparison, figures and executed notebooks of a whole run."""
    for part in ("comparison", "figures"):
        shutil.copytree(run.need(part), folder / part)
    (folder / "notebooks").mkdir()
    for step in STEPS:
        if not run.is_current(run.stages(step)[0]):
            raise InputError(
                f"{run.path}: {step} is not done; "
                "the reference is a whole run, so call make run first"
            )
        notebook = publish_notebooks.cleaned(run.path / "notebooks" / f"{step}.ipynb")
        nbformat.write(notebook, folder / "notebooks" / f"{step}.ipynb")
    for file in ("run.json", "recipe.yaml"):
        shutil.copyfile(run.path / file, folder / file)


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.ship_reference", description=__doc__)
    parser.add_argument("recipe", help="of the finished run, such as params/reference-cpu.yaml")
    given = parser.parse_args(arguments)

    def ship_run() -> None:
        recipe = load_recipe(given.recipe)
        ship(Run(recipe), recipe.run)

    return told(ship_run)


if __name__ == "__main__":
    sys.exit(main())
