"""A recipe as a whole: what must agree across its sections, and how it is read from YAML and the command line."""

import reprlib
import shlex
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from lensnb import io
from lensnb.errors import InputError, nearest
from lensnb.recipes.schema import (
    Data,
    Diffusion,
    Evaluate,
    Gan,
    Model,
    Name,
    Sample,
    Section,
    Seed,
    Train,
)


class Params(Section):
    """One recipe: everything that decides what a run computes."""

    run: Name = "quick"  # name of the run folder under outputs/
    seed: Seed = 0  # fixes data, weights, noise
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    threads: int | None = Field(2, ge=1)  # CPU threads; another number changes the last bits
    seeds: tuple[
        Seed, ...
    ] = ()  # training seeds whose runs, <name>-seed<k>, 05_compare averages over
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
            raise ValueError(
                f"data.size {self.data.size} is not a multiple of {factor}, "
                "which model.patch and model.multipliers divide it by"
            )
        if self.data.size % 16 and any(m.model == "gan" for m in self.sample.methods.values()):
            raise ValueError(
                f"data.size {self.data.size} is not a multiple of 16, which the GAN's four doublings need"
            )
        for name, method in self.sample.methods.items():
            self._possible(f"sample.methods.{name}", method)
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {list(self.seeds)} names a seed twice")
        if self.sample.context and self.model.context == "none":
            raise ValueError(
                f"sample.context {self.sample.context} is given, and model.context is none; set it to class or physics"
            )
        return self

    @property
    def data_seed(self):
        """The seed of the images, of their split and of the choice of those that judge."""
        return self.seed if self.data.seed is None else self.data.seed

    def siblings(self):
        """The recipes of the runs of `seeds`, <name>-seed<k>: this one but for the training seed, on the same images."""
        name = self.run.removesuffix(f"-seed{self.seed}")
        images = self.data.model_copy(update={"seed": self.data_seed})
        return [
            validate(
                self.model_dump()
                | {"run": f"{name}-seed{k}", "seed": k, "data": images.model_dump()},
                f"{self.run}, seed {k}",
            )
            for k in self.seeds
        ]

    def _possible(self, key, method):
        limited = (
            self.diffusion.discrete and method.spacing == "schedule" and method.model == "diffusion"
        )
        if limited and method.steps > self.diffusion.timesteps:
            raise ValueError(
                f"{key}.steps {method.steps} is above diffusion.timesteps {self.diffusion.timesteps}"
            )
        if method.guidance != 1 and self.model.context == "none":
            raise ValueError(
                f"{key}.guidance {method.guidance} needs model.context class or physics, and it is none"
            )

    @classmethod
    def from_notebook(cls, variables):
        """The recipe made of a notebook's parameter cell; pass `globals()`."""
        given = {key: variables[key] for key in cls.model_fields if key in variables}
        return validate(given, "the parameters cell")


class _Loader(yaml.SafeLoader):
    """Plain values only, and no key twice in one mapping: YAML would quietly take the last."""

    def compose_mapping_node(self, anchor):
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"{key.value} stands there twice", key.start_mark
                    )
                seen.add(key.value)
        return node


def load_recipe(path, overrides=""):
    """Read a recipe file, found from here or from the project's folder, and apply overrides such as "train.steps=2000 data.n=500".

    Returns `Params`; raises InputError with one sentence that names file, key and expectation.
    """
    file = io.locate(path)
    if not file.is_file():
        known = sorted(
            str(Path(path).with_name(p.name)) for p in file.parent.glob("*.yaml") if p.is_file()
        )
        raise InputError(f"{path}: no such recipe; {_did_you_mean(str(path), known)}")
    try:
        tree = yaml.load(file.read_text(encoding="utf-8"), _Loader) or {}
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        reason = " ".join(str(error).split()).replace(' "<unicode string>",', "")
        raise InputError(f"{path}: not readable as YAML: {reason}") from None
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
        raise InputError(
            f"override {item!r}: expected key=value with dots between levels, such as train.steps=2000"
        )
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise InputError(
                f"override {item!r}: {parent} is a single value and has no keys below it"
            )
    if not text:
        raise InputError(
            f"override {item!r}: nothing follows the equals sign; give a value, or {key}=null to have none"
        )
    try:
        tree[leaf] = yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError):
        raise InputError(f"override {item!r}: {text!r} is not a YAML value") from None


def _sentence(error):
    """One pydantic error as `key: what was expected, what was found`."""
    loc = [str(part) for part in error["loc"]]
    key = ".".join(loc)
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        return f"unknown key {key}; {_did_you_mean(key, keys())}"
    message = message[0].lower() + message[1:]
    found = (
        ""
        if isinstance(error["input"], dict | Section)
        else f" (found {_short.repr(error['input'])})"
    )
    return (f"{key}: " if key else "") + message + found


_short = reprlib.Repr()  # a few lines of YAML can mean a list of a million entries
_short.maxlevel = 2
_short.maxstring = 80
_short.maxother = 80


def keys(section=Params, prefix=""):
    """All valid dotted keys of a recipe, in order."""
    found = []
    for name, field in section.model_fields.items():
        nested = isinstance(field.annotation, type) and issubclass(field.annotation, Section)
        found += [prefix + name] + (keys(field.annotation, f"{prefix}{name}.") if nested else [])
    return found


def _did_you_mean(word, known):
    guess = nearest(word, known)
    return (
        f"did you mean {guess}?" if guess else f"known are {', '.join(map(str, known)) or 'none'}"
    )
