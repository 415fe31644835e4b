"""The chain, killed again and again at random moments and resumed: does it end with the same bits?

    python tests/killing.py --times 20

A terminal's Ctrl-C (SIGINT) and a cluster's end of time (SIGTERM) reach Snakemake and papermill, which see to their kernel; SIGKILL is
either that of one process, which leaves a kernel without its parent, or that of a lost machine, which takes all.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

from lensnb.runs import artefact

ROOT = Path(__file__).parents[2]
WAYS = ("SIGINT", "SIGTERM", "SIGKILL", "lost machine")


def begin(outputs, overrides=""):
    """Start the chain as `make run` does, in a group of its own; its state and log lie beside the outputs."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "LENSNB_OUTPUTS": str(outputs),
        "LENSNB_RECIPE": str(ROOT / "params/tiny.yaml"),
        "LENSNB_SET": overrides,
    }
    outputs.mkdir(parents=True, exist_ok=True)
    with open(outputs / "log", "a") as log:
        return subprocess.Popen(
            [
                "snakemake",
                "--cores",
                "1",
                "--quiet",
                "all",
                "--nolock",
                "--rerun-incomplete",
                "--directory",
                str(outputs),
                "--snakefile",
                str(ROOT / "Snakefile"),
            ],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # a background shell ignores it


def kill(chain, way):
    """End a running chain in one of the WAYS."""
    family = [*psutil.Process(chain.pid).children(recursive=True), psutil.Process(chain.pid)]
    if way == "lost machine":
        for process in family:
            process.kill()
    else:
        os.killpg(chain.pid, getattr(signal, way))
    chain.wait()
    psutil.wait_procs(family, timeout=60)


def under_way(outputs):
    """The stages that are half made, or none."""
    return (
        ", ".join(
            sorted(
                str(p.parent.name) + "/" + p.name[1:].removesuffix(".partial")
                for p in outputs.rglob(".*.partial")
                if p.is_dir()
            )
        )
        or "none"
    )


def killed(outputs, times, seed, least, most, overrides=""):
    """Kill a chain `times` times after `least` to `most` seconds, let it end, and return what was under way at each death.

    A chain that ends earlier is left as it is: its last start finds nothing to do.
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


def digests(run):
    """What every stage of a run holds, but for the figures, of which one shows seconds."""
    return {
        str(p.parent.relative_to(run)): artefact.digest(p.parent)
        for p in run.rglob("artefact.json")
        if p.parent.name != "figures"
    }


def main():
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
        whole = Path(scratch) / "whole"
        deaths = []
        seed = given.seed
        assert begin(whole).wait() == 0, (whole / "log").read_text()
        while len(deaths) < given.times:
            seed += 1
            cut = Path(scratch) / f"cut-{seed}"
            deaths += killed(cut, given.times - len(deaths), seed, *given.seconds)
            same = digests(cut / "tiny") == digests(whole / "tiny")
            print(f"after {len(deaths)} deaths the same bits: {same}", flush=True)
            assert same


if __name__ == "__main__":
    main()
