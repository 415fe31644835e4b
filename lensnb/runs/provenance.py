"""Where a result comes from: the project's folder and commit, versions, hardware."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

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


def version(package="lensnb"):
    """Version of an installed package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def provenance(threads=None):
    """Commit, versions and hardware of this process; `threads` are those of the recipe, if it fixes them."""
    commit = _git("rev-parse", "HEAD")
    return {
        "lensnb": version(),
        "commit": commit,
        "modified": bool(_git("status", "--porcelain", "--untracked-files=no")) if commit else None,
        "python": sys.version.split()[0],
        "packages": {p: v for p in PACKAGES if (v := version(p))},
        "hardware": _hardware(threads),
    }


def _git(*arguments):
    """What git says of the project; None where there is no git or no repository."""
    if not shutil.which("git"):
        return None
    return (
        subprocess.run(
            ["git", "-C", io.home(), *arguments], capture_output=True, text=True
        ).stdout.strip()
        or None
    )


def _hardware(threads):
    import torch

    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    cpuinfo = Path("/proc/cpuinfo")
    names = (
        [
            line.split(":")[1].strip()
            for line in cpuinfo.read_text().splitlines()
            if line.startswith("model name")
        ]
        if cpuinfo.is_file()
        else []
    )
    return {
        "platform": platform.platform(),
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": threads or torch.get_num_threads(),
        "gpu": gpu,
    }
