# The chain as a graph, of one run or of many: `lensnb run` starts it. Each rule makes one part of a
# run: a notebook, one stage alone, or the report. What is to be made is asked of the run folders
# (lensnb.runs.jobs), and nothing here repeats it. A job leaves a mark when it has ended; the marks
# belong to this one call, which begins without any.
import os
import re
import shlex
import shutil
import time
from pathlib import Path

from lensnb.errors import InputError
from lensnb.runs import jobs
from lensnb.runs.run_folder import Run

for key in ("FROM", "RUNS", "RECIPE", "SET", "SEEDS", "GENERATORS", "SAMPLERS", "SMOKE", "SPREAD", "OUTPUTS", "FRESH"):
    os.environ.setdefault(f"LENSNB_{key}", "")
os.environ.setdefault("LENSNB_CALL", f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")


envvars:    # what a job on another machine must know
    "LENSNB_FROM",
    "LENSNB_RUNS",
    "LENSNB_RECIPE",
    "LENSNB_SET",
    "LENSNB_SEEDS",
    "LENSNB_GENERATORS",
    "LENSNB_SAMPLERS",
    "LENSNB_SMOKE",
    "LENSNB_SPREAD",
    "LENSNB_OUTPUTS",
    "LENSNB_FRESH",
    "LENSNB_CALL",


try:
    RUNS = {recipe.run: Run(recipe) for recipe in jobs.recipes_meant(os.environ)}
    if workflow.is_main_process:
        for run in RUNS.values():
            run.write_recipe()    # the jobs read it: the same command whatever the overrides
    PLAN = jobs.plan([run.params for run in RUNS.values()], os.environ["LENSNB_SPREAD"] not in ("", "0"))
except InputError as error:
    raise SystemExit(f"lensnb: {error}")
MARKS = f".snakemake/lensnb/{os.environ['LENSNB_CALL']}"
if workflow.is_main_process:
    shutil.rmtree(MARKS, ignore_errors=True)
MARK = MARKS + "/{run}/{part}"
RULES = {  # rule -> its parts (a pattern), memory [MB] and minutes; profiles/ set what a cluster gives
    "01_data": ("01_data", 4000, 60),
    "02_train": ("02_train", 8000, 600),
    "03_sample": ("03_sample", 4000, 120),
    "04_evaluate": ("04_evaluate", 4000, 120),
    "05_compare": ("05_compare", 4000, 30),
    "model": ("models/[^/]+", 8000, 600),
    "samples": ("samples/[^/]+", 4000, 120),
    "evaluation": ("evaluation/[^/]+", 4000, 120),
    "report": ("report", 2000, 10),
}


def waits_for(wildcards):
    """The marks of the jobs that a part of a run waits for."""
    return [MARK.format(run=run, part=part) for run, part in PLAN.get((wildcards.run, wildcards.part), ())]


def recipe(wildcards):
    """The recipe of a run, all defaults and overrides spelled out, as an entry of LENSNB_RUNS."""
    return shlex.quote(str(RUNS[wildcards.run].path / "recipe.yaml"))


def threads_of(wildcards):
    """As many as the recipe asks for; null: as there are."""
    return RUNS[wildcards.run].params.threads or os.cpu_count()


def numpy_threads(wildcards, threads):
    """Threads of numpy: one, whatever a job is given, for the last bits depend on it."""
    return 1 if RUNS[wildcards.run].params.threads else threads


wildcard_constraints:
    run="|".join(map(re.escape, RUNS)),


rule all:
    input:
        [MARK.format(run=run, part=part) for run, part in PLAN],


for rule_name, (pattern, memory, minutes) in RULES.items():

    rule:
        name:
            rule_name
        input:
            waits_for,
        output:
            touch(MARKS + "/{run}/{part," + pattern + "}"),
        params:
            recipe=recipe,
            numpy=numpy_threads,
        threads: threads_of
        resources:
            mem_mb=memory,
            runtime=minutes,
        shell:
            "OMP_NUM_THREADS={params.numpy} OPENBLAS_NUM_THREADS={params.numpy} "
            "MKL_NUM_THREADS={params.numpy} LENSNB_RUNS={params.recipe:q} "
            "python -m lensnb run --step {wildcards.part:q}"


onsuccess:
    shutil.rmtree(MARKS, ignore_errors=True)
    for old in Path(".snakemake/lensnb").glob("*"):    # of calls that were killed
        if time.time() - old.stat().st_mtime > 7 * 86400:
            shutil.rmtree(old, ignore_errors=True)


onerror:
    shutil.rmtree(MARKS, ignore_errors=True)
