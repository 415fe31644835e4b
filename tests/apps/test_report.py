"""The report: equations, links and widgets as plain HTML that loads nothing from elsewhere."""

import re

import nbformat
import pytest

from lensnb import io
from lensnb.apps import report
from lensnb.errors import InputError
from lensnb.recipes.recipe import Params
from lensnb.runs.locks import locked
from lensnb.runs.run_folder import STEPS, Run

STATE = {
    "application/vnd.jupyter.widget-state+json": {
        "version_major": 2,
        "version_minor": 0,
        "state": {"m": {"model_name": "HTMLModel", "state": {}}},
    }
}


def body(tmp_path, *cells):
    """The cells of a notebook as the report shows them."""
    notebook = nbformat.v4.new_notebook(cells=list(cells), metadata={"widgets": STATE})
    nbformat.write(notebook, tmp_path / "a.ipynb")
    return report._body(tmp_path / "a.ipynb")


def test_equations_become_mathml_and_code_stays(tmp_path):
    text = (
        "Inline $x_0 + \\sigma$, and\n\n$$d^2 = \\lVert a \\rVert^2,$$\n\n"
        "`$HOME` costs \\$5 or \\$6."
    )
    made = body(tmp_path, nbformat.v4.new_markdown_cell(text))
    assert made.count("<math") == 2 and made.count('display="block"') == 1
    assert "<msub><mi>x</mi><mn>0</mn></msub>" in made
    assert "$HOME" in made and "$5 or $6" in re.sub(r"<[^>]+>", "", made).replace("\\", "")


def test_every_equation_of_the_notebooks_is_understood():
    for path in sorted((io.home() / "notebooks").glob("*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        made = report.MATH.sub(report._mathml, text)
        left = [line for line in made.splitlines() if "$" in re.sub(r"`[^`]*`", "", line)]
        assert not left, (path.name, left)
        # No command is left as it was.
        assert not re.search(r"<m[a-z]+[^>]*>\\[a-z]+", made), path.name


def test_links_lead_to_pages_and_nothing_is_asked_from_outside(tmp_path):
    view = {"model_id": "m", "version_major": 2, "version_minor": 0}
    shown = {"application/vnd.jupyter.widget-view+json": view, "text/plain": "VBox()"}
    widget = nbformat.v4.new_output("display_data", shown)
    made = body(
        tmp_path,
        nbformat.v4.new_markdown_cell(
            "[next](02_train.ipynb), [elsewhere](https://example.org/a.ipynb)"
        ),
        nbformat.v4.new_code_cell("widgets.lens()", outputs=[widget]),
    )
    assert 'href="02_train.html"' in made and 'href="https://example.org/a.ipynb"' in made
    assert '"model_id": "m"' in made and "$(" not in made
    assert not re.search(r"(src|import)\s*=?\s*[\"'(]?https?:", made)


def test_a_report_of_half_a_chain_is_refused_and_an_older_one_stays(tmp_path):
    run = Run(Params(), outputs=tmp_path)
    old = run.path / "report" / "index.html"
    old.parent.mkdir(parents=True)
    old.write_text("old")
    with pytest.raises(InputError, match=r"01_data.*needs the whole chain"):
        report.write(run)
    assert old.read_text() == "old"


def test_two_processes_do_not_write_one_report(tmp_path):
    run = Run(Params(), outputs=tmp_path)
    (run.path / "notebooks").mkdir(parents=True)
    for step in STEPS:
        (run.path / "notebooks" / f"{step}.json").write_text("{}")
        for stage in run.stages(step):
            run.build(stage, lambda folder: (folder / "file").write_text(folder.name))
    with locked(run.folder("report")), pytest.raises(InputError, match="is writing there"):
        report.write(run)


def test_the_short_table_holds_the_measures_that_are_there():
    rows = [{"metric": metric} for metric in ("mine", "spectrum", "frechet_lensnet", "spectrum")]
    shown = [row["metric"] for row in report._headline(rows)]
    assert shown == ["frechet_lensnet", "spectrum", "spectrum"]
    assert report._headline(rows[:1]) == rows[:1]
