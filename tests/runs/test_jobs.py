"""What is to be made, and what waits for what: asked of the run folders, kept nowhere else."""

import shutil

import pytest
import torch

import lensnb
from lensnb import io
from lensnb.errors import InputError
from lensnb.recipes import selection
from lensnb.recipes.recipe import load_recipe
from lensnb.runs import artefact, jobs
from lensnb.runs.run_folder import STEPS, Run, _samples_recipe

TINY = "params/tiny.yaml"


@pytest.fixture
def whole(tmp_path):
    """A run in which all is there, made up of empty files."""
    run = Run(selection.expand([TINY], samplers=["ddim"])[0], tmp_path)
    run.write_recipe()
    for step in STEPS:
        for stage in run.stages(step):
            run.build(stage, lambda folder: (folder / "file").write_text(folder.name))
        executed(run, step)
    run.folder("report").mkdir()
    (run.folder("report") / "index.html").touch()
    jobs.note_report(run)
    return run


def executed(run, step):
    """Stand-ins for an executed notebook and its receipt."""
    path = jobs.receipt(run, step)
    path.parent.mkdir(exist_ok=True)
    path.with_suffix(".ipynb").write_text(step)
    notebook = io.sha256(path.with_suffix(".ipynb"))
    io.write_json(path, {"notebook": notebook, "artefacts": jobs.digests(run, step)})


def planned(run, spread=True):
    plan = jobs.plan([run.params], spread)
    assert {name for name, _ in plan} <= {run.params.run}
    return {part: [other for _, other in waits] for (_, part), waits in plan.items()}


@pytest.fixture(autouse=True)
def outputs(tmp_path, monkeypatch):
    monkeypatch.setenv("LENSNB_OUTPUTS", str(tmp_path))


def test_what_waits_for_what():
    one, two = map(Run, selection.expand([TINY], seeds=[0, 1]))

    def waits(part, spread=True):
        return jobs.waits_for(one, part, spread)

    def own(*parts):
        return [(one.params.run, part) for part in parts]

    assert waits("01_data") == [] and waits("models/gan") == own("01_data")
    assert waits("samples/ddim") == own("01_data", "models/diffusion")
    assert waits("evaluation/ddim") == own("01_data", "samples/ddim")
    drawn = ("samples/ddpm", "samples/ddim", "samples/gan")
    assert waits("03_sample") == own("02_train", *drawn)
    assert waits("03_sample", spread=False) == own("02_train")
    assert waits("05_compare") == [*own("04_evaluate"), (two.params.run, "04_evaluate")]
    assert waits("report") == own("05_compare")


def test_of_nothing_all_is_planned_and_of_a_whole_run_nothing(whole):
    fresh = Run(load_recipe(TINY, "run=other"))
    assert list(planned(fresh, spread=False)) == [*STEPS, "report"]
    assert planned(whole) == {} and planned(whole, spread=False) == {}


def test_what_is_deleted_is_planned_with_what_depends_on_it(whole):
    (whole.folder("evaluation/ddim") / "file").unlink()
    assert planned(whole) == {
        "04_evaluate": ["evaluation/ddim"],
        "05_compare": ["04_evaluate"],
        "evaluation/ddim": [],
        "report": ["05_compare"],
    }


def test_what_was_made_otherwise_since_is_planned(whole):
    """Another evaluation in the same place: its notebook shows another digest."""
    shutil.rmtree(whole.folder("evaluation/ddim"))
    whole.build("evaluation/ddim", lambda folder: (folder / "file").write_text("other"))
    assert set(planned(whole)) == {"04_evaluate", "05_compare", "report"}


def test_a_changed_parameter_plans_its_step_and_what_depends_on_it(whole):
    changed = Run(selection.expand([TINY], "evaluate.n=20", samplers=["ddim"])[0], whole.outputs)
    assert set(planned(changed)) == {"evaluation/ddim", "04_evaluate", "05_compare", "report"}


def test_a_report_of_other_notebooks_is_planned(whole):
    whole.note("report", "notebooks", {"05_compare": "another"})
    assert set(planned(whole)) == {"report"}


def test_resolved_recipes_are_taken_as_they_are(whole, tmp_path):
    seeded = selection.expand([TINY], seeds=[0, 1])
    paths = [str(Run(recipe).write_recipe()) for recipe in seeded]
    assert jobs.recipes_meant({"LENSNB_RUNS": " ".join(paths)}) == seeded
    assert jobs.recipes_meant({"LENSNB_RECIPE": TINY}) == [load_recipe(TINY)]


def test_the_run_of_a_newer_lensnb_is_not_planned_but_refused(whole):
    io.write_json(whole.path / "run.json", whole.record() | {"format": io.FORMAT + 1})
    with pytest.raises(InputError, match="made by a newer lensnb"):
        jobs.plan([whole.params])


def test_what_was_verified_once_is_not_verified_again(whole, monkeypatch):
    """A stage is compared with its recipe once in a process, and again when a file changes."""
    read = []
    plain = artefact.recipe_of
    monkeypatch.setattr(artefact, "recipe_of", lambda folder: read.append(folder) or plain(folder))
    run = Run(whole.params, whole.outputs)
    for _ in range(20):
        assert all(run.is_current(stage) for step in STEPS for stage in run.stages(step))
    assert len(read) == len(set(read)) == sum(len(run.stages(step)) for step in STEPS)
    (run.folder("data") / "file").write_text("longer than it was")
    assert not run.is_current("figures") and not run.is_current("data")


def test_a_stage_that_was_replaced_in_the_meantime_is_noticed(whole):
    run = Run(whole.params, whole.outputs)
    assert run.is_current("comparison")
    shutil.rmtree(run.folder("samples/ddim"))
    Run(whole.params, whole.outputs).build(
        "samples/ddim", lambda folder: (folder / "file").write_text("ddjm")
    )
    assert not run.is_current("comparison") and run.is_current("samples/ddim")


def test_a_changed_file_of_the_user_is_noticed_by_a_run_that_is_open(tmp_path):
    path = tmp_path / "mine.npy"
    path.write_text("one")
    run = Run(load_recipe(TINY, f"run=own data.path={path}"))
    run.build("data", lambda folder: (folder / "file").write_text("1"))
    assert run.is_current("data")
    path.write_text("another")
    assert not run.is_current("data")


def test_a_changed_truth_table_is_noticed_by_a_run_that_is_open(tmp_path):
    for name in ("mine.npy", "truth.csv"):
        (tmp_path / name).write_text("one")
    given = f"run=own data.path={tmp_path / 'mine.npy'} data.table={tmp_path / 'truth.csv'}"
    run = Run(load_recipe(TINY, given))
    run.build("data", lambda folder: (folder / "file").write_text("1"))
    assert run.is_current("data")
    (tmp_path / "truth.csv").write_text("another")
    assert not run.is_current("data")


def test_levels_that_sampling_alone_reads_are_part_of_the_samples(whole):
    """Trained again, the model has the same bits, so it does not tell that they have changed."""

    def recipe(schedule, spacing, **levels):
        given = f"run=own diffusion.schedule={schedule} sample.methods.ddim.spacing={spacing}"
        given += "".join(f" diffusion.{key}={value}" for key, value in levels.items())
        return _samples_recipe(Run(load_recipe(TINY, given)), "ddim")

    assert recipe("edm", "schedule", rho=5) != recipe("edm", "schedule", rho=7)
    assert recipe("edm", "karras", rho=5) == recipe("edm", "karras", rho=7)
    assert "levels" not in recipe("cosine", "schedule")  # whose levels the training has


def test_a_run_that_cannot_be_read_is_not_among_the_finished(whole, monkeypatch):
    (whole.outputs / "newer").mkdir()
    (whole.outputs / "newer" / artefact.RECIPE).write_text("run: newer\nunknown: 1\n")
    monkeypatch.setattr(torch, "set_num_threads", None)  # a kernel's number is not changed
    assert [run.params.run for run in lensnb.pipeline._finished()] == [whole.params.run]
    with pytest.raises(InputError, match="unknown"):
        lensnb.compare(["newer"])


def test_a_spoiled_notebook_is_executed_again(whole):
    jobs.receipt(whole, "04_evaluate").with_suffix(".ipynb").write_text("spoiled")
    assert set(planned(whole)) == {"04_evaluate", "report"}


def test_what_was_made_without_the_chain_can_be_opened_by_its_name(tmp_path):
    run = Run(load_recipe(TINY, "run=own seed=5"))
    run.build("data", lambda folder: (folder / "file").write_text("1"))
    assert lensnb.open_run("own").params == run.params


def test_a_key_that_is_younger_than_a_run_decides_only_when_it_is_used(whole):
    def decides(**changes):
        methods = {"ddim": whole.params.sample.methods["ddim"].model_copy(update=changes)}
        sample = whole.params.sample.model_copy(update={"methods": methods})
        run = Run(whole.params.model_copy(update={"sample": sample}), whole.outputs)
        return set(run.recipe("samples/ddim")["method"])

    older = "model sampler steps eta variance clip guidance spacing sigma_min sigma_max rho"
    assert decides() == set(older.split())
    assert decides(guidance_low=0.5, guide="step-500") - decides() == {"guidance_low", "guide"}
    assert decides(start="mean") - decides() == {"start"}
