"""The reference: trained generators that ship with the package, and the finished run that they come from.

    lensnb.load("reference").draw(16)

A shipped folder holds safetensors, the recipe, what the recipe's data told the networks beside pixels, the
training logs, and card.json with version, licence, hardware and the sha256 of every file.
"""

import shutil
from pathlib import Path

import numpy as np

from lensnb import params as recipes
from lensnb import store
from lensnb.errors import InputError, nearest

WEIGHTS = Path(__file__).with_name("weights")
SHIPPED = ("gpu", "reference-cpu")              # recipes of params/, the best first: what "reference" means
VERSION = 1
MOST, HEADER = 16 * 2**20, 2**17                # bytes of a file that ships, and what its list of tensors may take of them


def load(name="reference", method=None):
    """A trained `generate.Generator`, drawn from without any training: `load("reference").draw(16, seed=1)`.

    name : "reference" (the best that ships), a shipped one by its own name, or a finished run under outputs/;
    method : one of its recipe's; by default the one of the fewest network evaluations of its diffusion model.
    Raises InputError for an unknown name or method, and for files whose sha256 is not the published one.
    """
    from lensnb import chain, generate      # with torch, which a mere import of lensnb does without

    folder = shipped(name)
    if folder is None:
        run = _run(name)
        return chain.load_generator(run, method or cheapest(run.params))
    card(name)
    params = recipes.load(folder / "recipe.yaml")
    method = method or cheapest(params)
    if method not in params.sample.methods:
        raise InputError(f"{name}: has no method {method}; it has {', '.join(params.sample.methods)}")
    return generate.load(params, method, told(folder), *sorted(folder.glob(f"{params.sample.methods[method].model}*.safetensors")))


def shipped(name="reference"):
    """The folder of what ships under a name, or None."""
    folders = [WEIGHTS / known for known in SHIPPED if name in ("reference", known)]
    return next((folder for folder in folders if (folder / "card.json").is_file()), None)


def card(name="reference"):
    """Where a shipped reference comes from: version, licence, commit, hardware, training; every file is checked against its sha256."""
    folder = shipped(name)
    found = store.read_json(folder / "card.json")
    for file, sha256 in found["sha256"].items():
        if not (folder / file).is_file() or store.sha256(folder / file) != sha256:
            raise InputError(f"{folder / file}: not the published file (sha256 differs); install lensnb again")
    return found


def cheapest(params):
    """The method of the fewest network evaluations of a recipe's diffusion model; of a GAN where there is none."""
    methods = params.sample.methods
    return min(methods, key=lambda name: (methods[name].model != "diffusion", methods[name].steps or 1))


def told(folder):
    """The `data.Dataset` of a shipped reference: all that its networks were told of the training images, and no pixel of them."""
    from lensnb import data

    notes, rows = store.read_json(folder / "dataset.json"), np.load(folder / "context.npy", allow_pickle=False)
    columns = dict(zip(notes["columns"], rows.T, strict=True))
    labels = columns.pop("class").astype(np.int64) if columns else None
    return data.Dataset(
        images=np.broadcast_to(np.float32(np.nan), (len(rows), *notes["shape"])), labels=labels, classes=tuple(notes["classes"]), truth=columns,
        pixel_scale=notes["pixel_scale"], train=np.arange(len(rows)), heldout=np.arange(0), scaling=data.Scaling(**notes["scaling"]),
        sigma_data=notes["sigma_data"], source=notes["source"])


# From a finished run -------------------------------------------------------------------------------

def ship(run, name, weights=WEIGHTS, results=None):
    """Make a finished run the reference `name`: its models go to lensnb/weights/<name>/, its results to outputs/reference/.

    Both take the place of what was there only once they are whole. Raises InputError for a run that is not
    finished and for a name that is not in SHIPPED.
    """
    if name not in SHIPPED:
        raise InputError(f"{name}: not the name of a reference; did you mean {nearest(name, SHIPPED) or SHIPPED[0]}?")
    _swap(Path(weights) / name, lambda folder: _weights(run, name, folder))
    _swap(Path(results or run.outputs / "reference"), lambda folder: _results(run, folder))


def _swap(folder, make):
    partial = store.partial(folder)
    shutil.rmtree(partial, ignore_errors=True)
    store.make_folder(partial)
    make(partial)
    store.replace(partial, folder)


def _weights(run, name, folder):
    from lensnb import chain

    dataset, costs = chain.load_data(run), store.read_json(run.need("comparison") / "timing.json")
    for model in dict.fromkeys(method.model for method in run.params.sample.methods.values()):
        source = run.need(f"models/{model}")
        _cut(source / "model.safetensors", folder, model)
        for log in ("history", "watch"):
            if (source / f"{log}.csv").is_file():
                shutil.copyfile(source / f"{log}.csv", folder / f"{model}-{log}.csv")
    shutil.copyfile(run.write_recipe(), folder / "recipe.yaml")
    _tell(run, dataset, folder)
    origin = store.read_json(run.path / "run.json")
    training = {cost["model"]: {key: cost[key] for key in ("parameters", "training_images_seen", "training_minutes")} for cost in costs.values()}
    store.write_json(folder / "card.json", {
        "format": store.FORMAT, "name": name, "version": VERSION, "licence": "MIT", **{key: origin[key] for key in ("lensnb", "commit", "hardware", "packages")},
        "training": training, "sha256": {path.name: store.sha256(path) for path in sorted(folder.iterdir())}})


def _cut(weights, folder, model):
    """The weights of a model as one file, or as several of at most MOST bytes where they are more."""
    from safetensors.torch import load_file, save

    pieces, room = [{}], MOST - HEADER
    for key, tensor in load_file(weights).items():
        if pieces[-1] and sum(t.nbytes for t in pieces[-1].values()) + tensor.nbytes > room:
            pieces.append({})
        pieces[-1][key] = tensor
    for i, piece in enumerate(pieces, 1):
        (folder / (f"{model}.safetensors" if len(pieces) == 1 else f"{model}-{i:02d}.safetensors")).write_bytes(save(piece))


def _tell(run, dataset, folder):
    from lensnb import context as contexts

    kind = contexts.resolve(run.params.model.context, dataset)
    columns = {} if kind == "none" else {key: column[dataset.train] for key, column in contexts.table(kind, dataset).items()}
    rows = np.stack(list(columns.values()), axis=1).astype(float) if columns else np.empty((len(dataset.train), 0))
    with store.atomic(folder / "context.npy", "wb") as file:
        np.save(file, rows, allow_pickle=False)
    notes = store.read_json(run.need("data") / "dataset.json")
    store.write_json(folder / "dataset.json", notes | {"shape": list(dataset.images.shape[1:]), "columns": list(columns)})


def _results(run, folder):
    import nbformat

    from lensnb import publish

    for part in ("comparison", "figures"):
        shutil.copytree(run.need(part), folder / part)
    (folder / "notebooks").mkdir()
    for step in store.STEPS:
        if not run.is_current(run.stages(step)[0]):
            raise InputError(f"{run.path}: {step} is not done; the reference is a whole run, so call make run first")
        nbformat.write(publish.cleaned(run.path / "notebooks" / f"{step}.ipynb"), folder / "notebooks" / f"{step}.ipynb")
    for file in ("run.json", "recipe.yaml"):
        shutil.copyfile(run.path / file, folder / file)


def _run(name):
    from lensnb import chain

    outputs = store.outputs_folder()
    if not (outputs / name / "recipe.yaml").is_file():
        names = ["reference", *SHIPPED, *sorted(path.parent.name for path in outputs.glob("*/recipe.yaml"))]
        raise InputError(f"{name}: neither a reference nor a run under {outputs}; did you mean {nearest(name, names) or names[0]}?")
    return chain.open_run(recipes.load(outputs / name / "recipe.yaml"))
