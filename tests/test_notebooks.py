"""The committed notebooks: papermill can run them, and their outputs are still true (nbval)."""

import ast
import functools
import multiprocessing
import re
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import nbformat
import numpy as np
import pytest

from lensnb import io, pipeline
from lensnb.apps import execute
from lensnb.errors import InputError
from lensnb.kinds import KINDS, trained_for
from lensnb.recipes.recipe import Params, validate
from lensnb.runs.run_folder import APART, START, STEPS, Run
from lensnb.training.optimise import rate_factor
from tools import publish_notebooks, published_run
from tools.publish_notebooks import code_cells, nbval, problems, read, tagged

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("0[0-9]_*.ipynb"))
STEPS_OF_CHAIN = [path for path in NOTEBOOKS if path.stem not in publish_notebooks.BESIDE]
METHODS = Params().sample.methods
ON_CPU = Params().model_copy(update={"device": "cpu"})  # as the published run was made
# How far figures may be off on another processor, where sums are rounded in another order.
# Images that differed by 1e-7 changed the losses of a hundred steps by 6e-10 and, of the GAN, whose
# two networks follow each other, by 0.009. One image in 256 that falls on the other side of a bound
# moves a share by a fifth of its error.
SAME_LOSS = {"diffusion": 1e-5, "gan": 0.03}  # of a mean loss
SAME_FIGURE = 0.5  # of the error of a distance
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


def make_whole():
    """The run of the defaults up to the evaluation, two stages at a time with one thread each.

    So `make run` makes them, too: two generators side by side take as long as one. Here two
    processes stay, which import torch and measure the real images once.
    """
    run = pipeline.open_run(Params())
    pipeline.make_data(run)
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        for step in ("02_train", "03_sample", "04_evaluate"):
            list(pool.map(functools.partial(execute.make, params=Params()), run.stages(step)))
    return run


def make_from_kept():
    """The same run with the weights of the published one; where none is kept, trained anew."""
    if not published_run.KEPT.is_dir():
        return make_whole()
    run = pipeline.open_run(ON_CPU)
    pipeline.make_data(run)
    return published_run.restored(run)


def made_in(folder, make):
    """The run that `make` makes below a folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LENSNB_OUTPUTS", str(folder))
        return make()


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The run of the defaults: data, images and numbers by today's code, weights as published."""
    return made_in(tmp_path_factory.mktemp("kept"), make_from_kept)


needs_kept = pytest.mark.skipif(
    not published_run.KEPT.is_dir(), reason="make notebooks has kept no published run"
)
each_generator = pytest.mark.parametrize("name", trained_for(m.model for m in METHODS.values()))


def told_of(name, table):
    """What was told of the published training of a generator: column -> values."""
    return io.read_table(published_run.KEPT / f"models/{name}/{table}.csv")


@needs_kept
@each_generator
@pytest.mark.slow
def test_a_training_begins_as_the_published_one_did(name, kept, tmp_path):
    """Another network, order of the images, loss or optimiser changes the first hundred losses."""
    row = published_run.first_row(ON_CPU, name, pipeline.load_data(kept), tmp_path)
    told = {column: values[0] for column, values in told_of(name, "history").items()}
    assert row.keys() == told.keys()
    assert row == pytest.approx(told, rel=SAME_LOSS[name])


@needs_kept
@each_generator
def test_the_published_training_had_the_rates_of_today(name):
    """All of its steps, those of which no loss is computed again too."""
    settings = getattr(Params(), KINDS[name].section)
    told = told_of(name, "history")
    assert told["step"][-1] == settings.steps
    rates = [settings.rate * rate_factor(k, settings) for k in range(settings.steps)]
    starts = [0, *told["step"][:-1].astype(int)]
    means = np.add.reduceat(rates, starts) / np.diff([*starts, settings.steps])
    assert np.abs(told["rate"] - means).max() < 1e-9 * settings.rate


@needs_kept
@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_the_first_images_are_the_published_ones(method, kept):
    drawn = pipeline.load_samples(kept, method)[: published_run.FIRST]
    told = np.load(published_run.KEPT / f"samples/{method}/images.npy")
    assert np.abs(drawn - told).max() < 1e-3 * np.ptp(told)  # as 03_sample asks


@needs_kept
@pytest.mark.slow
def test_the_judge_finds_the_published_figures(kept):
    """Of one method of each generator, whose images are all drawn and judged again."""
    methods = published_run.whole_methods(kept)
    assert {METHODS[m].model for m in methods} == {m.model for m in METHODS.values()}
    for method in methods:
        place = f"evaluation/{method}/metrics.json"
        told = io.read_json(published_run.KEPT / place)["metrics"]
        found = io.read_json(kept.path / place)["metrics"]
        assert found.keys() == told.keys()
        off = {key: abs(found[key]["value"] - old["value"]) for key, old in told.items()}
        assert all(off[key] <= SAME_FIGURE * told[key]["error"] for key in told), (method, off)


def the_notebooks_are_true(outputs):
    """Assert that the committed notebooks, executed on these runs, give the same outputs."""
    code, printed = nbval(ROOT, outputs)
    assert code == 0, printed
    cells = sum(len(code_cells(read(p))) for p in NOTEBOOKS)
    assert f"{cells} passed" in printed, printed


@pytest.mark.slow
def test_the_published_weights_give_the_committed_outputs_again(kept):
    the_notebooks_are_true(kept.outputs)


@pytest.mark.chain
def test_the_quick_recipe_gives_the_committed_outputs_again(tmp_path):
    """The whole quick chain, every training to its end. It takes half an hour: make chain."""
    the_notebooks_are_true(made_in(tmp_path, make_whole).outputs)


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


def keep_what_papermill_injects(cells):
    cells[1].metadata.update(tags=["injected-parameters"])


def write_too_much_code(cells):
    cells[-1].update(source="x = 1\n" * 120)


def name_an_absolute_path(cells):
    cells[-1].update(source="print('/home/me/x')")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (store_an_error, "an error is stored"),
        (lose_the_parameters_tag, "not exactly one cell tagged parameters"),
        (keep_what_papermill_injects, "parameters were injected"),
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
