"""How time, memory and disk grow with images, their side, the network's width and the batch.

    python benchmarks/growth.py [--full] [curve ...]

Every point is measured in a process of its own, after its imports, with one thread. Time is CPU
seconds, so other work on the machine hardly counts. Memory is the peak of what no file backs,
beyond what there was before the work. Disk is bytes written.

The table outputs/benchmarks/growth.csv keeps the points, and a benchmark that broke off goes on
from there. growth.png and growth.pdf show them, and the exponents are printed. --full goes up to
100,000 images, in about an hour of one core.
"""

import argparse
import multiprocessing
import os
import resource
import shutil
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

# For the processes that measure; before numpy is imported.
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

import numpy as np
from growth_work import CURVES, HOME, SCRATCH, Parts

from lensnb import io
from lensnb.display import figures

MEGABYTE = 2**20
# What the processes that measure import beforehand.
PRELOADED = [
    "growth_work",
    "lensnb.evaluation.judge",
    "lensnb.training.loop",
    "lensnb.lensing.simulate",
    "caustics.light.func",
    "scipy.stats",
    "scipy.interpolate",
]

Row = dict[str, Any]
Panels = dict[str, dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]]


# ---- how it is measured


def held() -> int:
    """Bytes that this process holds and no file backs."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


class Peak:
    """The most bytes that the process held within a `with` block, beyond those before it."""

    def __enter__(self) -> "Peak":
        self.before = self.most = held()
        self.done = threading.Event()
        self.watcher = threading.Thread(target=self._watch)
        self.watcher.start()
        return self

    def _watch(self) -> None:
        while not self.done.wait(0.02):
            self.most = max(self.most, held())

    def __exit__(self, *_: Any) -> None:
        self.done.set()
        self.watcher.join()
        self.most = max(self.most, held())

    @property
    def megabytes(self) -> float:
        """The peak beyond what was held before."""
        return (self.most - self.before) / MEGABYTE


def point(curve: str, size: int) -> list[Row]:
    """One row for each part of the work of a curve at a size; called in a fresh process."""
    import torch

    torch.set_num_threads(1)
    work = CURVES[curve].work(size)
    with Peak() as peak:
        start = time.process_time()
        parts = work()
        whole = time.process_time() - start
    folders = {"simulated": f"{size}", "1,000 images simulated": f"side-{size}"}
    written = (SCRATCH / folders[curve]).iterdir() if curve in folders else ()
    row = {
        "curve": curve,
        "size": size,
        "megabytes": peak.megabytes,
        "resident": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "disk": sum(path.stat().st_size for path in written) / MEGABYTE,
    }
    parts = parts if isinstance(parts, Parts) else {"": whole}
    return [row | timed(part, np.atleast_1d(times)) for part, times in parts.items()]


def timed(part: str, times: np.ndarray) -> Row:
    """The mean of some times (K,) of a part, with its standard error."""
    several = len(times) > 1
    return {
        "part": part,
        "seconds": times.mean(),
        "error": times.std(ddof=1) / len(times) ** 0.5 if several else 0.0,
        "times": len(times),
    }


def measured(full: bool, curves: Sequence[str]) -> list[Row]:
    """All points of the curves; those that are not in the table are measured now."""
    path = HOME / "growth.csv"
    io.make_folder(path.parent)
    table = io.read_table(path) if path.is_file() else {}
    rows = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    there = {(row["curve"], int(row["size"])) for row in rows}
    wanted = {
        (curve, size)
        for curve in curves
        for size in (CURVES[curve].full_sizes if full else CURVES[curve].sizes)
    }
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(PRELOADED)
    for curve, size in sorted(wanted - there, key=_order):
        with server.Pool(1) as pool:
            new = pool.apply(point, (curve, size))
        rows += new
        io.write_rows(path, rows)
        tell(new)
    return [row for row in rows if (row["curve"], int(row["size"])) in wanted]


def _order(wanted: tuple[str, int]) -> tuple[Any, ...]:
    """First the simulated images, which others use; then the cheap points."""
    curve, size = wanted
    return curve != "simulated", size * CURVES[curve].cost, wanted


def tell(rows: Iterable[Row]) -> None:
    """Print some points."""
    for row in rows:
        print(
            f"{row['curve']:24s}{row['part']:20s}{row['size']:8d}"
            f"{row['seconds']:10.3f} s +- {row['error']:.3f}{row['megabytes']:8.0f} MB"
            f"{row['disk']:8.0f} MB on disk",
            flush=True,
        )


# ---- what it says


def slope(x: np.ndarray, y: np.ndarray, last: int = 3) -> tuple[float, float]:
    """The exponent of y ~ x^p and its standard error.

    It is fitted to the last few sizes, where small fixed costs no longer flatten the curve.
    """
    from scipy import stats

    fit = stats.linregress(np.log(x[-last:]), np.log(y[-last:]))
    return fit.slope, fit.stderr if len(x) > 2 else np.nan


def panels(rows: Sequence[Row]) -> Panels:
    """x axis -> y axis -> label with its exponent -> (sizes, values); prints the exponents."""
    found: Panels = {}
    for curve, part in dict.fromkeys((row["curve"], row["part"]) for row in rows):
        own = [row for row in rows if (row["curve"], row["part"]) == (curve, part)]
        own.sort(key=lambda row: row["size"])
        size = np.array([row["size"] for row in own], float)
        for axis, column, least, label in _lines(curve, part, own):
            value = np.array([max(row[column], least) for row in own])
            exponent, error = slope(size, value)
            print(
                f"{label:34s}{column:14s} exponent {exponent:6.2f} +- {error:.2f}  "
                f"({value[0]:.4g} at {size[0]:.0f} to {value[-1]:.4g} at {size[-1]:.0f})"
            )
            panel = found.setdefault(CURVES[curve].axis, {}).setdefault(axis, {})
            panel[f"{label}: {exponent:.2f} ± {error:.2f}"] = size, value
    return found


def _lines(curve: str, part: str, own: Sequence[Row]) -> list[tuple[str, str, float, str]]:
    """(y axis, column, least value, label) of each line that the points of one part become."""
    memory = "memory [MiB]"
    lines = [("CPU time [s]", "seconds", 1e-4, part or curve)]
    if part in ("", "Frechet"):  # once for all parts
        lines.append((memory, "megabytes", 0.1, curve))
    if own[0]["disk"]:
        lines.append((memory, "disk", 1e-4, f"{curve}, on disk"))
    return lines


def main() -> None:
    """Measure what is missing, print the exponents, and save the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="up to 100,000 images")
    known = f"any of: {', '.join(CURVES)}; all if none is named"
    parser.add_argument("curves", nargs="*", metavar="curve", help=known)
    given = parser.parse_args()
    rows = measured(given.full, given.curves or list(CURVES))
    shutil.rmtree(SCRATCH, ignore_errors=True)
    figures.save(figures.growth(panels(rows)), HOME, "growth")


if __name__ == "__main__":
    main()
