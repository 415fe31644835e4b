"""The committed notebooks: papermill can run them, and their outputs are still true (nbval)."""

import ast
import functools
import multiprocessing
import re
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import nbformat
import pytest

from lensnb import pipeline
from lensnb.apps import execute
from lensnb.errors import InputError
from lensnb.recipes.recipe import Params, validate
from lensnb.runs.run_folder import APART, START, STEPS, Run
from tools import publish_notebooks
from tools.publish_notebooks import code_cells, nbval, problems, read, tagged

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("0[0-9]_*.ipynb"))
STEPS_OF_CHAIN = [path for path in NOTEBOOKS if path.stem not in publish_notebooks.BESIDE]
each_step = pytest.mark.parametrize("path", STEPS_OF_CHAIN, ids=lambda path: path.stem)
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def test_there_is_a_notebook_for_each_step():
    names = sorted([*APART, *STEPS, *publish_notebooks.BESIDE])
    assert [p.stem for p in NOTEBOOKS] == names and NOTEBOOKS[0].stem == START
    front, *others = (len(code_cells(read(p))) for p in NOTEBOOKS)
    assert front <= 10 and all(10 <= cells <= 20 for cells in others)


@each_notebook
def test_a_committed_notebook_is_executed_checked_and_readable(path):
    assert problems(read(path)) == []


@each_notebook
def test_an_emptied_notebook_would_be_seen(path):
    notebook = read(path)
    for cell in code_cells(notebook):
        cell.outputs = []
        cell.execution_count = None
    assert {"cells never executed", "too few checked cells with outputs"} <= set(problems(notebook))


# The parameters cell -----------------------------------------------------------------------------

SECTIONS = {"model", "diffusion", "train", "gan", "consistency"}
HELD = {  # what each notebook lets the reader change: what its step reads
    "00_start": {"run"},
    "01_data": {"run", "seed", "threads", "data"},
    "02_train": {"run", "seed", "device", "threads", "data", *SECTIONS, "sample"},
    "03_sample": {"run", "seed", "device", "threads", "data", *SECTIONS, "sample"},
    "04_evaluate": {"run", "seed", "threads", "data", *SECTIONS, "sample", "evaluate"},
    "05_compare": {"run", "seed", "seeds", "threads", "data", *SECTIONS, "sample", "evaluate"},
    "07_posterior": {"seed", "threads"},
}
OTHER = {  # another value of each parameter that decides what a stage holds
    "seed": 1,
    "seeds": [0, 1],
    "data": {"n": 100},
    "model": {"width": 48},
    "diffusion": {"schedule": "linear"},
    "train": {"steps": 5},
    "gan": {"steps": 5},
    "sample": {"n": 5},
    "evaluate": {"n": 50},
}


def parameters(path):
    """What the parameters cell of a notebook defines: name -> value."""
    namespace = {}
    exec(tagged(read(path), "parameters")[0].source, namespace)  # our own committed cell
    return {key: value for key, value in namespace.items() if not key.startswith("__")}


@each_step
def test_the_parameters_cell_holds_what_its_step_reads_with_the_quick_values(path):
    given = parameters(path)
    assert set(given) == HELD[path.stem] <= set(Params.model_fields)
    assert Params.from_notebook(given) == Params()


@each_notebook
def test_every_parameter_has_a_type_and_a_comment(path):
    heading, *lines = tagged(read(path), "parameters")[0].source.splitlines()
    assert heading.startswith("# ") and lines  # IPython takes a cell of one line for a command: run
    for line in lines:
        assert isinstance(ast.parse(line).body[0], ast.AnnAssign), line
        assert re.search(r"  # \S", line), line
        assert len(line) <= 100, line


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of the defaults whose stages hold a word each."""
    run = Run(Params(), tmp_path_factory.mktemp("finished"))
    for step in STEPS:
        for stage in run.stages(step):
            run.build(stage, lambda folder: (folder / "file.txt").write_text(folder.name))
    return run


@pytest.mark.parametrize("step", STEPS)
def test_what_decides_whether_a_step_is_done_stands_in_its_parameters_cell(step, finished):
    """Else its notebook, run by hand, could not find what another recipe has made."""

    def is_done(**changes):
        other = Run(validate(changes, "x"), finished.outputs)
        return all(other.is_current(stage) for stage in finished.stages(step))

    assert is_done()
    decides = {key for key, value in OTHER.items() if not is_done(**{key: value})}
    assert decides and decides <= HELD[step]
    # no method of the defaults draws from a consistency model
    assert HELD[step] - decides <= {"run", "device", "threads", "sample", "consistency"}


# The committed outputs ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """A folder with the stages of the quick run, two made at a time with one thread each.

    So `make run` makes them, too: two generators side by side take as long as one. Here two
    processes stay, which import torch and measure the real images once.
    """
    folder = tmp_path_factory.mktemp("nbval")
    spawn = multiprocessing.get_context("spawn")
    with pytest.MonkeyPatch.context() as patch, ProcessPoolExecutor(2, spawn) as pool:
        patch.setenv("LENSNB_OUTPUTS", str(folder))
        run = pipeline.open_run(Params())
        pipeline.make_data(run)
        for step in ("02_train", "03_sample", "04_evaluate"):
            list(pool.map(functools.partial(execute.make, params=Params()), run.stages(step)))
    return folder


@pytest.mark.slow
def test_the_quick_recipe_gives_the_committed_outputs_again(outputs):
    """The whole quick chain, cell by cell. It takes minutes."""
    code, printed = nbval(ROOT, outputs)
    assert code == 0, printed
    cells = sum(len(code_cells(read(p))) for p in NOTEBOOKS)
    assert f"{cells} passed" in printed, printed


def printing(texts, outputs):
    """A notebook whose checked cells print `texts` and have stored `outputs`."""
    notebook = nbformat.v4.new_notebook()
    for text, output in zip(texts, outputs, strict=True):
        stored = nbformat.v4.new_output("stream", name="stdout", text=output)
        source = f"print({text!r}, end='')"
        cell = nbformat.v4.new_code_cell(source, outputs=[stored], execution_count=1)
        cell.metadata.tags = ["nbval-check-output"]
        notebook.cells.append(cell)
    return notebook


def other_digit(text):
    """The text with its first digit, or else its first letter, changed."""
    changed = re.sub(r"\d", lambda m: str((int(m[0]) + 1) % 10), text, count=1)
    return changed if changed != text else text.swapcase()


@pytest.mark.slow
def test_a_changed_digit_of_any_checked_output_is_seen(tmp_path):
    """Nothing that the committed notebooks print is taken for a figure's size and let pass."""
    checked = [tagged(read(path), "nbval-check-output") for path in NOTEBOOKS]
    texts = ["".join(o.text for o in cell.outputs) for cells in checked for cell in cells]
    assert len(texts) > 15
    (tmp_path / "notebooks").mkdir()
    for name, stored in (("00_true", texts), ("01_false", [*map(other_digit, texts)])):
        nbformat.write(printing(texts, stored), tmp_path / "notebooks" / f"{name}.ipynb")
    code, printed = nbval(tmp_path, tmp_path)
    assert code == 1 and f"{len(texts)} failed, {len(texts)} passed" in printed, printed


# Notebooks that are not published ----------------------------------------------------------------


def store_an_error(cells):
    error = nbformat.v4.new_output("error", ename="E", evalue="e", traceback=[])
    cells[-1].outputs.append(error)


def lose_the_parameters_tag(cells):
    cells[0].metadata.update(tags=[])


def write_too_much_code(cells):
    cells[-1].update(source="x = 1\n" * 120)


def name_an_absolute_path(cells):
    cells[-1].update(source="print('/home/me/x')")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (store_an_error, "an error is stored"),
        (lose_the_parameters_tag, "not exactly one cell tagged parameters"),
        (write_too_much_code, "too much code"),
        (name_an_absolute_path, "an absolute path is stored"),
    ],
)
def test_a_notebook_with_problems_is_not_published(spoil, sentence, tmp_path):
    notebook = read(NOTEBOOKS[1])
    spoil(code_cells(notebook))
    with pytest.raises(InputError, match=sentence):
        publish_notebooks.write(notebook, tmp_path / "notebooks" / "01_data.ipynb")
    assert not list(tmp_path.rglob("*.ipynb"))
