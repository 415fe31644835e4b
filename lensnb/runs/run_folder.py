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
from lensnb.kinds import KINDS, trained_for
from lensnb.recipes.differences import differences, told
from lensnb.recipes.recipe import ONCE, YOUNGER, Params
from lensnb.recipes.schema import Section
from lensnb.runs import artefact, kept
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
NO_RESULT = ("compile", "hold", "tracker", "checkpoint_every", "log_every")
EDM_LEVELS = ("sigma_min", "sigma_max", "rho")  # keys of diffusion that sampling alone reads
# Stages that are taken from another run of the same recipe and inputs. The others take seconds, and
# tell of this run's own times.
TAKEN = ("data", "models", "samples", "evaluation")


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
        names = {"models": trained_for(m.model for m in methods.values())}
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
        return self._recipe(stage, self.need)

    def _recipe(self, stage: str, place: Callable[[str], Path]) -> dict[str, Any]:
        """The recipe of a stage whose inputs lie at `place(input)`."""
        kind, _, name = stage.partition("/")
        read = {upstream: artefact.digest(place(upstream)) for upstream in self.reads(stage)}
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
            if not artefact.made_by(folder, artefact.stamped(self.recipe(stage))):
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
        data = self.params.data
        own = (data.path, data.labels, data.table, self.params.sample.context)
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

    # ---- what other runs have

    def others(self, stage: str) -> list[Path]:
        """The folders in which other runs may have this stage; none where LENSNB_FRESH is set."""
        if stage.partition("/")[0] not in TAKEN or os.environ.get("LENSNB_FRESH", "") not in NO:
            return []
        found = self.outputs.glob(f"[!.]*/{stage}/{artefact.LIST}")
        return sorted(path.parent for path in found if path.parent != self.folder(stage))

    def offered(self, stage: str) -> Path | None:
        """The folder of another run from which a stage would be taken, or None.

        What the stage reads may still have to be taken, too.
        """

        def place(upstream: str) -> Path:
            return self.folder(upstream) if self.is_current(upstream) else asked(upstream)

        def asked(upstream: str) -> Path:
            found = self.offered(upstream)
            if found is None:
                raise InputError(f"{upstream}: in no run")
            return found

        try:
            wanted = artefact.stamped(self._recipe(stage, place))
            return next((path for path in self.others(stage) if _made(path, wanted)), None)
        except InputError:
            return None

    # ---- what is written

    def build(
        self,
        stage: str,
        make: Callable[[Path], object],
        goes_on: Callable[[Path, dict[str, Any]], bool] | None = None,
    ) -> Path:
        """The folder of a stage, made by `make(folder)` unless it is current; see `artefact.build`.

        goes_on : whether a training that another recipe has begun in a folder can go on under this
        recipe of the stage

        It is taken from another run that has it. What it replaces is kept as another run. The stage
        is verified anew, the user's files included. It is noted in run.json.
        """
        self._verified.clear()

        def before() -> None:
            self._go_on_or_keep(stage, artefact.stamped(recipe), goes_on)
            self._keep([stage])
            self._write_recipe()  # by which the run is opened by its name

        with artefact.scanned_once():
            recipe = self.recipe(stage)
            folder = artefact.build(self.folder(stage), recipe, make, self.others(stage), before)
        self.note("artefacts", stage, io.read_json(folder / artefact.LIST))
        return folder

    def _go_on_or_keep(
        self,
        stage: str,
        wanted: dict[str, Any],
        goes_on: Callable[[Path, dict[str, Any]], bool] | None,
    ) -> None:
        """Let an unfinished training of another recipe go on under this one, or else keep it."""
        unfinished = artefact.partial(self.folder(stage))
        old = artefact.recipe_of(unfinished)
        if old is None or artefact.same(old, wanted):
            return
        if not (unfinished / artefact.CHECKPOINT).is_file():
            return
        changed = told(differences([old, wanted]))
        if goes_on and goes_on(unfinished, wanted):
            with io.atomic(unfinished / artefact.RECIPE) as file:
                yaml.safe_dump(wanted, file, sort_keys=False)
            print(f"{self.params.run}: {stage} goes on under the new recipe ({changed})")
            return
        if not self._unfinished_is_kept(stage, old):
            tree = self.tree | {
                key: _merged(self.tree[key], _spelled_out(key, old[key]))
                for key in self.tree.keys() & old.keys()
            }
            name = kept.keep(self.path, tree)
            print(
                f"{self.params.run}: {stage} begins anew ({changed}); the unfinished training is "
                f"kept, and goes on with: lensnb run {name}",
                flush=True,
            )

    def _unfinished_is_kept(self, stage: str, recipe: dict[str, Any]) -> bool:
        folders = (artefact.partial(path / stage) for path in kept.kept_runs(self.path))
        return any(artefact.same(artefact.recipe_of(folder), recipe) for folder in folders)

    def _keep(self, stages: Iterable[str]) -> None:
        """Keep the run under another name, if whole artefacts of these stages will be replaced."""
        there = [s for s in stages if artefact.is_whole(self.folder(s)) and not self.is_current(s)]
        if not there or kept.is_kept(self.path, there):
            return
        path = self.path / artefact.RECIPE
        before = load_tree(path) or self.tree
        changed = told(differences([before, self.tree]))
        name = kept.keep(self.path, before)
        shown = ", ".join(there[:4]) + (f" and {len(there) - 4} more" if len(there) > 4 else "")
        print(
            f"{self.params.run}: {changed or 'inputs or version have changed'}, so {shown} will be "
            f"made again; what is there is kept as the run {name}",
            flush=True,
        )

    def write_recipe(self) -> Path:
        """Write the recipe, all defaults spelled out, as recipe.yaml of the run; returns its path.

        Results of another recipe that will be replaced are kept under another name first.
        Raises InputError if a newer lensnb has made the run, or if another process works in it.
        """
        self.record()
        path = self.path / artefact.RECIPE
        if path.is_file() and path.read_bytes() != self._text:
            self.refuse_if_busy()
            self._keep(stage for step in STEPS for stage in self.stages(step))
        return self._write_recipe()

    def _write_recipe(self) -> Path:
        io.make_folder(self.path)
        path = self.path / artefact.RECIPE
        if not path.is_file() or path.read_bytes() != self._text:
            with of_files(path), io.atomic(path, "wb") as file:
                file.write(self._text)
        return path

    @property
    def _text(self) -> bytes:
        """The content of the run's recipe.yaml."""
        return yaml.safe_dump(self.tree, sort_keys=False).encode()

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


NO = ("", "0")  # values of a variable that is not set


def load_tree(path: Path) -> dict[str, Any] | None:
    """The recipe in a file as plain values; None for no file, and for one that cannot be read."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    return tree if isinstance(tree, dict) else None


def _made(path: Path, recipe: dict[str, Any]) -> bool:
    """Whether an artefact was made by this recipe; not if a newer lensnb made it."""
    try:
        return artefact.made_by(path, recipe)
    except InputError:
        return False


def _merged(new: Any, old: Any) -> Any:
    """The values of `old`, and those of `new` where `old` has none."""
    if isinstance(new, dict) and isinstance(old, dict):
        return new | {key: _merged(new.get(key), value) for key, value in old.items()}
    return old


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
    section = _without_younger("data", run.tree["data"], run.params.data)
    idle = ("seed", "workers", *(["softening"] if section["scaling"] != "asinh" else []))
    data = {key: value for key, value in section.items() if key not in idle}
    files = _fingerprints(data["path"], data["labels"], data.get("table"))
    return {"seed": run.params.data_seed, "data": data, "files": files}


def _fingerprints(*paths: str | None) -> list[str | None]:
    return [artefact.fingerprint(path) for path in paths if path]


def _model_recipe(run: Run, name: str) -> dict[str, Any]:
    """The seed, the section that trains this kind of generator, and what else it reads."""
    kind = KINDS[name]
    training = {k: v for k, v in _section(run, kind.section).items() if k not in NO_RESULT}
    found = {"seed": run.tree["seed"], kind.section: training}
    for entry in kind.reads:
        section, _, key = entry.partition(".")
        whole = _section(run, section)
        found[section] = {key: whole[key]} if key else whole
    return found


def _section(run: Run, name: str) -> dict[str, Any]:
    return _without_younger(name, run.tree[name], getattr(run.params, name))


def _without_younger(name: str, tree: dict[str, Any], section: Section) -> dict[str, Any]:
    """A section of a recipe as plain values, without younger keys that mean what was before."""
    before = _before(name, type(section))
    return {k: v for k, v in tree.items() if k not in before or v != before[k]}


def _spelled_out(name: str, section: Any) -> Any:
    """A stage's section with the younger keys that `_without_younger` took out.

    A stage that reads only some keys of a section lacks others, too; its section stays as it is.
    """
    kind = type(Params.model_fields[name].default)
    if not issubclass(kind, Section):
        return section
    before = _before(name, kind)
    lacks = set(kind.model_fields) - set(section) - set(NO_RESULT)
    return before | section if lacks <= set(before) else section


def _before(name: str, section: type[Section]) -> dict[str, Any]:
    """What the younger keys of a section mean where a stored recipe does not have them."""
    fields = section.model_fields
    return {key: fields[key].default for key in YOUNGER.get(name, ())} | ONCE.get(name, {})


def _samples_recipe(run: Run, name: str) -> dict[str, Any]:
    sample = run.tree["sample"]
    shared = {key: sample[key] for key in ("n", "precision", "trajectory", "frames", "context")}
    files = _fingerprints(sample["context"])
    method = _without_younger("method", sample["methods"][name], run.params.sample.methods[name])
    found = {"seed": run.tree["seed"], "method": method, **shared, "files": files}
    walks = KINDS[method["model"]].sampled and method["spacing"] == "schedule"
    if walks and run.params.diffusion.schedule == "edm":
        # A model trained again has the same bits, so its digest does not show that these changed.
        found["levels"] = {key: run.tree["diffusion"][key] for key in EDM_LEVELS}
    return found


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
            other.partition("~")[0]: {m: artefact.digest(folder) for m, folder in folders.items()}
            for other, folders in evaluations.items()
        }
    return found


def _figures_recipe(run: Run, name: str) -> dict[str, Any]:
    return {}


def _reads_nothing(run: Run, name: str) -> list[str]:
    return []


def _reads_start(run: Run, name: str) -> list[str]:
    """The data, and the model that the training of a kind of generator starts from."""
    before = KINDS[name].starts_from
    return ["data", *([f"models/{before}"] if before else [])]


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
    "models": Stage("02_train", _reads_start, _model_recipe, many=True),
    "samples": Stage("03_sample", _reads_model, _samples_recipe, many=True),
    "evaluation": Stage("04_evaluate", _reads_samples, _evaluation_recipe, many=True),
    "comparison": Stage("05_compare", _reads_evaluations, _comparison_recipe),
    "figures": Stage("05_compare", _reads_comparison, _figures_recipe),
}


def run_names(outputs: Path | None = None) -> Iterable[str]:
    """The names of the runs that are there, in order."""
    found = (outputs or outputs_folder()).glob(f"*/{artefact.RECIPE}")
    return sorted(path.parent.name for path in found)
