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


DECLARED = names(
    PROJECT["dependencies"]
    + [d for extra in PROJECT["optional-dependencies"].values() for d in extra]
)
LOCKED = names((ROOT / "requirements.lock").read_text().splitlines())


def test_no_dependency_is_declared_twice():
    assert len(DECLARED) == len(set(DECLARED))


def test_environment_yml_names_nothing_that_stands_elsewhere():
    pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert names(d for d in pip if isinstance(d, str)) == ["python", "pip"]
    assert pip[-1]["pip"] == ["-r requirements/torch-cpu.txt", "-r requirements.lock", "-e ."]


def test_the_lock_holds_all_that_is_declared_and_torch_stands_apart():
    assert set(DECLARED) - set(LOCKED) == {"torch"}
    assert all("==" in line for line in (ROOT / "requirements.lock").read_text().splitlines())
    for variant in ("cpu", "cuda"):
        assert names((ROOT / f"requirements/torch-{variant}.txt").read_text().splitlines()) == [
            "torch"
        ]


def test_the_lock_satisfies_the_declared_bounds():
    from packaging.requirements import Requirement

    locked = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        requirement = Requirement(line)
        locked.setdefault(names([requirement.name])[0], []).append(
            str(requirement.specifier).removeprefix("==")
        )
    for text in PROJECT["dependencies"] + [
        d for extra in PROJECT["optional-dependencies"].values() for d in extra
    ]:
        requirement = Requirement(text)
        assert all(
            requirement.specifier.contains(v) for v in locked.get(names([requirement.name])[0], [])
        ), text


def test_training_needs_nothing_but_the_core():
    """With every other package hidden, data, training and sampling are importable."""
    hidden = (
        "caustics",
        "astropy",
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
        "from lensnb import data, denoiser, gan, generate, sampler, schedule, simulate, store, train, unet\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_public_names_are_documented():
    import lensnb

    assert all(getattr(lensnb, name).__doc__ for name in lensnb.__all__)
