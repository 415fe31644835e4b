"""Where a result comes from: the project's commit, versions, hardware."""

import functools
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from lensnb import io

PACKAGES = (
    "torch",
    "numpy",
    "pydantic",
    "accelerate",
    "safetensors",
    "caustics",
    "scipy",
    "matplotlib",
    "papermill",
)


@functools.lru_cache
def version(package: str = "lensnb") -> str | None:
    """The version of an installed package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def provenance(threads: int | None = None) -> dict[str, Any]:
    """Commit, versions and hardware of this process; `threads` as the recipe fixes them."""
    commit = _git("rev-parse", "HEAD")
    return {
        "lensnb": version(),
        "commit": commit,
        "modified": _is_modified() if commit else None,
        "python": sys.version.split()[0],
        "packages": {name: found for name in PACKAGES if (found := version(name))},
        "hardware": _hardware(threads),
    }


def _is_modified() -> bool:
    """Whether tracked files differ from the commit; of a notebook, only its cells count.

    Opening and running a notebook changes outputs, counts and the state of widgets. None of them
    changes what a run computes.
    """
    changed = (_git("diff", "--name-only", "-z", "HEAD") or "").split("\0")
    return any(path and (not path.endswith(".ipynb") or _has_new_cells(path)) for path in changed)


def _has_new_cells(path: str) -> bool:
    """Whether a notebook's cells read otherwise than in the commit."""
    try:
        now = (Path(_git("rev-parse", "--show-toplevel") or "") / path).read_text()
        return _cells(now) != _cells(_git("show", f"HEAD:{path}") or "")
    except (OSError, ValueError, KeyError):  # deleted, or no notebook any more
        return True


def _cells(notebook: str) -> list[tuple[str, str]]:
    """Kind and text of the cells of a notebook's JSON."""
    return [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(notebook)["cells"]]


def _git(*arguments: str) -> str | None:
    """What git says of the project; None without git or repository."""
    if not shutil.which("git"):
        return None
    command = ["git", "-C", str(io.home()), *arguments]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or None


def _hardware(threads: int | None) -> dict[str, Any]:
    import torch

    return {
        "platform": platform.platform(),
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "threads": threads or torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
    }


@functools.lru_cache
def _processor() -> str:
    """The processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor() or platform.machine()
