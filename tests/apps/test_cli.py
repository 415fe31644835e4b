"""The command line as a user gives it, once a behaviour in a process of its own."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import unittest.mock
import zipfile
from pathlib import Path

import numpy as np
import pytest

import lensnb
from lensnb import io
from lensnb.apps import cli

ROOT = Path(__file__).parents[2]


def call(*arguments, cwd=ROOT, **given):
    """The command in a process of its own; returns (exit code, stdout, stderr)."""
    command = [sys.executable, "-m", "lensnb", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **given}
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def here(tmp_path, monkeypatch, capsys):
    """The command in this process, which has imported torch already: like `call`, in `outputs`."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("LENSNB_OUTPUTS", str(tmp_path / "outputs"))

    def call_here(*arguments):
        with unittest.mock.patch.dict(os.environ), pytest.raises(SystemExit) as left:
            cli.main([*map(str, arguments)])
        return left.value.code, *capsys.readouterr()

    return call_here


def test_help_names_every_command():
    code, printed, _ = call("--help")
    assert code == 0
    listed = {line.split()[1] for line in printed.splitlines() if re.match(r"│ [a-z]+ ", line)}
    chain = {"run", "train", "check", "report"}
    assert listed == chain | {"compare", "draw", "export", "judge", "posterior", "recipes", "init"}


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


def test_a_tilde_is_the_home_folder(here, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    recipe = (ROOT / "params/tiny.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(recipe.replace("n: 300", "path: ~/mine.npy\n  n: 300"))
    np.save(tmp_path / "mine.npy", np.random.default_rng(0).normal(size=(60, 32, 32)))
    code, _, told = here("run", "~/mine.yaml", "--step", "01_data")
    assert code == 0 and np.load(tmp_path / "outputs/tiny/data/images.npy").shape[0] == 60, told
    code, _, told = here("init", "~/mine.npy")
    assert code == 2 and f"{tmp_path}/mine.npy: is there and not empty" in told
    code, _, told = here("draw", "refrence", "-o", "~/no/a.npy")
    assert code == 2 and f"{tmp_path}/no: no such folder" in told


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
def test_bad_input_is_one_sentence_and_status_two(arguments, expected, here):
    code, _, told = here(*arguments)
    assert code == 2 and expected in told and len(told.strip().splitlines()) == 1, told


def test_a_check_prints_recipe_estimate_and_what_would_be_made(here, tmp_path):
    code, printed, told = here("check", "params/tiny.yaml", "-s", "train.steps=7")
    assert code == 0, told
    assert "steps: 7" in printed and "million parameters; 7 steps in about" in printed
    assert "models/gan               would be made: not there" in printed
    assert not (tmp_path / "outputs/tiny").exists()


def test_a_project_is_laid_out_and_works_there(here, tmp_path, monkeypatch):
    monkeypatch.delenv("LENSNB_OUTPUTS")
    project = tmp_path / "project"
    code, printed, told = here("init", project)
    assert code == 0 and "lensnb run" in printed, told
    assert {p.name for p in project.iterdir()} == {
        "notebooks",
        "params",
        "profiles",
        "docs",
        "Snakefile",
        "outputs",
    }
    code, _, told = here("init", project)
    assert code == 2 and "is there and not empty" in told
    (project / "mine.npy").touch()
    monkeypatch.chdir(project)
    overrides = "data.n=60 data.size=16 run=small"
    code, _, told = here("run", "params/tiny.yaml", "--set", overrides, "--step", "01_data")
    assert code == 0 and (project / "outputs/small/notebooks/01_data.ipynb").is_file(), told


def test_relative_paths_belong_to_the_folder_of_the_command(here, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LENSNB_OUTPUTS", "runs")
    np.save(tmp_path / "mine.npy", np.random.default_rng(0).normal(size=(60, 16, 16)))
    arguments = ("run", ROOT / "params/tiny.yaml", "--step", "01_data")
    changes = ("-s", "data.path=mine.npy", "-s", "data.size=16", "-s", "evaluate.fit=0")
    code, _, told = here(*arguments, *changes)
    assert code == 0 and (tmp_path / "runs/tiny/data/images.npy").is_file(), told


def test_a_run_is_made_as_a_whole_and_its_report_is_named(tiny_chain, here, tmp_path):
    """In folders with a space; what is whole is not made again; the report is of this recipe."""
    page = tiny_chain.outputs / "tiny/report/index.html"
    named = f"report: {os.path.relpath(page, ROOT)}"
    assert page.is_file() and tiny_chain.printed.splitlines()[-1] == named
    files = [path for path in tiny_chain.outputs.rglob("*") if path.is_file()]
    before = {path: path.stat().st_mtime_ns for path in files}
    code, printed, told = call("run", "params/tiny.yaml", LENSNB_OUTPUTS=str(tiny_chain.outputs))
    assert code == 0 and printed == f"{named}\n", told
    files = [path for path in tiny_chain.outputs.rglob("*") if path.is_file()]
    assert {path: path.stat().st_mtime_ns for path in files} == before
    shutil.copytree(tiny_chain.outputs / "tiny", tmp_path / "outputs/tiny")
    (tmp_path / "outputs/tiny/report/index.html").unlink()
    code, printed, told = here("report", "tiny")
    assert code == 0 and printed.startswith("report: "), told
    assert (tmp_path / "outputs/tiny/report/index.html").is_file()
    other = tmp_path / "other.yaml"
    other.write_text((ROOT / "params/tiny.yaml").read_text() + "\nseed: 1\n")
    code, _, told = here("report", other)
    assert code == 2 and "made with other parameters" in told


def test_profile_and_spread_of_make_reach_the_engine(tmp_path, monkeypatch):
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


def test_a_closed_home_a_plain_locale_and_another_folder(tmp_path):
    """`imgs` is meant where the command stands; nothing is written below a home that is closed."""
    (tmp_path / "imgs").mkdir()
    images = np.random.default_rng(0).normal(3, 2, (24, 32, 32))
    for i, image in enumerate(images):
        np.save(tmp_path / "imgs" / f"{i:02}.npy", image)
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "HOME": "/proc/closed"}
    own = {"LENSNB_OUTPUTS": "o", "TMPDIR": str(tmp_path / "tmp"), **plain}
    (tmp_path / "tmp").mkdir()
    given = "run=mine", "data.path=imgs", "data.holdout=0.25"
    sets = [part for change in given for part in ("--set", change)]
    code, out, err = call("run", "tiny", "--step", "01_data", *sets, cwd=tmp_path, **own)
    assert code == 0, out + err
    found = np.load(tmp_path / "o" / "mine" / "data" / "images.npy")
    np.testing.assert_array_equal(found[:, 0], images.astype(np.float32))
    assert not list((tmp_path / "tmp").glob("lensnb-*"))


def test_a_tilde_is_the_home_in_a_path(tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", np.zeros(1))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert io.locate("~/a.npy") == tmp_path / "a.npy"
    monkeypatch.setenv("LENSNB_OUTPUTS", "~/runs")
    assert lensnb.open_run(run="mine").path == tmp_path / "runs" / "mine"
