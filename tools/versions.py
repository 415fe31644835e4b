"""The oldest and the newest versions that pyproject.toml admits, each in an environment of its own: unit tests and the tiny chain.

    python tests/versions.py --python 3.11 3.12 --resolution lowest-direct highest

Needs uv, and an index; torch from the general index brings CUDA on Linux, some gigabytes. `--torch` names another file or version.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
SLOW = (
    "notebooks",
    "run",
    "recipes",
    "browser",
    "launch",
)  # the chain is run below; these would repeat it
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


def made(folder, python, resolution, torch):
    """An environment with lensnb and all extras in these versions; the path of its Python."""

    def uv(*arguments):
        return subprocess.run(["uv", *arguments], check=True, cwd=ROOT)

    uv("venv", "--quiet", "--python", python, str(folder))
    interpreter = folder / "bin" / "python"
    if torch:
        uv("pip", "install", "--quiet", "--python", str(interpreter), torch)
    uv(
        "pip",
        "install",
        "--quiet",
        "--python",
        str(interpreter),
        "--resolution",
        resolution,
        "-e",
        ".[lab,test]",
        *(["--constraint", _pinned(folder, interpreter)] if torch else []),
    )
    return interpreter


def _pinned(folder, interpreter):
    version = subprocess.run(
        [interpreter, "-c", "import importlib.metadata as m; print(m.version('torch'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    (folder / "constraint.txt").write_text(f"torch=={version.stdout.strip()}\n")
    return str(folder / "constraint.txt")


def tried(interpreter, scratch):
    """Run the fast tests and the tiny chain; returns what failed, or nothing."""
    environment = os.environ | {
        "PATH": f"{interpreter.parent}{os.pathsep}{os.environ['PATH']}",
        "LENSNB_OUTPUTS": str(scratch / "outputs"),
        "LENSNB_RECIPE": "params/tiny.yaml",
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    ignored = [f"--ignore=tests/test_{name}.py" for name in SLOW]
    chain = [
        "snakemake",
        "--cores",
        "1",
        "--quiet",
        "all",
        "--nolock",
        "--directory",
        str(scratch),
        "--snakefile",
        str(ROOT / "Snakefile"),
    ]
    tests = [
        str(interpreter),
        "-m",
        "pytest",
        "-q",
        "-n",
        "2",
        "--dist",
        "loadfile",
        "-p",
        "no:cacheprovider",
        *ignored,
    ]
    return [
        name
        for name, command in (("tests", tests), ("chain", chain))
        if subprocess.run(command, cwd=ROOT, env=environment).returncode
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", nargs="+", default=["3.11", "3.12"])
    parser.add_argument("--resolution", nargs="+", default=["lowest-direct", "highest"])
    parser.add_argument("--torch", help="such as torch==2.13.0, or a wheel")
    given = parser.parse_args()
    failures = []
    for python in given.python:
        for resolution in given.resolution:
            with tempfile.TemporaryDirectory() as scratch:
                interpreter = made(Path(scratch) / "venv", python, resolution, given.torch)
                code = f"import importlib.metadata as m; print({resolution!r}, 'Python', {python!r}, *(p + ' ' + m.version(p) for p in {SHOWN!r}))"
                subprocess.run([interpreter, "-c", code], check=True)
                failures += [
                    f"{resolution}, Python {python}: {name} failed"
                    for name in tried(interpreter, Path(scratch))
                ]
    print(*failures or ["all passed"], sep="\n")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
