"""The public face: the ten lines run as written, names load lazily, a number has its floor."""

import doctest
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import lensnb
from lensnb.recipes import selection

pytestmark = pytest.mark.slow  # minutes: left out by make fast

ROOT = Path(__file__).parents[1]
SMALL = (
    "data.n=200 data.holdout=0.2 sample.n=16 sample.trajectory=2 "
    "evaluate.n=16 evaluate.fit=0 evaluate.bootstrap=10 evaluate.floors=2"
)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """A folder with two small finished runs called quick and longer."""
    folder = tmp_path_factory.mktemp("outputs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LENSNB_OUTPUTS", str(folder))
        for name, steps in (("quick", 4), ("longer", 6)):
            changes = f"run={name} {SMALL} train.steps={steps}"
            (recipe,) = selection.expand(["params/tiny.yaml"], changes, samplers=["ddim"])
            whole(lensnb.open_run(recipe))
    return folder


def whole(run):
    run.write_recipe()
    lensnb.make_data(run)
    for stage in run.stages("02_train"):
        lensnb.train_model(run, stage.partition("/")[2])
    for method in run.params.sample.methods:
        lensnb.draw_samples(run, method)
        lensnb.evaluate_method(run, method)
    lensnb.compare_methods(run)


def ten_lines(page):
    """The block of a page that begins with `import lensnb` and holds all ten lines."""
    text = (ROOT / page).read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return next(block for block in blocks if "lensnb.simulate(512" in block)


def test_the_ten_lines_run_as_written(outputs, monkeypatch):
    monkeypatch.setenv("LENSNB_OUTPUTS", str(outputs))
    names = {}
    exec(compile(ten_lines("README.md"), "README.md", "exec"), names)
    assert names["real"].shape == names["noisy"].shape == (512, 1, 64, 64)
    assert names["made"].shape == (16, 1, 64, 64) and names["run"].params.run == "quick"
    scatter = (names["noisy"] - names["real"]).std()
    assert abs(scatter / float(names["levels"].sigmas[500]) - 1) < 0.01


def test_they_stand_in_the_docs_and_as_a_doctest(outputs, monkeypatch):
    monkeypatch.setenv("LENSNB_OUTPUTS", str(outputs))
    pages = [str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")]
    there = [page for page in pages if "lensnb.simulate(512" in (ROOT / page).read_text()]
    assert there and all(ten_lines(page) == ten_lines("README.md") for page in there)
    tried = doctest.testmod(lensnb, optionflags=doctest.ELLIPSIS)
    assert tried.attempted >= 10 and not tried.failed


def test_a_distance_has_its_error_its_floor_and_its_number_of_images():
    real = lensnb.simulate(96, seed=1)
    found = lensnb.frechet(lensnb.simulate(24, seed=2), real)
    assert found.n == 24 and found.error > 0 and found.floor > 0 and abs(found.z) < 4
    far = lensnb.frechet(2 * real[:24], real)
    assert far.z > 5 and far.ratio > found.ratio
    assert "floor" in str(found) and "n = 24" in str(found)


def test_runs_are_compared_in_one_table(outputs, monkeypatch):
    monkeypatch.setenv("LENSNB_OUTPUTS", str(outputs))
    table = lensnb.compare(["quick", "longer"]).table
    assert {run for run, _ in table.index} == {"quick", "longer"}
    assert np.isfinite(table["value"]["frechet_lensnet"]).all()
    shutil.rmtree(outputs / "longer" / "comparison")
    with pytest.raises(lensnb.InputError, match="longer"):
        lensnb.compare(["quick", "longer"])
    with pytest.raises(lensnb.InputError, match="no run given"):
        lensnb.compare([])


def test_an_import_is_light():
    code = (
        "import sys, lensnb; heavy = {'torch', 'numpy', 'pandas'} & set(sys.modules); "
        "print(sorted(heavy), lensnb.__version__)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.startswith("[] 0."), done.stdout + done.stderr


def test_every_public_name_is_there_and_says_what_it_is():
    assert set(lensnb.__all__) <= set(dir(lensnb))
    for name in lensnb.__all__:
        assert getattr(lensnb, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'simulat'"):
        lensnb.simulat  # noqa: B018 - the access is what is tested


@torch.inference_mode()
def test_denoisers_take_any_float():
    net = lensnb.Denoiser(lensnb.UNet(width=16, attention=())).eval()
    x = torch.randn(2, 1, 32, 32)
    expected = net(x, torch.tensor([0.5, 0.5]))
    for sigma in (0.5, torch.tensor(0.5, dtype=torch.float64), np.float64(0.5), np.float32(0.5)):
        assert (net(x, sigma) - expected).abs().max() < 1e-6
