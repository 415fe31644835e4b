"""It breaks for nobody: every case of the corpus in a process of its own, refused in one sentence or read right, and nothing lost."""

import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from bad_input import child, make, recipes

from lensnb import io
from lensnb.runs import artefact

CASES = make.cases()
PATIENCE = (
    60  # seconds until a case that waits for something is ended; one that works has child.SECONDS
)
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server():
    """Children of a process that has imported torch: 0.1 s each instead of 3."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(child.PRELOAD)
    first = context.Process(target=print)
    first.start()
    first.join()  # it has waited for the imports
    return context


def run(server, folder, command, overrides="", largest=None):
    """(exit status, standard error) of a command of the user's in `folder`."""
    process = server.Process(target=child.main, args=(str(folder), command, overrides, largest))
    process.start()
    process.join(PATIENCE)
    hung = process.is_alive()
    if hung:
        process.kill()
        process.join()
    errors = Path(f"{folder}.stderr").read_text() if Path(f"{folder}.stderr").exists() else ""
    assert not hung, f"no answer within {PATIENCE} s; {errors}"
    return process.exitcode, errors


@pytest.fixture(scope="module")
def finished(server, tmp_path_factory):
    """A run of the corpus' recipe: data, both models, samples."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    make.plain(folder)
    for command in ("launch", "sample"):
        status, errors = run(server, folder, command)
        assert status == 0, errors
    return folder


def artefacts(folder):
    """Every stage of a case's run with the hashes of its files."""
    found = {}
    for seal in folder.glob("outputs/it/**/artefact.json"):
        found[str(seal.parent.relative_to(folder / "outputs/it"))] = {
            p.name: io.sha256(p) for p in seal.parent.iterdir() if os.access(p, os.R_OK)
        }
    return found


def litter(folder):
    """What should not be left behind: half-written files and folders, and locks."""
    return {
        str(p.relative_to(folder))
        for pattern in ("**/.*.partial", "**/.npz", "**/.*.lock", "**/.*.old", "**/.writable")
        for p in folder.glob(f"outputs/{pattern}")
    }


def check_refusal(case, status, errors):
    told = errors.splitlines()
    assert "Traceback" not in errors and status == 2, errors
    assert len(told) == 1 and told[0].startswith("lensnb: ") and len(told[0]) < 600, errors
    assert all(word in told[0] for word in case.says), (
        f"{told[0]}\nlacks {[w for w in case.says if w not in told[0]]}"
    )


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_in_one_sentence_or_read_right(name, server, finished, tmp_path):
    case = CASES[name]
    folder = tmp_path / "case"
    make.write(case, folder, finished)
    before = artefacts(folder)
    left = litter(folder)
    status, errors = run(server, folder, case.command, case.overrides, case.largest)
    if case.says:
        check_refusal(case, status, errors)
    else:
        assert status == 0 and case.holds(folder), errors
    after = artefacts(folder)
    assert {stage: after.get(stage) for stage in before if stage not in case.damaged} == {
        s: h for s, h in before.items() if s not in case.damaged
    }
    assert all(
        artefact.is_whole(folder / "outputs/it" / stage) for stage in after.keys() - before.keys()
    )
    assert (
        litter(folder) <= left
        and not list(tmp_path.rglob("executed"))
        and not list(tmp_path.rglob("escaped*"))
    )


@pytest.mark.parametrize(
    "kilobytes, expected",
    [(24, "GiB are needed there for 32 images"), (200, "No space left on device; make room")],
)
def test_a_disk_that_is_full_for_real(kilobytes, expected, server, tmp_path):
    """As the cases with a limit for files, but where a write into a memory map would end the process."""
    folder = tmp_path / "case"
    make.plain(folder)
    (folder / "outputs").mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder / "outputs")]
    if not shutil.which("mount") or subprocess.run(mounted, capture_output=True).returncode:
        pytest.skip("mounting a small disk takes root; the cases `disk full of` stand for it")
    try:
        status, errors = run(server, folder, "launch")
        check_refusal(make.Case(None, (expected, str(folder / "outputs/it"))), status, errors)
        assert not list(folder.glob("outputs/**/.data.partial"))
    finally:
        subprocess.run(["umount", str(folder / "outputs")], check=True)


def test_the_corpus_would_run_its_code(tmp_path, monkeypatch):
    """The control of "nothing executed": readers that trust do create the file."""
    monkeypatch.chdir(tmp_path)
    torch.save({"parts": make.Payload()}, "checkpoint.pt")
    for trusting in (
        lambda: pickle.loads(make.payload()),
        lambda: yaml.unsafe_load(recipes.CODE),
        lambda: torch.load("checkpoint.pt", weights_only=False),
    ):
        trusting()
        (tmp_path / "executed").unlink()


@pytest.mark.parametrize(
    "name, command",
    [
        ("unknown key", ["lensnb.apps.execute", "01_data", "--recipe"]),
        ("truncated", ["lensnb.apps.launch"]),
    ],
)
def test_the_command_line_itself_says_the_same(name, command, tmp_path):
    case = CASES[name]
    folder = tmp_path / "case"
    make.write(case, folder)
    done = subprocess.run(
        [sys.executable, "-m", *command, "recipe.yaml", "--set", case.overrides],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"LENSNB_OUTPUTS": str(folder / "outputs")},
    )
    check_refusal(case, done.returncode, done.stderr)


def test_there_are_enough_cases():
    assert sum(bool(case.says) for case in CASES.values()) >= 60
