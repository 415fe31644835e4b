"""The same recipe and seed give the same bits in every artefact, in another process, too.

This holds for two threads as for one, whose last bits differ. That jobs, notebooks and the browser
give the same bits on one thread is tested in tests/apps and tests/display.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from killing import digests

pytestmark = pytest.mark.slow  # minutes: left out by make fast

ROOT = Path(__file__).parents[1]
CHAIN = """
import sys, lensnb
run = lensnb.open_run(lensnb.load_recipe("params/tiny.yaml", sys.argv[1]))
lensnb.make_data(run)
for name in ("diffusion", "gan"):
    lensnb.train_model(run, name)
for method in ("ddim", "gan"):
    lensnb.draw_samples(run, method)
    lensnb.evaluate_method(run, method)
"""
SHORT = (
    "data.n=120 data.holdout=0.2 train.steps=8 gan.steps=6 sample.n=16 evaluate.n=16 "
    "evaluate.fit=2 evaluate.bootstrap=10 evaluate.floors=2"
)


def test_the_same_recipe_twice_gives_the_same_bits(tmp_path):
    made = []
    for again in ("once", "twice"):
        given = {
            "LENSNB_OUTPUTS": str(tmp_path / again),
            "OMP_NUM_THREADS": "2",
            "OMP_WAIT_POLICY": "passive",  # beside another worker, two threads that spin take 20x
        }
        done = subprocess.run(
            [sys.executable, "-c", CHAIN, f"threads=2 {SHORT}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            env=os.environ | given,
        )
        assert done.returncode == 0, done.stderr
        made.append(digests(tmp_path / again / "tiny"))
    assert len(made[0]) == 7 and made[0] == made[1]
