"""Worker processes: the results of one process, whatever is measured; none is left behind."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from lensnb import metrics
from lensnb.evaluation import pixel_classifier, uncertainty, workers
from lensnb.evaluation.measures import MEASURES
from lensnb.evaluation.rows import Reference, fit, rows_of
from lensnb.evaluation.workers import HERE, Workers, workers_for
from lensnb.lensing.simulate import simulate

TWO = Workers(2)
ROOT = Path(__file__).parents[2]


# A shell that starts tests in the background has them ignore Ctrl-C, and all their children.
ignored = pytest.mark.skipif(
    signal.getsignal(signal.SIGINT) == signal.SIG_IGN, reason="SIGINT is ignored from the start"
)


@ignored
def test_work_goes_to_other_processes_with_one_thread_and_keeps_its_order():
    outside = 10

    def where(i):  # a function that no module holds, as in a notebook
        return i + outside, os.getpid(), torch.get_num_threads(), signal.getsignal(signal.SIGINT)

    found = TWO.map(where, ((i,) for i in range(6)))
    assert [value for value, *_ in found] == list(range(10, 16))
    assert os.getpid() not in {pid for _, pid, *_ in found}
    assert {threads for *_, threads, _ in found} == {1}
    assert {handler for *_, handler in found} == {signal.SIG_IGN}
    assert signal.getsignal(signal.SIGINT) != signal.SIG_IGN


def test_every_measure_gives_the_same_bits_in_workers():
    images = simulate(48, "broad", seed=1)[0]
    reference = Reference(images)
    makers = [
        *(fit(m.rows, reference) for name, m in MEASURES.items() if m.rows and name != "fid"),
        lambda some: some.max((1, 2, 3))[:, None],
    ]
    here = rows_of(makers, images, HERE, 16)
    there = rows_of(makers, images, TWO, 16)
    assert len(here) == len(makers) > 15
    for one, other in zip(here, there, strict=True):
        assert one.dtype == other.dtype and np.array_equal(one, other)


@pytest.mark.parametrize("resample", ["bootstrap", "subsample"])
def test_errors_and_floors_are_the_same_bits_in_workers(resample):
    rng = np.random.default_rng(0)
    a, b, others = (rng.normal(size=(n, 3)) for n in (40, 40, 90))
    labels = [rng.integers(2, size=n) for n in (40, 40, 90)]
    for distance, classes in ((metrics.frechet, None), (metrics.frechet_by_class, labels)):
        trees = [
            uncertainty.measure(
                distance, a, b, others, "1", 21, 5, 3, resample, labels=classes, workers=who
            )
            for who in (HERE, TWO)
        ]
        assert trees[0] == trees[1] and trees[0]["error"] > 0


def test_the_classifier_on_pixels_gives_the_same_bits_in_workers():
    made, real = np.random.default_rng(0).normal(size=(2, 12, 1, 16, 16)).astype(np.float32)
    here, there = (pixel_classifier.told_apart(made, real, workers=who) for who in (HERE, TWO))
    assert here == there


def test_few_images_start_no_process(monkeypatch):
    assert workers_for(workers.FEW - 1, 8) == HERE
    assert workers_for(workers.FEW, 8) == Workers(8)
    assert workers_for(workers.FEW).count >= 1
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert workers_for(workers.FEW, 8) == HERE  # joblib comes with the notebooks' packages


SCRIPT = """
import os, time
from lensnb.evaluation.workers import Workers

def busy(folder):
    open(f"{folder}/{os.getpid()}", "w").close()
    time.sleep(600)

try:
    Workers(2).map(busy, (("FOLDER",) for _ in range(8)))  # this script guards no main module
except KeyboardInterrupt:
    print("stopped")
"""


@ignored
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_the_one_that_asked(how, tmp_path):
    (tmp_path / "pids").mkdir()
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.replace("FOLDER", str(tmp_path / "pids")))
    asking = subprocess.Popen(
        [sys.executable, script],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    pids = []
    while len(pids) < 2:
        assert asking.poll() is None
        time.sleep(0.1)
        pids = [int(path.name) for path in (tmp_path / "pids").iterdir()]
    os.killpg(asking.pid, how) if how == signal.SIGINT else asking.kill()
    assert asking.communicate(timeout=120)[0] == (b"stopped\n" if how == signal.SIGINT else b"")
    end = time.time() + 60
    while any(map(is_alive, pids)):
        assert time.time() < end
        time.sleep(0.1)


def is_alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
