# The chain as a graph. Each rule is one notebook, executed by lensnb.run; its output is the receipt that
# is written when the notebook has completed and all that it promises is there. A changed parameter
# re-runs the step that reads it and what depends on it.
import json
import os

from lensnb import params, run, smoke, store
from lensnb.errors import InputError

RECIPE, SET = os.environ.get("LENSNB_RECIPE") or "params/quick.yaml", os.environ.get("LENSNB_SET", "")
try:
    P = params.load(RECIPE, SET)
    P = smoke.shortened(P) if os.environ.get("LENSNB_SMOKE") else P
    FOLDER = store.Run(P).path / "notebooks"
    RESOLVED = store.Run(P).write_recipe()  # the jobs read it: the same command whatever the overrides
    for receipt in run.stale(P):  # what was deleted, or made otherwise by hand, is made again
        receipt.unlink()
except InputError as error:
    raise SystemExit(f"lensnb: {error}")
TREE = P.model_dump(mode="json")
READS = {  # the sections of a recipe that a step reads, beside those that it inherits
    "01_data": ("run", "seed", "data"),
    "02_train": ("model", "diffusion", "train", "gan"),
    "03_sample": ("sample",),
    "04_evaluate": ("evaluate",),
    "05_compare": (),
}


rule all:
    input:
        FOLDER.parent / "report/index.html",


rule report:
    input:
        FOLDER / "05_compare.json",
    output:
        FOLDER.parent / "report/index.html",
    shell:
        "python -m lensnb.run {rule} --recipe {RESOLVED:q}"


for before, step in zip((None, *store.STEPS), store.STEPS):

    rule:
        name:
            step
        input:
            [FOLDER / f"{before}.json"] if before else [],
        output:
            FOLDER / f"{step}.json",
        params:
            recipe=json.dumps({section: TREE[section] for section in READS[step]}),
        shell:
            "python -m lensnb.run {rule} --recipe {RESOLVED:q}"
