"""The reference: trained generators that ship with the package, and the finished run that they come from.

    lensnb.load("reference").draw(16)

A shipped folder holds safetensors, the recipe, what the recipe's data told the networks beside pixels, the
training logs, and card.json with version, licence, hardware and the sha256 of every file.
"""

from pathlib import Path

import numpy as np

from lensnb import io
from lensnb.errors import InputError, nearest
from lensnb.recipes.recipe import load_recipe
from lensnb.runs.run_folder import outputs_folder

WEIGHTS = Path(__file__).with_name("weights")
SHIPPED = ("gpu", "reference-cpu")  # recipes of params/, the best first: what "reference" means


def load(name="reference", method=None):
    """A trained `generate.Generator`, drawn from without any training: `load("reference").draw(16, seed=1)`.

    name : "reference" (the best that ships), a shipped one by its own name, or a finished run under outputs/;
    method : one of its recipe's; by default the one of the fewest network evaluations of its diffusion model.
    Raises InputError for an unknown name or method, and for files whose sha256 is not the published one.
    """
    from lensnb import generator, pipeline  # with torch, which a mere import of lensnb does without

    folder = shipped(name)
    if folder is None:
        run = _run(name)
        return pipeline.load_generator(run, method or cheapest(run.params))
    card(name)
    params = load_recipe(folder / "recipe.yaml")
    method = method or cheapest(params)
    if method not in params.sample.methods:
        raise InputError(
            f"{name}: has no method {method}; it has {', '.join(params.sample.methods)}"
        )
    return generator.load_generator(
        params,
        method,
        told(folder),
        *sorted(folder.glob(f"{params.sample.methods[method].model}*.safetensors")),
    )


def shipped(name="reference"):
    """The folder of what ships under a name, or None."""
    folders = [WEIGHTS / known for known in SHIPPED if name in ("reference", known)]
    return next((folder for folder in folders if (folder / "card.json").is_file()), None)


def card(name="reference"):
    """Where a shipped reference comes from: version, licence, commit, hardware, training; every file is checked against its sha256."""
    folder = shipped(name)
    found = io.read_json(folder / "card.json")
    for file, sha256 in found["sha256"].items():
        if not (folder / file).is_file() or io.sha256(folder / file) != sha256:
            raise InputError(
                f"{folder / file}: not the published file (sha256 differs); install lensnb again"
            )
    return found


def cheapest(params):
    """The method of the fewest network evaluations of a recipe's diffusion model; of a GAN where there is none."""
    methods = params.sample.methods
    return min(
        methods, key=lambda name: (methods[name].model != "diffusion", methods[name].steps or 1)
    )


def told(folder):
    """The `data.Dataset` of a shipped reference: all that its networks were told of the training images, and no pixel of them."""
    from lensnb.datasets.dataset import Dataset, Scaling

    notes = io.read_json(folder / "dataset.json")
    rows = np.load(folder / "context.npy", allow_pickle=False)
    columns = dict(zip(notes["columns"], rows.T, strict=True))
    labels = columns.pop("class").astype(np.int64) if columns else None
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


def _run(name):
    from lensnb import pipeline

    outputs = outputs_folder()
    if not (outputs / name / "recipe.yaml").is_file():
        names = [
            "reference",
            *SHIPPED,
            *sorted(path.parent.name for path in outputs.glob("*/recipe.yaml")),
        ]
        raise InputError(
            f"{name}: neither a reference nor a run under {outputs}; did you mean {nearest(name, names) or names[0]}?"
        )
    return pipeline.open_run(load_recipe(outputs / name / "recipe.yaml"))
