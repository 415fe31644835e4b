"""A run's executed notebooks as a small web site that needs no network and no kernel: a front page, a page a notebook."""

import re
import shutil
from pathlib import Path

from lensnb import io
from lensnb.display import tables
from lensnb.errors import InputError
from lensnb.runs import artefact
from lensnb.runs.locks import locked
from lensnb.runs.run_folder import STEPS

ASSETS = Path(__file__).with_name("assets")
FIGURES = ("gallery", "z_values", "ratios", "quality_against_time")
MATH = re.compile(
    r"(```.*?```|`[^`\n]+`)|\$\$(.+?)\$\$|(?<![\\$])\$(?!\s)([^$\n]+?)(?<![\s\\])\$", re.DOTALL
)


def write(run):
    """Write outputs/<run>/report/ from the executed notebooks of a whole run; returns the path of its front page.

    The folder can be copied anywhere. Raises InputError where a step has not been run, and where another process writes it.
    """
    notebooks = {step: run.path / "notebooks" / f"{step}.ipynb" for step in STEPS}
    missing = [path for path in notebooks.values() if not path.with_suffix(".json").is_file()]
    if missing:
        raise InputError(
            f"{missing[0]}: not there; the report needs the whole chain, so call make run first"
        )
    folder = run.folder("report")
    run.write_recipe()  # before the lock, which it would take for another process at work
    with locked(folder):
        _write(run, notebooks, folder)
    return folder / "index.html"


def _write(run, notebooks, folder):
    unfinished = artefact.partial(folder)
    shutil.rmtree(unfinished, ignore_errors=True)
    io.make_folder(unfinished)
    pages = [("index.html", run.params.run), *((f"{step}.html", step) for step in notebooks)]
    for step, path in notebooks.items():
        _page(unfinished / f"{step}.html", f"{run.params.run} · {step}", pages, _body(path))
    _page(unfinished / "index.html", f"{run.params.run} · lensnb", pages, _front(run, unfinished))
    artefact.replace(unfinished, folder)


def _page(path, title, pages, body):
    import jinja2
    from pygments.formatters import HtmlFormatter

    css = (ASSETS / "report.css").read_text() + HtmlFormatter(style="friendly").get_style_defs(
        ".highlight pre"
    )
    template = jinja2.Template((ASSETS / "page.html").read_text())
    path.write_text(
        template.render(
            title=title,
            pages=pages,
            here=path.name,
            body=body,
            css=css,
            js=(ASSETS / "report.js").read_text(),
        )
    )


def _body(path):
    """The cells of a notebook as HTML, its equations as MathML, links to other notebooks as links to their pages."""
    import nbformat
    from nbconvert import HTMLExporter

    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(
                r"\]\((\d\d_\w+)\.ipynb\)", r"](\1.html)", MATH.sub(_mathml, cell.source)
            )
    body = HTMLExporter(template_name="basic").from_notebook_node(notebook)[0]
    return re.sub(
        r'<script type="text/javascript">\s*var element = [^<]*</script>', "", body
    )  # asks for a library that is not there


def _mathml(match):
    """MathML, which browsers show by themselves, for $...$ and $$...$$; code stays as it is."""
    from latex2mathml.converter import convert

    code, block, inline = match.groups()
    return code or convert(block or inline, display="block" if block else "inline")


def _front(run, folder):
    import jinja2

    comparison = run.need("comparison")
    told = io.read_json(run.path / "run.json")
    tree = io.read_json(comparison / "table.json")
    costs = io.read_json(comparison / "timing.json")
    files = {f"{stem}.png": run.need("figures") / f"{stem}.png" for stem in FIGURES}
    files |= {
        "table.csv": comparison / "table.csv",
        "run.json": run.path / "run.json",
        "recipe.yaml": run.write_recipe(),
    }
    for name, path in files.items():
        shutil.copyfile(path, folder / name)
    count = {
        key: next((row["n"] for row in tree["rows"] if (row["metric"] == "lens_fit") is fit), 0)
        for key, fit in (("n", False), ("fitted", True))
    }
    return (
        jinja2.Environment(autoescape=True)
        .from_string((ASSETS / "front.html").read_text())
        .render(
            run=run.params.run,
            source=io.read_json(run.need("data") / "dataset.json")["source"],
            verdict=tree["verdict"],
            table=tables.comparison(tree["rows"]).to_html(),
            costs=tables.costs(costs).to_html(),
            steps=[told["steps"][step] for step in STEPS],
            provenance=_provenance(told),
            files=list(files)[len(FIGURES) :],
            **count,
        )
    )


def _provenance(told):
    """What run.json tells of the code and the machine, as rows of a table."""
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
