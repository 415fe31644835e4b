"""Which runs a command means.

A command names recipes and, optionally, training seeds, kinds of generators and methods. Each
recipe is one run. With seeds it is the runs <name>-seed<k>, in which only that seed differs: their
images are the same.
"""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lensnb import io
from lensnb.errors import InputError, nearest
from lensnb.kinds import KINDS
from lensnb.recipes import smoke
from lensnb.recipes.recipe import Params, load_recipe, validate


def expand(
    paths: Sequence[str | Path],
    overrides: str = "",
    seeds: Sequence[int] = (),
    generators: Sequence[str] = (),
    samplers: Sequence[str] = (),
    short: bool = False,
) -> list[Params]:
    """The recipes of the runs that a command means.

    paths : recipe files; overrides : what is changed in each
    seeds : training seeds, in place of the recipes' own
    generators, samplers : which of sample.methods are kept, by kind of generator and by name of the
    method; none given means all
    short : every recipe is cut down by `smoke.shortened`

    Raises InputError for an unknown name, for a recipe with no method left, and for two runs of one
    name.
    """
    found: list[Params] = []
    for path in paths:
        recipe = selected(load_recipe(path, overrides), generators, samplers)
        recipe = smoke.shortened(recipe) if short else recipe
        found += of_seeds(recipe, seeds or recipe.seeds)
    names = [recipe.run for recipe in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise InputError(
            f"{', '.join(map(str, paths))}: two runs of the name {twice}; "
            "give each recipe a `run` of its own, and each seed once"
        )
    return found


def of_seeds(recipe: Params, seeds: Sequence[int]) -> list[Params]:
    """The recipe as its runs of these training seeds, on the same images; without seeds itself."""
    if not seeds:
        return [recipe]
    tree = recipe.model_dump() | {"seeds": tuple(seeds)}
    return validate(tree, f"{recipe.run}, by seed").siblings()


def selected(
    recipe: Params, generators: Sequence[str] = (), samplers: Sequence[str] = ()
) -> Params:
    """The recipe with only the methods that draw from these generators and have these names.

    None given means all. Raises InputError for an unknown name and for no method left.
    """
    methods = recipe.sample.methods
    _refuse_unknown("generator", generators, KINDS)
    _refuse_unknown("sampler", samplers, methods)
    kept = [
        name
        for name, method in methods.items()
        if name in (samplers or methods) and method.model in (generators or KINDS)
    ]
    if not kept:
        raise InputError(
            f"{recipe.run}: no method left of {', '.join(methods)}; "
            f"none draws from {' or '.join(generators)}"
            + (f" and is called {' or '.join(samplers)}" if samplers else "")
        )
    if len(kept) == len(methods):
        return recipe
    tree = recipe.model_dump()
    tree["sample"]["methods"] = {name: tree["sample"]["methods"][name] for name in kept}
    return validate(tree, f"{recipe.run}, cut down to {', '.join(kept)}")


def _refuse_unknown(kind: str, names: Iterable[str], known: Mapping[str, object]) -> None:
    for name in names:
        if name not in known:
            guess = nearest(name, known) or ", ".join(known)
            raise InputError(f"{name}: no such {kind}; did you mean {guess}?")


def from_environment(variables: Mapping[str, str]) -> list[Params]:
    """The recipes of the runs that a command's environment variables mean.

    They are LENSNB_RECIPE, _SET, _SEEDS, _GENERATORS, _SAMPLERS and _SMOKE; spaces separate the
    entries of a list.
    """

    def entries(name: str) -> list[str]:
        return _split(f"LENSNB_{name}", variables.get(f"LENSNB_{name}", ""))

    return expand(
        [_by_name(recipe) for recipe in entries("RECIPE")] or ["params/quick.yaml"],
        variables.get("LENSNB_SET", ""),
        [_seed(text) for text in entries("SEEDS")],
        entries("GENERATORS"),
        entries("SAMPLERS"),
        variables.get("LENSNB_SMOKE", "") not in ("", "0"),
    )


def _by_name(recipe: str) -> str:
    """The path of a recipe; a bare name such as tiny means params/tiny.yaml, if that is there."""
    path = f"params/{recipe}.yaml"
    if "=" in recipe and not io.locate(recipe).is_file():
        raise InputError(f"{recipe}: no such recipe; to change one, write --set {recipe}")
    is_bare = Path(recipe).name == recipe and not Path(recipe).suffix
    return path if is_bare and io.locate(path).is_file() else recipe


def _split(variable: str, text: str) -> list[str]:
    """The entries of an environment variable."""
    if variable == "LENSNB_RECIPE" and io.locate(text).is_file():  # a name with spaces in it
        return [text]
    try:
        return shlex.split(text)
    except ValueError as error:
        raise InputError(f"{variable} {text!r}: {error}") from None


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise InputError(
            f"LENSNB_SEEDS: found {text!r}; "
            'expected whole numbers with spaces between them, such as "0 1 2"'
        )
    return int(text)
