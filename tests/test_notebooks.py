"""The committed notebooks: built as papermill needs them, and their outputs still true (nbval)."""

import copy
import re
import shutil
from pathlib import Path

import nbformat
import pytest

from lensnb.errors import InputError
from lensnb.recipes.recipe import Params
from lensnb.runs.run_folder import START, STEPS
from tools import publish_notebooks
from tools.publish_notebooks import code_cells, nbval, problems, read, tagged

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("0[0-9]_*.ipynb"))


def test_there_is_a_notebook_for_each_step():
    assert [p.stem for p in NOTEBOOKS] == [START, *STEPS]
    assert len(code_cells(read(NOTEBOOKS[0]))) <= 10 and all(
        10 <= len(code_cells(read(p))) <= 20 for p in NOTEBOOKS[1:]
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_committed_notebook_is_executed_checked_and_readable(path):
    assert problems(read(path)) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_an_emptied_notebook_would_be_seen(path):
    notebook = read(path)
    for cell in code_cells(notebook):
        cell.outputs = []
        cell.execution_count = None
    assert {"cells never executed", "too few checked cells with outputs"} <= set(problems(notebook))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_the_parameter_cell_names_every_section_with_the_quick_value(path):
    namespace = {}
    exec(tagged(read(path), "parameters")[0].source, namespace)  # our own committed cell
    namespace.pop("__builtins__")
    given = {k: v for k, v in namespace.items() if not k.startswith("__")}
    assert set(given) == set(Params.model_fields)
    assert Params.from_notebook(given) == Params()


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
    for path in sorted((tmp_path / "notebooks").glob("0[1-9]*.ipynb")):
        path.unlink()
    path = tmp_path / "notebooks" / NOTEBOOKS[0].name
    notebook = read(path)
    original = copy.deepcopy(read(path))
    output = tagged(notebook, "nbval-check-output")[0].outputs[0]
    output.text = re.sub(r"\d", lambda m: str((int(m[0]) + 1) % 10), output.text, count=1)
    nbformat.write(notebook, path)
    assert nbval(tmp_path, outputs)[0] == 1
    nbformat.write(original, path)
    assert nbval(tmp_path, outputs)[0] == 0


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (
            lambda cells: cells[-1].outputs.append(
                nbformat.v4.new_output("error", ename="E", evalue="e", traceback=[])
            ),
            "an error is stored",
        ),
        (lambda cells: cells[0].metadata.update(tags=[]), "not exactly one cell tagged parameters"),
        (lambda cells: cells[-1].update(source="x = 1\n" * 120), "too much code"),
        (
            lambda cells: cells[-1].update(source="print('/home/me/x')"),
            "an absolute path is stored",
        ),
    ],
)
def test_a_red_notebook_is_not_published(spoil, sentence, tmp_path):
    notebook = read(NOTEBOOKS[1])
    spoil(code_cells(notebook))
    with pytest.raises(InputError, match=sentence):
        publish_notebooks.write(notebook, tmp_path / "notebooks" / "01_data.ipynb")
    assert not list(tmp_path.rglob("*.ipynb"))
