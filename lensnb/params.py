"""A recipe as a whole: what must agree across its sections, and how it is read from YAML and the command line."""

import shlex
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from lensnb.errors import InputError, nearest
from lensnb.schema import Data, Diffusion, Evaluate, Gan, Method, Model, Name, Sample, Section, Train


class Params(Section):
    """One recipe: everything that decides what a run computes."""

    run: Name = "quick"                         # name of the run folder under outputs/
    seed: int = Field(0, ge=0, lt=2**31)        # fixes data, weights, noise
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    threads: int | None = Field(2, ge=1)        # CPU threads; another number changes the last bits
    data: Data = Data()
    model: Model = Model()
    diffusion: Diffusion = Diffusion()
    train: Train = Train()
    gan: Gan = Gan()
    sample: Sample = Sample()
    evaluate: Evaluate = Evaluate()

    @model_validator(mode="after")
    def _across_sections(self):
        levels = len(self.model.multipliers) if self.model.network == "unet" else 1
        factor = self.model.patch * 2 ** (levels - 1)
        if self.data.size % factor:
            raise ValueError(f"data.size {self.data.size} is not a multiple of {factor}, "
                             "which model.patch and model.multipliers divide it by")
        if self.data.size % 16 and any(m.model == "gan" for m in self.sample.methods.values()):
            raise ValueError(f"data.size {self.data.size} is not a multiple of 16, which the GAN's four doublings need")
        for name, method in self.sample.methods.items():
            self._possible(f"sample.methods.{name}", method)
        if self.sample.context and self.model.context == "none":
            raise ValueError(f"sample.context {self.sample.context} is given, and model.context is none; set it to class or physics")
        return self

    def _possible(self, key, method):
        limited = self.diffusion.discrete and method.spacing == "schedule" and method.model == "diffusion"
        if limited and method.steps > self.diffusion.timesteps:
            raise ValueError(f"{key}.steps {method.steps} is above diffusion.timesteps {self.diffusion.timesteps}")
        if method.guidance != 1 and self.model.context == "none":
            raise ValueError(f"{key}.guidance {method.guidance} needs model.context class or physics, and it is none")

    @classmethod
    def from_notebook(cls, variables):
        """The recipe made of a notebook's parameter cell; pass `globals()`."""
        given = {key: variables[key] for key in cls.model_fields if key in variables}
        return validate(given, "the parameters cell")


def load(path, overrides=""):
    """Read a recipe file and apply overrides such as "train.steps=2000 data.n=500".

    Returns `Params`; raises InputError with one sentence that names file, key and expectation.
    """
    path = Path(path)
    if not path.is_file():
        known = sorted(str(p) for p in path.parent.glob("*.yaml"))
        raise InputError(f"{path}: no such recipe; {_did_you_mean(path, known)}")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise InputError(f"{path}: expected `key: value` lines, found {type(tree).__name__}")
    try:
        items = shlex.split(overrides)
    except ValueError as error:
        raise InputError(f"overrides {overrides!r}: {error}") from None
    for item in items:
        _override(tree, item)
    return validate(tree, f"{path}" + (f" with {overrides}" if overrides else ""))


def validate(tree, source):
    """Turn a nested mapping into `Params`, or raise InputError with the first thing wrong in it."""
    try:
        return Params.model_validate(tree)
    except ValidationError as error:
        raise InputError(f"{source}: {_sentence(error.errors()[0])}") from None


def _override(tree, item):
    key, equals, text = item.partition("=")
    *parents, leaf = key.split(".")
    if not (equals and all(parents) and leaf):
        raise InputError(f"override {item!r}: expected key=value with dots between levels, such as train.steps=2000")
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise InputError(f"override {item!r}: {parent} is a single value and has no keys below it")
    try:
        tree[leaf] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise InputError(f"override {item!r}: {text!r} is not a YAML value") from None


def _sentence(error):
    """One pydantic error as `key: what was expected, what was found`."""
    loc = [str(part) for part in error["loc"]]
    key, message = ".".join(loc), error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        return f"unknown key {key}; {_did_you_mean(key, keys())}"
    message = message[0].lower() + message[1:]
    found = "" if isinstance(error["input"], dict | Section) else f" (found {error['input']!r})"
    return (f"{key}: " if key else "") + message + found


def keys(section=Params, prefix=""):
    """All valid dotted keys of a recipe, in order."""
    found = []
    for name, field in section.model_fields.items():
        nested = isinstance(field.annotation, type) and issubclass(field.annotation, Section)
        found += [prefix + name] + (keys(field.annotation, f"{prefix}{name}.") if nested else [])
    return found


def _did_you_mean(word, known):
    guess = nearest(word, known)
    return f"did you mean {guess}?" if guess else f"known are {', '.join(map(str, known)) or 'none'}"

