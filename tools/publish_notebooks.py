"""Replace the committed notebooks by the executed ones of a finished quick run.

    python -m tools.publish_notebooks                  # all
    python -m tools.publish_notebooks 07_posterior     # one that is no step of the chain

Nothing is published that is hard to read or gives other results when it is executed again.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from lensnb import io
from lensnb.apps.execute import execute
from lensnb.errors import InputError, told
from lensnb.recipes.recipe import Params
from lensnb.runs.run_folder import APART, STEPS, Run
from tools import published_run

NOTEBOOKS = tuple(sorted((*APART, *STEPS)))
# Notebooks beside the chain; they are executed on runs of their own, and not published from here.
BESIDE = ("06_runs",)
LEAST_CHECKED = 3  # cells of a notebook whose output nbval compares
MOST_CODE = 110  # lines of code in a notebook
ABSOLUTE = r"(/(?:home|root|tmp|Users)/|[A-Z]:\\\\)"  # how an absolute path begins
A_DAY = 86400  # seconds; a cell may be slow beside other work, but must not hang for ever


def publish(params: Params) -> None:
    """Replace notebooks/ by the executed ones of a whole run of the defaults.

    docs/gallery.png is replaced by the run's gallery, and tests/golden/quick by what the tests
    need of the run, its weights above all: see `published_run`. Raises InputError, and changes
    nothing, for a run that is not whole or has other parameters, for a notebook with `problems`,
    and where a second execution (nbval) gives other checked outputs.
    """
    run = Run(params)
    refuse_another_run(run)
    for name in APART:
        execute(name, params)
    _replace(run, NOTEBOOKS)
    shutil.copy(run.path / "figures" / "gallery.png", io.home() / "docs" / "gallery.png")
    published_run.keep(run)


def publish_apart(name: str) -> None:
    """Execute and replace one notebook that is no step of the chain; raises as `publish` does."""
    if name not in APART:
        raise InputError(f"{name}: only {', '.join(APART)} can be published alone")
    execute(name, Params())
    _replace(Run(Params()), [name])


def _replace(run: Run, names: Sequence[str]) -> None:
    """Replace notebooks by the executed ones of a run, once a second execution gives the same."""
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch)
        shutil.copytree(io.home() / "params", fresh / "params")
        for name in names:
            executed = cleaned(run.path / "notebooks" / f"{name}.ipynb")
            write(executed, fresh / "notebooks" / f"{name}.ipynb")
        code, printed = nbval(fresh, run.outputs)
        if code:
            raise InputError(
                f"{run.path / 'notebooks'}: a second execution gives other outputs, "
                f"so nothing is published\n{printed}"
            )
        for name in names:
            checked = read(fresh / "notebooks" / f"{name}.ipynb")
            write(checked, io.home() / "notebooks" / f"{name}.ipynb")


def refuse_another_run(run: Run) -> None:
    """Raise InputError where a run is not whole, or has other parameters than the defaults."""
    folder = run.path / "notebooks"
    missing = [step for step in STEPS if not (folder / f"{step}.json").is_file()]
    if missing or run.params != Params():
        reason = f"{missing[0]} is missing" if missing else "this one has other parameters"
        raise InputError(f"{folder}: only a whole run of the defaults is published; {reason}")


def read(path: Path) -> NotebookNode:
    """The notebook in a file."""
    return nbformat.read(path, as_version=4)


def write(notebook: NotebookNode, path: Path) -> None:
    """Write a notebook, atomically. Raises InputError where it has `problems`."""
    if found := problems(notebook):
        raise InputError(f"{path.name}: {'; '.join(found)}; so it is not published")
    path.parent.mkdir(exist_ok=True)
    with io.atomic(path) as file:
        nbformat.write(notebook, file)


def cleaned(path: Path) -> NotebookNode:
    """An executed notebook without the marks and times that papermill leaves in it."""
    notebook = read(path)
    for marked in (notebook, *notebook.cells):
        marked.metadata.pop("papermill", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]
    return notebook


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The code cells that are not empty."""
    return [c for c in notebook.cells if c.cell_type == "code" and c.source.strip()]


def tagged(notebook: NotebookNode, tag: str) -> list[NotebookNode]:
    """The code cells with a tag."""
    return [c for c in code_cells(notebook) if tag in c.metadata.get("tags", [])]


def problems(notebook: NotebookNode) -> list[str]:
    """What is wrong with a notebook, one sentence for each problem.

    A problem lets a notebook pass unread, breaks it under papermill, or makes it hard to read.
    """
    code = code_cells(notebook)
    checked = tagged(notebook, "nbval-check-output")
    prose = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    titles = re.findall(r"^# ", prose, re.M)
    outputs = [output for cell in code for output in cell.outputs]
    wrong = {
        "not exactly one cell tagged parameters": len(tagged(notebook, "parameters")) != 1,
        "parameters were injected": bool(tagged(notebook, "injected-parameters")),
        "cells never executed": any(c.execution_count is None for c in code),
        "an error is stored": any(output.output_type == "error" for output in outputs),
        "too few checked cells with outputs": len(checked) < LEAST_CHECKED
        or any(not c.outputs for c in checked),
        "too much code": sum(len(c.source.splitlines()) for c in code) > MOST_CODE,
        "more code than prose": _length_of_code(notebook) > len(prose),
        "not exactly one H1, at the top": notebook.cells[0].cell_type != "markdown"
        or len(titles) != 1,
        "an absolute path is stored": re.search(ABSOLUTE, nbformat.writes(notebook)) is not None,
    }
    return [sentence for sentence, is_wrong in wrong.items() if is_wrong]


def _length_of_code(notebook: NotebookNode) -> int:
    """How many characters of code a notebook has, without its parameters cell."""
    cells = [c for c in code_cells(notebook) if "parameters" not in c.metadata.get("tags", [])]
    return len(" ".join(line for cell in cells for line in cell.source.splitlines()))


def nbval(folder: Path, outputs: Path) -> tuple[int, str]:
    """Execute folder/notebooks/ again, in order, and compare the checked outputs.

    Returns the exit code of pytest, which is 0 where all outputs are the same, and what it printed.
    """
    import importlib.util

    if importlib.util.find_spec("nbval") is None:
        raise InputError("nbval is not installed; pip install -e .[test]")
    command = [
        *(sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider"),
        *("--rootdir", str(folder), "-c", os.devnull),
        *("--nbval-lax", "--nbval-current-env"),
        f"--nbval-cell-timeout={A_DAY}",
        f"--nbval-kernel-startup-timeout={A_DAY}",
        *("--nbval-sanitize-with", str(Path(__file__).parents[1] / "tests/sanitize.cfg")),
        *map(str, sorted(folder.glob("notebooks/0[0-9]_*.ipynb"))),
    ]
    environment = {**os.environ, "LENSNB_OUTPUTS": str(outputs), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env=environment,
    )
    return done.returncode, done.stdout


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit(told(lambda: publish_apart(sys.argv[1])))
    sys.exit(told(lambda: publish(Params())))
