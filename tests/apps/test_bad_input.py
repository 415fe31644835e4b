"""Every case of the corpus of bad input, in a process of its own.

It is refused in one sentence or read right, and nothing is lost.
"""

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
# Seconds until a case that only waits is ended. The system ends a case that works too long.
PATIENCE = 900


@pytest.fixture(scope="module")
def server():
    """A server that has imported torch: a child of it starts in 0.1 s instead of 3."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(child.PRELOAD)
    first = context.Process(target=print)
    first.start()
    first.join()  # the imports are done
    return context


def run(server, folder, command, overrides="", largest=None):
    """Run one of child.COMMANDS in `folder`. Returns its exit status and standard error."""
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
    """A finished run of the corpus's recipe: data, both models, samples."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    make.plain(folder)
    for command in ("launch", "sample"):
        status, errors = run(server, folder, command)
        assert status == 0, errors
    return folder


def artefacts(folder):
    """The hashes of the files of every stage of a case's run."""
    run = folder / "outputs/it"
    return {
        str(note.parent.relative_to(run)): {
            path.name: io.sha256(path) for path in note.parent.iterdir() if os.access(path, os.R_OK)
        }
        for note in run.glob("**/artefact.json")
    }


def litter(folder):
    """What must not be left behind: half-written files and folders, and locks."""
    patterns = (".*.partial", ".npz", ".*.lock", ".*.old", "tmp*")
    return {
        str(path.relative_to(folder))
        for pattern in patterns
        for path in folder.glob(f"outputs/**/{pattern}")
    }


def check_refusal(case, status, errors):
    told = errors.splitlines()
    assert "Traceback" not in errors and status == 2, errors
    assert len(told) == 1 and told[0].startswith("lensnb: ") and len(told[0]) < 600, errors
    lacking = [word for word in case.says if word not in told[0]]
    assert not lacking, f"{told[0]}\nlacks {lacking}"


def without(stages, left_out):
    """The stages that are not left out."""
    return {name: files for name, files in stages.items() if name not in left_out}


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
    new = after.keys() - before.keys()
    assert without(before, case.damaged).items() <= after.items()
    assert all(artefact.is_whole(folder / "outputs/it" / stage) for stage in new)
    assert litter(folder) <= left
    assert not list(tmp_path.rglob("executed"))
    assert not list(tmp_path.rglob("escaped*"))


@pytest.mark.parametrize(
    "kilobytes, expected",
    [(24, "GiB are needed there for 32 images"), (200, "No space left on device; make room")],
)
def test_a_disk_that_is_full_for_real(kilobytes, expected, server, tmp_path):
    """A full disk ends a process that writes into a memory map; a limit for files does not."""
    folder = tmp_path / "case"
    make.plain(folder)
    (folder / "outputs").mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder / "outputs")]
    if not shutil.which("mount") or subprocess.run(mounted, capture_output=True).returncode:
        pytest.skip("mounting a small disk takes root; the cases `disk full of` stand for it")
    try:
        status, errors = run(server, folder, "launch")
        refused = make.Case(None, (expected, str(folder / "outputs/it")))
        check_refusal(refused, status, errors)
        assert not list(folder.glob("outputs/**/.data.partial"))
    finally:
        subprocess.run(["umount", str(folder / "outputs")], check=True)


def test_the_corpus_would_run_its_code(tmp_path, monkeypatch):
    """The control of "nothing executed": readers that trust a file do execute its code."""
    monkeypatch.chdir(tmp_path)
    executed = tmp_path / "executed"
    pickle.loads(make.payload())
    executed.unlink()
    yaml.unsafe_load(recipes.CODE)
    executed.unlink()
    torch.save({"parts": make.Payload()}, "checkpoint.pt")
    torch.load("checkpoint.pt", weights_only=False)
    executed.unlink()


def test_the_command_line_itself_says_the_same(tmp_path):
    case = CASES["truncated"]
    folder = tmp_path / "case"
    make.write(case, folder)
    done = subprocess.run(
        [sys.executable, "-m", "lensnb", "train", "recipe.yaml", "--set", case.overrides],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=os.environ | {"LENSNB_OUTPUTS": str(folder / "outputs")},
    )
    check_refusal(case, done.returncode, done.stderr)


def test_there_are_enough_cases():
    assert sum(bool(case.says) for case in CASES.values()) >= 60
