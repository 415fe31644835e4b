"""One notebook of the chain: executed by papermill, checked, signed.

    python -m lensnb.apps.execute 02_train --recipe params/quick.yaml --set "train.steps=2000"
    python -m lensnb.apps.execute models/gan --recipe params/quick.yaml      # one stage of it alone, without a notebook

A notebook counts as done when its receipt, notebooks/<step>.json in the run folder, is there:
it is written last, after every code cell has completed and every promised file has been found.
A stage that was made alone has one too, notebooks/<stage>.json.
"""

import argparse
import contextlib
import os
import re
import shutil
import sys
import time
from pathlib import Path

from lensnb import io, pipeline
from lensnb.errors import InputError, nearest, told
from lensnb.recipes import smoke
from lensnb.recipes.recipe import load_recipe
from lensnb.runs import artefact
from lensnb.runs.locks import locked
from lensnb.runs.run_folder import START, STEPS, Run


def execute(step, params):
    """Run notebooks/<step>.ipynb with a recipe; returns the path of its receipt.

    The executed notebook lies in the run folder as notebooks/<step>.ipynb, or as
    <step>.failed.ipynb where a cell failed. Raises InputError where another process executes it.
    """
    run = Run(params)
    run.told()  # nothing is touched of a newer lensnb's
    io.make_folder(run.path / "notebooks")
    with locked(run.path / "notebooks" / step):
        return _execute(step, run)


def _execute(step, run):
    import nbformat
    import papermill

    source = io.home() / "notebooks" / f"{step}.ipynb"
    folder = run.path / "notebooks"
    done = folder / f"{step}.ipynb"
    failed = folder / f"{step}.failed.ipynb"
    receipt = folder / f"{step}.json"
    receipt.unlink(missing_ok=True)
    os.environ["LENSNB_HEADLESS"] = "1"  # the kernel prints lines, no progress bar
    start = time.time()
    try:
        with contextlib.chdir(io.home()), _quiet():
            # only what differs from the defaults is injected, so that a quick run's notebooks are the committed ones
            given = run.params.model_dump(mode="json", exclude_defaults=True)
            papermill.execute_notebook(
                str(source),
                str(failed),
                parameters=given,
                kernel_name="python3",
                progress_bar=False,
                log_output=True,
                cwd=str(io.home()),
                extra_arguments=["--log-level=40"],
            )
    except Exception as error:  # whatever papermill and its kernel raise
        raise InputError(explain(error, failed)) from None
    notebook = nbformat.read(failed, as_version=4)
    check(step, notebook, run)
    sign(notebook)
    os.replace(failed, done)
    entry = {
        "step": step,
        "seconds": round(time.time() - start, 1),
        "notebook": io.sha256(done),
        "artefacts": {stage: artefact.digest(run.need(stage)) for stage in run.stages(step)},
    }
    run.note("steps", step, entry)
    io.write_json(receipt, entry)
    return receipt


MAKES = {
    "models": pipeline.train_model,
    "samples": pipeline.draw_samples,
    "evaluation": pipeline.evaluate_method,
}


def stages(run):
    """The stages of a run that can be made alone, such as models/gan and samples/ddim."""
    return [
        stage for step in STEPS for stage in run.stages(step) if stage.partition("/")[0] in MAKES
    ]


def make(stage, params):
    """Make one stage, such as models/gan, ahead of the notebook that shows it; returns the path of its receipt."""
    run = pipeline.open_run(params)
    kind, _, name = stage.partition("/")
    receipt = run.path / "notebooks" / f"{stage}.json"
    receipt.unlink(missing_ok=True)
    io.make_folder(receipt.parent)
    MAKES[kind](run, name)
    io.write_json(receipt, {"stage": stage, "artefact": artefact.digest(run.need(stage))})
    return receipt


@contextlib.contextmanager
def _quiet():
    """Keep papermill's own log off the screen; the notebook's output is shown."""
    import logging

    logger = logging.getLogger("papermill")
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("  %(message)s"))
    handler.addFilter(
        lambda record: (
            record.levelno == logging.INFO
            and not re.match(r"(Executing|Input|Output|Ending|Starting|-----)", record.getMessage())
        )
    )
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(logging.INFO)
    yield


def explain(error, notebook):
    """What went wrong in a notebook, as one sentence that names it and the cell."""
    if getattr(error, "ename", "") == "InputError":
        return error.evalue
    if hasattr(error, "ename"):
        return f"{notebook}: cell {error.exec_count} raised {error.ename}: {error.evalue}; open the notebook to see where"
    if type(error).__name__ == "DeadKernelError":
        return f"{notebook}: the kernel died in {_unfinished(notebook)}; most often memory ran out: lower batch or data.n"
    return f"{notebook}: {type(error).__name__}: {' '.join(str(error).split())}"


def _unfinished(path):
    """The code cell that was under way: the last that was begun; papermill calls even the later ones completed."""
    import nbformat

    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    begun = [i for i, c in enumerate(cells, 1) if c.metadata.get("papermill", {}).get("start_time")]
    return f"code cell {max(begun, default=1)}"


def check(step, notebook, run):
    """Refuse a notebook that ended early or did not write what it promises."""
    for i, cell in enumerate(
        (c for c in notebook.cells if c.cell_type == "code" and c.source.strip()), 1
    ):
        if (
            cell.metadata.get("papermill", {}).get("status") != "completed"
            or cell.execution_count is None
        ):
            raise InputError(
                f"notebooks/{step}.ipynb: code cell {i} did not complete, though no error was raised"
            )
    missing = [str(run.folder(stage)) for stage in run.stages(step) if not run.is_current(stage)]
    if missing:
        raise InputError(f"notebooks/{step}.ipynb ended without writing {', '.join(missing)}")


def sign(notebook):
    """Mark an executed notebook as trusted on this machine, so that JupyterLab shows its widgets."""
    from nbformat.sign import NotebookNotary

    NotebookNotary().sign(notebook)


def stale(params, copied=None):
    """Receipts of a run whose artefacts are damaged or were made otherwise since, and the report of them; the chain makes these again.

    copied : the folder below which a cluster without a common file system keeps copies of them; those are found as well.
    """
    run = Run(params)
    run.told()
    folder = run.path / "notebooks"
    report = run.path / "report" / "index.html"
    promised = {step: run.stages(step) for step in STEPS} | {
        stage: [stage] for stage in stages(run)
    }
    good = {
        name
        for name, parts in promised.items()
        if (folder / f"{name}.json").is_file() and all(map(run.is_current, parts))
    }
    bad = [folder / f"{name}.json" for name in promised if name not in good]
    bad += (
        [] if good.issuperset(STEPS) and report.is_file() else [report]
    )  # Snakemake asks for the report alone
    copies = [Path(f"{copied}/{path}") for path in bad] if copied else []
    return [path for path in (*bad, *copies) if path.is_file()]


def main(arguments=None):
    """The command line; an InputError becomes one line on stderr and exit status 2."""
    parser = argparse.ArgumentParser(description="Execute one notebook of the chain.")
    parser.add_argument(
        "step",
        help="such as 02_train; or a stage of one, such as models/gan; `report` makes a web site of them",
    )
    parser.add_argument("--recipe", default="params/quick.yaml", type=Path)
    parser.add_argument(
        "--set", default="", dest="overrides", help='such as "train.steps=2000 data.n=500"'
    )
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="a few steps and images only: does the recipe run to the end?",
    )
    parser.add_argument(
        "--receipt", type=Path, help="where a copy of the file is wanted that says that it is done"
    )
    given = parser.parse_args(arguments)
    return told(lambda: _run(given))


def _run(given):
    params = load_recipe(given.recipe, given.overrides)
    params = smoke.shortened(params) if given.smoke else params
    alone = stages(Run(params))
    known = (START, *STEPS, *alone, "report")
    if given.step not in known:
        raise InputError(
            f"{given.step}: no such step; did you mean {nearest(given.step, known) or STEPS[0]}?"
        )
    if given.step == "report":
        from lensnb.apps import report

        page = done = report.write(Run(params))
    elif given.step in alone:
        page = done = make(given.step, params)
    else:
        done = execute(given.step, params)
        page = done.with_suffix(".ipynb")
    if given.receipt and not (given.receipt.exists() and given.receipt.samefile(done)):
        shutil.copy2(done, given.receipt)
    print(f"{given.step}: done, see {os.path.relpath(page)}")


if __name__ == "__main__":
    sys.exit(main())
