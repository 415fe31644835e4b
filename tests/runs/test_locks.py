"""Two real processes at one run folder, killed or not, on file systems with and without locks."""

import errno
import multiprocessing
import os
import signal
import socket
import time

import filelock
import pytest

from lensnb import io
from lensnb.apps.execute import execute
from lensnb.errors import InputError
from lensnb.recipes.recipe import validate
from lensnb.runs import artefact
from lensnb.runs.locks import locked
from lensnb.runs.run_folder import Run

PARAMS = {"run": "r", "data": {"path": "images", "size": 16}}


@pytest.fixture(scope="module")
def server():
    """A server that has imported torch, which provenance needs; its children start at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lensnb.training.loop"])
    return context


def wait_for(path, seconds=600):
    deadline = time.time() + seconds
    while not path.exists() and time.time() < deadline:
        time.sleep(0.01)
    assert path.exists(), path


def build_slowly(folder, recipe=None):
    """Build an artefact, which is not finished before the file `go` lies beside it."""

    def make(unfinished):
        (unfinished / "checkpoint.pt").write_text("half")
        (folder.parent / "begun").touch()
        wait_for(folder.parent / "go")
        (unfinished / "file.txt").write_text("by the first")

    artefact.build(folder, recipe or {}, make)


def begun(server, target, *arguments):
    """A process that has started and holds a lock."""
    process = server.Process(target=target, args=arguments)
    process.start()
    wait_for(arguments[0].parent / "begun")
    return process


def killed(process):
    os.kill(process.pid, signal.SIGKILL)
    process.join()


def by_the_second(folder):
    (folder / "file.txt").write_text("by the second")


def no_flock(number=errno.ENOSYS):
    """A flock as on a file system that has no locks: it fails with this error number."""

    def flock(*arguments):
        raise OSError(number, os.strerror(number))

    return flock


def build_without_flock(folder):
    import fcntl

    fcntl.flock = no_flock()
    build_slowly(folder)


def build_with_a_worker(folder):
    """Build with a worker, as a loader has it: forked during the build, it outlives its parent."""

    def make(unfinished):
        if (worker := os.fork()) == 0:
            time.sleep(600)
            os._exit(0)
        (folder.parent / "worker").write_text(str(worker))
        (folder.parent / "begun").touch()
        time.sleep(600)

    artefact.build(folder, {}, make)


def note_many(outputs, name):
    for i in range(20):
        Run(validate(PARAMS, "x"), outputs).note("steps", f"{name} {i}", i)


def hold(path):
    with locked(path):
        (path.parent / "begun").touch()
        wait_for(path.parent / "go")


def test_the_second_is_told_who_builds_and_finds_the_result_afterwards(server, tmp_path):
    folder = tmp_path / "stage"
    first = begun(server, build_slowly, folder)
    with pytest.raises(InputError) as refused:
        artefact.build(folder, {}, by_the_second)
    sentence = str(refused.value)
    assert sentence.startswith(f"{folder}: process {first.pid} on {socket.gethostname()} (since ")
    assert "wait for it, end it, or give this run another name" in sentence
    assert first.is_alive()
    (tmp_path / "go").touch()
    first.join()
    assert first.exitcode == 0
    assert artefact.is_whole(artefact.build(folder, {}, by_the_second))
    assert (folder / "file.txt").read_text() == "by the first"
    assert not list(tmp_path.glob(".*"))


def test_a_killed_process_is_followed_by_the_next_which_goes_on(server, tmp_path):
    folder = tmp_path / "stage"
    found = []

    def go_on(unfinished):
        found.append((unfinished / "checkpoint.pt").read_text())

    killed(begun(server, build_slowly, folder))
    assert (tmp_path / ".stage.lock").exists()
    artefact.build(folder, {}, go_on)
    assert found == ["half"]
    assert artefact.is_whole(folder) and not list(tmp_path.glob(".*"))


def test_a_worker_that_outlives_a_killed_process_keeps_nobody_out(server, tmp_path):
    folder = tmp_path / "stage"
    killed(begun(server, build_with_a_worker, folder))
    worker = int((tmp_path / "worker").read_text())
    os.kill(worker, 0)  # it lives
    artefact.build(folder, {}, by_the_second)
    os.kill(worker, signal.SIGKILL)
    assert artefact.is_whole(folder)


def test_readers_are_never_kept_waiting(server, tmp_path):
    folder = artefact.build(tmp_path / "stage", {}, by_the_second)
    first = begun(server, build_slowly, folder, {"changed": 1})
    assert artefact.is_whole(folder) and artefact.digest(folder)
    assert artefact.build(folder, {}, None) == folder  # nothing to make, so no lock
    assert first.is_alive()
    (tmp_path / "go").touch()
    first.join()
    assert (folder / "file.txt").read_text() == "by the first"


def test_other_stages_are_built_meanwhile_and_all_of_them_are_noted(server, tmp_path):
    first = begun(server, build_slowly, tmp_path / "stage")
    assert artefact.is_whole(artefact.build(tmp_path / "other", {}, by_the_second))
    killed(first)
    (tmp_path / "r").mkdir()
    writers = [server.Process(target=note_many, args=(tmp_path, name)) for name in ("a", "b")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    noted = io.read_json(tmp_path / "r/run.json")["steps"]
    assert noted == {f"{name} {i}": i for name in "ab" for i in range(20)}


def test_a_notebook_that_is_executed_is_not_executed_again_meanwhile(server, tmp_path, monkeypatch):
    monkeypatch.setenv("LENSNB_OUTPUTS", str(tmp_path))
    notebooks = tmp_path / "r/notebooks"
    notebooks.mkdir(parents=True)
    (notebooks / "01_data.json").write_text("a receipt")
    first = begun(server, hold, notebooks / "01_data")
    with pytest.raises(InputError, match=f"notebooks/01_data: process {first.pid} on"):
        execute("01_data", validate(PARAMS, "x"))
    assert (notebooks / "01_data.json").read_text() == "a receipt"
    assert len(list(notebooks.iterdir())) == 3
    killed(first)


def test_the_recipe_of_a_run_at_work_is_not_replaced(server, tmp_path):
    ours, theirs = (Run(validate(PARAMS | {"seed": seed}, "x"), tmp_path) for seed in (0, 1))
    path = ours.write_recipe()
    before = path.read_text()
    first = begun(server, hold, tmp_path / "r/data")
    assert ours.write_recipe().read_text() == before  # the same command again
    with pytest.raises(InputError, match=f"r/data: process {first.pid} on"):
        theirs.write_recipe()
    assert path.read_text() == before
    killed(first)
    assert theirs.write_recipe().read_text() != before
    assert not list((tmp_path / "r").glob(".*"))


@pytest.mark.filterwarnings("ignore:flock not supported")
def test_without_locks_in_the_file_system_a_file_stands_for_one(server, tmp_path, monkeypatch):
    folder = tmp_path / "stage"
    monkeypatch.setattr("fcntl.flock", no_flock())
    first = begun(server, build_without_flock, folder)
    with pytest.raises(InputError, match=f"stage: process {first.pid} on .* is writing there"):
        artefact.build(folder, {}, by_the_second)
    killed(first)
    assert artefact.is_whole(artefact.build(folder, {}, by_the_second))
    assert not list(tmp_path.glob(".*"))


def test_a_lock_service_that_is_off_stops_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr("fcntl.flock", no_flock(errno.ENOLCK))
    assert artefact.is_whole(artefact.build(tmp_path / "stage", {}, by_the_second))
    assert not list(tmp_path.glob(".*"))
    monkeypatch.setattr("fcntl.flock", no_flock(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        artefact.build(tmp_path / "other", {}, by_the_second)


def test_a_lock_that_was_removed_under_a_waiting_process_is_not_taken_for_its_own(tmp_path):
    """A process may have opened the file of a lock that is then removed. It does not hold it."""
    waiting = filelock.FileLock(tmp_path / ".stage.lock", thread_local=False)
    real = os.open
    opened = []

    def slow(path, *arguments, **options):
        descriptor = real(path, *arguments, **options)
        opened.append(path)
        if len(opened) == 1:  # meanwhile the holder ends, and a third process locks
            os.unlink(tmp_path / ".stage.lock")
            third.acquire()
        return descriptor

    third = filelock.FileLock(tmp_path / ".stage.lock", thread_local=False)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "open", slow)
        with pytest.raises(filelock.Timeout):
            waiting.acquire(timeout=0.2)
    third.release()
