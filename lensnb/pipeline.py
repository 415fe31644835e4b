"""The five steps as the notebooks call them: each reads the run folder, builds its stage, returns what it made.

A stage that is there already, whole and made by the same recipe from the same inputs, is loaded
instead of made again.
"""

import importlib.util
import math
import time

import numpy as np
import torch

from lensnb import generator as generators
from lensnb import io
from lensnb.datasets import conditions
from lensnb.datasets.dataset import load_dataset, prepare_dataset
from lensnb.errors import InputError, nearest
from lensnb.evaluation import compare
from lensnb.evaluation.judge import Judge, evaluate
from lensnb.evaluation.monitor import Monitor
from lensnb.recipes.recipe import Params
from lensnb.runs import artefact
from lensnb.runs.run_folder import STEPS, Run
from lensnb.training import loader, loop, preflight
from lensnb.training.accelerator import make_accelerator, tracked

_opened = []  # the first call in a kernel checks the parameter cell; later ones see the notebook's own variables too


def _refuse_unknown(variables):
    plain = [
        k
        for k, v in variables.items()
        if type(v) in (dict, int, float, str, bool) and not k.startswith("_") and k != "Out"
    ]
    for key in plain:
        if key not in Params.model_fields:
            raise InputError(
                f"the parameters cell: unknown key {key}; did you mean {nearest(key, Params.model_fields) or 'train'}?"
            )


def open_run(variables):
    """The Run of a notebook's parameter cell (pass `globals()`) or of a `Params`.

    Also sets the number of CPU threads, which decides the last bits of every result. Raises
    InputError with one sentence where a parameter is unknown or out of bounds.
    """
    if not isinstance(variables, Params) and not _opened:
        _refuse_unknown(variables)
    _opened.append(True)
    params = variables if isinstance(variables, Params) else Params.from_notebook(variables)
    if params.threads:
        torch.set_num_threads(params.threads)
    return Run(params)


def make_data(run):
    """Simulate or read the images of a run and split them; returns the `data.Dataset`."""
    return load_dataset(
        run.build(
            "data", lambda folder: prepare_dataset(run.params.data, run.params.data_seed, folder)
        )
    )


def load_data(run):
    """The `data.Dataset` that 01_data has written."""
    return load_dataset(run.need("data"))


def train_model(run, name):
    """Train the generator "diffusion" or "gan"; returns its history, columns of one entry a printed line."""

    dataset = load_data(run)
    folder = run.build(
        f"models/{name}", lambda folder: train_generator(name, run.params, dataset, folder)
    )
    return io.read_table(folder / "history.csv")


def load_watched(run, name):
    """What was watched in the training of a generator: (columns of watch.csv, frames (F, N, C, H, W)); None where nothing was."""
    folder = run.need(f"models/{name}")
    if not (folder / "watch.csv").is_file():
        return None
    return io.read_table(folder / "watch.csv"), np.stack(
        [np.load(path) for path in sorted(folder.glob("watch-*.npy"))]
    )


def load_generator(run, method):
    """The trained `generate.Generator` of a method of the recipe, such as "ddim"."""
    weights = run.need(f"models/{run.params.sample.methods[method].model}") / "model.safetensors"
    return generators.load_generator(run.params, method, load_data(run), weights)


def draw_samples(run, method):
    """Draw the images of a method; returns them (n, C, H, W), memory-mapped, in the user's units."""

    weights = run.need(f"models/{run.params.sample.methods[method].model}") / "model.safetensors"
    dataset = load_data(run)
    run.build(
        f"samples/{method}",
        lambda folder: sample_method(run.params, method, dataset, weights, folder),
    )
    return load_samples(run, method)


def load_samples(run, method):
    """The images that 03_sample has drawn by a method (n, C, H, W), memory-mapped, in the user's units."""
    return np.load(run.need(f"samples/{method}") / "images.npy", mmap_mode="r")


def load_asked(run, method):
    """What the images of a method were asked to be: column -> (n,), the class as a number; None without a context."""
    path = run.need(f"samples/{method}") / "context.csv"
    classes = load_data(run).classes
    if not path.is_file():
        return None
    table = io.read_table(path)
    names = [str(int(c)) if isinstance(c, float) else c for c in table["class"].tolist()]
    return table | {"class": np.array([classes.index(name) for name in names])}


def load_trajectory(run, method):
    """The frames of a method's first images: (table, x, x0) as of `generate.Generator.trajectory`."""
    folder = run.need(f"samples/{method}")
    return (
        io.read_table(folder / "frames.csv"),
        *(np.load(folder / f"{key}.npy") for key in ("x", "x0")),
    )


_judges = {}  # the last one: what is measured on real images is the same for all methods of a run


def load_judge(run):
    """The `evaluate.Judge` of a run: real images, and what is measured on them."""
    key = artefact.digest(run.need("data")), run.params.model_dump_json()
    if key not in _judges:
        _judges.clear()
        _judges[key] = Judge(run.params, load_data(run))
    return _judges[key]


def evaluate_method(run, method):
    """Judge a method's images against the held-out ones; returns the tree of metrics.json and that of curves.json."""
    images = load_samples(run, method)
    asked = load_asked(run, method)
    folder = run.build(
        f"evaluation/{method}",
        lambda folder: evaluate(load_judge(run), method, images, asked, folder),
    )
    return io.read_json(folder / "metrics.json"), io.read_json(folder / "curves.json")


def compare_methods(run):
    """The comparison of all methods of a run; returns the tree of table.json and the costs of each method."""
    folder = run.build("comparison", lambda folder: compare.compare(run, folder))
    return io.read_json(folder / "table.json"), io.read_json(folder / "timing.json")


def progress(run):
    """How far a run has come: one dict a step, with what it writes, whether that is there, and the minutes it took."""
    told = io.read_json(run.path / "run.json") if (run.path / "run.json").is_file() else {}
    seconds = {stage: entry["seconds"] for stage, entry in told.get("artefacts", {}).items()}
    return [
        {
            "step": step,
            "writes": ", ".join(run.stages(step)),
            "done": all(map(run.is_current, run.stages(step))),
            "minutes": round(sum(seconds.get(stage, 0) for stage in run.stages(step)) / 60, 1),
        }
        for step in STEPS
    ]


def animate(folder):
    """Write what was watched as progress.gif, where there is something to see it with."""
    paths = sorted(folder.glob("watch-*.npy"))
    if len(paths) > 1 and importlib.util.find_spec("matplotlib"):
        from lensnb.display import figures

        with io.atomic(folder / "progress.gif", "wb") as file:
            figures.animation(np.stack([np.load(path, allow_pickle=False) for path in paths]), file)


def sample_method(params, name, dataset, weights, folder):
    """Draw the images and the trajectory of method `name`; writes images.npy, x.npy, x0.npy, frames.csv, sample.json."""
    generator = generators.load_generator(params, name, dataset, weights)
    n = params.sample.n
    start = time.perf_counter()
    bad = io.write_images(
        folder / "images.npy",
        (n, *dataset.images.shape[1:]),
        generator.batches(n, params.seed, params.sample.batch),
    )
    seconds = (time.perf_counter() - start) / n
    if bad:
        raise InputError(
            f"sample.methods.{name}: {bad} of {n} images drawn hold NaN or infinite pixels; train again with a lower "
            f"rate: delete {weights.parent} and run notebooks/02_train.ipynb"
        )
    table, x, x0 = generator.trajectory(params.sample.trajectory, params.seed, params.sample.frames)
    for key, array in {"x": x, "x0": x0}.items():
        with io.atomic(folder / f"{key}.npy", "wb") as file:
            np.save(file, array, allow_pickle=False)
    io.write_table(folder / "frames.csv", table)
    if (asked := generator.asked(n, params.seed)) is not None:
        names = [dataset.classes[i] for i in asked["class"]]
        io.write_table(folder / "context.csv", {**asked, "class": names})
    io.write_json(
        folder / "sample.json",
        {
            "method": name,
            **generator.method.model_dump(),
            "n": n,
            "seed": params.seed,
            "nfe": generator.nfe,
            "parameters": generator.parameters(),
        },
    )
    io.write_json(
        folder / "timing.json", {"seconds_per_image": seconds, "device": str(generator.device)}
    )


# A generator of a recipe ---------------------------------------------------------------------------


def counted(settings, n):
    """The settings with `steps` spelled out for n training images, and which steps are kept under which name."""
    unit = "epoch" if settings.epochs else "step"

    def steps_of(count):
        return math.ceil(count * n / settings.batch) if settings.epochs else count

    steps = steps_of(settings.epochs or settings.steps)
    keep = {
        steps_of(count): f"{unit}-{count}.safetensors"
        for count in settings.keep
        if steps_of(count) <= steps
    }
    return settings.model_copy(update={"steps": steps}), keep


def monitor_for(name, params, settings, dataset, device):
    """The watch.Watch of a training, or None where nothing is watched."""
    if not settings.watch_every:
        return None
    return Monitor(params, name, dataset, device)


def train_generator(name, params, dataset, folder):
    """Train the generator `name` ("diffusion" or "gan") and write model.safetensors and history.csv to `folder`.

    Called by each of several processes, of which the first writes.
    """
    section = "gan" if name == "gan" else "train"
    settings, keep = counted(getattr(params, section), len(dataset.train))
    params = params.model_copy(update={section: settings})
    on = make_accelerator(
        params.device,
        settings.precision,
        settings.tracker,
        str(folder.parents[1] / "tracking" / name),
    )
    context = None
    if (kind := conditions.resolve(params.model.context, dataset)) != "none":
        context = conditions.encode(kind, dataset, conditions.table(kind, dataset))
    source = loader.batches_of(dataset, context, settings, params.seed, on.device)
    with preflight.explained(section):
        made = loop.task(name, params, dataset, on)
        watch = monitor_for(name, params, settings, dataset, on.device)
        expected = preflight.Estimate(made, source, on)
    with (
        preflight.explained(section, expected),
        tracked(on, f"{params.run}-{name}", params.model_dump(mode="json")) as log,
    ):
        described = expected.describe(settings.steps)
        print(f"{name}: {described}", flush=True) if on.is_main_process else None
        state = loop.fit(made, source, settings, params.seed, folder, on.device, keep, watch, log)
    if on.is_main_process:
        loop.finish(made, state, folder, on.device, best=name == "gan")
        animate(folder)
    on.wait_for_everyone()
