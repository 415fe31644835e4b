"""One part of a run: a notebook executed by papermill, checked and signed, or one stage alone.

A notebook counts as done once its receipt, notebooks/<step>.json in the run folder, is there and
names the digests of stages that are current. The receipt is written last, after every code cell
has completed and every promised stage has been found.
"""

import contextlib
import logging
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lensnb import io, pipeline
from lensnb.errors import InputError, nearest, one_line
from lensnb.recipes.recipe import Params
from lensnb.runs import jobs
from lensnb.runs.locks import locked
from lensnb.runs.run_folder import APART, STEPS, Run

MAKES = {
    "models": pipeline.train_model,
    "samples": pipeline.draw_samples,
    "evaluation": pipeline.evaluate_method,
}


def make(part: str, params: Params) -> Path:
    """Make one part of a run: a step, a stage such as models/gan, or "report".

    Returns the page or folder to look at. Raises InputError for an unknown part.
    """
    run = Run(params)
    alone = jobs.stages_alone(run)
    if part in (*APART, *STEPS):
        return execute(part, params).with_suffix(".ipynb")
    if part in alone:
        kind, _, name = part.partition("/")
        run = pipeline.open_run(params)
        MAKES[kind](run, name)
        return run.folder(part)
    if part == jobs.REPORT:
        from lensnb.apps import report

        page = report.write(run)
        jobs.note_report(run)
        return page
    guess = nearest(part, (*APART, *STEPS, *alone, jobs.REPORT)) or STEPS[0]
    raise InputError(f"{part}: no such step; did you mean {guess}?")


def execute(step: str, params: Params) -> Path:
    """Execute notebooks/<step>.ipynb with a recipe; returns the path of its receipt.

    The executed notebook lies in the run folder as notebooks/<step>.ipynb, or as
    <step>.failed.ipynb if a cell failed. Raises InputError if another process executes it, if a
    cell fails, and if a promised stage is missing at the end.
    """
    run = Run(params)
    run.write_recipe()  # refuses the run of a newer lensnb before anything is touched
    io.make_folder(run.path / "notebooks")
    if step in STEPS:
        print(f"{params.run}: {step}, step {STEPS.index(step) + 1} of {len(STEPS)}", flush=True)
    with locked(run.path / "notebooks" / step):
        return _execute(step, run)


def _execute(step: str, run: Run) -> Path:
    import nbformat

    source = io.home() / "notebooks" / f"{step}.ipynb"
    if not source.is_file():
        raise InputError(f"{source}: no such notebook; lensnb init FOLDER lays out a project")
    receipt = jobs.receipt(run, step)
    failed = receipt.with_suffix(".failed.ipynb")
    receipt.unlink(missing_ok=True)
    start = time.time()
    try:
        _papermill(source, failed, run.params)
    except Exception as error:  # papermill and its kernel raise many kinds
        raise InputError(explain(error, failed)) from None
    notebook = nbformat.read(failed, as_version=4)
    check(step, notebook, run)
    sign(notebook)
    done = receipt.with_suffix(".ipynb")
    os.replace(failed, done)
    seconds = round(time.time() - start, 1)
    made = jobs.digests(run, step)
    entry = {"step": step, "seconds": seconds, "notebook": io.sha256(done), "artefacts": made}
    run.note("steps", step, entry)
    io.write_json(receipt, entry)
    return receipt


def _papermill(source: Path, target: Path, params: Params) -> None:
    """Execute a notebook file into another, in the project's folder."""
    import papermill

    # Only what differs from the defaults is injected. So a quick run's notebooks are those that
    # are committed.
    given = params.model_dump(mode="json", exclude_defaults=True)
    with contextlib.chdir(io.home()), _quiet(), _headless():
        papermill.execute_notebook(
            str(source),
            str(target),
            parameters=given,
            kernel_name="python3",
            progress_bar=False,
            log_output=True,
            cwd=str(io.home()),
            extra_arguments=["--log-level=50"],  # else Ctrl-C logs a traceback
        )


@contextlib.contextmanager
def _headless() -> Iterator[None]:
    """Let the kernel print lines instead of a progress bar."""
    before = os.environ.get("LENSNB_HEADLESS")
    os.environ["LENSNB_HEADLESS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["LENSNB_HEADLESS"]


# Lines of papermill itself, and what a notebook shows that is no text: figures, tables, widgets.
NOISE = re.compile(
    r"(Executing|Input|Output|Ending|Starting|Passed unknown|Working directory|-----)"
    r"|<[\w.]+ (size|object|at)\b.*>$|\w+\((children|value|description)="
)


class _Shown(logging.Formatter):
    """The lines that a notebook prints, without empty ones and without NOISE."""

    def format(self, record: logging.LogRecord) -> str:
        lines = record.getMessage().splitlines()
        return "\n".join(f"  {line}" for line in lines if line.strip() and not NOISE.match(line))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep papermill's own log off the screen, and show what the notebook prints."""
    shown = _Shown()

    def is_output(record: logging.LogRecord) -> bool:
        return record.levelno == logging.INFO and bool(shown.format(record))

    logger = logging.getLogger("papermill")
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(shown)
    handler.addFilter(is_output)
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(logging.INFO)
    yield


def explain(error: Exception, notebook: Path) -> str:
    """What went wrong in a notebook, as one sentence that names the notebook and the cell."""
    name = getattr(error, "ename", "")
    if name == "InputError":
        return getattr(error, "evalue", "")
    if name:
        cell, value = getattr(error, "exec_count", "?"), getattr(error, "evalue", "")
        return f"{notebook}: cell {cell} raised {name}: {value}; open the notebook to see where"
    if type(error).__name__ == "DeadKernelError":
        where = _unfinished(notebook)
        return (
            f"{notebook}: the kernel died in {where}; most often memory ran out: "
            "lower batch or data.n"
        )
    return f"{notebook}: {type(error).__name__}: {one_line(error)}"


def _unfinished(path: Path) -> str:
    """The last code cell that was begun. Papermill calls even the later ones completed."""
    import nbformat

    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    begun = [i for i, c in enumerate(cells, 1) if c.metadata.get("papermill", {}).get("start_time")]
    return f"code cell {max(begun, default=1)}"


def check(step: str, notebook: Any, run: Run) -> None:
    """Refuse a notebook that ended early or did not make what it promises."""
    cells = [c for c in notebook.cells if c.cell_type == "code" and c.source.strip()]
    for i, cell in enumerate(cells, 1):
        completed = cell.metadata.get("papermill", {}).get("status") == "completed"
        if not completed or cell.execution_count is None:
            raise InputError(
                f"notebooks/{step}.ipynb: code cell {i} did not complete, "
                "though no error was raised"
            )
    missing = [str(run.folder(stage)) for stage in run.stages(step) if not run.is_current(stage)]
    if missing:
        raise InputError(f"notebooks/{step}.ipynb ended without writing {', '.join(missing)}")


def sign(notebook: Any) -> None:
    """Mark an executed notebook as trusted on this machine: JupyterLab shows its widgets."""
    from nbformat.sign import NotebookNotary

    NotebookNotary().sign(notebook)
