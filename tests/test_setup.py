"""Set-up: every dependency is named in one place, and importing stays light."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def names(lines):
    """Package names of requirement lines, normalised."""
    found = (
        re.match(r"[A-Za-z0-9._-]+", line.strip())
        for line in lines
        if not line.strip().startswith(("#", "-"))
    )
    return [re.sub(r"[-_.]+", "-", m[0]).lower() for m in found if m]


EXTRAS = [line for extra in PROJECT["optional-dependencies"].values() for line in extra]
REQUIREMENTS = PROJECT["dependencies"] + EXTRAS
LOCK = (ROOT / "requirements.lock").read_text().splitlines()
DECLARED = names(REQUIREMENTS)
LOCKED = names(LOCK)


def test_no_dependency_is_declared_twice():
    assert len(DECLARED) == len(set(DECLARED))


def test_environment_yml_names_nothing_that_stands_elsewhere():
    pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert names(d for d in pip if isinstance(d, str)) == ["python", "pip"]
    assert pip[-1]["pip"] == ["-r requirements/torch-cpu.txt", "-r requirements.lock", "-e ."]


def test_the_lock_holds_all_that_is_declared_and_torch_stands_apart():
    assert set(DECLARED) - set(LOCKED) == {"torch"}
    assert all("==" in line for line in LOCK)
    for variant in ("cpu", "cuda"):
        lines = (ROOT / f"requirements/torch-{variant}.txt").read_text().splitlines()
        assert names(lines) == ["torch"]


def test_the_lock_satisfies_the_declared_bounds():
    from packaging.requirements import Requirement

    locked = {}  # one package may have several versions, for several platforms
    for requirement in map(Requirement, LOCK):
        version = str(requirement.specifier).removeprefix("==")
        locked.setdefault(names([requirement.name])[0], []).append(version)
    for text in REQUIREMENTS:
        requirement = Requirement(text)
        versions = locked.get(names([requirement.name])[0], [])
        assert all(requirement.specifier.contains(version) for version in versions), text


def test_training_needs_nothing_but_the_core():
    """With every other package hidden, data, training and sampling are importable."""
    hidden = (
        "caustics",
        "astropy",
        "h5py",
        "tifffile",
        "pyarrow",
        "scipy",
        "skimage",
        "matplotlib",
        "seaborn",
        "pandas",
        "ipywidgets",
        "papermill",
        "nbformat",
        "IPython",
        "snakemake",
        "sklearn",
        "PIL",
    )
    code = (
        "import sys\n"
        f"for name in {hidden!r}: sys.modules[name] = None\n"
        "import lensnb\n"
        "from lensnb import denoiser, gan, generator, io, pipeline, sampler, schedule, unet\n"
        "from lensnb.datasets import dataset\n"
        "from lensnb.lensing import simulate\n"
        "from lensnb.runs import artefact\n"
        "from lensnb.training import loop\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_public_names_are_documented():
    import lensnb

    assert all(getattr(lensnb, name).__doc__ for name in lensnb.__all__)
