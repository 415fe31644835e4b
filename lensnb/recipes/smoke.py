"""A recipe cut down to a minute, to see whether it runs to the end."""

from lensnb.kinds import KINDS
from lensnb.recipes.recipe import Params, validate

STEPS = 4  # of a sampler
HOLDOUT = 0.1  # at least; less of the few images would be too few to judge by
CAPS = {  # beside the caps of each kind of generator
    "data": {"n": 80},
    "model": {"width": 32},
    "sample": {"n": 8, "frames": 4},
    "evaluate": {"n": 8, "bootstrap": 10, "floors": 2, "fit": 2},
}


def shortened(recipe: Params) -> Params:
    """The recipe as `<run>-smoke`: all that costs time is cut down, nothing else is changed.

    It shows within a minute that a recipe runs to the end, never how good its images are.
    """
    tree = recipe.model_dump() | {"run": f"{recipe.run}-smoke"}
    trained = {kind.section: kind.caps for kind in KINDS.values()}
    for section, caps in (CAPS | trained).items():
        tree[section] |= {key: min(tree[section][key], cap) for key, cap in caps.items()}
    tree["data"]["holdout"] = max(tree["data"]["holdout"], HOLDOUT)
    for section in trained:
        tree[section] |= {"epochs": None, "keep": ()}
    last = tree["train"]["steps"]
    for method in tree["sample"]["methods"].values():
        if method["steps"]:
            method["steps"] = min(method["steps"], STEPS)
        if method["guide"]:
            method["guide"] = f"step-{last}"
            tree["train"]["keep"] = (last,)
    return validate(tree, f"{recipe.run}, cut down")
