"""A report of a run: its executed notebooks as a small web site.

It has a front page and a page for each notebook. It needs no network and no kernel.
"""

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lensnb import io, pipeline
from lensnb.datasets.dataset import load_dataset
from lensnb.display import judged, tables
from lensnb.errors import InputError
from lensnb.evaluation import limits
from lensnb.runs import artefact, jobs
from lensnb.runs.locks import locked
from lensnb.runs.run_folder import STEPS, Run

ASSETS = Path(__file__).with_name("assets")
FIGURES = ("gallery", "z_values", "ratios", "quality_against_time")
# The measures of the short table beside the verdict.
HEADLINE = ("frechet_lensnet", "told_apart", "recall", "spectrum", "noise_level", "ring_radius")
ENOUGH = 128  # images on each side; with fewer, errors are as large as the differences
# Code, which stays as it is; $$...$$; and $...$ that is neither escaped nor a price.
MATH = re.compile(
    r"(```.*?```|`[^`\n]+`)|\$\$(.+?)\$\$|(?<![\\$])\$(?!\s)([^$\n]+?)(?<![\s\\])\$", re.DOTALL
)
LINK_TO_NOTEBOOK = re.compile(r"\]\((\d\d_\w+)\.ipynb\)")
# A script of a widget's output that asks for a library which is not there.
WIDGET_SCRIPT = re.compile(r'<script type="text/javascript">\s*var element = [^<]*</script>')


def write(run: Run) -> Path:
    """Write outputs/<run>/report/ from the executed notebooks; returns the path of its front page.

    The folder can be copied anywhere. Raises InputError if a step has not been run, or if another
    process is writing the report.
    """
    notebooks = {step: run.path / "notebooks" / f"{step}.ipynb" for step in jobs.shown(run)}
    missing = [path for path in notebooks.values() if not path.with_suffix(".json").is_file()]
    if missing:
        raise InputError(
            f"{missing[0]}: not there; the report needs the whole chain, so call make run first"
        )
    folder = run.folder("report")
    run.need("figures")  # a run that another recipe made is refused before anything is written
    # Before the lock: write_recipe would take that for another process at work.
    run.write_recipe()
    with locked(folder):
        _write(run, notebooks, folder)
    return folder / "index.html"


def _write(run: Run, notebooks: Mapping[str, Path], folder: Path) -> None:
    """Write all pages to a folder beside `folder`, then put it in the place of `folder`."""
    name = run.params.run
    unfinished = artefact.partial(folder)
    shutil.rmtree(unfinished, ignore_errors=True)
    io.make_folder(unfinished)
    pages = [("index.html", name), *((f"{step}.html", step) for step in notebooks)]
    try:
        for step, path in notebooks.items():
            _write_page(unfinished / f"{step}.html", f"{name} · {step}", pages, _body(path))
        _write_page(unfinished / "index.html", f"{name} · lensnb", pages, _front(run, unfinished))
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    artefact.replace(unfinished, folder)


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _write_page(path: Path, title: str, pages: Sequence[tuple[str, str]], body: str) -> None:
    """Write one page; `pages` are the (file, text) of the links at its top."""
    import jinja2
    from pygments.formatters import HtmlFormatter

    code_style = HtmlFormatter(style="friendly").get_style_defs(".highlight pre")
    template = jinja2.Template(_asset("page.html"))
    text = template.render(
        title=title,
        pages=pages,
        here=path.name,
        body=body,
        css=_asset("report.css") + code_style,
        js=_asset("report.js"),
    )
    path.write_text(text, encoding="utf-8")


def _body(path: Path) -> str:
    """The cells of a notebook as HTML.

    Equations become MathML, and links to other notebooks become links to their pages.
    """
    import nbformat
    from nbconvert import HTMLExporter

    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            text = MATH.sub(_mathml, cell.source)
            cell.source = LINK_TO_NOTEBOOK.sub(r"](\1.html)", text)
        for data in (output.get("data", {}) for output in cell.get("outputs", [])):
            if "text/markdown" in data:  # prose about the data, which a cell has displayed
                data["text/markdown"] = MATH.sub(_mathml, data["text/markdown"])
    body = HTMLExporter(template_name="basic").from_notebook_node(notebook)[0]
    return WIDGET_SCRIPT.sub("", body)


def _mathml(match: re.Match[str]) -> str:
    """MathML, which browsers show by themselves, for a match of MATH; code stays as it is."""
    from latex2mathml.converter import convert

    code, block, inline = match.groups()
    return code or convert(block or inline, display="block" if block else "inline")


def _front(run: Run, folder: Path) -> str:
    """The body of the front page; copies the files that it shows to `folder`."""
    import jinja2

    comparison = run.need("comparison")
    told = io.read_json(run.path / "run.json")
    tree = io.read_json(comparison / "table.json")
    names = [f"{stem}.{kind}" for stem in FIGURES for kind in ("png", "pdf")]
    figures = {name: run.need("figures") / name for name in names}
    files = {
        "table.csv": comparison / "table.csv",
        "run.json": run.path / "run.json",
        "recipe.yaml": run.write_recipe(),
    }
    for name, path in (figures | files).items():
        shutil.copyfile(path, folder / name)
    page = jinja2.Environment(autoescape=True).from_string(_asset("front.html"))
    return page.render(
        run=run.params.run,
        source=io.read_json(run.need("data") / "dataset.json")["source"],
        verdict=[_linked(sentence) for sentence in tree["verdict"]],
        limits=limits.of_judge(run.params, load_dataset(run.need("data")), tree["rows"]),
        n=_images(tree["rows"], fitted=False),
        fitted=_images(tree["rows"], fitted=True),
        enough=ENOUGH,
        short=tables.comparison(_headline(tree["rows"])).hide(["unit"], axis=1).to_html(),
        table=tables.comparison(tree["rows"]).to_html(),
        costs=tables.costs(io.read_json(comparison / "timing.json")).to_html(),
        steps=[told["steps"][step] for step in STEPS],
        provenance=_provenance(told),
        citation=pipeline.cite(run),
        files=list(files),
    )


def _linked(sentence: str) -> str:
    """A sentence of the verdict as HTML, with links to what shows it."""
    text = judged.linked(sentence)
    return text.replace("(memorisation)", '(<a href="04_evaluate.html">memorisation</a>)')


def _headline(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows of the short table, or the first measures where none of them is there."""
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    shown = [metric for metric in HEADLINE if metric in metrics] or metrics[: len(HEADLINE)]
    return [row for metric in shown for row in rows if row["metric"] == metric]


def _images(rows: Sequence[Mapping[str, Any]], fitted: bool) -> int:
    """How many images the measures saw, or how many a lens model was fitted to; 0 for none."""
    return next((row["n"] for row in rows if (row["metric"] == "lens_fit") is fitted), 0)


def _provenance(told: Mapping[str, Any]) -> dict[str, Any]:
    """What run.json says of the code and the machine, as rows of a table."""
    machine = told["hardware"]
    commit = told["commit"] and told["commit"][:12] + (" (modified)" if told["modified"] else "")
    return {
        "lensnb": told["lensnb"],
        "commit": commit or "unknown",
        "seed": told["params"]["seed"],
        "machine": machine["gpu"] or machine["cpu"],
        "threads": machine["threads"],
        "python": told["python"],
        "packages": ", ".join(f"{k} {v}" for k, v in told["packages"].items()),
    }
