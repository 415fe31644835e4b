"""Simulation by several processes: the same bits, no process left, no image lost."""

import sys
import time

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import lensnb
from lensnb.datasets.dataset import prepare_dataset
from lensnb.errors import InputError
from lensnb.lensing import workers
from lensnb.lensing.priors import PRIORS, get_prior
from lensnb.lensing.simulate import batch_of, render, simulate
from lensnb.lensing.truth_tables import draw_truth
from lensnb.recipes.schema import Data
from lensnb.runs.run_folder import Run

PRIOR = get_prior("broad", 16)


@pytest.fixture
def file(tmp_path):
    """A file of 150 images of two channels without content."""
    path = tmp_path / "images.npy"
    np.lib.format.open_memmap(path, "w+", np.float32, (150, 2, 16, 16)).flush()
    return path


def filled(path, seed=4):
    task = workers.Task(str(path), PRIOR, seed)
    for start in range(0, 150, workers.BATCH):
        task.pieces.put(start)
    return task


def stand_in(monkeypatch, code):
    """Let other processes run this code, which starts at once."""
    command = (sys.executable, "-c", f"import signal, sys, time\n{code}")
    monkeypatch.setattr(workers, "COMMAND", command)
    monkeypatch.setattr(workers, "PAYING", 1)


def test_another_process_makes_the_same_bits_and_ends_with_its_input(file):
    """All pieces are rendered by it. Its input ends when this process does, however it ends."""
    task = filled(file)
    with workers.Helper(task) as helper:
        helper.thread.join()
        helper.process.stdin.close()
        assert helper.process.wait(60) == 0 and task.pieces.unfinished_tasks == 0
    there = np.load(file)
    assert not there[:, 1].any()
    np.testing.assert_array_equal(there[:, :1], simulate(150, PRIOR, seed=4)[0])


def test_one_process_fills_the_file_as_simulate_does(file, monkeypatch):
    monkeypatch.setattr(workers, "Helper", None)  # with so few images there is none
    threads = torch.get_num_threads()
    truth = workers.simulate_file(file, seed=4, workers=8)
    images, expected = simulate(150, PRIOR, seed=4)
    np.testing.assert_array_equal(np.load(file)[:, :1], images)
    assert list(truth) == list(expected) and torch.get_num_threads() == threads
    assert all(np.array_equal(truth[name], expected[name]) for name in truth)


@pytest.mark.parametrize(
    "code, reason",
    [
        ("sys.exit('no memory left')", "no memory left"),  # while it starts
        ("print('ready', flush=True); input(); sys.exit(3)", "code 3"),  # within a piece
        ("print('ready', flush=True); input(); print('?', flush=True); time.sleep(99)", "code -9"),
    ],
)
def test_a_process_that_breaks_off_costs_no_image(code, reason, file, monkeypatch, capfd):
    stand_in(monkeypatch, code)
    render = workers.Task.render
    ended = []

    def render_late(task, start):
        if not ended:  # this process waits until the others have begun, and broken off
            ended.append(capfd_until(capfd, "ended early"))
        render(task, start)

    monkeypatch.setattr(workers.Task, "render", render_late)
    workers.simulate_file(file, seed=4, workers=2)
    assert reason in ended[0]
    np.testing.assert_array_equal(np.load(file)[:, :1], simulate(150, PRIOR, seed=4)[0])


def capfd_until(capfd, text):
    said = ""
    for _ in range(300):
        said += capfd.readouterr().err
        if text in said:
            break
        time.sleep(0.1)
    return said


def test_ctrl_c_ends_every_process(file, monkeypatch):
    stand_in(monkeypatch, "print('ready', flush=True); time.sleep(99)")
    started = []
    start = workers.Helper.__init__

    def remember(helper, task):
        start(helper, task)
        started.append(helper)

    def interrupted(task, start):
        raise KeyboardInterrupt

    monkeypatch.setattr(workers.Helper, "__init__", remember)
    monkeypatch.setattr(workers.Task, "render", interrupted)
    with pytest.raises(KeyboardInterrupt):
        workers.simulate_file(file, workers=3)
    assert len(started) == 2
    assert all(helper.process.returncode is not None for helper in started)
    assert not any(helper.thread.is_alive() for helper in started)


def test_processes_are_as_many_as_pay(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(workers.Task, "share", lambda task, processes: asked.append(processes))
    monkeypatch.setattr(workers, "cores", lambda: 6)
    monkeypatch.setattr(workers, "PAYING", 100 * 64**2)  # 100 images of 64 x 64 rays
    for n, given in ((90, None), (350, None), (5000, None), (5000, 2), (5000, 1)):
        path = tmp_path / f"{n}.npy"
        np.lib.format.open_memmap(path, "w+", np.float32, (n, 1, 16, 16))
        workers.simulate_file(path, workers=given)
    assert asked == [1, 3, 6, 2, 1]


@pytest.mark.parametrize("text, most", [("max 100000", 10**6), ("250000 100000", 3), ("", 10**6)])
def test_cores_are_those_that_a_container_may_use(text, most, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "QUOTA", tmp_path / "cpu.max")
    free = workers.cores()
    (tmp_path / "cpu.max").write_text(text)
    assert workers.cores() == min(free, most) >= 1


@pytest.mark.parametrize("name", PRIORS)
def test_a_task_survives_being_written(name, file):
    task = workers.Task(str(file), PRIORS[name], 2**62 + 1)
    assert workers.Task.read(task.written()) == task


# The recipe ---------------------------------------------------------------------------------------


def test_the_number_of_processes_makes_nothing_stale(tmp_path):
    recipes = [
        Run(lensnb.open_run(data={"workers": count}).params, tmp_path).recipe("data")
        for count in (None, 1, 7)
    ]
    assert recipes[0] == recipes[1] == recipes[2] and "workers" not in recipes[0]["data"]


@pytest.mark.parametrize("count", [0, -2, 1.5])
def test_a_wrong_number_of_processes_is_refused(count, file):
    with pytest.raises(InputError, match=r"data\.workers: .* \(found"):
        lensnb.open_run(data={"workers": count})
    with pytest.raises(InputError, match="workers is"):
        workers.simulate_file(file, workers=count)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named(tmp_path):
    run = Run(lensnb.open_run(device="cuda", data={"n": 20, "size": 16}).params, tmp_path)
    with pytest.raises(InputError, match="device: cuda is asked for, and this machine offers"):
        lensnb.make_data(run)
    assert not run.folder("data").exists()


# On a GPU -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("device, used", [("cuda", "cuda"), ("mps", "cpu"), ("cpu", "cpu")])
def test_a_gpu_simulates_by_itself(device, used, tmp_path, monkeypatch):
    called = []

    def on_gpu(n, prior, seed, device, out):
        called.append(device)
        return out, simulate(n, prior, seed, out=out)[1]

    monkeypatch.setattr(workers, "simulate", on_gpu)
    prepare_dataset(Data(n=20, size=16, channels=3), 5, tmp_path, torch.device(device))
    assert [one.type for one in called] == ([used] if used == "cuda" else [])
    images = np.load(tmp_path / "images.npy")
    assert (images == images[:, :1]).all()
    np.testing.assert_array_equal(images[:, :1], simulate(20, PRIOR, seed=5)[0])


def test_a_batch_fits_what_is_free_on_the_card(monkeypatch):
    broad = PRIORS["broad"]  # 256 x 256 rays
    assert batch_of(broad, "cpu") == workers.BATCH
    for free, expected in ((80 * 2**30, 512), (2**30, 128), (2**20, 1)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, f=free: (f, 80 * 2**30))
        assert batch_of(broad, "cuda") == expected


class Calls(TorchDispatchMode):
    """The operations that run within."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.names.add(function.overloadpacket.__name__)
        return function(*arguments, **(options or {}))


@pytest.mark.parametrize("name", ["broad", "deeplensesim-1", "deeplensesim-2"])
def test_rendering_reads_nothing_back(name):
    """Each of these operations would let a GPU wait for the CPU."""
    truth = draw_truth(6, get_prior(name, 16))
    with Calls() as calls:
        render(truth, get_prior(name, 16))
    waiting = {"_local_scalar_dense", "nonzero", "index", "index_put_", "masked_select", "item"}
    assert "bmm" in calls.names and not waiting & calls.names
