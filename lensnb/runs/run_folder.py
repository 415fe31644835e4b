"""The run folder: which stages a run has, what decides each of them, and whether it is current.

    outputs/<run>/data models/<generator> samples/<method> evaluation/<method> comparison figures

A stage is an artefact. Its recipe holds the parameters that decide its content and the digests of
the stages that it reads. So a changed parameter makes its stage stale, and all that depend on it.
"""

import functools
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lensnb import io
from lensnb.errors import InputError, of_files
from lensnb.io import home
from lensnb.kinds import KINDS
from lensnb.recipes.recipe import Params
from lensnb.recipes.schema import Method
from lensnb.runs import artefact
from lensnb.runs.locks import locked
from lensnb.runs.provenance import provenance

START = "00_start"  # the front page, which reads and writes nothing
POSTERIOR = "07_posterior"  # reads nothing but the shipped reference, and writes nothing
APART = (START, POSTERIOR)  # notebooks that are no step of the chain
STEPS = ("01_data", "02_train", "03_sample", "04_evaluate", "05_compare")
WEIGHTS = Path(__file__).parents[1] / "weights"
# The networks that the judge measures with.
LENSNET = io.read_json(WEIGHTS / "lensnet.json")["sha256"]
FINDER = io.read_json(WEIGHTS / "finder.json")["sha256"]
# Keys of a training that change no result; compiling changes rounding, as another device does.
NO_RESULT = ("compile", "hold", "tracker", "checkpoint_every")
# Keys of a method that are younger than some runs: without them they drew as the defaults do.
LATER = ("guidance_low", "guidance_high", "guide")


def outputs_folder(path: str | Path | None = None) -> Path:
    """The folder of all runs: `path`, or what LENSNB_OUTPUTS names, or outputs/ of the project."""
    return home() / Path(path or os.environ.get("LENSNB_OUTPUTS") or "outputs").expanduser()


class Run:
    """One run: a recipe, and its folder.

    params : the recipe; outputs : the folder of all runs, by default `outputs_folder()`.
    """

    def __init__(self, params: Params, outputs: str | Path | None = None) -> None:
        self.params = params
        self.outputs = outputs_folder(outputs)
        self.path = self.outputs / params.run
        self._verified: dict[str, tuple] = {}  # stage -> states of all files that it rests on

    def folder(self, stage: str) -> Path:
        """The folder of a stage such as "data" or "samples/ddim"."""
        return self.path / stage

    def stages(self, step: str) -> list[str]:
        """The stages that a notebook such as "02_train" makes."""
        methods = self.params.sample.methods
        names = {"models": dict.fromkeys(m.model for m in methods.values())}
        found = []
        for kind, stage in STAGES.items():
            if stage.step == step:
                found += [f"{kind}/{n}" for n in names.get(kind, methods)] if stage.many else [kind]
        return found

    def reads(self, stage: str) -> list[str]:
        """The stages that a stage reads."""
        kind, _, name = stage.partition("/")
        return STAGES[kind].reads(self, name)

    def recipe(self, stage: str) -> dict[str, Any]:
        """What decides the content of a stage: its parameters, and the digests of what it reads.

        Raises InputError if a stage that it reads is missing or stale.
        """
        kind, _, name = stage.partition("/")
        read = {upstream: artefact.digest(self.need(upstream)) for upstream in self.reads(stage)}
        return STAGES[kind].recipe(self, name) | {"reads": read}

    @functools.cached_property
    def tree(self) -> dict[str, Any]:
        """The recipe as plain values."""
        return self.params.model_dump(mode="json")

    # ---- training seeds

    def siblings(self) -> list["Run"]:
        """The runs of the recipe's training seeds, in the same outputs folder."""
        return [Run(params, self.outputs) for params in self.params.siblings()]

    def evaluations(self) -> dict[str, dict[str, Path]]:
        """The evaluations of all training seeds: run -> method -> folder.

        Raises InputError if one is missing.
        """
        found = {}
        try:
            for run in self.siblings():
                methods = run.params.sample.methods
                found[run.params.run] = {m: run.need(f"evaluation/{m}") for m in methods}
        except InputError as error:
            seeds = " ".join(map(str, self.params.seeds))
            raise InputError(
                f"{error}; {self.params.run} is compared over the seeds {list(self.params.seeds)}, "
                f'and make run SEEDS="{seeds}" makes them all'
            ) from None
        return found

    # ---- what is there

    def need(self, stage: str) -> Path:
        """The folder of a stage, which must be whole and made by this run's recipe.

        What was verified once is verified again only when a file of this stage, or of a stage that
        it rests on, has changed. Raises InputError that names the notebook to run.
        """
        folder = self.folder(stage)
        step = STAGES[stage.partition("/")[0]].step
        if not artefact.is_whole(folder):
            raise InputError(f"{folder}: not there or not whole; run notebooks/{step}.ipynb first")
        states = self._states(stage)
        if states is None or self._verified.get(stage) != states:
            if artefact.recipe_of(folder) != artefact.stamped(self.recipe(stage)):
                raise InputError(
                    f"{folder}: made with other parameters or from other files; "
                    f"run notebooks/{step}.ipynb again"
                )
            if states is not None:
                self._verified[stage] = states
        return folder

    def _states(self, stage: str) -> tuple | None:
        """The states of the lists and recipes of a stage and of all that it rests on.

        The user's own files count, too; of a folder its top level. `build` looks at every file.
        None if one of them is not whole, and for what rests on other runs, too.
        """
        files = (artefact.LIST, artefact.RECIPE)
        parts = self._rests_on(stage)
        folders = [self.folder(part) for part in parts]
        other_runs = self.params.seeds and "comparison" in parts
        if other_runs or not all(map(artefact.is_whole, folders)):
            return None
        own = (self.params.data.path, self.params.data.labels, self.params.sample.context)
        states = [artefact.state(io.locate(path)) for path in own if path]
        states += [artefact.state(folder / file) for folder in folders for file in files]
        return tuple(states)

    def _rests_on(self, stage: str) -> dict[str, None]:
        """A stage and all stages that it reads, directly or not, each once."""
        found = {stage: None}
        for upstream in self.reads(stage):
            found |= self._rests_on(upstream)
        return found

    def is_current(self, stage: str) -> bool:
        """Whether a stage is whole and made by this run's recipe from what is there now."""
        try:
            return self.need(stage).is_dir()
        except InputError:
            return False

    # ---- what is written

    def build(self, stage: str, make: Callable[[Path], object]) -> Path:
        """The folder of a stage, made by `make(folder)` unless it is current; see `artefact.build`.

        The stage is verified anew, the user's files included. It is noted in run.json.
        """
        self._verified.clear()
        folder = artefact.build(self.folder(stage), self.recipe(stage), make)
        self.note("artefacts", stage, io.read_json(folder / artefact.LIST))
        if not (self.path / artefact.RECIPE).is_file():
            self.write_recipe()  # by which the run is opened by its name
        return folder

    def write_recipe(self) -> Path:
        """Write the recipe, all defaults spelled out, as recipe.yaml of the run; returns its path.

        Raises InputError if a newer lensnb has made the run, or if another process works in it.
        """
        self.record()
        io.make_folder(self.path)
        path = self.path / artefact.RECIPE
        text = yaml.safe_dump(self.tree, sort_keys=False)
        if not path.is_file() or path.read_bytes() != text.encode():
            if path.is_file():
                self.refuse_if_busy()
            with of_files(path), io.atomic(path) as file:
                file.write(text)
        return path

    def refuse_if_busy(self) -> None:
        """Raise InputError if another process works in the folder; remove locks of dead ones."""
        for lock in (*self.path.glob(".*.lock"), *self.path.glob("*/.*.lock")):
            with locked(lock.with_name(lock.name[1 : -len(".lock")])):
                pass

    def record(self) -> dict[str, Any]:
        """The content of run.json; empty before the first stage is there."""
        path = self.path / "run.json"
        return io.read_json(path) if path.is_file() else {}

    def note(self, part: str, key: str, value: Any) -> None:
        """Enter `value` in run.json under `part` and `key`, with the provenance of this process."""
        if self.record().get(part, {}).get(key) == value:  # who only reads writes nothing
            return
        path = self.path / "run.json"
        with of_files(path), locked(path, patience=60):
            tree = self.record() | {
                "format": io.FORMAT,
                "run": self.params.run,
                **provenance(self.params.threads),
                "params": self.tree,
            }
            tree.setdefault(part, {})[key] = value
            io.write_json(path, tree)


# ---- the stages: which notebook makes them, what they read, what decides their content


class Stage(NamedTuple):
    """One kind of stage.

    step : the notebook that makes it; reads, recipe : functions of (run, name), the name being that
    of the generator or method; many : whether there is one for each generator or method
    """

    step: str
    reads: Callable[[Run, str], list[str]]
    recipe: Callable[[Run, str], dict[str, Any]]
    many: bool = False


def _data_recipe(run: Run, name: str) -> dict[str, Any]:
    data = {key: v for key, v in run.tree["data"].items() if key not in ("seed", "workers")}
    files = _fingerprints(data["path"], data["labels"])
    return {"seed": run.params.data_seed, "data": data, "files": files}


def _fingerprints(*paths: str | None) -> list[str | None]:
    return [artefact.fingerprint(path) for path in paths if path]


def _model_recipe(run: Run, name: str) -> dict[str, Any]:
    """The seed, the section that trains this kind of generator, and what else it reads."""
    kind = KINDS[name]
    training = {key: v for key, v in run.tree[kind.section].items() if key not in NO_RESULT}
    found = {"seed": run.tree["seed"], kind.section: training}
    for entry in kind.reads:
        section, _, key = entry.partition(".")
        whole = run.tree[section]
        found[section] = {key: whole[key]} if key else whole
    return found


def _samples_recipe(run: Run, name: str) -> dict[str, Any]:
    sample = run.tree["sample"]
    shared = {key: sample[key] for key in ("n", "precision", "trajectory", "frames", "context")}
    files = _fingerprints(sample["context"])
    method = {
        key: value
        for key, value in sample["methods"][name].items()
        if key not in LATER or value != Method.model_fields[key].default
    }
    return {"seed": run.tree["seed"], "method": method, **shared, "files": files}


def _evaluation_recipe(run: Run, name: str) -> dict[str, Any]:
    networks = {"lensnet": LENSNET, "finder": FINDER}
    evaluate = {key: value for key, value in run.tree["evaluate"].items() if key != "workers"}
    return {"seed": run.tree["seed"], "evaluate": evaluate, **networks}


def _comparison_recipe(run: Run, name: str) -> dict[str, Any]:
    """The methods, and what a comparison over training seeds reads of the other runs."""
    found: dict[str, Any] = {"methods": list(run.tree["sample"]["methods"])}
    evaluations = run.evaluations()
    if evaluations:
        found["seeds"] = {
            other: {method: artefact.digest(folder) for method, folder in folders.items()}
            for other, folders in evaluations.items()
        }
    return found


def _figures_recipe(run: Run, name: str) -> dict[str, Any]:
    return {}


def _reads_nothing(run: Run, name: str) -> list[str]:
    return []


def _reads_data(run: Run, name: str) -> list[str]:
    return ["data"]


def _reads_model(run: Run, name: str) -> list[str]:
    return ["data", f"models/{run.params.sample.methods[name].model}"]


def _reads_samples(run: Run, name: str) -> list[str]:
    return ["data", f"samples/{name}"]


def _reads_evaluations(run: Run, name: str) -> list[str]:
    methods = run.params.sample.methods
    return [f"{kind}/{method}" for method in methods for kind in ("samples", "evaluation")]


def _reads_comparison(run: Run, name: str) -> list[str]:
    return ["comparison", "data", *(f"samples/{m}" for m in run.params.sample.methods)]


STAGES = {
    "data": Stage("01_data", _reads_nothing, _data_recipe),
    "models": Stage("02_train", _reads_data, _model_recipe, many=True),
    "samples": Stage("03_sample", _reads_model, _samples_recipe, many=True),
    "evaluation": Stage("04_evaluate", _reads_samples, _evaluation_recipe, many=True),
    "comparison": Stage("05_compare", _reads_evaluations, _comparison_recipe),
    "figures": Stage("05_compare", _reads_comparison, _figures_recipe),
}


def run_names(outputs: Path | None = None) -> Iterable[str]:
    """The names of the runs that are there, in order."""
    found = (outputs or outputs_folder()).glob(f"*/{artefact.RECIPE}")
    return sorted(path.parent.name for path in found)
