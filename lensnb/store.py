"""The run folder: where each thing lies, atomic writes, hashes, provenance.

An artefact is a folder that appears whole or not at all: it is built beside its place, gets a list
of its files with their hashes, and is renamed. `recipe.yaml` inside says what made it, so that a
second run finds it and a changed parameter does not.
"""

import contextlib
import csv
import hashlib
import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import yaml

from lensnb.errors import InputError, of_files
from lensnb.locks import locked
from lensnb.provenance import home, provenance, version

FORMAT = 1      # of the files in a run folder
CHECKPOINT = "checkpoint.pt"
SCRATCH = (CHECKPOINT, "best.safetensors")      # what a training goes on from; they go once the artefact has its name


def locate(path):
    """A path of the user's: absolute, or relative to the working directory, or to `home()`."""
    path = Path(path).expanduser()
    return path if path.is_absolute() or path.exists() else home() / path


@contextlib.contextmanager
def atomic(path, mode="w", **kwargs):
    """Open a temporary file that takes the name `path` only once it is written without error."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, mode, **kwargs) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_json(path, tree):
    """Write `tree` as JSON, atomically; NaN and infinity are refused."""
    with atomic(path) as file:
        json.dump(tree, file, indent=1, allow_nan=False)
        file.write("\n")


def read_json(path):
    """Read a JSON file of a run, or say that it is missing, damaged or of a newer lensnb."""
    try:
        tree = json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: not there; run the step that writes it") from None
    except ValueError as error:
        raise InputError(f"{path}: damaged ({error}); delete it and run its step again") from None
    if not isinstance(tree, dict):
        raise InputError(f"{path}: damaged (found {type(tree).__name__}, not names and values); delete it and run its step again")
    return known(path, tree)


def known(path, tree):
    """What was read from `path`, unless a newer lensnb has written it, whose results are neither read nor replaced."""
    if isinstance(tree, dict) and isinstance(tree.get("format"), int) and tree["format"] > FORMAT:
        raise InputError(f"{path}: made by a newer lensnb ({tree.get('lensnb')}, format {tree['format']}; this one knows {FORMAT}); "
                         "update lensnb, or give this run another name (run=...)")
    return tree


def write_table(path, columns):
    """Write equally long columns (a mapping of name to sequence) as CSV, atomically."""
    with atomic(path, newline="") as file:
        rows = csv.writer(file)
        rows.writerow(columns)
        rows.writerows(zip(*columns.values(), strict=True))


def write_rows(path, rows):
    """The same from rows, one dict each, all with the keys of the first."""
    write_table(path, {key: [row[key] for row in rows] for key in rows[0]})


def read_table(path):
    """Read a CSV file into a mapping of name to array; columns that are no numbers stay text."""
    with open(path, newline="") as file:
        names, *rows = list(csv.reader(file)) or [[]]
    columns = {}
    for name, column in zip(names, zip(*rows, strict=True), strict=False):
        try:
            columns[name] = np.array(column, dtype=float)
        except ValueError:
            columns[name] = np.array(column)
    return columns


def sha256(path):
    """Hex digest of a file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(folder):
    """One short hash for what an artefact holds: that of the hashes of its files, but for its recipe and times."""
    files = listed(folder)
    hashes = sorted((name, entry["sha256"]) for name, entry in files.items()
                    if name not in ("timing.json", "recipe.yaml"))
    return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()[:16]


def fingerprint(path):
    """A hash of names, sizes and times of the files at or below a path of the user's; None where nothing is."""
    top = locate(path)
    listed = [(str(p.relative_to(top)), p.stat().st_size, p.stat().st_mtime_ns)
              for p in sorted(top.rglob("*") if top.is_dir() else [top]) if p.is_file()]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:16] if listed else None


def is_whole(folder):
    """Whether an artefact and every file that it lists are there (by size; hashes are not read)."""
    folder = Path(folder)
    if not (folder / "artefact.json").is_file():
        return False
    return all((folder / f).is_file() and (folder / f).stat().st_size == v["bytes"] for f, v in listed(folder).items())


def listed(folder):
    """The files of an artefact as its artefact.json lists them: name -> bytes and sha256."""
    path = Path(folder) / "artefact.json"
    files = read_json(path).get("files")
    if not isinstance(files, dict) or not all(isinstance(v, dict) and {"bytes", "sha256"} <= v.keys() for v in files.values()):
        raise InputError(f"{path}: damaged (no list of files); delete it and run its step again")
    return files


def recipe_of(folder):
    """The recipe that made an artefact, or None where there is none that can be read; raises InputError for a newer lensnb's."""
    path = Path(folder) / "recipe.yaml"
    try:
        return known(path.parent, yaml.safe_load(path.read_text())) if path.is_file() else None
    except (yaml.YAMLError, UnicodeDecodeError):
        return None


def build(folder, recipe, make):
    """The artefact `folder`, made by `make(partial_folder)` unless it is there with this recipe (see `stamped`).

    A partial folder of the same recipe is handed to `make` as it was left, so that training can
    resume from its checkpoints. `recipe` is a plain tree (dicts, lists, numbers, text). Raises InputError
    where another process builds it, where the disk is full or closed, and for what a newer lensnb has made.
    """
    folder, recipe = Path(folder), stamped(recipe)
    if not _has(folder, recipe):
        make_folder(folder.parent)
        with locked(folder), of_files(folder):
            if not _has(folder, recipe):    # another process may have made it meanwhile
                _make(folder, recipe, make)
    return folder


def _has(folder, recipe):
    return is_whole(folder) and recipe_of(folder) == recipe


def _make(folder, recipe, make):
    unfinished = partial(folder)
    if recipe_of(unfinished) != recipe and unfinished.exists():
        shutil.rmtree(unfinished)
    unfinished.mkdir(exist_ok=True)
    with atomic(unfinished / "recipe.yaml") as file:
        yaml.safe_dump(recipe, file, sort_keys=False)
    start = time.time()
    try:
        make(unfinished)
        _seal(unfinished, time.time() - start)
    except (InputError, OSError):
        if not (unfinished / CHECKPOINT).is_file():     # nothing to go on from: leave nothing
            shutil.rmtree(unfinished)
        raise
    replace(unfinished, folder)
    for name in SCRATCH:
        (folder / name).unlink(missing_ok=True)


def partial(folder):
    """Where an artefact is made before it takes its name."""
    return folder.with_name(f".{folder.name}.partial")


def stamped(recipe):
    """A recipe with the version of the code and of the files."""
    return {"format": FORMAT, "lensnb": version(), **recipe}


def make_folder(path):
    """Make a folder and those above it, or say in one sentence that nothing can be written there."""
    with of_files(path):
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".writable"
        probe.touch()
        probe.unlink()


def _seal(folder, seconds):
    files = {str(p.relative_to(folder)): {"bytes": p.stat().st_size, "sha256": sha256(p)}
             for p in sorted(folder.rglob("*")) if p.is_file() and p.name not in ("artefact.json", *SCRATCH)}
    write_json(folder / "artefact.json", {"format": FORMAT, "seconds": round(seconds, 2), **provenance(), "files": files})


def replace(new, old):
    """Let the folder `new` take the place of `old`, which goes only once `new` stands there."""
    trash = old.with_name(f".{old.name}.old")
    shutil.rmtree(trash, ignore_errors=True)
    if old.exists():
        os.rename(old, trash)
    os.rename(new, old)
    shutil.rmtree(trash, ignore_errors=True)


def outputs_folder(path=None):
    """Where run folders lie: `path`, or what LENSNB_OUTPUTS names, or outputs/."""
    return home() / (path or os.environ.get("LENSNB_OUTPUTS") or "outputs")


class Run:
    """One run folder: `data`, `models/<generator>`, `samples/<method>`, `evaluation`, `comparison`."""

    def __init__(self, params, outputs=None):
        self.params = params
        self.outputs = outputs_folder(outputs)
        self.path = self.outputs / params.run

    def folder(self, stage):
        """Where a stage such as "data" or "samples/ddim" lies."""
        return self.path / stage

    def stages(self, step):
        """The stages that a notebook such as "02_train" promises."""
        methods = self.params.sample.methods
        models = dict.fromkeys(m.model for m in methods.values())
        return {START: [], "01_data": ["data"],
                "02_train": [f"models/{m}" for m in models],
                "03_sample": [f"samples/{m}" for m in methods],
                "04_evaluate": [f"evaluation/{m}" for m in methods],
                "05_compare": ["comparison", "figures"]}[step]

    def recipe(self, stage):
        """What decides the content of a stage: its parameters, and the digests of what it reads."""
        tree = self.params.model_dump(mode="json")
        kind, _, name = stage.partition("/")
        own = {"data": lambda: {"seed": self.params.data_seed, "data": {k: v for k, v in tree["data"].items() if k != "seed"}} | (
                   {"files": [fingerprint(p) for p in (tree["data"]["path"], tree["data"]["labels"]) if p]}),
               "models": lambda: {"seed": tree["seed"], **_model_recipe(tree, name)},
               "samples": lambda: {"seed": tree["seed"], "method": tree["sample"]["methods"][name],
                                   **{k: tree["sample"][k] for k in ("n", "trajectory", "frames", "context")}} | (
                   {"files": [fingerprint(tree["sample"]["context"])] if tree["sample"]["context"] else []}),
               "evaluation": lambda: {"seed": tree["seed"], "evaluate": tree["evaluate"], "lensnet": LENSNET, "finder": FINDER},
               "comparison": lambda: {"methods": list(tree["sample"]["methods"])} | self._seeds(), "figures": lambda: {}}[kind]()
        return own | {"reads": {up: digest(self.need(up)) for up in self.reads(stage)}}

    def siblings(self):
        """The runs of the recipe's training seeds, in the same outputs folder."""
        return [Run(params, self.outputs) for params in self.params.siblings()]

    def evaluations(self):
        """The evaluations of all training seeds: run -> method -> folder; raises InputError where one is missing."""
        try:
            return {run.params.run: {m: run.need(f"evaluation/{m}") for m in run.params.sample.methods} for run in self.siblings()}
        except InputError as error:
            raise InputError(f"{error}; {self.params.run} is compared over the seeds {list(self.params.seeds)}, and "
                             f'make run SEEDS="{" ".join(map(str, self.params.seeds))}" makes them all') from None

    def _seeds(self):
        """What a comparison over training seeds reads of the other runs; nothing for one seed alone."""
        found = self.evaluations()
        return {"seeds": {run: {m: digest(folder) for m, folder in folders.items()} for run, folders in found.items()}} if found else {}

    def reads(self, stage):
        """The stages that a stage reads."""
        kind, _, name = stage.partition("/")
        methods = self.params.sample.methods
        return {"data": lambda: [], "models": lambda: ["data"],
                "samples": lambda: ["data", f"models/{methods[name].model}"],
                "evaluation": lambda: ["data", f"samples/{name}"],
                "comparison": lambda: [f"{k}/{m}" for m in methods for k in ("samples", "evaluation")],
                "figures": lambda: ["comparison", "data", *(f"samples/{m}" for m in methods)]}[kind]()

    def build(self, stage, make):
        """`store.build` for a stage of this run, noted in run.json; returns its folder."""
        folder = build(self.folder(stage), self.recipe(stage), make)
        self.note("artefacts", stage, read_json(folder / "artefact.json"))
        return folder

    def write_recipe(self):
        """Write the run's recipe, all defaults spelled out, as recipe.yaml; returns its path."""
        self.told()     # of a newer lensnb nothing is overwritten
        make_folder(self.path)
        path, text = self.path / "recipe.yaml", yaml.safe_dump(self.params.model_dump(mode="json"), sort_keys=False)
        if not path.is_file() or path.read_bytes() != text.encode():
            self.idle()
            with of_files(path), atomic(path) as file:
                file.write(text)
        return path

    def idle(self):
        """Refuse a run folder that another process is at work in; the locks of one that died are removed."""
        for lock in (*self.path.glob(".*.lock"), *self.path.glob("*/.*.lock")):
            with locked(lock.with_name(lock.name[1:-len(".lock")])):
                pass

    def told(self):
        """What run.json tells; nothing, before the first stage is there."""
        path = self.path / "run.json"
        return read_json(path) if path.is_file() else {}

    def need(self, stage):
        """The folder of a stage that must be there, whole and made by this run's recipe."""
        folder = self.folder(stage)
        step = next(s for s in STEPS if stage in self.stages(s))
        if not is_whole(folder):
            raise InputError(f"{folder}: not there or not whole; run notebooks/{step}.ipynb first")
        if recipe_of(folder) != stamped(self.recipe(stage)):
            raise InputError(f"{folder}: made with other parameters or from other files; run notebooks/{step}.ipynb again")
        return folder

    def is_current(self, stage):
        """Whether a stage is there, whole and made by this run's recipe from what is there now."""
        try:
            return self.need(stage).is_dir()
        except InputError:
            return False

    def note(self, part, key, value):
        """Enter `value` under run.json's `part`, beside the provenance of this process."""
        if self.told().get(part, {}).get(key) == value:     # who only reads, writes nothing
            return
        path = self.path / "run.json"
        with of_files(path), locked(path, patience=60):
            tree = self.told() | {"format": FORMAT, "run": self.params.run, **provenance(self.params.threads),
                                  "params": self.params.model_dump(mode="json")}
            tree.setdefault(part, {})[key] = value
            write_json(path, tree)


START = "00_start"      # the front page, which reads and writes nothing
STEPS = ("01_data", "02_train", "03_sample", "04_evaluate", "05_compare")
LENSNET = read_json(Path(__file__).with_name("weights") / "lensnet.json")["sha256"]     # what distances are measured with
FINDER = read_json(Path(__file__).with_name("weights") / "finder.json")["sha256"]
ASIDE = ("hold", "tracker", "checkpoint_every")     # keys of training that change no result


def _model_recipe(tree, name):
    """The sections that decide what a model becomes."""
    section = {"diffusion": "train", "gan": "gan"}[name]
    training = {section: {k: v for k, v in tree[section].items() if k not in ASIDE}}
    if name == "gan":
        return training | {"model": {"context": tree["model"]["context"]}}
    return training | {"model": tree["model"], "diffusion": tree["diffusion"]}
