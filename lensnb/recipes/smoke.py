"""Does a recipe run to the end? The same recipe, cut down to a minute."""

from lensnb.recipes.recipe import validate

CAPS = {
    "data": {"n": 80},
    "model": {"width": 32},
    "train": {"steps": 4, "batch": 8, "accumulate": 2},
    "sample": {"n": 8, "frames": 4},
    "gan": {"steps": 4, "batch": 8, "width": 8},
    "evaluate": {"n": 8, "bootstrap": 10, "floors": 2, "fit": 2},
}


def shortened(recipe):
    """A recipe as `<run>-smoke`: everything that costs time is cut down, nothing else is changed.

    It shows within a minute that a recipe runs to the end, never how good its images are.
    """
    tree = recipe.model_dump() | {"run": f"{recipe.run}-smoke"}
    for section, caps in CAPS.items():
        tree[section] |= {key: min(tree[section][key], cap) for key, cap in caps.items()}
    for section in ("train", "gan"):
        tree[section] |= {"epochs": None, "keep": ()}
    for method in tree["sample"]["methods"].values():
        method["steps"] = method["steps"] and min(method["steps"], 4)
    return validate(tree, f"{recipe.run}, cut down")
