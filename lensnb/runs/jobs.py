"""What is to be made for some runs, and what waits for what. The workflow engine asks here.

A part of a run is a step ("02_train": its notebook), a stage ("models/gan": made without a
notebook) or "report". Whether a part is done is asked of the run folder each time; nothing else
keeps a list.
"""

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

from lensnb import io
from lensnb.errors import InputError
from lensnb.recipes import selection
from lensnb.recipes.recipe import Params, load_recipe
from lensnb.runs import artefact
from lensnb.runs.run_folder import POSTERIOR, STAGES, STEPS, Run

REPORT = "report"
Job = tuple[str, str]  # the name of a run, and a part of it


def recipes_meant(variables: Mapping[str, str]) -> list[Params]:
    """The recipes that the environment means: LENSNB_RUNS, or LENSNB_RECIPE and its companions.

    LENSNB_RUNS lists the resolved recipes of runs, taken as they are; else see
    `selection.from_environment`. Raises InputError for a recipe that is not valid.
    """
    resolved = shlex.split(variables.get("LENSNB_RUNS", ""))
    if resolved:
        return [load_recipe(path) for path in resolved]
    return selection.from_environment(variables)


def stages_alone(run: Run) -> list[str]:
    """The stages that can be made without a notebook, such as models/gan and samples/ddim."""
    stages = [stage for step in STEPS for stage in run.stages(step)]
    return [stage for stage in stages if STAGES[stage.partition("/")[0]].many]


def parts(run: Run, spread: bool = False) -> list[str]:
    """All parts of a run, in order; with `spread` the stages that can be made alone, too."""
    return [*STEPS, *(stages_alone(run) if spread else ()), REPORT]


def waits_for(run: Run, part: str, spread: bool = False) -> list[Job]:
    """The jobs that must end before a part of a run can be made.

    spread : whether each stage is a job of its own, before the notebook that shows it.
    """
    name = run.params.run
    if part == REPORT:
        return [(name, STEPS[-1])]
    if "/" in part:
        return [(name, "01_data" if stage == "data" else stage) for stage in run.reads(part)]
    before = STEPS[: STEPS.index(part)][-1:]
    own = [stage for stage in run.stages(part) if "/" in stage] if spread else []
    jobs = [(name, other) for other in (*before, *own)]
    if part == "05_compare":
        siblings = (sibling.run for sibling in run.params.siblings())
        jobs += [(sibling, "04_evaluate") for sibling in siblings if sibling != name]
    return jobs


def plan(recipes: Iterable[Params], spread: bool = False) -> dict[Job, list[Job]]:
    """What is to be made for these recipes: job -> the jobs among them that it waits for.

    Parts that are done are left out. Raises InputError if a newer lensnb has made a run.
    """
    runs = [Run(recipe) for recipe in recipes]
    for run in runs:
        run.record()  # refuses the run of a newer lensnb
    open_jobs = {
        (run.params.run, part): run
        for run in runs
        for part in parts(run, spread)
        if not is_done(run, part)
    }
    return {
        job: [other for other in waits_for(run, job[1], spread) if other in open_jobs]
        for job, run in open_jobs.items()
    }


# ---- what is done


def is_done(run: Run, part: str) -> bool:
    """Whether a part of a run is done: whole, and made by its recipe from what is there now."""
    try:
        if part == REPORT:
            if not all(is_done(run, step) for step in STEPS):
                return False  # it will show other notebooks
            shown = run.record().get(REPORT, {}).get("notebooks")
            return _report_page(run).is_file() and shown == _notebooks(run)
        if "/" in part:
            return run.is_current(part)
        told = io.read_json(receipt(run, part))
        page = receipt(run, part).with_suffix(".ipynb")
        if not page.is_file() or told.get("notebook") != io.sha256(page):
            return False
        return told.get("artefacts") == digests(run, part)
    except InputError:
        return False


def receipt(run: Run, step: str) -> Path:
    """The file that tells of an executed notebook: its hash, and the digests of what it made."""
    return run.path / "notebooks" / f"{step}.json"


def digests(run: Run, step: str) -> dict[str, str]:
    """The digests of the stages of a step; raises InputError if one is not current."""
    return {stage: artefact.digest(run.need(stage)) for stage in run.stages(step)}


def note_report(run: Run) -> None:
    """Note in run.json of which executed notebooks the report was made."""
    run.note(REPORT, "notebooks", _notebooks(run))


def shown(run: Run) -> list[str]:
    """The notebooks that a report shows: all steps, and 07_posterior if it was executed."""
    return [*STEPS, *([POSTERIOR] if receipt(run, POSTERIOR).is_file() else [])]


def _notebooks(run: Run) -> dict[str, str]:
    return {step: io.read_json(receipt(run, step))["notebook"] for step in shown(run)}


def _report_page(run: Run) -> Path:
    return run.folder(REPORT) / "index.html"
