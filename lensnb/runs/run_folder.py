import os
from pathlib import Path

import yaml

from lensnb import io
from lensnb.errors import InputError, of_files
from lensnb.io import home
from lensnb.runs import artefact
from lensnb.runs.locks import locked
from lensnb.runs.provenance import provenance


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
        return {
            START: [],
            "01_data": ["data"],
            "02_train": [f"models/{m}" for m in models],
            "03_sample": [f"samples/{m}" for m in methods],
            "04_evaluate": [f"evaluation/{m}" for m in methods],
            "05_compare": ["comparison", "figures"],
        }[step]

    def recipe(self, stage):
        """What decides the content of a stage: its parameters, and the digests of what it reads."""
        tree = self.params.model_dump(mode="json")
        kind, _, name = stage.partition("/")
        own = {
            "data": lambda: (
                {
                    "seed": self.params.data_seed,
                    "data": {k: v for k, v in tree["data"].items() if k != "seed"},
                }
                | (
                    {
                        "files": [
                            artefact.fingerprint(p)
                            for p in (tree["data"]["path"], tree["data"]["labels"])
                            if p
                        ]
                    }
                )
            ),
            "models": lambda: {"seed": tree["seed"], **_model_recipe(tree, name)},
            "samples": lambda: (
                {
                    "seed": tree["seed"],
                    "method": tree["sample"]["methods"][name],
                    **{k: tree["sample"][k] for k in ("n", "trajectory", "frames", "context")},
                }
                | (
                    {
                        "files": [artefact.fingerprint(tree["sample"]["context"])]
                        if tree["sample"]["context"]
                        else []
                    }
                )
            ),
            "evaluation": lambda: {
                "seed": tree["seed"],
                "evaluate": tree["evaluate"],
                "lensnet": LENSNET,
                "finder": FINDER,
            },
            "comparison": lambda: {"methods": list(tree["sample"]["methods"])} | self._seeds(),
            "figures": lambda: {},
        }[kind]()
        return own | {"reads": {up: artefact.digest(self.need(up)) for up in self.reads(stage)}}

    def siblings(self):
        """The runs of the recipe's training seeds, in the same outputs folder."""
        return [Run(params, self.outputs) for params in self.params.siblings()]

    def evaluations(self):
        """The evaluations of all training seeds: run -> method -> folder; raises InputError where one is missing."""
        try:
            return {
                run.params.run: {m: run.need(f"evaluation/{m}") for m in run.params.sample.methods}
                for run in self.siblings()
            }
        except InputError as error:
            raise InputError(
                f"{error}; {self.params.run} is compared over the seeds {list(self.params.seeds)}, and "
                f'make run SEEDS="{" ".join(map(str, self.params.seeds))}" makes them all'
            ) from None

    def _seeds(self):
        """What a comparison over training seeds reads of the other runs; nothing for one seed alone."""
        found = self.evaluations()
        return (
            {
                "seeds": {
                    run: {m: artefact.digest(folder) for m, folder in folders.items()}
                    for run, folders in found.items()
                }
            }
            if found
            else {}
        )

    def reads(self, stage):
        """The stages that a stage reads."""
        kind, _, name = stage.partition("/")
        methods = self.params.sample.methods
        return {
            "data": lambda: [],
            "models": lambda: ["data"],
            "samples": lambda: ["data", f"models/{methods[name].model}"],
            "evaluation": lambda: ["data", f"samples/{name}"],
            "comparison": lambda: [f"{k}/{m}" for m in methods for k in ("samples", "evaluation")],
            "figures": lambda: ["comparison", "data", *(f"samples/{m}" for m in methods)],
        }[kind]()

    def build(self, stage, make):
        """`store.build` for a stage of this run, noted in run.json; returns its folder."""
        folder = artefact.build(self.folder(stage), self.recipe(stage), make)
        self.note("artefacts", stage, io.read_json(folder / "artefact.json"))
        return folder

    def write_recipe(self):
        """Write the run's recipe, all defaults spelled out, as recipe.yaml; returns its path."""
        self.told()  # of a newer lensnb nothing is overwritten
        io.make_folder(self.path)
        path = self.path / "recipe.yaml"
        text = yaml.safe_dump(self.params.model_dump(mode="json"), sort_keys=False)
        if not path.is_file() or path.read_bytes() != text.encode():
            self.idle()
            with of_files(path), io.atomic(path) as file:
                file.write(text)
        return path

    def idle(self):
        """Refuse a run folder that another process is at work in; the locks of one that died are removed."""
        for lock in (*self.path.glob(".*.lock"), *self.path.glob("*/.*.lock")):
            with locked(lock.with_name(lock.name[1 : -len(".lock")])):
                pass

    def told(self):
        """What run.json tells; nothing, before the first stage is there."""
        path = self.path / "run.json"
        return io.read_json(path) if path.is_file() else {}

    def need(self, stage):
        """The folder of a stage that must be there, whole and made by this run's recipe."""
        folder = self.folder(stage)
        step = next(s for s in STEPS if stage in self.stages(s))
        if not artefact.is_whole(folder):
            raise InputError(f"{folder}: not there or not whole; run notebooks/{step}.ipynb first")
        if artefact.recipe_of(folder) != artefact.stamped(self.recipe(stage)):
            raise InputError(
                f"{folder}: made with other parameters or from other files; run notebooks/{step}.ipynb again"
            )
        return folder

    def is_current(self, stage):
        """Whether a stage is there, whole and made by this run's recipe from what is there now."""
        try:
            return self.need(stage).is_dir()
        except InputError:
            return False

    def note(self, part, key, value):
        """Enter `value` under run.json's `part`, beside the provenance of this process."""
        if self.told().get(part, {}).get(key) == value:  # who only reads, writes nothing
            return
        path = self.path / "run.json"
        with of_files(path), locked(path, patience=60):
            tree = self.told() | {
                "format": io.FORMAT,
                "run": self.params.run,
                **provenance(self.params.threads),
                "params": self.params.model_dump(mode="json"),
            }
            tree.setdefault(part, {})[key] = value
            io.write_json(path, tree)


START = "00_start"  # the front page, which reads and writes nothing
STEPS = ("01_data", "02_train", "03_sample", "04_evaluate", "05_compare")
LENSNET = io.read_json(Path(__file__).parents[1] / "weights" / "lensnet.json")[
    "sha256"
]  # what distances are measured with
FINDER = io.read_json(Path(__file__).parents[1] / "weights" / "finder.json")["sha256"]
ASIDE = ("hold", "tracker", "checkpoint_every")  # keys of training that change no result


def _model_recipe(tree, name):
    """The sections that decide what a model becomes."""
    section = {"diffusion": "train", "gan": "gan"}[name]
    training = {section: {k: v for k, v in tree[section].items() if k not in ASIDE}}
    if name == "gan":
        return training | {"model": {"context": tree["model"]["context"]}}
    return training | {"model": tree["model"], "diffusion": tree["diffusion"]}


def waits_for(recipe, part, spread=False):
    """What a step ("02_train") or a stage ("models/gan") of a run waits for, as pairs of run and step or stage.

    spread : whether each stage is a job of its own, before the notebook that shows it.
    """
    run = Run(recipe)
    if "/" in part:
        return [(recipe.run, "01_data" if stage == "data" else stage) for stage in run.reads(part)]
    before = STEPS[: STEPS.index(part)][-1:]
    own = [stage for stage in run.stages(part) if "/" in stage] if spread else []
    others = (
        [(sibling.run, "04_evaluate") for sibling in recipe.siblings() if sibling.run != recipe.run]
        if part == "05_compare"
        else []
    )
    return [*((recipe.run, name) for name in (*before, *own)), *others]


def receipt(recipe, part):
    """The file that says that a step or a stage of a run is done."""
    return Run(recipe).path / "notebooks" / f"{part}.json"
