"""Many runs as jobs of a cluster: which jobs there are, and what they make.

Each job is a process of its own, submitted by a command. One of them is lost on the way.
"""

import os
import re
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
from lensnb.recipes import selection
from lensnb.recipes.recipe import load_recipe
from lensnb.runs import artefact
from lensnb.runs.run_folder import STEPS

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent / "cluster"
TINY = str(ROOT / "params/tiny.yaml")
CUT = (
    "run=many data.n=120 train.steps=120 train.checkpoint_every=10 train.watch_every=0 "
    "sample.n=12 sample.frames=4 "
    "evaluate.n=12 evaluate.bootstrap=10 evaluate.floors=2 evaluate.fit=0"
)
PATIENCE = 7200  # seconds; beside other work a chain may take many times as long as alone
PROFILES = [ROOT / "profiles/slurm", ROOT / "profiles/kubernetes"]


def environment(outputs, **given):
    """The environment of a chain, with LENSNB_<name> for each name that is given."""
    ours = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "LENSNB_OUTPUTS": str(outputs),
        "LENSNB_RECIPE": TINY,
        "HERE": str(HERE),
        "CLUSTER": str(outputs / "cluster"),
    }
    return os.environ | ours | {f"LENSNB_{name}": value for name, value in given.items()}


def snakemake(outputs, *flags):
    """The command of `make run`, its own state kept beside the outputs."""
    return [
        "snakemake",
        "--nolock",
        "--rerun-incomplete",
        "--directory",
        str(outputs),
        "--snakefile",
        str(ROOT / "Snakefile"),
        *flags,
    ]


# Which jobs --------------------------------------------------------------------------------------


def jobs(outputs, **given):
    """The jobs of a dry run: rule -> number."""
    done = subprocess.run(
        snakemake(outputs, "--cores", "1", "--dry-run"),
        env=environment(outputs, **given),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    listed = done.stdout.rsplit("Job stats:", 1)[1].split("total")[0]
    return {name: int(number) for name, number in re.findall(r"^(\w+) +(\d+)$", listed, re.M)}


STEPS = dict.fromkeys(STEPS, 1)


def test_recipes_and_seeds_multiply_and_spread_makes_jobs_of_models_and_methods(tmp_path):
    once = jobs(
        tmp_path, RECIPE=f"{TINY} {ROOT / 'params/mnist.yaml'}", SEEDS="0 1 2", SAMPLERS="ddim"
    )
    assert once == dict.fromkeys((*STEPS, "report"), 6) | {"all": 1}
    spread = jobs(tmp_path, SEEDS="0 1", SPREAD="1")
    assert spread == dict.fromkeys((*STEPS, "report"), 2) | {
        "all": 1,
        "model": 4,
        "samples": 6,
        "evaluation": 6,
    }


def test_a_wrong_list_is_one_sentence(tmp_path):
    done = subprocess.run(
        snakemake(tmp_path, "--cores", "1"),
        env=environment(tmp_path, SAMPLERS="dim"),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode != 0
    assert "lensnb: dim: no such sampler; did you mean ddim?" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("tiny*"))


@pytest.mark.parametrize("profile", PROFILES, ids=lambda p: p.name)
def test_a_profile_sets_memory_time_and_gpu_of_rules_that_there_are(profile):
    tree = yaml.safe_load((profile / "config.yaml").read_text())
    rules = tree["set-resources"]
    assert set(rules) <= {*STEPS, "model", "samples", "evaluation", "report"}
    assert tree["retries"] >= 1
    assert {name for name, needs in rules.items() if needs.get("gpu")} == {"model", "samples"}
    assert all(needs["mem_mb"] > 0 and needs["runtime"] > 0 for needs in rules.values())


# As jobs -----------------------------------------------------------------------------------------


GIVEN = {"SET": CUT, "SAMPLERS": "ddim", "SPREAD": "1"}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """A run as jobs. Its training is lost in the middle."""
    folder = tmp_path_factory.mktemp("outputs")
    (folder / "cluster").mkdir()
    given = environment(folder, **GIVEN)
    with open(folder / "log", "w") as log:
        chain = subprocess.Popen(
            snakemake(folder, "--profile", str(HERE)), env=given, stdout=log, stderr=log, cwd=ROOT
        )
    try:
        lose(folder / "many/models/.diffusion.partial/checkpoint.pt", chain)
        assert chain.wait(timeout=PATIENCE) == 0, (folder / "log").read_text()[-5000:]
    finally:
        chain.kill()
    return folder


def lose(checkpoint, chain):
    """Kill the whole job that trains, as a machine that is lost would, once it has saved."""
    while not checkpoint.exists() and chain.poll() is None:
        time.sleep(0.02)
    run = str(checkpoint.parents[2])
    for process in psutil.process_iter(["cmdline"]):
        if "models/diffusion" not in (process.info["cmdline"] or ()):
            continue
        if run in process.environ().get("LENSNB_RUNS", ""):
            os.killpg(os.getpgid(process.pid), signal.SIGKILL)
            return
    raise AssertionError("no job trains")


def logs(outputs):
    """What each job printed."""
    return {path.stem: path.read_text() for path in (outputs / "cluster").glob("*.log")}


def test_every_job_has_a_process_of_its_own_and_the_lost_one_a_second(outputs):
    ended = [path.read_text().strip() for path in (outputs / "cluster").glob("*.rc")]
    assert ended == ["0"] * 9  # the lost job wrote no status
    assert len(logs(outputs)) == 10
    resumed = [text for text in logs(outputs).values() if "resumed at step" in text]
    assert len(resumed) == 1 and "models/diffusion" in resumed[0]
    assert (outputs / "many/report/index.html").is_file()


def test_the_training_has_the_bits_of_one_that_nobody_disturbed(outputs, tmp_path, monkeypatch):
    monkeypatch.setenv("LENSNB_OUTPUTS", str(tmp_path))
    run = pipeline.open_run(load_recipe(outputs / "many/recipe.yaml"))
    pipeline.make_data(run)
    pipeline.train_model(run, "diffusion")
    for stage in ("data", "models/diffusion"):
        ours, theirs = (artefact.digest(top / "many" / stage) for top in (outputs, tmp_path))
        assert ours == theirs, stage


def test_what_is_done_is_not_done_again_and_what_is_deleted_is(outputs):
    def again():
        return subprocess.run(
            snakemake(outputs, "--cores", "1", "--dry-run", "--quiet", "rules"),
            env=environment(outputs, **GIVEN),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        ).stdout

    assert not re.search(r"(0\d_\w+|model|samples|evaluation|report) +\d", again())
    (outputs / "many/evaluation/ddim/metrics.json").unlink()
    found = again()
    assert re.search(r"evaluation +1\n", found), found
    assert re.search(r"05_compare +1\n", found), found
    assert not re.search(r"model +\d", found), found


# Over seeds --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seeded(tmp_path_factory):
    """Two runs of two seeds, whose stages are made here. One comparison is executed."""
    folder = tmp_path_factory.mktemp("seeded")
    recipes = selection.expand([TINY], f"{CUT} train.steps=10", [0, 1], samplers=["ddim"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LENSNB_OUTPUTS", str(folder))
        runs = [pipeline.open_run(recipe) for recipe in recipes]
        for run in runs:
            pipeline.make_data(run)
            pipeline.train_model(run, "diffusion")
            pipeline.draw_samples(run, "ddim")
            pipeline.evaluate_method(run, "ddim")
        execute("05_compare", recipes[0])
        pipeline.compare_methods(runs[1])
    return folder


def test_the_seeds_share_the_images_and_not_the_training(seeded):
    def digests(stage):
        return {artefact.digest(seeded / f"many-seed{k}" / stage) for k in (0, 1)}

    assert len(digests("data")) == 1 and len(digests("models/diffusion")) == 2


def test_both_comparisons_show_mean_and_spread_over_the_seeds(seeded):
    tables = [io.read_table(seeded / f"many-seed{k}" / "comparison/seeds.csv") for k in (0, 1)]
    assert all(np.array_equal(tables[0][key], tables[1][key]) for key in tables[0])
    assert (tables[0]["seeds"] == 2).all()
    values = []
    for k in (0, 1):
        rows = io.read_json(seeded / f"many-seed{k}" / "comparison/table.json")["rows"]
        values.append({(row["method"], row["metric"]): row["value"] for row in rows})
    columns = (tables[0][key] for key in ("method", "metric", "mean", "spread"))
    for method, metric, mean, spread in zip(*columns, strict=True):
        one, two = (value[method, metric] for value in values)
        assert np.isclose(mean, (one + two) / 2)
        assert np.isclose(spread, abs(one - two) / 2**0.5)
    notebook = nbformat.read(seeded / "many-seed0/notebooks/05_compare.ipynb", as_version=4)
    assert "Over 2 training seeds" in nbformat.writes(notebook)
    assert (seeded / "many-seed0/figures/seeds.pdf").is_file()
