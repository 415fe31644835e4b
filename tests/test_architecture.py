"""The house: who may import whom, what is annotated, and what is declared."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = sorted((ROOT / "lensnb").rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# What is imported under another name than it is installed.
DISTRIBUTION = {
    "jupyter_client": "ipykernel",  # which talks by it
    "yaml": "pyyaml",
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "IPython": "ipython",
    "skimage": "scikit-image",
    "importlinter": "import-linter",
    "griffe": "griffelib",
    "pydantic_core": "pydantic",
}
OPTIONAL = {"torch_fidelity"}  # never installed here: the code says so where it is asked for


def called(*command, **options):
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, **options)


def test_a_room_imports_only_from_the_rooms_below_it():
    """The contracts in pyproject.toml: layers, no circles, nothing imports tools."""
    linter = Path(sys.executable).with_name("lint-imports")
    done = called(str(linter), "--no-cache")
    assert done.returncode == 0 and "0 broken" in done.stdout, done.stdout


def test_every_module_says_what_it_does():
    for path in PACKAGE:
        assert ast.get_docstring(ast.parse(path.read_text())), path


@pytest.mark.parametrize("path", PACKAGE, ids=lambda path: str(path.relative_to(ROOT)))
def test_public_functions_are_annotated_and_described(path):
    for name, function in public(ast.parse(path.read_text()).body):
        arguments = function.args
        given = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        bare = [a.arg for a in given if a.annotation is None and a.arg not in ("self", "cls")]
        assert not bare, f"{name}: {bare}"
        assert function.returns is not None or function.name == "__init__", name
        described = function.name.startswith("__") or function.name == "forward"
        assert described or ast.get_docstring(function), name


def public(body, prefix=""):
    """Functions and methods without a leading underscore, and dunder methods, with their names."""
    for node in body:
        private = node.name.startswith("_") if hasattr(node, "name") else True
        if isinstance(node, ast.ClassDef) and not private:
            yield from public(node.body, f"{node.name}.")
        elif isinstance(node, ast.FunctionDef) and not private:
            yield prefix + node.name, node


def imported(path):
    """The top-level packages that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split(".")[0]


def foreign(paths):
    own = {"lensnb", "tools", *(path.stem for path in (ROOT / "tests/helpers").iterdir())}
    own |= {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    names = {name for path in paths for name in imported(path)}
    return names - set(sys.stdlib_module_names) - own - OPTIONAL


def declared(*extras):
    lists = [PROJECT["dependencies"], *(PROJECT["optional-dependencies"][e] for e in extras)]
    return {re.split(r"[\[<>=;, ]", entry)[0].lower() for entries in lists for entry in entries}


def missing(paths, *extras):
    return {
        name
        for name in foreign(paths)
        if DISTRIBUTION.get(name, name).replace("_", "-").lower() not in declared(*extras)
    }


def test_every_imported_package_is_declared():
    assert not missing(PACKAGE, "lab", "test")
    thin = [p for p in PACKAGE if p.parent.name in ("lensnb", "networks", "recipes", "training")]
    assert not missing(thin) - {"matplotlib"}, "training needs nothing of the notebooks"
    tests = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "tools").glob("*.py")]
    tests = [path for path in tests if path.parent.name != "golden"]  # made once, by hand
    assert not missing(tests, "lab", "test") - {"pqm"}
