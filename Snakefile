# The chain as a graph. Each rule is one notebook, executed by lensnb.run; its output is the receipt that
# is written when the notebook has completed and all that it promises is there. A changed parameter
# re-runs the step that reads it and what depends on it.
import json

from lensnb import params, run, store
from lensnb.errors import InputError

RECIPE, SET = config.get("recipe", "params/quick.yaml"), config.get("set", "")
try:
    P = params.load(store.locate(RECIPE), SET)
    FOLDER = store.Run(P).path / "notebooks"
    RESOLVED = store.Run(P).write_recipe()  # the jobs read it: the same command whatever the overrides
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
for receipt in run.stale(P):  # artefacts that were deleted by hand are made again
    receipt.unlink()


rule all:
    input:
        FOLDER / "05_compare.json",


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
            files=store.fingerprint(P.data.path) if before is None and P.data.path else None,
        shell:
            "python -m lensnb.run {rule} --recipe {RESOLVED:q}"
