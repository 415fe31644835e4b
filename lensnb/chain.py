"""The five steps as the notebooks call them: each reads the run folder, builds its stage, returns what it made.

A stage that is there already, whole and made by the same recipe from the same inputs, is loaded
instead of made again.
"""

import numpy as np

from lensnb import store
from lensnb.errors import InputError, nearest
from lensnb.params import Params


_opened = []    # the first call in a kernel checks the parameter cell; later ones see the notebook's own variables too


def _refuse_unknown(variables):
    plain = [k for k, v in variables.items() if type(v) in (dict, int, float, str, bool) and not k.startswith("_") and k != "Out"]
    for key in plain:
        if key not in Params.model_fields:
            raise InputError(f"the parameters cell: unknown key {key}; did you mean {nearest(key, Params.model_fields) or 'train'}?")


def open_run(variables):
    """The Run of a notebook's parameter cell (pass `globals()`) or of a `Params`.

    Also sets the number of CPU threads, which decides the last bits of every result. Raises
    InputError with one sentence where a parameter is unknown or out of bounds.
    """
    import torch

    if not isinstance(variables, Params) and not _opened:
        _refuse_unknown(variables)
    _opened.append(True)
    params = variables if isinstance(variables, Params) else Params.from_notebook(variables)
    if params.threads:
        torch.set_num_threads(params.threads)
    return store.Run(params)


def make_data(run):
    """Simulate or read the images of a run and split them; returns the `data.Dataset`."""
    from lensnb import data

    return data.load(run.build("data", lambda folder: data.prepare(run.params.data, run.params.data_seed, folder)))


def load_data(run):
    """The `data.Dataset` that 01_data has written."""
    from lensnb import data

    return data.load(run.need("data"))


def train_model(run, name):
    """Train the generator "diffusion" or "gan"; returns its history, columns of one entry a printed line."""
    from lensnb import train

    dataset = load_data(run)
    folder = run.build(f"models/{name}", lambda folder: train.train(name, run.params, dataset, folder))
    return store.read_table(folder / "history.csv")


def load_watched(run, name):
    """What was watched in the training of a generator: (columns of watch.csv, frames (F, N, C, H, W)); None where nothing was."""
    folder = run.need(f"models/{name}")
    if not (folder / "watch.csv").is_file():
        return None
    return store.read_table(folder / "watch.csv"), np.stack([np.load(path) for path in sorted(folder.glob("watch-*.npy"))])


def load_generator(run, method):
    """The trained `generate.Generator` of a method of the recipe, such as "ddim"."""
    from lensnb import generate

    weights = run.need(f"models/{run.params.sample.methods[method].model}") / "model.safetensors"
    return generate.load(run.params, method, load_data(run), weights)


def draw_samples(run, method):
    """Draw the images of a method; returns them (n, C, H, W), memory-mapped, in the user's units."""
    from lensnb import generate

    weights = run.need(f"models/{run.params.sample.methods[method].model}") / "model.safetensors"
    dataset = load_data(run)
    run.build(f"samples/{method}", lambda folder: generate.sample(run.params, method, dataset, weights, folder))
    return load_samples(run, method)


def load_samples(run, method):
    """The images that 03_sample has drawn by a method (n, C, H, W), memory-mapped, in the user's units."""
    return np.load(run.need(f"samples/{method}") / "images.npy", mmap_mode="r")


def load_asked(run, method):
    """What the images of a method were asked to be: column -> (n,), the class as a number; None without a context."""
    path, classes = run.need(f"samples/{method}") / "context.csv", load_data(run).classes
    if not path.is_file():
        return None
    table = store.read_table(path)
    names = [str(int(c)) if isinstance(c, float) else c for c in table["class"].tolist()]
    return table | {"class": np.array([classes.index(name) for name in names])}


def load_trajectory(run, method):
    """The frames of a method's first images: (table, x, x0) as of `generate.Generator.trajectory`."""
    folder = run.need(f"samples/{method}")
    return (store.read_table(folder / "frames.csv"), *(np.load(folder / f"{key}.npy") for key in ("x", "x0")))


_judges = {}     # the last one: what is measured on real images is the same for all methods of a run


def load_judge(run):
    """The `evaluate.Judge` of a run: real images, and what is measured on them."""
    from lensnb import evaluate

    key = store.digest(run.need("data")), run.params.model_dump_json()
    if key not in _judges:
        _judges.clear()
        _judges[key] = evaluate.Judge(run.params, load_data(run))
    return _judges[key]


def evaluate_method(run, method):
    """Judge a method's images against the held-out ones; returns the tree of metrics.json and that of curves.json."""
    from lensnb import evaluate

    images, asked = load_samples(run, method), load_asked(run, method)
    folder = run.build(f"evaluation/{method}", lambda folder: evaluate.evaluate(load_judge(run), method, images, asked, folder))
    return store.read_json(folder / "metrics.json"), store.read_json(folder / "curves.json")


def compare_methods(run):
    """The comparison of all methods of a run; returns the tree of table.json and the costs of each method."""
    from lensnb import compare

    folder = run.build("comparison", lambda folder: compare.compare(run, folder))
    return store.read_json(folder / "table.json"), store.read_json(folder / "timing.json")


def progress(run):
    """How far a run has come: one dict a step, with what it writes, whether that is there, and the minutes it took."""
    told = store.read_json(run.path / "run.json") if (run.path / "run.json").is_file() else {}
    seconds = {stage: entry["seconds"] for stage, entry in told.get("artefacts", {}).items()}
    return [{"step": step, "writes": ", ".join(run.stages(step)), "done": all(map(run.is_current, run.stages(step))),
             "minutes": round(sum(seconds.get(stage, 0) for stage in run.stages(step)) / 60, 1)} for step in store.STEPS]
