"""The committed notebooks: a finished quick run's own, refused where they are not fit to be read or not true a second time."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from lensnb import io
from lensnb.apps.execute import execute
from lensnb.errors import InputError, told
from lensnb.recipes.recipe import Params
from lensnb.runs.run_folder import START, STEPS, Run

NOTEBOOKS = (START, *STEPS)
LEAST_CHECKED = 3  # cells of a notebook whose output nbval compares
MOST_CODE = 110  # lines


def publish(params):
    """Replace notebooks/ by the executed ones of a whole run of the defaults, and docs/gallery.png by its gallery.

    Raises InputError, and changes nothing, for a run that is not whole or has other parameters, for a notebook
    with `problems`, and where a second execution (nbval) gives other checked outputs.
    """
    run = Run(params)
    folder = run.path / "notebooks"
    missing = [step for step in STEPS if not (folder / f"{step}.json").is_file()]
    if missing or params != Params():
        reason = f"{missing[0]} is missing" if missing else "this one has other parameters"
        raise InputError(f"{folder}: only a whole run of the defaults is published; {reason}")
    execute(START, params)
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch)
        shutil.copytree(io.home() / "params", fresh / "params")
        for name in NOTEBOOKS:
            write(cleaned(folder / f"{name}.ipynb"), fresh / "notebooks" / f"{name}.ipynb")
        code, printed = nbval(fresh, run.outputs)
        if code:
            raise InputError(
                f"{folder}: a second execution gives other outputs, so nothing is published\n{printed}"
            )
        for name in NOTEBOOKS:
            write(
                read(fresh / "notebooks" / f"{name}.ipynb"),
                io.home() / "notebooks" / f"{name}.ipynb",
            )
    shutil.copy(run.path / "figures" / "gallery.png", io.home() / "docs" / "gallery.png")


def read(path):
    """A notebook as nbformat has it."""
    import nbformat

    return nbformat.read(path, as_version=4)


def write(notebook, path):
    """Write a notebook, atomically; raises InputError where it has `problems`."""
    import nbformat

    if found := problems(notebook):
        raise InputError(f"{path.name}: {'; '.join(found)}; so it is not published")
    path.parent.mkdir(exist_ok=True)
    with io.atomic(path) as file:
        nbformat.write(notebook, file)


def cleaned(path):
    """An executed notebook without papermill's marks and times."""
    notebook = read(path)
    for marked in (notebook, *notebook.cells):
        marked.metadata.pop("papermill", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]
    return notebook


def code_cells(notebook):
    """The code cells that hold code."""
    return [c for c in notebook.cells if c.cell_type == "code" and c.source.strip()]


def tagged(notebook, tag):
    """The code cells with a tag."""
    return [c for c in code_cells(notebook) if tag in c.metadata.get("tags", [])]


def problems(notebook):
    """What would let a notebook pass unread, break it under papermill, or make it hard to read; a list of sentences."""
    import nbformat

    code = code_cells(notebook)
    checked = tagged(notebook, "nbval-check-output")
    prose = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    lines = [
        line
        for c in code
        if "parameters" not in c.metadata.get("tags", [])
        for line in c.source.splitlines()
    ]
    wrong = {
        "not exactly one cell tagged parameters": len(tagged(notebook, "parameters")) != 1,
        "cells never executed": any(c.execution_count is None for c in code),
        "an error is stored": any(o.output_type == "error" for c in code for o in c.outputs),
        "too few checked cells with outputs": len(checked) < LEAST_CHECKED
        or any(not c.outputs for c in checked),
        "too much code": sum(len(c.source.splitlines()) for c in code) > MOST_CODE,
        "more code than prose": len(" ".join(lines)) > len(prose),
        "not exactly one H1, at the top": notebook.cells[0].cell_type != "markdown"
        or len(re.findall(r"^# ", prose, re.M)) != 1,
        "an absolute path is stored": re.search(
            r"(/(?:home|root|tmp|Users)/|[A-Z]:\\\\)", nbformat.writes(notebook)
        )
        is not None,
    }
    return [sentence for sentence, is_wrong in wrong.items() if is_wrong]


def nbval(folder, outputs):
    """Execute folder/notebooks/ again, in order, and compare the checked outputs; (exit code, what pytest printed)."""
    import importlib.util

    if importlib.util.find_spec("nbval") is None:
        raise InputError("nbval is not installed; pip install -e .[test]")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "--nbval-lax",
        "--nbval-current-env",
        "--nbval-cell-timeout=1500",
        "--nbval-sanitize-with",
        str(Path(__file__).parents[1] / "tests/sanitize.cfg"),
        "-q",
        "--no-header",
        "--rootdir",
        str(folder),
        "-c",
        os.devnull,
        *map(str, sorted(folder.glob("notebooks/0[0-9]_*.ipynb"))),
    ]
    done = subprocess.run(
        command,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env={**os.environ, "LENSNB_OUTPUTS": str(outputs), "OMP_NUM_THREADS": "2"},
    )
    return done.returncode, done.stdout


if __name__ == "__main__":
    sys.exit(told(lambda: publish(Params())))
