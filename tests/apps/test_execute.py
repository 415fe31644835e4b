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

from lensnb import io
from lensnb.runs import artefact
from lensnb.runs.run_folder import STEPS

ROOT = Path(__file__).parents[2]
TINY = "params/tiny.yaml"
PATIENCE = 7200  # seconds; beside other work a chain may take many times as long as alone


def call(*command, outputs, cwd=ROOT, **env):
    """Run a command as a user would; returns (exit code, everything printed)."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command,
        cwd=cwd,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=PATIENCE,
        env={**os.environ, "PATH": path, "LENSNB_OUTPUTS": str(outputs), **env},
    )
    return done.returncode, done.stdout


def snakemake(outputs, recipe=TINY, overrides="", *flags, **env):
    """The engine that `lensnb run` starts, its own state kept beside the outputs."""
    return call(
        "snakemake",
        "--cores",
        "1",
        "--quiet",
        "all",
        "--nolock",
        "--rerun-incomplete",
        "--directory",
        str(outputs),
        "--snakefile",
        str(ROOT / "Snakefile"),
        *flags,
        outputs=outputs,
        LENSNB_RECIPE=str(ROOT / recipe),
        LENSNB_SET=overrides,
        **env,
    )


def step(outputs, name, overrides="", recipe=TINY, **kwargs):
    changes = ["--set", overrides] if overrides else []
    command = [sys.executable, "-m", "lensnb", "run", str(recipe), *changes, "--step", name]
    return call(*command, outputs=outputs, **kwargs)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """The tiny chain, run once from nothing."""
    folder = tmp_path_factory.mktemp("outputs")
    code, printed = snakemake(folder)
    assert code == 0, printed
    return folder


def hashes(folder):
    """What every stage of a run holds: its digest, and when it was written."""
    return {
        str(p.parent.relative_to(folder)): (artefact.digest(p.parent), p.stat().st_mtime_ns)
        for p in sorted(folder.rglob("artefact.json"))
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
    assert len(table["value"]) == 3 * 23 and set(table["method"]) == {"ddpm", "ddim", "gan"}
    assert all(np.isfinite(table[key]).all() for key in ("value", "error", "floor", "floor_error"))
    assert (table["n"] == np.where(table["metric"] == "lens_fit", 4, 24)).all()
    assert {
        "frechet_lensnet",
        "kid",
        "recall",
        "told_apart",
        "spectrum",
        "ring_radius",
        "minkowski",
    } <= set(table["metric"])
    assert len(io.read_json(run / "comparison" / "table.json")["verdict"]) == 3
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


def test_nothing_is_done_twice(outputs):
    before = hashes(outputs)
    pages = [*outputs.rglob("notebooks/*.json"), *outputs.rglob("report/index.html")]
    written = [path.stat().st_mtime_ns for path in pages]
    code, printed = snakemake(outputs)
    assert code == 0 and hashes(outputs) == before, printed
    assert len(pages) == 6 and [path.stat().st_mtime_ns for path in pages] == written


def test_a_changed_parameter_runs_its_step_and_what_depends_on_it(outputs, tmp_path):
    shutil.copytree(outputs, tmp_path / "copy", copy_function=shutil.copy2)
    before = hashes(tmp_path / "copy")
    code, printed = snakemake(tmp_path / "copy", TINY, "gan.steps=3")
    after = hashes(tmp_path / "copy")
    assert code == 0, printed
    changed = {stage for stage in after if after[stage] != before[stage]}
    assert changed == {
        f"tiny/{s}"
        for s in ("models/gan", "samples/gan", "evaluation/gan", "comparison", "figures")
    }


def test_a_deleted_file_is_made_again_with_the_same_content(outputs, tmp_path):
    shutil.copytree(outputs, tmp_path / "copy", copy_function=shutil.copy2)
    before = hashes(tmp_path / "copy")
    (tmp_path / "copy/tiny/samples/ddim/images.npy").unlink()
    code, printed = snakemake(tmp_path / "copy")
    after = hashes(tmp_path / "copy")
    assert code == 0, printed
    assert (
        after["tiny/samples/ddim"][0] == before["tiny/samples/ddim"][0]
        and after["tiny/samples/ddpm"] == before["tiny/samples/ddpm"]
    )


def test_plain_papermill_writes_the_same_files(outputs, tmp_path):
    for name in STEPS:
        code, printed = call(
            "papermill",
            f"notebooks/{name}.ipynb",
            str(tmp_path / "out.ipynb"),
            "-f",
            TINY,
            "-k",
            "python3",
            outputs=tmp_path,
        )
        assert code == 0, printed
    ours = hashes(outputs / "tiny")
    plain = hashes(tmp_path / "tiny")
    assert plain.keys() == ours.keys()
    assert {s: d for s, (d, _) in plain.items() if s != "figures"} == {
        s: d for s, (d, _) in ours.items() if s != "figures"
    }


def test_what_was_made_otherwise_by_hand_is_noticed(outputs, tmp_path):
    """A notebook run alone with other parameters replaces its stage. The chain makes it again."""
    shutil.copytree(outputs, tmp_path / "copy", copy_function=shutil.copy2)
    before = hashes(tmp_path / "copy")
    code, printed = step(tmp_path / "copy", "02_train", "gan.steps=2")
    assert code == 0, printed
    code, printed = step(tmp_path / "copy", "03_sample")
    made_otherwise = "models/gan: made with other parameters or from other files"
    assert code == 2
    assert f"{made_otherwise}; run notebooks/02_train.ipynb again" in printed
    code, printed = snakemake(tmp_path / "copy")
    after = hashes(tmp_path / "copy")
    assert code == 0, printed
    assert (
        after["tiny/models/gan"][0] == before["tiny/models/gan"][0]
        and after["tiny/models/diffusion"] == before["tiny/models/diffusion"]
    )


def test_a_chain_killed_in_its_training_goes_on_and_ends_with_the_same_bits(outputs, tmp_path):
    long = "train.steps=400 train.checkpoint_every=20"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {
        **os.environ,
        "PATH": path,
        "LENSNB_RECIPE": str(ROOT / TINY),
        "LENSNB_SET": long,
    }
    command = [
        "snakemake",
        "--cores",
        "1",
        "--quiet",
        "all",
        "--nolock",
        "--rerun-incomplete",
        "--snakefile",
        str(ROOT / "Snakefile"),
    ]

    def trained(folder):
        return ".snakemake/lensnb/one/tiny/02_train"  # the mark of the job

    for folder in ("cut", "whole"):
        shutil.copytree(
            outputs / "tiny" / "data",
            tmp_path / folder / "tiny" / "data",
            copy_function=shutil.copy2,
        )
    cut = subprocess.Popen(
        [*command, "--directory", str(tmp_path / "cut"), trained("cut")],
        cwd=ROOT,
        env={**environment, "LENSNB_CALL": "one", "LENSNB_OUTPUTS": str(tmp_path / "cut")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    checkpoint = tmp_path / "cut/tiny/models/.diffusion.partial/checkpoint.pt"
    deadline = time.time() + PATIENCE
    while not checkpoint.exists() and time.time() < deadline:
        time.sleep(0.05)
    for process in (
        *psutil.Process(cut.pid).children(recursive=True),
        cut,
    ):  # Snakemake, papermill and the kernel at once
        process.kill()
    cut.wait()
    assert checkpoint.exists() and not (tmp_path / "cut/tiny/models/diffusion").exists()
    for folder in ("cut", "whole"):
        code, printed = snakemake(tmp_path / folder, TINY, long, trained(folder), LENSNB_CALL="one")
        assert code == 0, printed
        assert ("resumed at step" in printed) == (folder == "cut")
    assert artefact.digest(tmp_path / "cut/tiny/models/diffusion") == artefact.digest(
        tmp_path / "whole/tiny/models/diffusion"
    )


def test_executed_notebooks_are_trusted(outputs):
    from nbformat.sign import NotebookNotary

    for path in (outputs / "tiny" / "notebooks").glob("*.ipynb"):
        assert NotebookNotary().check_signature(nbformat.read(path, as_version=4)), path.name


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
        ("import lensnb; raise lensnb.InputError('say this')", "lensnb: say this"),
    ],
    ids=["exit", "dead", "error", "input"],
)
def test_a_notebook_that_does_not_complete_fails_the_run(tmp_path, source, expected):
    project = project_with(tmp_path, "01_data", source)
    code, printed = step(tmp_path / "out", "01_data", cwd=project, recipe="params/tiny.yaml")
    assert code == 2 and expected in printed, printed
    assert not list((tmp_path / "out").rglob("01_data.json")) and not list(
        (tmp_path / "out").rglob("01_data.ipynb")
    )


def test_ctrl_c_is_one_sentence_and_takes_the_kernel_along(tmp_path):
    project = project_with(
        tmp_path, "01_data", "import time; print('asleep', flush=True); time.sleep(600)"
    )
    running = subprocess.Popen(
        [
            sys.executable,
            "-u",
            "-m",
            "lensnb",
            "run",
            "params/tiny.yaml",
            "--step",
            "01_data",
        ],
        cwd=project,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "LENSNB_OUTPUTS": str(tmp_path / "out")},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert any("asleep" in line for line in iter(running.stdout.readline, ""))
    kernels = psutil.Process(running.pid).children(recursive=True)
    running.send_signal(signal.SIGINT)
    _, told = running.communicate(timeout=PATIENCE)
    assert running.returncode == 130 and told.splitlines()[-1].startswith(
        "lensnb: stopped"
    )  # after what the kernel says
    assert kernels and not psutil.wait_procs(kernels, timeout=PATIENCE)[1]


def test_a_notebook_that_forgets_its_files_fails_the_run(tmp_path):
    project = project_with(tmp_path, "01_data", "pass")
    path = project / "notebooks" / "01_data.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = notebook.cells[:3]
    nbformat.write(notebook, path)
    code, printed = step(tmp_path / "out", "01_data", cwd=project, recipe="params/tiny.yaml")
    assert code == 2 and "ended without writing" in printed and "tiny/data" in printed


def test_steps_out_of_order_are_told_what_is_missing(tmp_path):
    code, printed = step(tmp_path, "03_sample", "threads=1")
    assert code == 2 and "run notebooks/01_data.ipynb first" in printed.splitlines()[-1]


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


def test_the_chain_runs_on_images_that_nobody_here_made(tmp_path):
    """DeepLenseSim's own output: a folder of classes, noise-free, of other units and size."""
    shared = ROOT.parent / "shared" / "data" / "deeplensesim"
    if not shared.is_dir():
        pytest.skip(f"{shared.name}: the folder of real DeepLenseSim output is not here")
    for theirs, name in (("no_sub", "no"), ("cdm", "sphere"), ("axion", "vort")):
        folder = tmp_path / "lenses" / "train" / name
        folder.mkdir(parents=True)
        for i, image in enumerate(np.load(shared / f"model_II_{theirs}.npz")["images"]):
            np.save(folder / f"{i}.npy", image.astype(">f8"))
    code, printed = snakemake(
        tmp_path / "out",
        TINY,
        f"data.path='{tmp_path / 'lenses'}' data.pixel_scale=0.101 data.scaling=minmax "
        "model.context=class sample.n=16",
    )
    assert code == 0, printed
    run = tmp_path / "out" / "tiny"
    table = io.read_table(run / "comparison" / "table.csv")
    assert (
        len(table["value"]) == 3 * 21
        and np.isfinite(table["value"]).all()
        and (table["n"] == 16).all()
    )
    kept = np.load(run / "data" / "images.npy")
    assert kept.shape == (300, 1, 32, 32) and io.read_json(run / "data" / "dataset.json")[
        "classes"
    ] == ["no_sub", "cdm", "vortex"]
    assert np.load(run / "samples/ddim/images.npy").std() > 0
