"""What the parameters cell of a notebook defined, apart from all else that the kernel holds.

Start-up files, `%pylab` and the notebook's other cells put names into the same namespace. So the
sources of the executed cells are read. A parameters cell annotates a key of a recipe
(`seed: int = 3`), or it is the cell that papermill injects, which begins with "# Parameters".

A client may execute cells without a history, as nbval does. Then the annotated names count, and
plain values under the keys of a recipe that neither a start-up file nor `%pylab` has put there.
"""

import ast
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from lensnb.errors import InputError, nearest

INJECTED = "# Parameters"  # the first line of the cell that papermill injects
PLAIN = (dict, list, tuple, int, float, str, bool)


def is_namespace(variables: Mapping[str, Any]) -> bool:
    """Whether a mapping is the namespace of a kernel: `globals()` in a notebook."""
    return isinstance(variables.get("In"), list) and "get_ipython" in variables


def declared(variables: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """What the parameters cells assigned: key of a recipe -> value.

    A literal has the value that stands in the cell, anything else its present value. Raises
    InputError if there is no parameters cell, and for a plain value under an unknown name in one.
    """
    keys = set(keys)
    has_history = any(source.strip() for source in variables["In"])
    cells = _cells(variables, keys) if has_history else [_namespace(variables, keys)]
    found: dict[str, Any] = {}
    any_cell = False
    for cell in cells:
        any_cell = any_cell or bool(cell)
        for name, value in cell:
            if name in keys:
                found[name] = value
            elif isinstance(value, PLAIN) and not name.startswith("_"):
                guess = nearest(name, keys) or "train"
                raise InputError(f"the parameters cell: unknown key {name}; did you mean {guess}?")
    if not any_cell:
        raise InputError(
            "open_run(globals()): no parameters cell was executed before; it holds lines such as "
            'run: str = "mine"'
        )
    return found


def _cells(variables: Mapping[str, Any], keys: set[str]) -> list[list[tuple[str, Any]]]:
    """The names and values that each parameters cell of the history assigned."""
    sources = [(source, _statements(source)) for source in variables["In"]]
    cells = [
        statements for source, statements in sources if _is_parameters(source, statements, keys)
    ]
    return [list(_assigned(statements, variables)) for statements in cells]


def _namespace(variables: Mapping[str, Any], keys: set[str]) -> list[tuple[str, Any]]:
    """The annotated names, and plain values under keys that no start-up file has put there."""
    hidden = getattr(variables["get_ipython"](), "user_ns_hidden", {})
    annotated = list(variables.get("__annotations__", ()))
    plain = [
        key
        for key in keys
        if isinstance(variables.get(key), PLAIN) and variables[key] is not hidden.get(key)
    ]
    return [(name, variables.get(name)) for name in dict.fromkeys([*annotated, *plain])]


def _statements(source: str) -> list[ast.stmt]:
    """The statements of a cell; of a cell magic such as %%time, those below it."""
    try:
        body = ast.parse(source).body
    except SyntaxError:
        return []
    if len(body) == 1 and "run_cell_magic" in source:
        arguments = getattr(getattr(body[0], "value", None), "args", [])
        if len(arguments) == 3 and isinstance(arguments[2], ast.Constant):
            return _statements(str(arguments[2].value))
    return body


def _is_parameters(source: str, statements: list[ast.stmt], keys: set[str]) -> bool:
    if source.lstrip().split("\n")[0].strip() == INJECTED:
        return True
    annotated = [s.target for s in statements if isinstance(s, ast.AnnAssign)]
    return any(isinstance(target, ast.Name) and target.id in keys for target in annotated)


def _assigned(
    statements: list[ast.stmt], variables: Mapping[str, Any]
) -> Iterator[tuple[str, Any]]:
    """The names that a cell assigns at its top level, with their values."""
    for statement in statements:
        if isinstance(statement, ast.Assign):
            targets = statement.targets
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            targets = [statement.target]
        else:
            continue
        for target in targets:
            if isinstance(target, ast.Name):
                yield target.id, _value(statement.value, variables.get(target.id))


def _value(expression: ast.expr | None, present: Any) -> Any:
    """The value of a literal, or else the present value of its name."""
    try:
        return ast.literal_eval(expression) if expression is not None else present
    except ValueError:
        return present
