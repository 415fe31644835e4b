"""Kill the chain again and again at random moments and resume it: does it end with the same bits?

    python tests/helpers/killing.py --times 20

Ctrl-C in a terminal (SIGINT) and a cluster's end of time (SIGTERM) reach Snakemake and papermill,
which end their kernel. SIGKILL has two forms. It takes the group of Snakemake alone, which leaves a
kernel without its parent; or it takes everything, as when a machine is lost.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import psutil

from lensnb.runs import artefact

ROOT = Path(__file__).parents[2]
WAYS = ("SIGINT", "SIGTERM", "SIGKILL", "lost machine")


def heed_ctrl_c() -> None:
    """Let SIGINT end a process again: a background shell starts its children to ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def begin(outputs: Path, overrides: str = "") -> subprocess.Popen:
    """Start the chain as `make run` does, in a group of its own.

    Snakemake's state and the log lie beside the outputs.
    """
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "LENSNB_OUTPUTS": str(outputs),
        "LENSNB_RECIPE": str(ROOT / "params/tiny.yaml"),
        "LENSNB_SET": overrides,
    }
    command = [
        *("snakemake", "--cores", "1", "--quiet", "all", "--nolock", "--rerun-incomplete"),
        *("--directory", str(outputs), "--snakefile", str(ROOT / "Snakefile")),
    ]
    outputs.mkdir(parents=True, exist_ok=True)
    with open(outputs / "log", "a") as log:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=heed_ctrl_c,
        )


def kill(chain: subprocess.Popen, way: str) -> None:
    """End a running chain in one of the WAYS."""
    family = [*psutil.Process(chain.pid).children(recursive=True), psutil.Process(chain.pid)]
    if way == "lost machine":
        for process in family:
            process.kill()
    else:
        os.killpg(chain.pid, getattr(signal, way))
    chain.wait()
    psutil.wait_procs(family, timeout=60)


def under_way(outputs: Path) -> str:
    """The names of the stages that are half made, or "none"."""
    stages = [
        f"{path.parent.name}/{path.name[1:].removesuffix('.partial')}"
        for path in outputs.rglob(".*.partial")
        if path.is_dir()
    ]
    return ", ".join(sorted(stages)) or "none"


def killed(
    outputs: Path, times: int, seed: int, least: float, most: float, overrides: str = ""
) -> list[str]:
    """Kill a chain `times` times, each after `least` to `most` seconds, then let it end.

    Returns what was under way at each death. A chain that ends earlier is left as it is: the next
    start finds nothing to do.
    """
    moments = random.Random(seed)
    deaths = []
    for i in range(times):
        chain = begin(outputs, overrides)
        way = WAYS[i % len(WAYS)]
        try:
            chain.wait(moments.uniform(least, most))
        except subprocess.TimeoutExpired:
            kill(chain, way)
            deaths.append(f"{way}: {under_way(outputs)} half made")
            print(deaths[-1], flush=True)
    assert begin(outputs, overrides).wait() == 0, (outputs / "log").read_text()[-3000:]
    return deaths


def digests(run: Path) -> dict[str, str]:
    """The digest of every stage of a run. Figures are left out: one of them shows seconds."""
    return {
        str(path.parent.relative_to(run)): artefact.digest(path.parent)
        for path in run.rglob("artefact.json")
        if path.parent.name != "figures"
    }


def compare_bits(times: int, seed: int, seconds: Sequence[float], scratch: Path) -> None:
    """Compare chains that are killed `times` times in all with one that nobody kills."""
    whole = scratch / "whole"
    assert begin(whole).wait() == 0, (whole / "log").read_text()
    deaths: list[str] = []
    while len(deaths) < times:
        seed += 1
        cut = scratch / f"cut-{seed}"
        deaths += killed(cut, times - len(deaths), seed, *seconds)
        same = digests(cut / "tiny") == digests(whole / "tiny")
        print(f"after {len(deaths)} deaths the same bits: {same}", flush=True)
        assert same


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--seconds",
        nargs=2,
        type=float,
        default=(8, 30),
        help="at least and at most, before each death; a start takes 8 to 15",
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        compare_bits(given.times, given.seed, given.seconds, Path(scratch))


if __name__ == "__main__":
    main()
