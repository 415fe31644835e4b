"""The run folder: where each thing lies, atomic writes, hashes, provenance.

An artefact is a folder that appears whole or not at all: it is built beside its place, gets a list
of its files with their hashes, and is renamed. `recipe.yaml` inside says what made it, so that a
second run finds it and a changed parameter does not.
"""

import contextlib
import csv
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import yaml

from lensnb.errors import InputError

FORMAT = 1      # of the files in a run folder
PACKAGES = ("torch", "numpy", "pydantic", "accelerate", "safetensors", "caustics", "scipy", "matplotlib", "papermill")


def home():
    """The project's folder, which has `notebooks/`: the nearest one above the working directory, or the code's own."""
    here = Path.cwd()
    likely = (here, *here.parents, Path(__file__).parents[1])
    return next((p for p in likely if (p / "notebooks").is_dir() and (p / "params").is_dir()), here)


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
    """Read a JSON file of a run, or say which file is missing or damaged."""
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: not there; run the step that writes it") from None
    except ValueError as error:
        raise InputError(f"{path}: damaged ({error}); delete it and run its step again") from None


def write_table(path, columns):
    """Write equally long columns (a mapping of name to sequence) as CSV, atomically."""
    with atomic(path, newline="") as file:
        rows = csv.writer(file)
        rows.writerow(columns)
        rows.writerows(zip(*columns.values(), strict=True))


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
    files = read_json(Path(folder) / "artefact.json")["files"]
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
    listed = read_json(folder / "artefact.json")["files"]
    return all((folder / f).is_file() and (folder / f).stat().st_size == v["bytes"] for f, v in listed.items())


def recipe_of(folder):
    """The recipe that made an artefact, or None."""
    path = Path(folder) / "recipe.yaml"
    return yaml.safe_load(path.read_text()) if path.is_file() else None


def build(folder, recipe, make):
    """The artefact `folder`, made by `make(partial_folder)` unless it is there with this recipe (see `stamped`).

    A partial folder of the same recipe is handed to `make` as it was left, so that training can
    resume from its checkpoints. `recipe` is a plain tree (dicts, lists, numbers, text).
    """
    folder, recipe = Path(folder), stamped(recipe)
    if is_whole(folder) and recipe_of(folder) == recipe:
        return folder
    unfinished = partial(folder)
    if recipe_of(unfinished) != recipe:
        shutil.rmtree(unfinished, ignore_errors=True)
    make_folder(unfinished)
    with atomic(unfinished / "recipe.yaml") as file:
        yaml.safe_dump(recipe, file, sort_keys=False)
    start = time.time()
    try:
        make(unfinished)
    except InputError:
        if not (unfinished / "checkpoint.pt").is_file():   # nothing to go on from: leave nothing
            shutil.rmtree(unfinished)
        raise
    _seal(unfinished, time.time() - start)
    replace(unfinished, folder)
    return folder


def partial(folder):
    """Where an artefact is made before it takes its name."""
    return folder.with_name(f".{folder.name}.partial")


def stamped(recipe):
    """A recipe with the version of the code and of the files."""
    return {"format": FORMAT, "lensnb": version(), **recipe}


def make_folder(path):
    """Make a folder and those above it, or say in one sentence that nothing can be written there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"{path.parent}: cannot write there ({error.strerror}); "
                         "free the folder or set LENSNB_OUTPUTS to another one") from None


def _seal(folder, seconds):
    files = {str(p.relative_to(folder)): {"bytes": p.stat().st_size, "sha256": sha256(p)}
             for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "artefact.json"}
    write_json(folder / "artefact.json", {"format": FORMAT, "seconds": round(seconds, 2), **provenance(), "files": files})


def replace(new, old):
    """Let the folder `new` take the place of `old`, which goes only once `new` stands there."""
    trash = old.with_name(f".{old.name}.old")
    shutil.rmtree(trash, ignore_errors=True)
    if old.exists():
        os.rename(old, trash)
    os.rename(new, old)
    shutil.rmtree(trash, ignore_errors=True)


def version(package="lensnb"):
    """Version of an installed package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


class Run:
    """One run folder: `data`, `models/<generator>`, `samples/<method>`, `evaluation`, `comparison`."""

    def __init__(self, params, outputs=None):
        self.params = params
        self.outputs = home() / (outputs or os.environ.get("LENSNB_OUTPUTS") or "outputs")
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
        own = {"data": lambda: {"seed": tree["seed"], "data": tree["data"]} | (
                   {"files": [fingerprint(p) for p in (tree["data"]["path"], tree["data"]["labels"]) if p]}),
               "models": lambda: {"seed": tree["seed"], **_model_recipe(tree, name)},
               "samples": lambda: {"seed": tree["seed"], "method": tree["sample"]["methods"][name],
                                   **{k: tree["sample"][k] for k in ("n", "trajectory", "frames", "context")}} | (
                   {"files": [fingerprint(tree["sample"]["context"])] if tree["sample"]["context"] else []}),
               "evaluation": lambda: {"seed": tree["seed"], "evaluate": tree["evaluate"], "lensnet": LENSNET, "finder": FINDER},
               "comparison": lambda: {"methods": list(tree["sample"]["methods"])}, "figures": lambda: {}}[kind]()
        return own | {"reads": {up: digest(self.need(up)) for up in self.reads(stage)}}

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
        make_folder(self.path)
        path = self.path / "recipe.yaml"
        with atomic(path) as file:
            yaml.safe_dump(self.params.model_dump(mode="json"), file, sort_keys=False)
        return path

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
        path = self.path / "run.json"
        tree = read_json(path) if path.is_file() else {}
        tree |= {"format": FORMAT, "run": self.params.run, **provenance(self.params.threads),
                 "params": self.params.model_dump(mode="json")}
        tree.setdefault(part, {})[key] = value
        write_json(path, tree)


START = "00_start"      # the front page, which reads and writes nothing
STEPS = ("01_data", "02_train", "03_sample", "04_evaluate", "05_compare")
LENSNET = read_json(Path(__file__).with_name("weights") / "lensnet.json")["sha256"]     # what distances are measured with
FINDER = read_json(Path(__file__).with_name("weights") / "finder.json")["sha256"]
ASIDE = ("hold", "tracker")     # keys of training that change no result


def _model_recipe(tree, name):
    """The sections that decide what a model becomes."""
    section = {"diffusion": "train", "gan": "gan"}[name]
    training = {section: {k: v for k, v in tree[section].items() if k not in ASIDE}}
    if name == "gan":
        return training | {"model": {"context": tree["model"]["context"]}}
    return training | {"model": tree["model"], "diffusion": tree["diffusion"]}


def provenance(threads=None):
    """Commit, versions and hardware of this process; `threads` are those of the recipe, if it fixes them."""
    commit = _git("rev-parse", "HEAD")
    return {"lensnb": version(), "commit": commit,
            "modified": bool(_git("status", "--porcelain", "--untracked-files=no")) if commit else None,
            "python": sys.version.split()[0], "packages": {p: v for p in PACKAGES if (v := version(p))},
            "hardware": _hardware(threads)}


def _git(*arguments):
    """What git says of the project; None where there is no git or no repository."""
    if not shutil.which("git"):
        return None
    return subprocess.run(["git", "-C", home(), *arguments], capture_output=True, text=True).stdout.strip() or None


def _hardware(threads):
    import torch

    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    cpuinfo = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")] if cpuinfo.is_file() else []
    return {"platform": platform.platform(), "cpu": names[0] if names else platform.processor() or platform.machine(),
            "cores": os.cpu_count(), "threads": threads or torch.get_num_threads(), "gpu": gpu}
