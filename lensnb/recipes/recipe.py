"""A recipe as a whole: what must agree across its sections, and how it is read.

A recipe comes from a YAML file with overrides of the command line, or from the parameters cell of a
notebook. Every mistake becomes one sentence.
"""

import reprlib
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from lensnb import io
from lensnb.errors import InputError, did_you_mean, one_line
from lensnb.kinds import KINDS
from lensnb.networks import NETWORKS
from lensnb.recipes.schema import (
    Consistency,
    Data,
    Diffusion,
    Evaluate,
    Gan,
    Method,
    Model,
    RunName,
    Sample,
    Section,
    Seed,
    Train,
)


class Params(Section):
    """One recipe: everything that decides what a run computes."""

    run: RunName = "quick"
    seed: Seed = 0
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    # Two spinning OpenMP threads are up to twenty times slower beside other work, and hardly faster
    # alone: a training step of an earlier default took 89 ms with one thread and 72 ms with two.
    threads: Annotated[int, Field(ge=1)] | None = 1
    seeds: tuple[Seed, ...] = ()
    data: Data = Data()
    model: Model = Model()
    diffusion: Diffusion = Diffusion()
    train: Train = Train()
    gan: Gan = Gan()
    consistency: Consistency = Consistency()
    sample: Sample = Sample()
    evaluate: Evaluate = Evaluate()

    @model_validator(mode="after")
    def _sizes(self) -> Self:
        size = self.data.size
        divisor = NETWORKS[self.model.network].divisor(self.network)
        if size % divisor:
            raise ValueError(
                f"data.size {size} is not a multiple of {divisor}, "
                "which model.patch and model.multipliers divide it by"
            )
        for kind in (KINDS[method.model] for method in self.sample.methods.values()):
            if size % kind.multiple:
                raise ValueError(
                    f"data.size {size} is not a multiple of {kind.multiple}, "
                    f"which the networks of the {kind.label} need"
                )
        return self

    @model_validator(mode="after")
    def _methods(self) -> Self:
        for name, method in self.sample.methods.items():
            self._refuse_impossible(f"sample.methods.{name}", method)
        return self

    def _refuse_impossible(self, key: str, method: Method) -> None:
        """Raises ValueError for a method that the diffusion or model section does not allow."""
        most = self.diffusion.timesteps
        along_levels = method.spacing == "schedule" and self.diffusion.discrete
        if along_levels and method.steps is not None and method.steps > most:
            raise ValueError(f"{key}.steps {method.steps} is above diffusion.timesteps {most}")
        if method.guidance != 1 and self.model.context == "none" and not method.guide:
            raise ValueError(
                f"{key}.guidance {method.guidance} needs model.context class, physics or "
                "columns, and it is none"
            )
        if KINDS[method.model].own_steps and self.diffusion.prediction == "x0":
            raise ValueError(
                f"{key}.model {method.model} needs a network that leaves an image without noise as "
                "it is, and diffusion.prediction x0 does not; take edm or v"
            )
        unit = "epoch" if self.train.epochs else "step"
        kept = [f"{unit}-{count}" for count in self.train.keep]
        if method.guide and method.guide not in kept:
            raise ValueError(
                f"{key}.guide {method.guide} is not among the weights that train.keep keeps, which "
                f"are {', '.join(kept) or 'none'}"
            )

    @model_validator(mode="after")
    def _seeds_and_context(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {list(self.seeds)} names a seed twice")
        if self.sample.context and self.model.context == "none":
            raise ValueError(
                f"sample.context {self.sample.context} is given, and model.context is none; "
                "set it to class, physics or a list of columns"
            )
        return self

    @property
    def network(self) -> Model:
        """The model section, with `auto` as the images at hand call for it."""
        return self.model.resolved(centred=self.data.simulated)

    @property
    def data_seed(self) -> int:
        """The seed of the images, of their split, and of the choice of the images that judge."""
        return self.seed if self.data.seed is None else self.data.seed

    def siblings(self) -> list["Params"]:
        """The recipes of the runs of `seeds`, <name>-seed<k>.

        Only their training seed differs from this recipe; they have the same images.
        """
        stem, tilde, number = self.run.partition("~")  # of a run that was kept under another name
        name = stem.removesuffix(f"-seed{self.seed}")
        images = self.data.model_copy(update={"seed": self.data_seed}).model_dump()
        tree = self.model_dump() | {"data": images}
        return [
            validate(
                tree | {"run": f"{name}-seed{k}{tilde}{number}", "seed": k}, f"{self.run}, seed {k}"
            )
            for k in self.seeds
        ]

    @classmethod
    def from_notebook(cls, variables: Mapping[str, Any]) -> "Params":
        """The recipe of a notebook's parameters cell; pass `globals()`."""
        given = {key: variables[key] for key in cls.model_fields if key in variables}
        return validate(given, "the parameters cell")


# From YAML and the command line -------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Reads plain values only, and refuses a key that stands twice in one mapping.

    YAML itself would quietly take the last.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
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


def load_recipe(path: str | Path, overrides: str = "") -> Params:
    """The recipe in a file, with overrides such as "train.steps=2000 data.n=500" applied.

    The file is looked up from the working directory, then from the project's folder. Raises
    InputError with one sentence that names file, key and expectation.
    """
    tree = _read_tree(path)
    try:
        items = shlex.split(overrides)
    except ValueError as error:
        raise InputError(f"overrides {overrides!r}: {error}") from None
    for item in items:
        _override(tree, item)
    return validate(tree, f"{path}" + (f" with {overrides}" if overrides else ""))


def _read_tree(path: str | Path) -> dict[str, Any]:
    """The nested mapping in a YAML file."""
    file = io.locate(path)
    if not file.is_file():
        files = (p for p in file.parent.glob("[!.]*.yaml") if p.is_file())
        known = sorted(str(Path(path).with_name(p.name)) for p in files)
        if not known:
            raise InputError(
                f"{path}: no such recipe; lensnb recipes lists those that there are, and "
                "lensnb init FOLDER lays them out"
            )
        raise InputError(f"{path}: no such recipe; {did_you_mean(path, known)}")
    try:
        tree = yaml.load(file.read_text(encoding="utf-8"), _Loader) or {}
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        reason = one_line(error).replace(' "<unicode string>",', "")
        raise InputError(f"{path}: not readable as YAML: {reason}") from None
    if not isinstance(tree, dict):
        raise InputError(f"{path}: expected `key: value` lines, found {type(tree).__name__}")
    return tree


def _override(tree: dict[str, Any], item: str) -> None:
    """Apply one override such as "train.steps=2000" to a nested mapping, in place."""
    key, equals, text = item.partition("=")
    *parents, leaf = key.split(".")
    if not (equals and all(parents) and leaf):
        raise InputError(
            f"override {item!r}: expected key=value with dots between levels, "
            "such as train.steps=2000"
        )
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise InputError(
                f"override {item!r}: {parent} is a single value and has no keys below it"
            )
    if not text:
        raise InputError(
            f"override {item!r}: nothing follows the equals sign; "
            f"give a value, or {key}=null to have none"
        )
    if " #" in text and text[0] not in "'\"[{":  # the rest would be a comment, cut off in silence
        tree[leaf] = text
        return
    try:
        tree[leaf] = yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError):
        raise InputError(f"override {item!r}: {text!r} is not a YAML value") from None


# Validation ---------------------------------------------------------------------------------------


# Keys of each section that are younger than some stored recipes. A recipe without one of them means
# today's default, or what ONCE says: then nothing has changed.
YOUNGER: dict[str, tuple[str, ...]] = {
    "data": (
        "axes",
        "bands",
        "crop",
        "resize",
        "fill",
        "hdu",
        "key",
        "table",
        "group",
        "softening",
    ),
    "model": ("fine", "grid", "border"),
    "diffusion": ("times",),
    "train": ("optimiser", "muon_rate"),
    "gan": ("loss", "mapping", "style", "statistics", "border"),
    "consistency": ("optimiser", "muon_rate"),
    "method": ("guidance_low", "guidance_high", "guide", "start", "sigma_mid"),
}
ONCE: dict[str, dict[str, Any]] = {
    "data": {"softening": 1.0},
    "model": {"fine": 0, "grid": "cartesian", "border": "zeros"},
    "train": {"optimiser": "adamw"},
    "gan": {"border": "zeros"},
    "consistency": {"optimiser": "adamw"},
}


def _spelled_out(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe with the keys of ONCE, in a section that names everything else.

    Stored recipes spell out all defaults, so a key that one of them lacks is younger than it.
    """
    whole = dict(tree)
    for section, before in ONCE.items():
        given = tree.get(section)
        names = set(Params.model_fields[section].default.model_dump())
        if isinstance(given, Mapping) and names - set(given) <= set(YOUNGER[section]):
            whole[section] = before | dict(given)
    return whole


def validate(tree: Mapping[str, Any], source: str) -> Params:
    """A nested mapping as `Params`; raises InputError with the first mistake in it.

    source : what the message names first, such as the file
    """
    try:
        return Params.model_validate(_spelled_out(tree))
    except ValidationError as error:
        raise InputError(f"{source}: {_sentence(error.errors()[0])}") from None


_short = reprlib.Repr()  # a few lines of YAML can mean a list of a million entries
_short.maxlevel = 2
_short.maxstring = 80
_short.maxother = 80


def _sentence(error: ErrorDetails) -> str:
    """One pydantic error as `key: what was expected (found what)`."""
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"unknown key {key}; {did_you_mean(key, keys())}"
    message = error["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if not isinstance(error["input"], dict | Section):
        message += f" (found {_short.repr(error['input'])})"
    return f"{key}: {message}" if key else message


def keys(section: type[Section] = Params, prefix: str = "") -> list[str]:
    """All valid dotted keys of a recipe, in order."""
    found = []
    for name, field in section.model_fields.items():
        found.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            found += keys(field.annotation, f"{prefix}{name}.")
    return found
