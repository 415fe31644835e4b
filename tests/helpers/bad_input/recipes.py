"""Recipes and overrides: keys, types, bounds, YAML's traps, or odd and good."""

import struct

import yaml

from bad_input.make import RECIPE, Case

HERE = "recipe.yaml"


def recipe(**sections):
    """The recipe with other entries in its sections, or other sections."""
    tree = {
        key: {**RECIPE.get(key, {}), **value} if isinstance(value, dict) else value
        for key, value in sections.items()
    }
    return text(yaml.safe_dump(RECIPE | tree))


def text(content):
    """These characters or bytes as the recipe."""

    def write(folder):
        raw = content if isinstance(content, bytes) else content.encode()
        (folder / HERE).write_bytes(raw)

    return write


def remove(folder):
    """No recipe."""
    (folder / HERE).unlink()


def lock(folder):
    """A recipe that nobody may read."""
    (folder / HERE).chmod(0)


def folder_instead(folder):
    """A folder in place of the recipe."""
    remove(folder)
    (folder / HERE).mkdir()


def has_data(folder):
    """Whether the data of the run are there."""
    return (folder / "outputs/it/data/artefact.json").is_file()


def wrong(make, *says, overrides=""):
    return Case(make, (HERE, *says), "step", overrides)


def method(**options):
    return recipe(sample={"methods": {"mine": options}})


def same(folder):
    pass


def set_to(key, value):
    """Whether the resolved recipe says so."""

    def holds(folder):
        from lensnb.recipes.recipe import load_recipe

        found = load_recipe(folder / HERE)
        for part in key.split("."):
            found = getattr(found, part)
        return found == value and type(found) is type(value)

    return holds


LAUGHS = (
    "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "\n".join(
        f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]"
        for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    + "\ntrain: *i\n"
)
MERGED = """run: it
data: {path: images, size: 16, n: 32, holdout: 0.25}
train: &shared {steps: 2, batch: 4}
gan: {<<: *shared, batch: 2}
"""
CODE = "!!python/object/apply:os.system ['touch executed']"

CASES = {
    # keys
    "unknown key": wrong(
        recipe(train={"stepz": 3}), "unknown key train.stepz", "did you mean train.steps?"
    ),
    "unknown section": wrong(
        recipe(trian={"steps": 3}), "unknown key trian", "did you mean train?"
    ),
    "include of itself": wrong(recipe(include=HERE), "unknown key include"),
    "key that is a number": wrong(text("1: 2\nrun: it\n"), "1", "keys should be strings"),
    "key twice": wrong(
        text("train:\n  steps: 2000\n  rate: 0.001\n  steps: 20\n"), "steps", "twice", "line 4"
    ),
    "section twice": wrong(
        text("train: {steps: 3}\ngan: {steps: 3}\ntrain: {rate: 0.1}\n"), "train", "twice", "line 3"
    ),
    # types
    "words for a number": wrong(
        recipe(train={"steps": "many"}), "train.steps", "valid integer", "'many'"
    ),
    "half a step": wrong(recipe(train={"steps": 2.5}), "train.steps", "integer", "2.5"),
    "yes for a number": wrong(recipe(train={"steps": True}), "train.steps", "not true or false"),
    "list for a section": wrong(recipe(train=[1, 2]), "train", "[1, 2]"),
    "nothing for a section": wrong(text("train:\ngan: {}\n"), "train", "found None"),
    "number for a path": wrong(recipe(data={"path": 2024}), "data.path", "valid string", "2024"),
    "date for a name": wrong(text("run: 2024-01-01\n"), "run", "valid string"),
    "nothing for a path": wrong(recipe(data={"path": ""}), "data.path", "at least 1 character"),
    # bounds
    "infinite": wrong(recipe(train={"rate": float("inf")}), "train.rate", "finite number"),
    "nan": wrong(recipe(data={"holdout": float("nan")}), "data.holdout", "finite number"),
    "steps below zero": wrong(
        recipe(train={"steps": -5}), "train.steps", "greater than or equal to 1", "-5"
    ),
    "more levels than memory": wrong(
        recipe(diffusion={"timesteps": 10**12}),
        "diffusion.timesteps",
        "less than or equal to 1000000",
    ),
    "no level of noise": wrong(
        recipe(diffusion={"timesteps": 0}), "diffusion.timesteps", "greater than or equal to 2"
    ),
    "width without its groups": wrong(
        recipe(model={"width": 24, "groups": 16}), "width 24", "groups 16"
    ),
    "size that cannot be halved": wrong(recipe(data={"size": 20}), "data.size 20", "multiple of 8"),
    "choice misspelt": wrong(
        recipe(diffusion={"schedule": "cosin"}), "diffusion.schedule", "'cosine'", "'cosin'"
    ),
    # methods
    "no methods": wrong(recipe(sample={"methods": {}}), "sample.methods", "at least 1"),
    "unknown sampler": wrong(
        method(sampler="dpm", steps=2), "sample.methods.mine.sampler", "'dpmpp_2m'", "'dpm'"
    ),
    "model misspelt": wrong(method(model="gam"), "sample.methods.mine.model", "'gan'", "'gam'"),
    "gan with a sampler": wrong(
        method(model="gan", sampler="ddim"), "sample.methods.mine", "takes neither"
    ),
    "guidance without context": wrong(
        method(sampler="ddim", steps=2, guidance=3), "mine.guidance 3.0", "needs model.context"
    ),
    "more steps than levels": wrong(
        method(sampler="ddim", steps=2000), "mine.steps 2000", "diffusion.timesteps 1000"
    ),
    "method that climbs out": wrong(
        recipe(sample={"methods": {"../up": {"model": "gan"}}}),
        "sample.methods.../up",
        "match pattern",
    ),
    # the name of the run
    "run with a slash": wrong(recipe(run="a/b"), "run", "match pattern", "'a/b'"),
    "run that climbs out": wrong(recipe(run=".."), "run", "match pattern", "'..'"),
    "run too long for a folder": wrong(recipe(run="x" * 300), "run", "at most 100 characters"),
    # YAML
    "recipe missing": Case(remove, (HERE, "no such recipe"), "step"),
    "recipe closed to us": wrong(lock, "Permission denied"),
    "recipe is a folder": Case(folder_instead, (HERE, "no such recipe"), "step"),
    "list": wrong(text("- 3\n- 4\n"), "expected `key: value` lines", "list"),
    "sentence": wrong(text("please train a model\n"), "expected `key: value` lines", "str"),
    "bracket open": wrong(text("train: {steps: 3"), "not readable as YAML", "line 1"),
    "tabs": wrong(text("train:\n\tsteps: 3\n"), "not readable as YAML", "line 2"),
    "latin-1": wrong(text("run: caf\u00e9".encode("latin-1")), "not readable as YAML"),
    "weights for a recipe": wrong(
        text(struct.pack("<Q", 20) + b"{}" + bytes(range(256)) * 20), "not readable as YAML"
    ),
    "code in a tag": wrong(text(f"run: {CODE}\n"), "not readable as YAML", "python/object/apply"),
    "a million laughs": wrong(text(LAUGHS), "train", "valid dictionary"),
    "brackets without end": wrong(text("train: " + "[" * 20000), "not readable as YAML"),
    "list that holds itself": wrong(text("train: &a [*a]\n"), "train"),
    # overrides
    "override without a value": Case(
        same, ("train.steps", "expected key=value"), "step", "train.steps"
    ),
    "override with nothing behind it": Case(
        same, ("data.path=", "nothing follows", "data.path=null"), "step", "data.path="
    ),
    "override with code": Case(
        same, ("train.steps", "not a YAML value"), "step", f'train.steps="{CODE}"'
    ),
    "override below a value": Case(same, ("run.x=3", "run is a single value"), "step", "run.x=3"),
    "override with a quote open": Case(
        same, ("overrides", "No closing quotation"), "step", "data.path='images"
    ),
    "override of a list unclosed": Case(
        same, ("model.multipliers=[1", "not a YAML value"), "step", "model.multipliers=[1"
    ),
    # what only the data or the machine can tell
    "batch above the images": Case(same, ("batch 64", "24"), "launch", "train.batch=64"),
    "more images than the disk holds": Case(
        same, ("outputs", "make room"), "data", "data.path=null data.n=4000000000000"
    ),
    "network beyond the memory": Case(
        same, ("out of memory", "lower"), "launch", "model.width=8000"
    ),
    "prior misspelt": Case(
        same, ("data.prior", "did you mean 'broad'?"), "step", "data.path=null data.prior=braod"
    ),
    "context without labels": Case(
        same, ("model.context", "no labels"), "launch", "model.context=class"
    ),
    # odd and good
    "power of ten in words": Case(recipe(train={"rate": "1e-4"}), holds=set_to("train.rate", 1e-4)),
    "empty recipe": Case(
        text(""),
        overrides="run=it data.path=images data.size=16",
        holds=has_data,
    ),
    "section that takes over another": Case(text(MERGED), holds=set_to("gan.batch", 2)),
}
