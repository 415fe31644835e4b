"""Trained models of a run as a folder that draws anywhere: no run, no images, no network.

    lensnb.export("quick", "folder");  lensnb.load("folder").draw(16)

    model.safetensors  weights of the first model; others lie beside it, <model>.safetensors
    config.json        what builds its denoiser again: the layout of Hugging Face's ModelHubMixin
    recipe.yaml, dataset.json, context.npy, card.json     what `pretrained.load` reads
    README.md, DATA.md                                    model card and data card
    denoiser.pt2       the denoiser with its preconditioning as a program of torch.export

The same functions write the reference that ships with the package.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import load_file

from lensnb import generator, io, pipeline
from lensnb.datasets import conditions
from lensnb.datasets.dataset import Dataset
from lensnb.denoiser import Denoiser
from lensnb.display import cards
from lensnb.errors import InputError
from lensnb.kinds import KINDS
from lensnb.pretrained import ASKED, CARD, MAIN
from lensnb.recipes.recipe import validate
from lensnb.runs import artefact
from lensnb.runs.run_folder import Run

ORIGIN = ("lensnb", "commit", "modified", "hardware", "packages")  # keys of run.json on the card
TRAINING = ("parameters", "training_images_seen", "training_minutes")
PROGRAM = "denoiser.pt2"
# A method that every denoiser allows, so that none of the defaults refuses the recipe.
ANY = {"any": {"model": "diffusion", "sampler": "ddim", "steps": 1}}
AGREES = 1e-4  # most that a program may differ from its denoiser, relative to the largest pixel


class SharedDenoiser(Denoiser):
    """The untrained denoiser that config.json describes; its weights are model.safetensors.

    Hugging Face's mixin fills it:
    `class Mine(SharedDenoiser, PyTorchModelHubMixin): ...` then `Mine.from_pretrained(folder)`.
    """

    def __init__(
        self, recipe: dict[str, Any], channels: int, sigma_data: float, context: int = 0
    ) -> None:
        params = validate(recipe, "config.json")
        net = generator.denoiser_of(params, channels, sigma_data, context).net
        super().__init__(net, params.diffusion.prediction, sigma_data, params.diffusion.level)


def export(run: str | Run, to: str | Path) -> Path:
    """Write the trained models of a run to a new folder; returns the folder.

    run : a name under outputs/, or a run; its models must be trained
    Raises InputError for a run whose models are not there, and for a folder that is.
    """
    run = run if isinstance(run, Run) else pipeline.open_run(run)
    folder = Path(to).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: there already; name a new folder")
    unfinished = artefact.partial(folder)
    shutil.rmtree(unfinished, ignore_errors=True)
    io.make_folder(unfinished)
    try:
        _write(run, unfinished)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    artefact.replace(unfinished, folder)
    return folder


def _write(run: Run, folder: Path) -> None:
    dataset = pipeline.load_data(run)
    for i, model in enumerate(models(run)):
        shutil.copyfile(
            run.need(f"models/{model}") / MAIN, folder / (f"{model}.safetensors" if i else MAIN)
        )
        write_logs(run, model, folder)
    _write_guides(run, folder)
    _write_recipe(run, folder)
    write_notes(run, dataset, folder)
    config = _config(run, dataset)
    io.write_json(folder / "config.json", config)
    agreement = _write_program(run, config, dataset, folder)
    io.write_json(folder / CARD, card(run, run.params.run, folder))
    _write_cards(run, dataset, folder, agreement)


def models(run: Run) -> list[str]:
    """The generators that the methods of a run draw from, each once, in order."""
    return list(dict.fromkeys(method.model for method in run.params.sample.methods.values()))


def write_logs(run: Run, model: str, folder: Path) -> None:
    """Copy the logs of a training."""
    for log in ("history", "watch"):
        source = run.need(f"models/{model}") / f"{log}.csv"
        if source.is_file():
            shutil.copyfile(source, folder / f"{model}-{log}.csv")


def _write_guides(run: Run, folder: Path) -> None:
    """Copy the kept weights that methods with autoguidance ask for."""
    for name, method in run.params.sample.methods.items():
        if method.guide:
            source = run.need(f"models/{method.model}") / f"{method.guide}.safetensors"
            if not source.is_file():
                raise InputError(
                    f"sample.methods.{name}.guide: no {source}; train with train.keep, which keeps "
                    "the weights of some steps"
                )
            shutil.copyfile(source, folder / source.name)


def _write_recipe(run: Run, folder: Path) -> None:
    """Write the recipe; the table of sample.context comes along."""
    tree = run.params.model_dump(mode="json")
    if tree["sample"]["context"]:
        shutil.copyfile(io.locate(tree["sample"]["context"]), folder / ASKED)
        tree["sample"]["context"] = ASKED
    with io.atomic(folder / artefact.RECIPE) as file:
        yaml.safe_dump(tree, file, sort_keys=False)


def write_notes(run: Run, dataset: Dataset, folder: Path) -> None:
    """Write what the data told the networks: contexts of the training images, scaling, classes."""
    kind = conditions.resolve(run.params.model.context, dataset)
    columns = {} if kind == "none" else conditions.table(kind, dataset)
    columns = {key: column[dataset.train] for key, column in columns.items()}
    words = {
        key: sorted({*column.tolist()} - {""})
        for key, column in columns.items()
        if column.dtype.kind == "U"
    }
    for key, known in words.items():  # a word as its place among all words, -1 for none
        columns[key] = np.array([known.index(w) if w else -1 for w in columns[key].tolist()])
    rows = np.empty((len(dataset.train), 0))
    if columns:
        rows = np.stack(list(columns.values()), axis=1).astype(float)
    with io.atomic(folder / "context.npy", "wb") as file:
        np.save(file, rows, allow_pickle=False)
    notes = io.read_json(run.need("data") / "dataset.json")
    notes |= {"shape": list(dataset.images.shape[1:]), "columns": list(columns)}
    io.write_json(folder / "dataset.json", notes | ({"words": words} if words else {}))


def card(run: Run, name: str, folder: Path) -> dict[str, Any]:
    """Where the weights in `folder` come from, and the sha256 of the files that are loaded."""
    origin = io.read_json(run.path / "run.json")
    free = ("README.md", "DATA.md", "config.json")  # which their owner or other programs rewrite
    files = [path for path in sorted(folder.iterdir()) if path.name not in free]
    return {
        "format": io.FORMAT,
        "name": name,
        **{key: origin[key] for key in ORIGIN},
        "training": {
            cost["model"]: {key: cost[key] for key in TRAINING} for cost in costs(run).values()
        },
        "sha256": {path.name: io.sha256(path) for path in files},
    }


def costs(run: Run) -> Mapping[str, Mapping[str, Any]]:
    """What each method of a run costs; empty before the comparison."""
    if not run.is_current("comparison"):
        return {}
    return io.read_json(run.need("comparison") / "timing.json")


def _config(run: Run, dataset: Dataset) -> dict[str, Any]:
    """What `SharedDenoiser` is built from."""
    return {
        "recipe": {
            "model": run.params.network.model_dump(mode="json"),
            "diffusion": run.tree["diffusion"],
            "data": {"size": dataset.images.shape[-1]},
            "sample": {"methods": ANY},
        },
        "channels": dataset.images.shape[1],
        "sigma_data": dataset.sigma_data,
        "context": conditions.width(run.params.model.context, dataset),
    }


def _write_cards(run: Run, dataset: Dataset, folder: Path, agreement: str) -> None:
    """Write README.md, the model card, and DATA.md, the data card."""
    citation = pipeline.cite(run)
    methods = {
        key: {"model": method.model, "sampler": method.sampler, "steps": method.steps}
        for key, method in run.params.sample.methods.items()
    }
    (folder / "README.md").write_text(
        cards.of_model(citation, methods, agreement), encoding="utf-8"
    )
    notes = io.read_json(folder / "dataset.json")
    sizes = {"trained on": len(dataset.train), "held out": len(dataset.heldout)}
    (folder / "DATA.md").write_text(
        cards.of_data(citation, run.tree["data"], notes, sizes), encoding="utf-8"
    )


# The denoiser as a program ------------------------------------------------------------------------


def _write_program(run: Run, config: dict[str, Any], dataset: Dataset, folder: Path) -> str:
    """Write the denoiser of the run as a program; returns a sentence, "" if there is none."""
    kind = KINDS[models(run)[0]]
    if not kind.sampled and not kind.own_steps:  # neither is a denoiser
        return ""
    denoise = SharedDenoiser(**config).eval()
    denoise.load_state_dict(load_file(folder / MAIN))
    shape = dataset.images.shape[1:]
    program = program_of(denoise, shape, config["context"])
    torch.export.save(program, folder / PROGRAM)
    loaded = torch.export.load(folder / PROGRAM).module()
    error = disagreement(denoise, loaded, shape, config["context"])
    if error > AGREES:
        raise InputError(
            f"{PROGRAM}: differs from the denoiser by {error:.1g} of its largest pixel; "
            "this version of torch exports it wrongly, so take another one"
        )
    return (
        f"On other inputs, in batches of 1, 3 and 5, it differed from the denoiser by at most "
        f"{error:.1g} of the largest pixel."
    )


def program_of(denoise: Denoiser, shape: tuple[int, ...], context: int) -> Any:
    """The denoiser as a torch.export program (x, sigma, context) -> x0, for any batch size.

    x (B, C, H, W) in model units, sigma (B,), context (B, K), or without context.
    """
    inputs = _inputs(2, shape, context, seed=0)
    batch = torch.export.Dim("batch")
    with torch.no_grad():
        denoise(*inputs)  # fills the caches of the polar grids with real tensors, not traced ones
        return torch.export.export(
            denoise, inputs, dynamic_shapes=tuple({0: batch} for _ in inputs)
        )


def disagreement(denoise: Any, program: Any, shape: tuple[int, ...], context: int) -> float:
    """The largest difference of two denoisers in other inputs, over the largest pixel of x0."""
    worst = 0.0
    for batch in (1, 3, 5):
        inputs = _inputs(batch, shape, context, seed=batch)
        with torch.no_grad():
            expected, found = denoise(*inputs), program(*inputs)
        difference = (expected - found).abs().max() / expected.abs().max()
        worst = max(worst, float(difference))
    return worst


def _inputs(n: int, shape: tuple[int, ...], context: int, seed: int) -> tuple[torch.Tensor, ...]:
    """Noisy images at noise levels of 0.01 to 50, and contexts, of which the first is unknown."""
    draw = torch.Generator().manual_seed(seed)
    sigma = 10 ** (torch.rand(n, generator=draw) * 3.7 - 2)
    x = torch.randn((n, *shape), generator=draw) * (1 + sigma[:, None, None, None])
    if not context:
        return x, sigma
    told = torch.randn((n, context), generator=draw)
    told[0] = torch.nan
    return x, sigma, told
