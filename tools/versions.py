"""Try the oldest and the newest versions that pyproject.toml admits.

    python -m tools.versions --python 3.11 3.12 3.13 --resolution lowest-direct highest

Each combination gets an environment of its own, in which the fast tests and the tiny chain run. It
needs uv and an index. On Linux, torch from the general index brings CUDA, some gigabytes; `--torch`
names another version or file.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYTHONS = ["3.11", "3.12", "3.13"]
SLOW = (  # below tests/: they run the chain or train for minutes; the chain runs once, below
    "test_notebooks",
    "test_published_run",
    "apps/test_execute",
    "apps/test_launch",
    "recipes/test_published",
    "display/test_browser",
)
SHOWN = (
    "torch",
    "numpy",
    "pydantic",
    "papermill",
    "accelerate",
    "scipy",
    "matplotlib",
    "ipywidgets",
    "snakemake",
)


def make_environment(folder: Path, python: str, resolution: str, torch: str | None) -> Path:
    """Make an environment with lensnb and all extras in these versions. Returns its Python."""
    interpreter = folder / "bin" / "python"
    install = ["uv", "pip", "install", "--quiet", "--python", str(interpreter)]
    call("uv", "venv", "--quiet", "--python", python, str(folder))
    constraint = []
    if torch:
        call(*install, torch)
        constraint = ["--constraint", str(write_constraint(folder, interpreter))]
    call(*install, "--resolution", resolution, "-e", ".[lab,test]", *constraint)
    return interpreter


def call(*command: str) -> None:
    """Run a command in the project's folder. Raises CalledProcessError where it fails."""
    subprocess.run(command, check=True, cwd=ROOT)


def write_constraint(folder: Path, interpreter: Path) -> Path:
    """Write the version of torch that is installed as a constraint for what comes after it."""
    code = "import importlib.metadata as m; print(m.version('torch'))"
    done = subprocess.run([interpreter, "-c", code], capture_output=True, text=True, check=True)
    path = folder / "constraint.txt"
    path.write_text(f"torch=={done.stdout.strip()}\n")
    return path


def show_versions(interpreter: Path, label: str) -> None:
    """Print which versions an environment has."""
    code = (
        "import importlib.metadata as m\n"
        f"print({label!r}, *(name + ' ' + m.version(name) for name in {SHOWN!r}))"
    )
    subprocess.run([interpreter, "-c", code], check=True)


def failed(interpreter: Path, scratch: Path) -> list[str]:
    """Run the fast tests and the tiny chain. Returns the names of what failed."""
    environment = os.environ | {
        "PATH": f"{interpreter.parent}{os.pathsep}{os.environ['PATH']}",
        "LENSNB_OUTPUTS": str(scratch / "outputs"),
        "LENSNB_RECIPE": "params/tiny.yaml",
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    commands = {
        "tests": [
            *(str(interpreter), "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile"),
            *("-p", "no:cacheprovider"),
            *(f"--ignore=tests/{name}.py" for name in SLOW),
        ],
        "chain": [
            *("snakemake", "--cores", "1", "--quiet", "all", "--nolock"),
            *("--directory", str(scratch), "--snakefile", str(ROOT / "Snakefile")),
        ],
    }
    return [
        name
        for name, command in commands.items()
        if subprocess.run(command, cwd=ROOT, env=environment).returncode
    ]


def main() -> int:
    """The command line. Returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", nargs="+", default=PYTHONS)
    parser.add_argument("--resolution", nargs="+", default=["lowest-direct", "highest"])
    parser.add_argument("--torch", help="such as torch==2.13.0, or a wheel")
    given = parser.parse_args()
    failures = []
    for python in given.python:
        for resolution in given.resolution:
            label = f"{resolution}, Python {python}:"
            with tempfile.TemporaryDirectory() as scratch:
                folder = Path(scratch) / "venv"
                interpreter = make_environment(folder, python, resolution, given.torch)
                show_versions(interpreter, label)
                failures += [
                    f"{label} {name} failed" for name in failed(interpreter, Path(scratch))
                ]
    print(*failures or ["all passed"], sep="\n")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
