"""The five steps as the notebooks call them: data, train, sample, evaluate, compare.

Each function reads the run folder, builds its stage and returns what it made. A stage that is
current (whole, and made by the same recipe from the same inputs) is loaded and not made again.
"""

import contextlib
import importlib.util
import math
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lensnb import generator as generators
from lensnb import io
from lensnb.datasets import conditions
from lensnb.datasets.dataset import Dataset, load_dataset, prepare_dataset
from lensnb.errors import InputError, did_you_mean
from lensnb.evaluation import compare as comparison
from lensnb.evaluation import image_stats, of_runs
from lensnb.evaluation.judge import Judge, evaluate
from lensnb.evaluation.kept_rows import MEASURED, Kept
from lensnb.evaluation.monitor import Monitor
from lensnb.kinds import KINDS
from lensnb.recipes import parameters_cell
from lensnb.recipes.recipe import Params, load_recipe, validate
from lensnb.runs import artefact
from lensnb.runs.run_folder import STEPS, Run, outputs_folder, run_names
from lensnb.training import compiling, continuing, loader, loop, preflight
from lensnb.training.accelerator import make_accelerator, tracked

Table = dict[str, np.ndarray]
Tree = dict[str, Any]
SOME = 2**20  # pixels of training images whose noise is measured
NO_NOISE = 1e-3  # in scaled images, about [-1, 1], below which there is none

# ---- the run


def open_run(source: Any = None, **parameters: Any) -> Run:
    """The run that is meant, with its folder.

    source : the name of a run under outputs/, the path of a recipe, a `Params`, or, in a notebook,
    `globals()`, of which only the names defined in the parameters cell count.
    parameters : sections and keys of a recipe in place of `source`: `open_run(run="mine", seed=3)`.

    Also sets the number of CPU threads, which decides the last bits of every result. Raises
    InputError with one sentence for anything else, and for a key or value that is not valid.
    """
    params = _params_of(source, parameters)
    if params.threads:
        torch.set_num_threads(params.threads)
    return Run(params)


def _params_of(source: Any, parameters: Mapping[str, Any]) -> Params:
    if source is not None and parameters:
        raise InputError("open_run: give a run, a recipe or parameters, and not two of them")
    if source is None and not parameters:
        raise InputError(
            "open_run: expected the name of a run, the path of a recipe, parameters such as "
            "seed=3, or globals() in a notebook"
        )
    if source is None:
        return validate(dict(parameters), "open_run")
    if isinstance(source, Params):
        return source
    if isinstance(source, Mapping):
        return _params_of_mapping(source)
    if isinstance(source, str | os.PathLike):
        return _params_of_name(os.fspath(source))
    raise InputError(
        f"open_run: found {type(source).__name__}; expected the name of a run, the path of a "
        "recipe, parameters such as seed=3, or globals() in a notebook"
    )


def _params_of_mapping(source: Mapping[str, Any]) -> Params:
    if parameters_cell.is_namespace(source):
        found = parameters_cell.declared(source, Params.model_fields)
        return validate(found, "the parameters cell")
    if "__name__" in source:
        raise InputError(
            "open_run(globals()) is for notebooks; in a script give a recipe's path, a run's name, "
            "or parameters such as seed=3"
        )
    return validate(dict(source), "open_run")


def _params_of_name(name: str) -> Params:
    if Path(name).suffix in (".yaml", ".yml"):
        return load_recipe(name)
    there = outputs_folder() / name / artefact.RECIPE
    if name and there.is_file():
        return load_recipe(there)
    hint = did_you_mean(name, run_names())
    raise InputError(f"{name}: no run of this name under {outputs_folder()}; {hint}")


def progress(run: Run) -> list[Tree]:
    """How far a run has come: one dict a step with what it writes, whether done, and minutes."""
    noted = run.record().get("artefacts", {})
    found = []
    for step in STEPS:
        stages = run.stages(step)
        seconds = sum(noted[stage]["seconds"] for stage in stages if stage in noted)
        found.append(
            {
                "step": step,
                "writes": ", ".join(stages),
                "done": all(map(run.is_current, stages)),
                "minutes": round(seconds / 60, 1),
            }
        )
    return found


# ---- 01_data


def make_data(run: Run) -> Dataset:
    """Simulate or read the images of a run and split them."""

    def make(folder: Path) -> None:
        device = generators.find_device(run.params.device)
        prepare_dataset(run.params.data, run.params.data_seed, folder, device)

    return load_dataset(run.build("data", make))


def load_data(run: Run) -> Dataset:
    """The images of a run, their labels, truth, split and scaling, as 01_data wrote them."""
    return load_dataset(run.need("data"))


# ---- 02_train


def train_model(run: Run, name: str) -> Table:
    """Train the generator `name`; returns its history: columns with one entry a printed line."""
    dataset = load_data(run)
    start = start_of(run, name)

    def make(folder: Path) -> None:
        train_generator(name, run.params, dataset, folder, start)

    def goes_on(unfinished: Path, recipe: Mapping[str, Any]) -> bool:
        done = continuing.steps_done(unfinished / artefact.CHECKPOINT)
        old = artefact.recipe_of(unfinished)
        n = len(dataset.train)
        return bool(done and old) and continuing.goes_on(
            name, old or {}, recipe, done or 0, lambda settings: counted(settings, n)
        )

    return io.read_table(run.build(f"models/{name}", make, goes_on) / "history.csv")


def start_of(run: Run, name: str) -> Path | None:
    """The weights that the training of the generator `name` starts from; None: random ones."""
    before = KINDS[name].starts_from
    return run.need(f"models/{before}") / "model.safetensors" if before else None


def load_watched(run: Run, name: str) -> tuple[Table, np.ndarray] | None:
    """What was monitored in a training: columns of watch.csv, and images (F, N, C, H, W).

    None if nothing was monitored.
    """
    folder = run.need(f"models/{name}")
    if not (folder / "watch.csv").is_file():
        return None
    images = [np.load(path) for path in sorted(folder.glob("watch-*.npy"))]
    return io.read_table(folder / "watch.csv"), np.stack(images)


def train_generator(
    name: str, params: Params, dataset: Dataset, folder: Path, start: Path | None = None
) -> None:
    """Train the generator `name` and write model.safetensors and history.csv to `folder`.

    start : the weights that it starts from, for a kind that starts from another one
    Each of several processes calls this; the first one writes.
    """
    kind = KINDS[name]
    if kind.starts_from and start is None:
        raise InputError(
            f"{name}: its training starts from the weights of {kind.starts_from}; give their file"
        )
    settings, keep = counted(getattr(params, kind.section), len(dataset.train))
    params = params.model_copy(update={kind.section: settings})
    logs = str(folder.parents[1] / "tracking" / name)
    on = make_accelerator(params.device, settings.precision, settings.tracker, logs, kind.section)
    context = contexts_of(params, dataset)
    source = loader.batches_of(dataset, context, settings, params.seed, on.device)
    with preflight.explained(kind):
        made = loop.task(name, params, dataset, on, start)
        watch = monitor_for(name, params, settings, dataset, on.device)
        expected = preflight.Estimate(made, source, on)
    with (
        preflight.explained(kind, expected),
        tracked(on, f"{params.run}-{name}", params.model_dump(mode="json")) as log,
    ):
        made.compiler.restore(folder)
        described = expected.describe(settings.steps)
        made.compiler.keep(folder)
        if on.is_main_process:
            print(f"{name}: {described}", flush=True)
        state = loop.fit(made, source, settings, params.seed, folder, on.device, keep, watch, log)
    if on.is_main_process:
        loop.finish(made, state, folder, on.device, best=kind.best)
        animate(folder)
    compiling.forget(folder)
    on.wait_for_everyone()


def describe(name: str, params: Params, dataset: Dataset, images: int) -> str:
    """One line on the size of a generator and the time and memory of its training.

    dataset : a few images of the recipe; images : how many it will be trained on
    """
    kind = KINDS[name]
    settings, _ = counted(getattr(params, kind.section), images)
    params = params.model_copy(update={kind.section: settings})
    on = make_accelerator(params.device, settings.precision, section=kind.section)
    context = contexts_of(params, dataset)
    source = loader.batches_of(dataset, context, settings, params.seed, on.device)
    with preflight.explained(kind):
        task = loop.task(name, params, dataset, on)
        return preflight.Estimate(task, source, on).describe(settings.steps)


def counted(settings: Any, n: int) -> tuple[Any, dict[int, str]]:
    """The settings with `steps` spelled out for n training images, and the file of each kept step.

    Epochs become steps.
    """
    unit = "epoch" if settings.epochs else "step"

    def steps_of(count: int) -> int:
        return math.ceil(count * n / settings.batch) if settings.epochs else count

    steps = steps_of(settings.epochs or settings.steps)
    keep = {
        steps_of(count): f"{unit}-{count}.safetensors"
        for count in settings.keep
        if steps_of(count) <= steps
    }
    return settings.model_copy(update={"steps": steps}), keep


def monitor_for(
    name: str, params: Params, settings: Any, dataset: Dataset, device: Any
) -> Monitor | None:
    """The Monitor of a training, or None if the recipe asks for none."""
    return Monitor(params, name, dataset, device) if settings.watch_every else None


def contexts_of(params: Params, dataset: Dataset) -> torch.Tensor | None:
    """What the networks are told of each image (N, K), or None."""
    kind = conditions.resolve(params.model.context, dataset)
    if kind == "none":
        return None
    return conditions.encode(kind, dataset, conditions.table(kind, dataset))


def animate(folder: Path) -> None:
    """Write the monitored images as progress.gif, if there are several and matplotlib is there."""
    paths = sorted(folder.glob("watch-*.npy"))
    if len(paths) > 1 and importlib.util.find_spec("matplotlib"):
        from lensnb.display import figures

        images = np.stack([np.load(path, allow_pickle=False) for path in paths])
        with io.atomic(folder / "progress.gif", "wb") as file:
            figures.animation(images, file)


# ---- 03_sample


def load_generator(run: Run, method: str) -> generators.Generator:
    """The trained generator of a method of the recipe, such as "ddim"."""
    return generators.load_generator(run.params, method, load_data(run), _weights(run, method))


def _weights(run: Run, method: str) -> Path:
    model = run.params.sample.methods[method].model
    return run.need(f"models/{model}") / "model.safetensors"


def draw_samples(run: Run, method: str) -> np.ndarray:
    """Draw a method's images; returns them (n, C, H, W), memory-mapped, in the user's units."""
    weights = _weights(run, method)
    dataset = load_data(run)

    def make(folder: Path) -> None:
        sample_method(run.params, method, dataset, weights, folder)

    run.build(f"samples/{method}", make)
    return load_samples(run, method)


def load_samples(run: Run, method: str) -> np.ndarray:
    """The images that a method drew (n, C, H, W), memory-mapped, in the user's units."""
    return np.load(run.need(f"samples/{method}") / "images.npy", mmap_mode="r")


def load_asked(run: Run, method: str) -> Table | None:
    """What a method's images were asked to be: column -> (n,), the class as a number.

    None if the model takes no context.
    """
    path = run.need(f"samples/{method}") / "context.csv"
    if not path.is_file():
        return None
    return conditions.read(path, run.params.model.context, load_data(run))


def load_trajectory(run: Run, method: str) -> tuple[Table, np.ndarray, np.ndarray]:
    """How a method's first images came about: (table, x, x0) of `Generator.trajectory`."""
    folder = run.need(f"samples/{method}")
    return io.read_table(folder / "frames.csv"), *(
        np.load(folder / f"{k}.npy") for k in ("x", "x0")
    )


def sample_method(params: Params, name: str, dataset: Dataset, weights: Path, folder: Path) -> None:
    """Draw the images and the trajectory of the method `name` into `folder`.

    Writes images.npy, x.npy, x0.npy, frames.csv, sample.json, timing.json and, if the model takes
    a context, context.csv. Raises InputError if an image holds a pixel that is not finite.
    """
    made = generators.load_generator(params, name, dataset, weights)
    if lost := noise_left_out(made):
        print(f"sample.methods.{name}: {lost}", flush=True)
    n = params.sample.n
    start = time.perf_counter()
    batches = made.batches(n, params.seed, params.sample.batch)
    bad = io.write_images(folder / "images.npy", (n, *dataset.images.shape[1:]), batches)
    seconds = (time.perf_counter() - start) / n
    if bad:
        raise InputError(
            f"sample.methods.{name}: {bad} of {n} images drawn hold NaN or infinite pixels; train "
            f"again with a lower rate: delete {weights.parent} and run notebooks/02_train.ipynb"
        )
    _write_trajectory(made, params, folder)
    asked = made.asked(n, params.seed)
    if asked is not None:
        io.write_table(folder / "context.csv", conditions.written(asked, dataset))
    told = {"method": name, **made.method.model_dump(), "n": n, "seed": params.seed}
    size = {"nfe": made.nfe, "parameters": made.parameters(), "precision": made.precision}
    io.write_json(folder / "sample.json", told | size)
    timing = {"seconds_per_image": seconds, "device": str(made.device)}
    io.write_json(folder / "timing.json", timing)


def noise_left_out(made: generators.Generator) -> str:
    """A sentence if a sampler stops too early to draw the pixel noise of the images, or "".

    A last level of two sevenths of the noise loses 4 % of it (docs/samplers.md). The noise is white
    noise, of the band that has least.
    """
    if not made.kind.sampled:
        return ""
    last = float(made.inner.sigmas[-2])
    train, images = made.dataset.train, made.dataset.images
    count = min(len(train), max(SOME // images[0].size, 1))
    scaled = made.scaling.forward(images[train[:: math.ceil(len(train) / count)]])
    noise = min(
        float(np.median(image_stats.noise_level(scaled[:, [band]])))
        for band in range(scaled.shape[1])
    )
    if noise < NO_NOISE or last <= noise / 4:
        return ""
    return (
        f"the last noise level is {last:.2g}, and the noise of the scaled images {noise:.2g}, so "
        f"part of that noise will be missing; take spacing: karras, sigma_min: {noise / 5:.2g}"
    )


def _write_trajectory(made: generators.Generator, params: Params, folder: Path) -> None:
    sample = params.sample
    table, x, x0 = made.trajectory(sample.trajectory, params.seed, sample.frames)
    for key, array in {"x": x, "x0": x0}.items():
        with io.atomic(folder / f"{key}.npy", "wb") as file:
            np.save(file, array, allow_pickle=False)
    io.write_table(folder / "frames.csv", table)


# ---- 04_evaluate

# The last judge: what it measured on real images serves all methods of a run.
_judges: dict[tuple[str, str], Judge] = {}


def load_judge(run: Run) -> Judge:
    """The judge of a run: the real images, and what is measured on them."""
    key = artefact.digest(run.need("data")), run.params.model_dump_json()
    if key not in _judges:
        _judges.clear()
        kept = Kept(run.outputs / MEASURED)
        _judges[key] = Judge(run.params, load_data(run), kept=kept)
    return _judges[key]


def evaluate_method(run: Run, method: str) -> tuple[Tree, Tree]:
    """Judge a method's images against the held-out ones; returns metrics.json and curves.json."""
    images = load_samples(run, method)
    asked = load_asked(run, method)

    def make(folder: Path) -> None:
        evaluate(load_judge(run), method, images, asked, folder)

    folder = run.build(f"evaluation/{method}", make)
    return io.read_json(folder / "metrics.json"), io.read_json(folder / "curves.json")


# ---- 05_compare


def compare_methods(run: Run) -> tuple[Tree, Tree]:
    """The comparison of all methods of a run; returns table.json and the costs of each method."""
    folder = run.build("comparison", lambda folder: comparison.compare(run, folder))
    return io.read_json(folder / "table.json"), io.read_json(folder / "timing.json")


def cite(run: str | Run) -> Any:
    """What to write in a paper on a run, a `display.citation.Citation`: `.methods` and `.bibtex`.

    The numbers are in it once the methods are compared. A notebook shows both.
    """
    from lensnb.display.citation import Citation

    run = run if isinstance(run, Run) else open_run(run)
    source = io.read_json(run.need("data") / "dataset.json")["source"]
    rows: list[Tree] = []
    if run.is_current("comparison"):
        rows = io.read_json(run.need("comparison") / "table.json")["rows"]
    return Citation(run.tree, run.record(), source, rows)


def compare(runs: Iterable[str | Run] | None = None) -> Any:
    """Finished runs beside each other, a `display.of_runs.RunsCompared`: tables and figures.

    runs : names under outputs/, or runs; the others are compared with the first. None means all
    finished runs, the oldest first. Nothing is trained or drawn. Raises InputError for a run that
    is unknown or not finished.
    """
    from lensnb.display.of_runs import RunsCompared

    if isinstance(runs, str | Run):
        raise InputError('compare: expected a list of runs, such as ["quick", "longer"]')
    runs = _finished() if runs is None else runs
    opened = [run if isinstance(run, Run) else _found(run) for run in dict.fromkeys(runs)]
    if not opened:
        raise InputError('compare: no run given; name some, such as compare(["quick", "longer"])')
    return RunsCompared(of_runs.collected(opened))


def _found(name: Any) -> Run:
    """A run to read; unlike `open_run` this leaves the number of threads as it is."""
    return Run(_params_of(name, {}))


def _finished() -> list[Run]:
    """All runs whose comparison is there and current, the oldest first.

    A folder whose recipe cannot be read, such as one of a newer lensnb, is none.
    """
    found = []
    for name in run_names():
        with contextlib.suppress(InputError):
            found.append(_found(name))
    finished = [run for run in found if run.is_current("comparison")]
    return sorted(finished, key=lambda run: artefact.state(run.folder("data") / artefact.LIST))
