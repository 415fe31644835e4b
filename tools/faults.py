"""Small faults for the source of a module, one at a time: slips of the pen in an expression."""

import ast
from collections.abc import Iterator, Sequence
from typing import Any

OPERATORS: dict[type, Any] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.RShift: ast.LShift,
}
COMPARISONS = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
NAMES = {
    "min": "max",
    "minimum": "maximum",
    "amin": "amax",
    "argmin": "argmax",
    "any": "all",
    "sin": "cos",
    "std": "var",
    "sum": "mean",
}
NAMES |= {b: a for a, b in NAMES.items()} | {"median": "mean"}
# Calls that are left out: x.sqrt() and np.sqrt(x) become x.
LEFT_OUT = {"sqrt", "log", "log10", "abs", "exp", "clip", "clamp", "round"}
# Parameters whose default or value changes no result.
ARBITRARY = {"chunk", "seed", "strict", "optimize"}
Row = dict[str, Any]


def faults(node: ast.AST) -> Iterator[ast.expr | ast.AugAssign]:
    """What could stand in place of an expression."""
    match node:
        case ast.Compare(left, ops, comparators):
            for i, op in enumerate(ops):
                yield from (
                    ast.Compare(left, [*ops[:i], other(), *ops[i + 1 :]], comparators)
                    for other in COMPARISONS[type(op)]
                )
        case ast.BinOp(left, op, right) if type(op) in OPERATORS:
            yield ast.BinOp(left, OPERATORS[type(op)](), right)
        case ast.AugAssign(target, op, value) if type(op) in OPERATORS:
            yield ast.AugAssign(target, OPERATORS[type(op)](), value)
        case ast.BoolOp(op, values):
            yield ast.BoolOp(OPERATORS[type(op)](), values)
        case ast.UnaryOp(ast.USub() | ast.Not(), operand):
            yield operand
        case ast.Constant(bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(int(value)):
            yield ast.Constant(value + 1)
        case ast.Constant(float(value)):
            yield ast.Constant(value * 1.1 or 1.0)
        case ast.Constant("right"):
            yield ast.Constant("left")
        case ast.Name(name) if name in NAMES:
            yield ast.Name(NAMES[name])
        case ast.Attribute(value, name) if name in NAMES:
            yield ast.Attribute(value, NAMES[name])
        case ast.Call(ast.Attribute(value, name), args) if name in LEFT_OUT:
            yield (
                args[0]
                if isinstance(value, ast.Name) and value.id in ("np", "torch", "math")
                else value
            )


def of_place(node: ast.AST, parent: ast.AST, field: str, index: Any) -> Iterator[ast.expr]:
    """What could stand there because of the place: a condition turned round, axis 0 for axis 1.

    The node is entry `index` of the parent's field `field`.
    """
    compound = isinstance(node, ast.Compare | ast.BoolOp | ast.UnaryOp)
    if field in ("test", "ifs") and isinstance(node, ast.expr) and not compound:
        yield ast.UnaryOp(ast.Not(), node)
    first_argument = (
        isinstance(parent, ast.Call)
        and isinstance(parent.func, ast.Attribute)
        and (field, index) == ("args", 0)
    )
    axis = isinstance(parent, ast.keyword) and parent.arg in ("axis", "dim")
    if (first_argument or axis) and getattr(node, "value", None) == 1:
        yield ast.Constant(0)


def spared(node: ast.AST) -> Iterator[ast.AST]:
    """Parts of a node in which no fault is planted, because it would change no result."""
    yield from getattr(node, "decorator_list", ())  # sizes of chunks and caches
    match node:
        case ast.Raise() | ast.JoinedStr():  # texts of errors
            yield from ast.iter_child_nodes(node)
        case ast.keyword(arg, value) if arg in ARBITRARY:
            yield value
        case ast.arguments():
            defaults = zip(node.args[::-1], node.defaults[::-1], strict=False)
            yield from (default for a, default in defaults if a.arg in ARBITRARY)
        case ast.Call(ast.Attribute(attr="reshape"), args):  # any negative size is the rest
            yield from (arg for arg in args if isinstance(arg, ast.UnaryOp))
        # images are square: shape[-2] is shape[-1]
        case ast.Subscript(ast.Attribute(attr="shape"), ast.UnaryOp() as last):
            yield last


def places(node: ast.AST, above: Sequence[ast.AST] = ()) -> Iterator[tuple]:
    """Every place below a node where a fault may stand, without the spared ones.

    Yields (holder, key, the node there, the nodes that could stand there instead, its parents):
    holder[key] is the node, where the holder is a list or the attributes of a parent.
    """
    above = [*above, node]
    skip = {id(part) for part in spared(node)}
    for field, value in ast.iter_fields(node):
        is_list = isinstance(value, list)
        holder: Any = value if is_list else vars(node)
        for key in range(len(value)) if is_list else [field]:
            child = holder[key]
            if isinstance(child, ast.AST) and id(child) not in skip:
                others = [*faults(child), *of_place(child, node, field, key)]
                yield holder, key, child, others, above
                yield from places(child, above)


def mutants(source: str) -> list[Row]:
    """All faults of a module as rows: line, owner, function, change, source.

    `owner` is the first line of the function that executes the fault, None outside of functions.
    `source` is the whole module with the fault. Faults that give the same source count once.
    """
    tree = ast.parse(source)
    rows: dict[str, Row] = {}
    for holder, key, old, others, above in places(tree):
        shown = _shown(old, above)
        row = _place(old, above)
        before = ast.unparse(shown)
        for new in others:
            holder[key] = new
            text = ast.unparse(tree)
            after = ast.unparse(new if shown is old else shown)
            rows.setdefault(text, row | {"change": f"{before} -> {after}", "source": text})
            holder[key] = old
    return list(rows.values())


def _shown(node: ast.AST, above: Sequence[ast.AST]) -> ast.AST:
    """The largest expression around a node that is short enough to be printed, or the node."""
    for parent in above:
        expression = isinstance(parent, ast.expr | ast.AugAssign | ast.keyword)
        if expression and len(ast.unparse(parent)) < 60:
            return parent
    return node


def _place(node: ast.AST, above: Sequence[ast.AST]) -> Row:
    """Where a node stands: its line, the function around it by name, and that one's first line."""
    named = [n.name for n in above if isinstance(n, ast.FunctionDef | ast.ClassDef)]
    functions = [n for n in above if isinstance(n, ast.FunctionDef | ast.Lambda)]
    owner = None
    if functions:  # Python counts its decorators
        decorators = getattr(functions[-1], "decorator_list", ())
        owner = min([functions[-1].lineno, *(d.lineno for d in decorators)])
    return {
        "line": next(n.lineno for n in [node, *above[::-1]] if hasattr(n, "lineno")),
        "owner": owner,
        "function": ".".join(named),
    }
