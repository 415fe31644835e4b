"""The project that a wheel carries: notebooks, recipes, workflow and profiles."""

import shlex
import shutil
from pathlib import Path

from lensnb import io
from lensnb.errors import InputError, of_files

PARTS = ("notebooks", "params", "profiles", "docs", "Snakefile")
PACKED = Path(__file__).parents[1] / "project"  # where setup.py puts the parts into a wheel


def source() -> Path:
    """The folder that holds the parts: the one in the wheel, or the repository."""
    found = PACKED if PACKED.is_dir() else Path(__file__).parents[2]
    if not (found / "notebooks").is_dir():
        raise InputError(f"{found}: holds no notebooks; install lensnb again")
    return found


def recipes() -> list[Path]:
    """The recipes of the project's folder, or else those that the package carries."""
    own = io.home() / "params"
    return sorted((own if own.is_dir() else source() / "params").glob("*.yaml"))


def recipe(name: str) -> Path | None:
    """The recipe that is meant by a file name such as tiny.yaml or params/tiny.yaml, or None."""
    return next((path for path in recipes() if path.name == Path(name).name), None)


def lay_out(folder: Path) -> None:
    """Copy the parts into `folder`, which must be new or empty, and make outputs/ there."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: is there and not empty; name a new folder")
    origin = source()
    with of_files(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for part in PARTS:
            if (origin / part).is_dir():
                hidden = shutil.ignore_patterns(".*", "__pycache__")
                shutil.copytree(origin / part, folder / part, ignore=hidden)
            else:
                shutil.copyfile(origin / part, folder / part)
        (folder / "outputs").mkdir()
    print(f"{folder}: notebooks, recipes and workflow are there; go on with")
    print(f"    cd {shlex.quote(str(folder))} && lensnb run")
