"""The tiny chain as `lensnb run` makes it: once in a session, for all workers and test files."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import filelock
import pytest

ROOT = Path(__file__).parents[2]


class Chain(NamedTuple):
    """What `lensnb run params/tiny.yaml` left. No test changes it: they change copies.

    printed : all that it said; jupyter : Jupyter's folder, where its notebooks are signed
    """

    outputs: Path
    printed: str
    jupyter: Path


@pytest.fixture(scope="session")
def tiny_chain(tmp_path_factory):
    """The tiny chain, run from nothing into folders with a space in their names."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # of all workers of this session
    made = base / "the chain"
    log = made / "log"
    with filelock.FileLock(base / "the chain.lock"):
        if not made.is_dir():
            made.mkdir()
            log.write_text(run_tiny(made))
    assert log.is_file(), "the chain has failed, for another test"
    return Chain(made / "my outputs", log.read_text(), made / "jupyter")


def run_tiny(folder):
    """Make the chain in `folder`; returns all that was printed."""
    own = {
        "LENSNB_OUTPUTS": str(folder / "my outputs"),
        "JUPYTER_DATA_DIR": str(folder / "jupyter"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "lensnb", "run", "params/tiny.yaml", "--no-spread", "--cores", "1"],
        cwd=ROOT,
        env=os.environ | own,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout
