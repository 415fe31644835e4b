"""Which runs a command means, and what waits for what among them.

A command names recipes and, where it likes, training seeds, generators and samplers. Each recipe is one
run, or, with seeds, the runs <name>-seed<k>, which differ by that seed alone: their images are the same.
"""

import shlex

from lensnb import io
from lensnb.errors import InputError, nearest
from lensnb.recipes import smoke
from lensnb.recipes.recipe import load_recipe, validate

GENERATORS = ("diffusion", "gan")


def expand(paths, overrides="", seeds=(), generators=(), samplers=(), short=False):
    """The recipes (`Params`) of the runs that a command means.

    paths, overrides : recipe files, and what is changed in each; seeds : training seeds, in place of the recipes' own;
    generators, samplers : what is kept of sample.methods, by model and by name, none meaning all; short : as in
    `smoke.shortened`. Raises InputError for what is unknown, for nothing left, and for two runs of one name.
    """
    found = []
    for path in paths:
        recipe = selected(load_recipe(path, overrides), generators, samplers)
        recipe = smoke.shortened(recipe) if short else recipe
        found += of_seeds(recipe, seeds or recipe.seeds)
    names = [recipe.run for recipe in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(
            f"{', '.join(map(str, paths))}: two runs of the name {twice}; give each recipe a `run` of its own, and each seed once"
        )
    return found


def of_seeds(recipe, seeds):
    """A recipe as its runs of these training seeds, on the same images; without seeds as it is."""
    if not seeds:
        return [recipe]
    tree = recipe.model_dump() | {"seeds": tuple(seeds)}
    return validate(tree, f"{recipe.run}, by seed").siblings()


def selected(recipe, generators=(), samplers=()):
    """A recipe with those of its methods alone that draw from these generators and have these names; none given means all."""
    methods = recipe.sample.methods
    _refuse_unknown("generator", generators, GENERATORS)
    _refuse_unknown("sampler", samplers, methods)
    kept = [
        name
        for name, method in methods.items()
        if name in (samplers or methods) and method.model in (generators or GENERATORS)
    ]
    if not kept:
        raise InputError(
            f"{recipe.run}: no method left of {', '.join(methods)}; none draws from {' or '.join(generators)}"
            + (f" and is called {' or '.join(samplers)}" if samplers else "")
        )
    if len(kept) == len(methods):
        return recipe
    tree = recipe.model_dump()
    tree["sample"]["methods"] = {name: tree["sample"]["methods"][name] for name in kept}
    return validate(tree, f"{recipe.run}, cut down to {', '.join(kept)}")


def _refuse_unknown(kind, names, known):
    for name in names:
        if name not in known:
            raise InputError(
                f"{name}: no such {kind}; did you mean {nearest(name, known) or ', '.join(known)}?"
            )


def from_environment(variables):
    """The recipes of the runs that LENSNB_RECIPE, _SET, _SEEDS, _GENERATORS, _SAMPLERS and _SMOKE mean; lists are parted by spaces."""

    def given(name):
        return _words(f"LENSNB_{name}", variables.get(f"LENSNB_{name}", ""))

    seeds = [_seed(word) for word in given("SEEDS")]
    return expand(
        given("RECIPE") or ["params/quick.yaml"],
        variables.get("LENSNB_SET", ""),
        seeds,
        given("GENERATORS"),
        given("SAMPLERS"),
        bool(variables.get("LENSNB_SMOKE")),
    )


def _words(name, text):
    if name == "LENSNB_RECIPE" and io.locate(text).is_file():  # a name with spaces in it
        return [text]
    try:
        return shlex.split(text)
    except ValueError as error:
        raise InputError(f"{name} {text!r}: {error}") from None


def _seed(word):
    if not word.isdecimal():
        raise InputError(
            f'LENSNB_SEEDS: found {word!r}; expected whole numbers with spaces between them, such as "0 1 2"'
        )
    return int(word)
