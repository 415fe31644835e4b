"""Small faults for a module's source, one at a time: what a slip of the pen could have made of an expression."""

import ast

OPERATORS = {
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
LEFT_OUT = {
    "sqrt",
    "log",
    "log10",
    "abs",
    "exp",
    "clip",
    "clamp",
    "round",
}  # x.sqrt() and np.sqrt(x) become x
ARBITRARY = {
    "chunk",
    "seed",
    "strict",
    "optimize",
}  # parameters whose default or value changes no result


def faults(node):
    """What could stand in place of an expression: nodes."""
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


def of_place(node, parent, field, index):
    """What else could stand there for the sake of the place: a condition turned round, axis 0 for axis 1."""
    if field in ("test", "ifs") and not isinstance(node, ast.Compare | ast.BoolOp | ast.UnaryOp):
        yield ast.UnaryOp(ast.Not(), node)
    first = (
        isinstance(parent, ast.Call)
        and isinstance(parent.func, ast.Attribute)
        and (field, index) == ("args", 0)
    )
    if (first or isinstance(parent, ast.keyword) and parent.arg in ("axis", "dim")) and getattr(
        node, "value", None
    ) == 1:
        yield ast.Constant(0)


def spared(node):
    """Parts of a node that no fault is planted in, as it would change no result."""
    yield from getattr(node, "decorator_list", ())  # sizes of chunks and caches
    match node:
        case ast.Raise() | ast.JoinedStr():  # texts of errors
            yield from ast.iter_child_nodes(node)
        case ast.keyword(arg, value) if arg in ARBITRARY:
            yield value
        case ast.arguments():
            yield from (
                d
                for a, d in zip(node.args[::-1], node.defaults[::-1], strict=False)
                if a.arg in ARBITRARY
            )
        case ast.Call(ast.Attribute(attr="reshape"), args):  # any negative size is the rest
            yield from (arg for arg in args if isinstance(arg, ast.UnaryOp))
        case ast.Subscript(
            ast.Attribute(attr="shape"), ast.UnaryOp() as last
        ):  # images are square: shape[-2] is shape[-1]
            yield last


def places(node, above=()):
    """Every place below a node, but for the spared ones: (holder, key, what stands there, other nodes for it, its parents)."""
    above = [*above, node]
    skip = {id(part) for part in spared(node)}
    for field, value in ast.iter_fields(node):
        for holder, key in (
            [(value, i) for i in range(len(value))]
            if isinstance(value, list)
            else [(vars(node), field)]
        ):
            child = holder[key]
            if isinstance(child, ast.AST) and id(child) not in skip:
                yield (
                    holder,
                    key,
                    child,
                    [*faults(child), *of_place(child, node, field, key)],
                    above,
                )
                yield from places(child, above)


def mutants(source):
    """All faults of a module as rows: line, function, change, source, and the first line of the function that executes it."""
    tree = ast.parse(source)
    rows = {}
    for holder, key, old, others, above in places(tree):
        small = [
            n
            for n in above
            if isinstance(n, ast.expr | ast.AugAssign | ast.keyword) and len(ast.unparse(n)) < 60
        ]
        around = (small or [old])[0]
        functions = [n for n in above if isinstance(n, ast.FunctionDef | ast.Lambda)]
        row = {
            "line": next(n.lineno for n in [old, *above[::-1]] if hasattr(n, "lineno")),
            "owner": None,
            "function": ".".join(
                n.name for n in above if isinstance(n, ast.FunctionDef | ast.ClassDef)
            ),
        }
        if functions:  # Python counts its decorators
            row["owner"] = min(
                [
                    functions[-1].lineno,
                    *(d.lineno for d in getattr(functions[-1], "decorator_list", ())),
                ]
            )
        before = ast.unparse(around)
        for new in others:
            holder[key] = new
            text = ast.unparse(tree)
            rows.setdefault(
                text,
                row
                | {
                    "change": f"{before} -> {ast.unparse(new if around is old else around)}",
                    "source": text,
                },
            )
            holder[key] = old
    return list(rows.values())
