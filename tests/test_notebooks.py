"""The committed notebooks: built as papermill needs them, and their outputs still true (nbval)."""

import copy
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from lensnb import params, store

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("0[1-9]_*.ipynb"))
LEAST_CHECKED = 3


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [c for c in notebook.cells if c.cell_type == "code" and c.source.strip()]


def tagged(notebook, tag):
    return [c for c in code_cells(notebook) if tag in c.metadata.get("tags", [])]


def problems(notebook):
    """What would let a notebook pass unread, or break under papermill."""
    code, checked = code_cells(notebook), tagged(notebook, "nbval-check-output")
    found = []
    if len(tagged(notebook, "parameters")) != 1:
        found.append("not exactly one cell tagged parameters")
    if any(c.execution_count is None for c in code):
        found.append("cells never executed")
    if any(o.output_type == "error" for c in code for o in c.outputs):
        found.append("an error is stored")
    if len(checked) < LEAST_CHECKED or any(not c.outputs for c in checked):
        found.append("too few checked cells with outputs")
    if sum(len(c.source.splitlines()) for c in code) > 110:
        found.append("too much code")
    if notebook.cells[0].cell_type != "markdown" or sum(len(re.findall(r"^# ", c.source, re.M)) for c in notebook.cells
                                                         if c.cell_type == "markdown") != 1:
        found.append("not exactly one H1, at the top")
    if re.search(r"(/(?:home|root|tmp|Users)/|[A-Z]:\\\\)", nbformat.writes(notebook)):
        found.append("an absolute path is stored")
    return found


def test_there_is_a_notebook_for_each_step():
    assert [p.stem for p in NOTEBOOKS] == list(store.STEPS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_committed_notebook_is_executed_checked_and_readable(path):
    assert problems(read(path)) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_an_emptied_notebook_would_be_seen(path):
    notebook = read(path)
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    assert {"cells never executed", "too few checked cells with outputs"} <= set(problems(notebook))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_the_parameter_cell_names_every_section_with_the_quick_value(path):
    namespace = {}
    exec(tagged(read(path), "parameters")[0].source, namespace)     # our own committed cell
    namespace.pop("__builtins__")
    given = {k: v for k, v in namespace.items() if not k.startswith("__")}
    assert set(given) == set(params.Params.model_fields)
    assert params.Params.from_notebook(given) == params.Params()


def nbval(folder, outputs):
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--nbval-lax", "--nbval-current-env",
               "--nbval-cell-timeout=1500", "--nbval-sanitize-with", str(ROOT / "tests/sanitize.cfg"), "-q", "--no-header",
               "--rootdir", str(folder), "-c", os.devnull, *map(str, sorted(folder.glob("notebooks/0[1-9]_*.ipynb")))]
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=folder,
                          env={**os.environ, "LENSNB_OUTPUTS": str(outputs), "OMP_NUM_THREADS": "2"})
    return done.returncode, done.stdout


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    return tmp_path_factory.mktemp("nbval")


def test_the_quick_recipe_gives_the_committed_outputs_again(outputs):
    """The whole quick chain, cell by cell; minutes."""
    code, printed = nbval(ROOT, outputs)
    assert code == 0, printed
    cells = sum(len(code_cells(read(p))) for p in NOTEBOOKS)
    assert f"{cells} passed" in printed, printed


def test_a_changed_digit_is_seen(outputs, tmp_path):
    for folder in ("notebooks", "params"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    for path in sorted((tmp_path / "notebooks").glob("0[2-9]*.ipynb")):
        path.unlink()
    path = tmp_path / "notebooks" / NOTEBOOKS[0].name
    notebook, original = read(path), copy.deepcopy(read(path))
    output = tagged(notebook, "nbval-check-output")[0].outputs[0]
    output.text = re.sub(r"\d", lambda m: str((int(m[0]) + 1) % 10), output.text, count=1)
    nbformat.write(notebook, path)
    assert nbval(tmp_path, outputs)[0] == 1
    nbformat.write(original, path)
    assert nbval(tmp_path, outputs)[0] == 0
