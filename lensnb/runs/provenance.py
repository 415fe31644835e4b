"""Where a result comes from: the project's commit, versions, hardware."""

import functools
import importlib.metadata
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
    changes = _git("status", "--porcelain", "--untracked-files=no")
    return {
        "lensnb": version(),
        "commit": commit,
        "modified": bool(changes) if commit else None,
        "python": sys.version.split()[0],
        "packages": {name: found for name in PACKAGES if (found := version(name))},
        "hardware": _hardware(threads),
    }


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
