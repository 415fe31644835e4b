"""The command line as a user gives it, in processes of their own."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml

import lensnb

ROOT = Path(__file__).parents[2]


def call(*arguments, cwd=ROOT, outputs=None, module=True, **env):
    command = [sys.executable, "-m", "lensnb", *map(str, arguments)]
    given = {**os.environ, "PYTHONPATH": str(ROOT), **env}
    if outputs:
        given["LENSNB_OUTPUTS"] = str(outputs)
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=given)
    return done.returncode, done.stdout, done.stderr


def test_help_names_every_command():
    code, printed, _ = call("--help")
    commands = ("run", "train", "check", "report", "draw", "posterior", "recipes", "init")
    assert code == 0
    listed = {line.split()[1] for line in printed.splitlines() if re.match(r"│ [a-z]+ ", line)}
    assert listed == set(commands)


def test_recipes_are_listed_with_a_line_each():
    code, printed, _ = call("recipes")
    assert code == 0
    lines = printed.splitlines()
    assert {line.split()[0] for line in lines} == {p.stem for p in (ROOT / "params").glob("*.yaml")}
    assert all(len(line.split()) > 4 for line in lines)


def test_images_are_drawn_into_the_folder_where_the_command_is_given(tmp_path):
    code, printed, told = call("draw", "reference", "-n", 3, "-o", "mine.npy", cwd=tmp_path)
    assert code == 0, told
    images = np.load(tmp_path / "mine.npy")
    assert images.shape == (3, 1, 64, 64) and images.dtype == np.float32
    assert np.abs(images - lensnb.load("reference").draw(3, seed=0)).max() < 1e-4


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (("draw", "refrence"), "refrence: neither a reference nor a run"),
        (("draw", "reference", "-o", "mine.png"), "expected a name that ends in .npy"),
        (("draw", "reference", "-o", "no/such/a.npy"), "no such folder; make it first"),
        (("run", "params/quik.yaml"), "quik.yaml: no such recipe; did you mean"),
        (("run", "params/tiny.yaml", "--set", "train.stepz=3"), "unknown key train.stepz"),
        (("run", "params/tiny.yaml", "--step", "02_tarin"), "did you mean 02_train?"),
        (("train", "params/tiny.yaml", "--set", "seed=-1"), "seed"),
        (("check", "params/tiny.yaml", "--set", "data.path=nowhere"), "nowhere"),
        (("report", "nosuchrun"), "nosuchrun: no run of this name"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_bad_input_is_one_sentence_and_status_two(arguments, expected, tmp_path):
    code, _, told = call(*arguments, outputs=tmp_path)
    assert code == 2 and expected in told and len(told.strip().splitlines()) == 1, told


def test_a_check_prints_recipe_estimate_and_what_would_be_made(tmp_path):
    code, printed, told = call("check", "params/tiny.yaml", "-s", "train.steps=7", outputs=tmp_path)
    assert code == 0, told
    assert "steps: 7" in printed and "million parameters; 7 steps in about" in printed
    assert "models/gan               would be made: not there" in printed
    assert not (tmp_path / "tiny").exists()


def test_a_project_is_laid_out_and_works_there(tmp_path):
    project = tmp_path / "project"
    code, printed, told = call("init", project, cwd=tmp_path)
    assert code == 0 and "lensnb run" in printed, told
    assert {p.name for p in project.iterdir()} == {
        "notebooks",
        "params",
        "profiles",
        "docs",
        "Snakefile",
        "outputs",
    }
    code, _, told = call("init", project, cwd=tmp_path)
    assert code == 2 and "is there and not empty" in told
    (project / "mine.npy").touch()
    overrides = "data.n=60 data.size=16 run=small"
    arguments = ("run", "params/tiny.yaml", "--set", overrides, "--step", "01_data")
    code, printed, told = call(*arguments, cwd=project)
    assert code == 0 and (project / "outputs/small/notebooks/01_data.ipynb").is_file(), told


def test_relative_paths_belong_to_the_folder_of_the_command(tmp_path):
    np.save(tmp_path / "mine.npy", np.random.default_rng(0).normal(size=(60, 16, 16)))
    arguments = ("run", ROOT / "params/tiny.yaml", "--step", "01_data")
    changes = ("-s", "data.path=mine.npy", "-s", "data.size=16", "-s", "evaluate.fit=0")
    code, _, told = call(*arguments, *changes, cwd=tmp_path, LENSNB_OUTPUTS="runs")
    assert code == 0 and (tmp_path / "runs/tiny/data/images.npy").is_file(), told


def test_a_run_is_made_as_a_whole_and_its_report_is_named(tmp_path):
    """In folders with a space; what is whole is not made again; the report is of this recipe."""
    outputs = tmp_path / "my outputs"
    small = (
        "data.n=200 data.holdout=0.2 train.steps=4 gan.steps=4 gan.watch_every=0 sample.n=12 "
        "evaluate.n=12 evaluate.bootstrap=10 evaluate.floors=2 evaluate.fit=0"
    )
    arguments = ("run", "params/tiny.yaml", "--set", small)
    code, printed, told = call(*arguments, outputs=outputs)
    assert code == 0, printed + told
    page = outputs / "tiny/report/index.html"
    assert page.is_file() and printed.splitlines()[-1] == f"report: {os.path.relpath(page, ROOT)}"
    before = {path: path.stat().st_mtime_ns for path in outputs.rglob("*") if path.is_file()}
    code, printed, told = call(*arguments, outputs=outputs)
    after = {path: path.stat().st_mtime_ns for path in outputs.rglob("*") if path.is_file()}
    assert code == 0 and printed.splitlines()[-1].startswith("report: ")
    assert after == before
    code, _, told = call("report", "params/tiny.yaml", outputs=outputs)
    assert code == 2 and "made with other parameters" in told
    assert lensnb.Params.model_validate(recipe_in(outputs / "tiny")).train.steps == 4
    code, printed, told = call("report", "tiny", outputs=outputs)
    assert code == 0 and printed.startswith("report: "), told


def recipe_in(folder):
    return yaml.safe_load((folder / "recipe.yaml").read_text())


def test_profile_and_spread_of_make_reach_the_engine(tmp_path, monkeypatch):
    from lensnb.apps import cli

    seen = []
    monkeypatch.setattr(cli, "_snakemake", lambda *given: seen.append(given))
    monkeypatch.setenv("LENSNB_OUTPUTS", str(tmp_path))
    monkeypatch.setenv("LENSNB_PROFILE", "profiles/slurm")
    monkeypatch.setenv("LENSNB_SPREAD", "0")
    monkeypatch.setenv("LENSNB_CORES", "3")
    assert not cli.app(["run", "params/tiny.yaml"], standalone_mode=False)
    ((environment, cores, profile),) = seen
    assert (environment["LENSNB_SPREAD"], cores, profile) == ("", 3, "profiles/slurm")
    assert shlex.split(environment["LENSNB_RUNS"]) == [str(tmp_path / "tiny/recipe.yaml")]


def test_a_wheel_carries_the_project(tmp_path):
    """Packed by setup.py, laid out by `init` of the installed wheel, without this repository."""
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns(".*", "outputs", "tests", "benchmarks", "site", "build")
    shutil.copytree(ROOT, source, ignore=ignored)
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "-w", str(tmp_path), str(source)], check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
        wheel.extractall(tmp_path / "installed")
    for part in ("notebooks/01_data.ipynb", "params/quick.yaml", "Snakefile", "docs/index.md"):
        assert f"lensnb/project/{part}" in names
    assert {"lensnb/py.typed", "lensnb/apps/assets/page.html"} <= names
    elsewhere = {"PYTHONPATH": str(tmp_path / "installed")}
    code, printed, told = call("init", "laid out", cwd=tmp_path, **elsewhere)
    assert code == 0 and (tmp_path / "laid out/params/tiny.yaml").is_file(), told
    code, printed, told = call("check", "tiny", cwd=tmp_path, **elsewhere)
    assert code == 0 and "would be executed: 01_data" in printed, told


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
@pytest.mark.parametrize("variable", ["set=train.steps=3", "STEPS=10", "recipe=x"])
def test_an_unknown_variable_of_make_is_refused(variable):
    command = ["make", "-n", "run", variable]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode and f"{variable.partition('=')[0]}: no such variable" in done.stderr
