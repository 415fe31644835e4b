"""In what two recipes differ, as dotted keys with both values."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

ABSENT = "-"  # stands for the value of a key that a recipe does not have


def differences(trees: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Any, ...]]:
    """Dotted key -> its value in each recipe, for every key whose values are not all the same.

    trees : recipes as plain values. The names of the runs are left out.
    """
    flat = [dict(_leaves(tree)) for tree in trees]
    keys = dict.fromkeys(key for one in flat for key in one if key != "run")
    values = {key: tuple(one.get(key, ABSENT) for one in flat) for key in keys}
    return {key: found for key, found in values.items() if any(v != found[0] for v in found)}


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def told(found: Mapping[str, Sequence[Any]], most: int = 3) -> str:
    """The first few differences of two recipes in words: "train.steps 2000 -> 5000, ..."."""
    parts = [f"{key} {' -> '.join(map(str, values))}" for key, values in found.items()]
    more = [f"and {len(parts) - most} more"] if len(parts) > most else []
    return ", ".join([*parts[:most], *more])
