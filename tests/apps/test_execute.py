"""The whole chain with the tiny recipe: Snakemake, papermill, a kernel for each notebook."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import psutil
import pytest
import yaml

from lensnb import io, pipeline
from lensnb.apps.execute import execute
from lensnb.errors import STOPPED, InputError
from lensnb.evaluation.measures import labels
from lensnb.recipes.recipe import load_recipe
from lensnb.runs import artefact, jobs
from lensnb.runs.run_folder import STEPS

ROOT = Path(__file__).parents[2]
TINY = "params/tiny.yaml"
# The measures that need neither Inception nor a second band, and those that need lenses.
FOR_LENSES = set(labels()) - {"fid", "bands"}
FOUND_OR_FITTED = {
    "class_shares",
    "frechet_oriented",
    "lens_fit",
    "lens_fit_by_class",
    "lenses_found",
    "readings",
    "readings_each",
    "readings_pairs",
    "ring_radius",
}
PATIENCE = 7200  # seconds; beside other work a chain may take many times as long as alone


def environment(outputs, **given):
    """The environment of a command that keeps its runs in `outputs`."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "LENSNB_OUTPUTS": str(outputs)} | given


def call(*command, outputs, cwd=ROOT, **given):
    """Run a command as a user would; returns (exit code, everything printed)."""
    done = subprocess.run(
        command,
        cwd=cwd,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=PATIENCE,
        env=environment(outputs, **given),
    )
    return done.returncode, done.stdout


def engine(outputs, *targets):
    """The engine that `lensnb run` starts, its own state kept beside the outputs."""
    return [
        *("snakemake", "--cores", "1", "--quiet", "all", "--nolock", "--rerun-incomplete"),
        *("--directory", str(outputs), "--snakefile", str(ROOT / "Snakefile")),
        *targets,
    ]


def meant(recipe, overrides):
    """The variables that tell the engine what is meant."""
    return {"LENSNB_RECIPE": str(ROOT / recipe), "LENSNB_SET": overrides}


def snakemake(outputs, recipe=TINY, overrides="", *targets, **given):
    command = engine(outputs, *targets)
    return call(*command, outputs=outputs, **meant(recipe, overrides), **given)


@pytest.fixture(scope="module")
def outputs(tiny_chain):
    """The tiny chain, run once from nothing."""
    return tiny_chain.outputs


@pytest.fixture
def copy(outputs, tmp_path, monkeypatch):
    """A copy of the tiny chain, where runs of this process are kept."""
    monkeypatch.setenv("LENSNB_OUTPUTS", str(tmp_path / "copy"))
    return shutil.copytree(outputs, tmp_path / "copy", copy_function=shutil.copy2)


def hashes(folder):
    """What every stage of the run holds, its digest, and when it was written; without kept runs."""
    return {
        str(p.parent.relative_to(folder)): (artefact.digest(p.parent), p.stat().st_mtime_ns)
        for p in sorted(folder.rglob("artefact.json"))
        if "~" not in p.relative_to(folder).parts[0]
    }


def test_the_chain_leaves_executed_notebooks_figures_tables_and_provenance(outputs):
    run = outputs / "tiny"
    for name in STEPS:
        notebook = nbformat.read(run / "notebooks" / f"{name}.ipynb", as_version=4)
        assert all(
            c.metadata.papermill.status == "completed"
            for c in notebook.cells
            if c.cell_type == "code"
        )
        assert any(
            o.get("output_type") == "display_data" or "image/png" in o.get("data", {})
            for c in notebook.cells
            for o in c.get("outputs", [])
        ), name
    table = io.read_table(run / "comparison" / "table.csv")
    assert len(table["value"]) == 3 * len(FOR_LENSES)
    assert set(table["method"]) == {"ddpm", "ddim", "gan"}
    assert all(np.isfinite(table[key]).all() for key in ("value", "error", "floor", "floor_error"))
    assert (table["n"] == np.where(np.char.startswith(table["metric"], "lens_fit"), 4, 24)).all()
    assert set(table["metric"]) == FOR_LENSES
    told = io.read_json(run / "comparison" / "table.json")["verdict"]
    assert "numbers are read together" in told[0] and len(told) > 1
    told = io.read_json(run / "run.json")
    assert (
        set(told["steps"]) == set(STEPS)
        and told["params"]["run"] == "tiny"
        and told["hardware"]["threads"] >= 1
    )
    assert all(
        entry["sha256"] == io.sha256(run / stage / name)
        for stage, artefact in told["artefacts"].items()
        for name, entry in artefact["files"].items()
    )
    assert sorted(p.name for p in (run / "figures").glob("*.p*")) == [
        f"{stem}.{suffix}"
        for stem in ("gallery", "quality_against_time", "ratios", "z_values")
        for suffix in ("pdf", "png")
    ]
    assert not list(run.rglob("*.partial*"))


def test_every_method_writes_files_of_the_same_shape(outputs):
    samples = outputs / "tiny" / "samples"
    listing = {m: sorted(p.name for p in (samples / m).iterdir()) for m in ("ddpm", "ddim", "gan")}
    assert listing["ddpm"] == listing["ddim"] == listing["gan"]
    for method in listing:
        images = np.load(samples / method / "images.npy")
        assert images.shape == (24, 1, 32, 32) and images.dtype == np.float32 and images.std() > 0
    seen = np.load(outputs / "tiny/data/images.npy")[np.load(outputs / "tiny/data/train.npy")]
    shown = np.load(samples / "ddim" / "images.npy")[:2].clip(
        seen.min(), seen.max()
    )  # frames keep to the training range
    assert np.abs(np.load(samples / "ddim" / "x0.npy")[-1] - shown).max() < 1e-3


def different(before, after):
    """The stages that were written since."""
    assert after.keys() == before.keys()
    return {stage for stage in after if after[stage] != before[stage]}


def contents(found):
    """The digests alone, without the figures, one of which shows seconds."""
    return {stage: digest for stage, (digest, _) in found.items() if "figures" not in stage}


def make_stages(run):
    """Make all that is not current in this process, as the jobs of a chain do."""
    pipeline.make_data(run)
    for stage in run.stages("02_train"):
        pipeline.train_model(run, stage.partition("/")[2])
    for method in run.params.sample.methods:
        pipeline.draw_samples(run, method)
        pipeline.evaluate_method(run, method)
    pipeline.compare_methods(run)


def test_a_changed_parameter_makes_its_stage_and_what_depends_on_it(copy):
    """Which notebooks are executed for it is tested in runs/test_jobs.py."""
    before = hashes(copy)
    run = pipeline.open_run(load_recipe(TINY, "gan.steps=3"))
    assert set(jobs.plan([run.params], spread=True)) == {
        ("tiny", part)
        for part in (*STEPS[1:], "models/gan", "samples/gan", "evaluation/gan", "report")
    }
    make_stages(run)
    assert different(before, hashes(copy)) == {
        f"tiny/{stage}" for stage in ("models/gan", "samples/gan", "evaluation/gan", "comparison")
    }


def test_what_was_made_otherwise_by_hand_or_deleted_is_made_again_and_nothing_else(copy):
    """What was run alone with other parameters replaces its stage. The chain takes the old back."""
    before = hashes(copy)
    pipeline.train_model(pipeline.open_run(load_recipe(TINY, "gan.steps=2")), "gan")
    assert different(before, hashes(copy)) == {"tiny/models/gan"}
    made_otherwise = "models/gan: made with other parameters or from other files"
    with pytest.raises(InputError, match=f"{made_otherwise}; run notebooks/02_train.ipynb again"):
        pipeline.draw_samples(pipeline.open_run(load_recipe(TINY)), "gan")
    (copy / "tiny/samples/ddim/images.npy").unlink()
    run = pipeline.open_run(load_recipe(TINY))
    planned = {part for _, part in jobs.plan([run.params], spread=True)}
    assert {"models/gan", "samples/ddim"} <= planned and "models/diffusion" not in planned
    make_stages(run)
    after = hashes(copy)
    assert contents(after) == contents(before)
    assert different(before, after) == {"tiny/models/gan", "tiny/samples/ddim"}


def test_plain_papermill_writes_the_same_files(outputs, copy, tmp_path):
    """The first notebook from nothing, the last from what the chain has made before it."""
    for stage in ("data", "comparison", "figures"):
        shutil.rmtree(copy / "tiny" / stage)
    for name in (STEPS[0], STEPS[-1]):
        code, printed = call(
            *("papermill", f"notebooks/{name}.ipynb", str(tmp_path / "out.ipynb")),
            *("-f", TINY, "-k", "python3"),
            outputs=copy,
        )
        assert code == 0, printed
    before = hashes(outputs)
    after = hashes(copy)
    assert contents(after) == contents(before)
    assert different(before, after) == {"tiny/data", "tiny/comparison", "tiny/figures"}


def test_a_chain_killed_in_its_training_goes_on_and_ends_with_the_same_bits(
    outputs, tmp_path, monkeypatch
):
    """Snakemake, papermill and the kernel at once, as when a machine is lost."""
    long = "train.steps=100 train.checkpoint_every=10"
    for folder in ("cut", "whole"):
        data = tmp_path / folder / "tiny/data"
        shutil.copytree(outputs / "tiny/data", data, copy_function=shutil.copy2)
    (tmp_path / "cut/tiny/notebooks").mkdir()
    for path in (outputs / "tiny/notebooks").glob("01_data.*"):  # that step is done
        shutil.copy2(path, tmp_path / "cut/tiny/notebooks")
    given = {"LENSNB_CALL": "one", "LENSNB_SAMPLERS": "ddim"}  # and so no GAN
    mark = ".snakemake/lensnb/one/tiny/02_train"  # of the job
    cut = subprocess.Popen(
        engine(tmp_path / "cut", mark),
        cwd=ROOT,
        env=environment(tmp_path / "cut", **meant(TINY, long), **given),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    checkpoint = tmp_path / "cut/tiny/models/.diffusion.partial/checkpoint.pt"
    while not checkpoint.exists() and cut.poll() is None:
        time.sleep(0.02)
    for process in (*psutil.Process(cut.pid).children(recursive=True), cut):
        process.kill()
    cut.wait()
    assert checkpoint.exists() and not (tmp_path / "cut/tiny/models/diffusion").exists()
    code, printed = snakemake(tmp_path / "cut", TINY, long, mark, **given)
    assert code == 0 and "resumed at step" in printed, printed
    monkeypatch.setenv("LENSNB_OUTPUTS", str(tmp_path / "whole"))
    recipe = load_recipe(tmp_path / "cut/tiny/recipe.yaml")
    pipeline.train_model(pipeline.open_run(recipe), "diffusion")
    ours, theirs = (
        artefact.digest(tmp_path / folder / "tiny/models/diffusion") for folder in ("cut", "whole")
    )
    assert ours == theirs


def test_executed_notebooks_are_trusted(tiny_chain):
    from nbformat.sign import NotebookNotary

    notary = NotebookNotary(data_dir=str(tiny_chain.jupyter))
    paths = sorted((tiny_chain.outputs / "tiny" / "notebooks").glob("*.ipynb"))
    assert [path.stem for path in paths] == list(STEPS)
    for path in paths:
        assert notary.check_signature(nbformat.read(path, as_version=4)), path.name


def test_a_wrong_recipe_stops_the_chain_with_one_sentence(tmp_path):
    code, printed = snakemake(tmp_path, TINY, "train.stepz=3")
    assert (
        code != 0
        and "unknown key train.stepz; did you mean train.steps?" in printed
        and "Traceback" not in printed
    )
    assert not (tmp_path / "tiny").exists()


def project_with(tmp_path, name, source, tags=()):
    """A copy of the project in which one notebook has one more cell, before its last."""
    for folder in ("notebooks", "params"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    path = tmp_path / "notebooks" / f"{name}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    at = (
        next(i for i, c in enumerate(notebook.cells) if "parameters" in c.metadata.get("tags", []))
        + 1
    )
    notebook.cells.insert(at, nbformat.v4.new_code_cell(source))
    nbformat.write(notebook, path)
    return tmp_path


@pytest.mark.parametrize(
    "source, expected",
    [
        ("raise SystemExit(0)", "code cell"),
        ("import os; os._exit(0)", "kernel died in code cell 3"),
        ("1 / 0", "cell 3 raised ZeroDivisionError: division by zero"),
        ("import lensnb; raise lensnb.InputError('say this')", "^say this$"),
    ],
    ids=["exit", "dead", "error", "input"],
)
def test_a_notebook_that_does_not_complete_fails_the_run(tmp_path, monkeypatch, source, expected):
    monkeypatch.chdir(project_with(tmp_path, "01_data", source))
    monkeypatch.setenv("LENSNB_OUTPUTS", str(tmp_path / "out"))
    with pytest.raises(InputError, match=expected):
        execute("01_data", load_recipe("params/tiny.yaml"))
    assert not list((tmp_path / "out").rglob("01_data.json")) and not list(
        (tmp_path / "out").rglob("01_data.ipynb")
    )


@pytest.mark.parametrize("part", [("--step", "01_data"), ()], ids=["a step", "a run"])
def test_ctrl_c_is_one_sentence_and_takes_the_kernel_along(tmp_path, part):
    """A real SIGINT to all that the terminal runs: the command, the engine, its job, the kernel."""
    project = project_with(
        tmp_path, "01_data", "import time; print('asleep', flush=True); time.sleep(600)"
    )
    shutil.copy(ROOT / "Snakefile", project)
    running = subprocess.Popen(
        [sys.executable, "-u", "-m", "lensnb", "run", "params/tiny.yaml", "--cores", "1", *part],
        cwd=project,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(tmp_path / "out"),
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert any("asleep" in line for line in iter(running.stdout.readline, ""))
    kernels = psutil.Process(running.pid).children(recursive=True)
    os.killpg(running.pid, signal.SIGINT)
    _, told = running.communicate(timeout=PATIENCE)
    assert running.returncode == 130
    assert told == f"lensnb: {STOPPED}\n"
    assert kernels and not psutil.wait_procs(kernels, timeout=PATIENCE)[1]
    left = {p.name for p in (tmp_path / "out/tiny").rglob("*") if p.is_file()}
    assert left <= {"recipe.yaml", "run.json", "01_data.failed.ipynb"}, left


def test_a_notebook_that_forgets_its_files_fails_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(project_with(tmp_path, "01_data", "pass"))
    monkeypatch.setenv("LENSNB_OUTPUTS", str(tmp_path / "out"))
    path = tmp_path / "notebooks" / "01_data.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = notebook.cells[:3]
    nbformat.write(notebook, path)
    with pytest.raises(InputError, match="ended without writing .*tiny/data"):
        execute("01_data", load_recipe("params/tiny.yaml"))


def test_steps_out_of_order_are_told_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("LENSNB_OUTPUTS", str(tmp_path))
    with pytest.raises(InputError, match="run notebooks/01_data.ipynb first"):
        pipeline.load_data(pipeline.open_run(load_recipe(TINY)))


def test_bad_images_end_the_chain_with_one_sentence(tmp_path):
    """One of the bad_input cases, here through Snakemake, papermill and a kernel."""
    np.save(tmp_path / "mine.npy", np.full((40, 32, 32), np.nan))
    code, printed = snakemake(tmp_path / "out", TINY, f"data.path='{tmp_path / 'mine.npy'}'")
    told = [line for line in printed.splitlines() if line.startswith("lensnb: ")]
    assert code != 0 and len(told) == 1 and "mine.npy, image " in told[0], printed
    assert (
        "Traceback" not in printed
        and not list((tmp_path / "out").rglob("*.partial"))
        and not list((tmp_path / "out").rglob(".*.lock"))
    )


def test_the_recipe_in_the_run_folder_is_complete(outputs):
    tree = yaml.safe_load((outputs / "tiny" / "recipe.yaml").read_text())
    assert tree["train"]["clip"] == 1.0 and tree["run"] == "tiny"


def test_the_chain_runs_on_images_that_nobody_here_made(tmp_path, monkeypatch):
    """DeepLenseSim's own output: a folder of classes, noise-free, of other units and size.

    The stages are made in this process; the first and the last notebook show them.
    """
    shared = ROOT.parent / "shared" / "data" / "deeplensesim"
    if not shared.is_dir():
        pytest.skip(f"{shared.name}: the folder of real DeepLenseSim output is not here")
    for theirs, name in (("no_sub", "no"), ("cdm", "sphere"), ("axion", "vort")):
        folder = tmp_path / "lenses" / "train" / name
        folder.mkdir(parents=True)
        for i, image in enumerate(np.load(shared / f"model_II_{theirs}.npz")["images"]):
            np.save(folder / f"{i}.npy", image.astype(">f8"))
    monkeypatch.setenv("LENSNB_OUTPUTS", str(tmp_path / "out"))
    recipe = load_recipe(
        TINY,
        f"data.path='{tmp_path / 'lenses'}' data.pixel_scale=0.101 data.scaling=minmax "
        "model.context=class sample.n=16",
    )
    execute("01_data", recipe)
    make_stages(pipeline.open_run(recipe))
    execute("05_compare", recipe)
    run = tmp_path / "out" / "tiny"
    table = io.read_table(run / "comparison" / "table.csv")
    assert (
        len(table["value"]) == 3 * len(FOR_LENSES - FOUND_OR_FITTED)
        and set(table["metric"]) == FOR_LENSES - FOUND_OR_FITTED
        and np.isfinite(table["value"]).all()
        and (table["n"] == 16).all()
    )
    kept = np.load(run / "data" / "images.npy")
    assert kept.shape == (300, 1, 32, 32) and io.read_json(run / "data" / "dataset.json")[
        "classes"
    ] == ["no_sub", "cdm", "vortex"]
    assert np.load(run / "samples/ddim/images.npy").std() > 0
