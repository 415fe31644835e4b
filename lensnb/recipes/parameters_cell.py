"""What the parameters cell of a notebook defined, apart from all else that the kernel holds.

Start-up files, `%pylab` and the notebook's own later cells put names into the same namespace. So
the sources of the executed cells are read: a cell that assigns a key of a recipe is a parameters
cell, and so is the one that papermill injects.
"""

import ast
from collections.abc import Iterable, Mapping
from typing import Any

from lensnb.errors import InputError, nearest

INJECTED = "# Parameters"  # how the cell begins that papermill injects
PLAIN = (dict, list, tuple, int, float, str, bool)


def is_namespace(variables: Mapping[str, Any]) -> bool:
    """Whether a mapping is the namespace of a kernel: `globals()` in a notebook."""
    return isinstance(variables.get("In"), list) and "get_ipython" in variables


def declared(variables: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """The keys of a recipe that parameters cells assigned, with their present values.

    Raises InputError for a plain value under an unknown name in such a cell.
    """
    keys = set(keys)
    found: dict[str, Any] = {}
    for source in variables["In"]:
        names = _assigned(source)
        if not (keys & names or source.lstrip().startswith(INJECTED)):
            continue
        for name in names:
            value = variables.get(name)
            if name in keys and name in variables:
                found[name] = value
            elif isinstance(value, PLAIN) and not name.startswith("_"):
                guess = nearest(name, keys) or "train"
                raise InputError(f"the parameters cell: unknown key {name}; did you mean {guess}?")
    return found


def _assigned(source: str) -> set[str]:
    """The names that a cell assigns at its top level, one at a time."""
    try:
        statements = ast.parse(source).body
    except SyntaxError:
        return set()
    names = set()
    for statement in statements:
        if isinstance(statement, ast.Assign):
            targets = statement.targets
        elif isinstance(statement, ast.AnnAssign):
            targets = [statement.target]
        else:
            continue
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names
