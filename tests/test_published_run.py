"""What is kept of a published run makes the run again: here of the tiny chain."""

import shutil

import numpy as np
import pytest

from lensnb import pipeline
from lensnb.errors import InputError
from lensnb.recipes.recipe import load_recipe
from lensnb.runs import artefact
from lensnb.runs.run_folder import Run
from tools import published_run


@pytest.mark.slow
def test_what_is_kept_of_a_run_makes_it_again(tiny_chain, tmp_path):
    run = Run(load_recipe("params/tiny.yaml"), tiny_chain.outputs)
    kept = tmp_path / "kept"
    published_run.keep(run, kept)
    again = Run(run.params, tmp_path / "outputs")
    shutil.copytree(run.folder("data"), again.folder("data"), copy_function=shutil.copy2)
    published_run.restored(again, kept)
    steps = ("02_train", "03_sample", "04_evaluate")
    assert all(again.is_current(stage) for step in steps for stage in again.stages(step))
    assert published_run.whole_methods(run) == ["ddim", "gan"]
    for stage in ("samples/ddim", "evaluation/ddim", "samples/gan", "evaluation/gan"):
        assert artefact.digest(again.need(stage)) == artefact.digest(run.need(stage))
    ours, theirs = (pipeline.load_samples(one, "ddpm") for one in (run, again))
    some = published_run.FIRST
    assert theirs.shape == ours.shape and len(ours) > some
    assert np.abs(theirs[:some] - ours[:some]).max() < 1e-4 * np.ptp(ours)
    asked, repeated = (pipeline.load_asked(one, "ddpm") for one in (run, again))
    assert all((asked[column] == repeated[column]).all() for column in asked)
    numbers = [one.need("evaluation/ddpm") / "metrics.json" for one in (run, again)]
    assert numbers[0].read_text() == numbers[1].read_text()
    other = Run(load_recipe("params/tiny.yaml", "gan.steps=3"), tmp_path / "other")
    with pytest.raises(InputError, match="models/gan was published with another recipe"):
        published_run.restored(other, kept)
