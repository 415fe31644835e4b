# The chain as a graph, of one run or of many. Each rule is one notebook, executed by lensnb.apps.execute; its output is the
# receipt that is written when the notebook has completed and all that it promises is there. A changed parameter
# re-runs the step that reads it and what depends on it. LENSNB_SPREAD makes each model, and what each method draws and
# is worth, a job of its own before the notebook that shows it. Outputs are receipts, for Snakemake removes those of a failed job.
import json
import os
import re

from lensnb.apps import execute
from lensnb.errors import InputError
from lensnb.recipes import selection
from lensnb.runs.run_folder import STEPS, Run, receipt, waits_for as needed

for key in ("RECIPE", "SET", "SEEDS", "GENERATORS", "SAMPLERS", "SMOKE", "SPREAD", "OUTPUTS"):
    os.environ.setdefault(f"LENSNB_{key}", "")


envvars:    # what a job on another machine must know
    "LENSNB_RECIPE",
    "LENSNB_SET",
    "LENSNB_SEEDS",
    "LENSNB_GENERATORS",
    "LENSNB_SAMPLERS",
    "LENSNB_SMOKE",
    "LENSNB_SPREAD",
    "LENSNB_OUTPUTS",


try:
    RUNS = {recipe.run: recipe for recipe in selection.from_environment(os.environ)}
    for recipe in RUNS.values() if workflow.is_main_process else ():
        Run(recipe).write_recipe()    # the jobs read it: the same command whatever the overrides
        for receipt in execute.stale(recipe, workflow.storage_settings.default_storage_prefix):     # deleted, or made otherwise by hand
            receipt.unlink()
except InputError as error:
    raise SystemExit(f"lensnb: {error}")
SPREAD = bool(os.environ["LENSNB_SPREAD"])
RUN = Run(next(iter(RUNS.values()))).outputs / "{run}"
READS = {  # the sections of a recipe that a step reads, beside those that it inherits
    "01_data": ("run", "seed", "data"),
    "02_train": ("model", "diffusion", "train", "gan"),
    "03_sample": ("sample",),
    "04_evaluate": ("evaluate",),
    "05_compare": ("seeds",),
}
NEEDS = {  # memory [MB] and minutes, enough for an hour's recipe; profiles/ set what a cluster gives
    "01_data": (4000, 60),
    "02_train": (8000, 600),
    "03_sample": (4000, 120),
    "04_evaluate": (4000, 120),
    "05_compare": (4000, 30),
}
STAGES = {"model": ("models", "02_train"), "samples": ("samples", "03_sample"), "evaluation": ("evaluation", "04_evaluate")}
COMMAND = (
    "OMP_NUM_THREADS={params.numpy} OPENBLAS_NUM_THREADS={params.numpy} MKL_NUM_THREADS={params.numpy} "
    "python -m lensnb.apps.execute {params.part} --recipe {params.given:q} --receipt {output:q}"
)


def waits_for(part):
    """The receipts that a job waits for; `part` is a step, or a stage with the wildcard {name}."""
    wanted = lambda wildcards: needed(RUNS[wildcards.run], part.format(**wildcards), SPREAD)
    return lambda wildcards: [receipt(RUNS[name], other) for name, other in wanted(wildcards)]


def numpys(wildcards, threads):
    """Threads of numpy: one, whatever a job is given, for the last bits depend on it; torch has the recipe's."""
    return 1 if RUNS[wildcards.run].threads else threads


def resolved(wildcards):
    """The recipe of a run, all defaults and overrides spelled out."""
    return Run(RUNS[wildcards.run]).path / "recipe.yaml"


def read_by(step):
    """The sections of a run's recipe that a step reads, as text."""
    return lambda wildcards: json.dumps({section: RUNS[wildcards.run].model_dump(mode="json")[section] for section in READS[step]})


def threads_of(wildcards):
    """As many as the recipe asks for; null: as there are."""
    return RUNS[wildcards.run].threads or os.cpu_count()


wildcard_constraints:
    run="|".join(map(re.escape, RUNS)),
    name="[^/]+",


rule all:
    input:
        expand(str(RUN / "report/index.html"), run=RUNS),


for step in STEPS:

    rule:
        name:
            step
        input:
            waits_for(step),
        output:
            RUN / f"notebooks/{step}.json",
        params:
            part=step,
            given=resolved,
            numpy=numpys,
            recipe=read_by(step),
        threads: threads_of
        resources:
            mem_mb=NEEDS[step][0],
            runtime=NEEDS[step][1],
        shell:
            COMMAND


for rule_name, (kind, step) in STAGES.items():

    rule:
        name:
            rule_name
        input:
            waits_for(f"{kind}/{{name}}"),
        output:
            RUN / f"notebooks/{kind}/{{name}}.json",
        params:
            part=lambda wildcards, kind=kind: f"{kind}/{wildcards.name}",
            given=resolved,
            numpy=numpys,
            recipe=read_by(step),
        threads: threads_of
        resources:
            mem_mb=NEEDS[step][0],
            runtime=NEEDS[step][1],
        shell:
            COMMAND


rule report:
    input:
        RUN / "notebooks/05_compare.json",
    output:
        RUN / "report/index.html",
    params:
        part="report",
        given=resolved,
        numpy=1,
    resources:
        mem_mb=2000,
        runtime=10,
    shell:
        COMMAND
