"""Do the tests see a fault? Plant small ones in the numerical core, and run the tests on each.

    python -m tools.mutants [module ...] [--sample 40 | --all | --again]

tools/faults.py says which faults are planted, one at a time. Each stands in a copy of the package
in a temporary folder, never in the working tree. What the tests import is imported once, and each
fault gets a forked process, so that a fault costs a second or two. A first run without a fault
records which tests execute which function. Only these tests run, the quickest first; the first
that fails ends it.

It prints the share of faults that is caught in each module and what survives, and writes
outputs/benchmarks/mutants.csv. Faults that no test can or should see are left out: by rule
(faults.spared), or one by one, with the reason, in equivalent_mutants.yaml.

Why no ready tool: mutmut 3.8 is as fast and works here, but it leaves out decorated functions (most
measures of images), has no faults of axes, roots and clamps, and counts `x = None`, which cannot
run; cosmic-ray would pay ten seconds of imports for each fault; mutatest ended in 2022.
"""

import argparse
import contextlib
import csv
import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import yaml

from tools import faults

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "outputs/benchmarks/mutants.csv"
COPIED = ("lensnb", "tests", "params", "pyproject.toml")  # what the tests need
OURS = ("lensnb", "test", "tools", "conftest", "images", "__main__")  # not imported beforehand
COLUMNS = ("module", "line", "function", "change", "caught", "tests", "seconds", "by")
TESTS = {  # module: the files below tests/ that test it
    "schedule": ("test_schedule", "test_sampler", "test_properties"),
    "denoiser": ("networks/test_networks", "test_sampler", "test_properties"),
    "sampler": ("test_sampler", "test_properties"),
    "metrics": ("test_metrics", "test_two_sample", "test_properties"),
    "evaluation.image_stats": (
        "evaluation/test_image_stats",
        "test_metrics",
        "evaluation/test_morphology",
    ),
    "evaluation.morphology": ("evaluation/test_morphology", "test_properties"),
}
Row = dict[str, Any]


def source_of(module: str) -> str:
    """The file of a module, below the project's folder."""
    return f"lensnb/{module.replace('.', '/')}.py"


# In a process of its own, with the copy as its package -------------------------------------------


class Recorder:
    """A pytest plugin that notes each test's seconds and the functions that it executes.

    A function of the module is known by its first line.
    """

    def __init__(self, folder: Path, module: str) -> None:
        self.name = f"lensnb.{module}"
        self.file = str(folder / source_of(module))
        self.calls: dict[str, list[int]] = {}
        self.seconds: dict[str, float] = {}
        self.imports: set[int] = set()

    @contextlib.contextmanager
    def noting(self, calls: set[int]) -> Iterator[None]:
        """Add to `calls` the first line of each function of the module that is executed."""
        for function in list(vars(sys.modules.get(self.name, contextlib)).values()):
            getattr(function, "cache_clear", int)()  # what is in a cache is not executed

        def note(frame: Any, event: str, argument: Any) -> None:
            if frame.f_code.co_filename == self.file:
                calls.add(frame.f_code.co_firstlineno)

        sys.setprofile(note)
        yield
        sys.setprofile(None)

    @pytest.hookimpl(wrapper=True)
    def pytest_collection(self) -> Iterator[None]:
        with self.noting(self.imports):  # parameters of tests may call functions
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        start = time.perf_counter()
        calls: set[int] = set()
        with self.noting(calls):
            done = yield
        self.seconds[item.nodeid] = time.perf_counter() - start
        self.calls[item.nodeid] = sorted(calls)
        return done


class Chosen:
    """A pytest plugin that runs only the given tests, in their order."""

    def __init__(self, names: Iterable[str]) -> None:
        self.place = {name: i for i, name in enumerate(names)}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        chosen = [item for item in items if item.nodeid in self.place]
        items[:] = sorted(chosen, key=lambda item: self.place[item.nodeid])


def in_child(seconds: float, log: Path, work: Callable[..., int], *args: Any) -> int:
    """The exit status of work(*args) in a forked process, below zero where it took longer.

    What the process prints goes to the file `log`.
    """
    child = os.fork()
    if child == 0:
        signal.alarm(int(seconds))
        with open(log, "w") as out:
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
        status = 70
        with contextlib.suppress(BaseException):
            status = int(work(*args))
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run_tests(folder: Path, module: str, plugin: Recorder | Chosen) -> int:
    """Run pytest on the copy in a folder. Returns 0 if all tests pass."""
    sys.path.insert(0, str(folder))
    os.chdir(folder)
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)  # without shrinking
    hypothesis.settings.register_profile("mutants", derandomize=True, database=None, phases=phases)
    hypothesis.settings.load_profile("mutants")
    files = [f"tests/{file}.py" for file in TESTS[module]]
    without = ("-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:cov")
    status = pytest.main(["-x", "-q", *without, *files], [plugin])
    if Path(str(sys.modules["lensnb"].__file__)).parent != folder / "lensnb":
        raise AssertionError("another lensnb than the copy was tested")
    return status


def record(folder: Path, module: str) -> int:
    """Run all tests of a module once, and write what they execute and import to record.json."""
    plugin = Recorder(folder, module)
    status = run_tests(folder, module, plugin)
    found = {
        "calls": plugin.calls,
        "seconds": plugin.seconds,
        "imports": sorted(plugin.imports),
        "modules": [name for name in sys.modules if not name.startswith(OURS)],
    }
    (folder / "record.json").write_text(json.dumps(found))
    return status


# One module --------------------------------------------------------------------------------------


def check(module: str, choose: Callable[[list[Row]], list[Row]], folder: Path) -> Iterator[Row]:
    """Plant each of the faults that `choose` picks, run the tests that execute it, yield rows."""
    copy_project(folder)
    target = folder / source_of(module)
    log = folder / "log"
    source = target.read_text()
    if in_child(1800, log, record, folder, module):
        sys.exit(f"the tests of {module} fail without any fault:\n{log.read_text()[-3000:]}")
    seen = json.loads((folder / "record.json").read_text())
    for name in seen["modules"]:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    sys.dont_write_bytecode = True
    for row in choose(faults.mutants(source)):
        names = tests_of(row["owner"], seen)
        target.write_text(row["source"])
        start = time.perf_counter()
        limit = 60 + 10 * sum(seen["seconds"][name] for name in names)
        status = in_child(limit, log, run_tests, folder, module, Chosen(names)) if names else 0
        yield row | {
            "module": module,
            "caught": status != 0,
            "tests": len(names),
            "seconds": round(time.perf_counter() - start, 2),
            "by": caught_by(status, log),
        }


def copy_project(folder: Path) -> None:
    """Copy what the tests need to a folder."""
    for part in COPIED:
        if (ROOT / part).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / part, folder / part, ignore=ignored)
        else:
            shutil.copyfile(ROOT / part, folder / part)


def tests_of(owner: int | None, seen: dict) -> list[str]:
    """The tests that may see a fault in the function that begins in line `owner`, quickest first.

    Code outside of functions, and what is executed while tests are collected, concerns all tests of
    the module.
    """
    everywhere = owner in seen["imports"]
    names = [
        name
        for name, lines in seen["calls"].items()
        if (lines and owner in (None, *lines)) or everywhere
    ]
    return sorted(names, key=lambda name: (owner not in seen["calls"][name], seen["seconds"][name]))


def caught_by(status: int, log: Path) -> str:
    """The test that failed, "time" or "import" where none did, "" for a fault that survived."""
    if status == 0:
        return ""
    lines = log.read_text().splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return (failed or ["time" if status < 0 else "import"])[0][:120]


# All modules -------------------------------------------------------------------------------------


def identity(row: Row) -> tuple[str, str, str]:
    """What tells one fault from another."""
    return row["module"], row["function"], row["change"]


def chooser(
    module: str, known: dict, alive: set, given: argparse.Namespace
) -> Callable[[list[Row]], list[Row]]:
    """The function that picks the faults of a module, as the command line asks for them.

    known : the equivalent faults of each module; alive : those that survived the last time.
    """
    equivalent = tuple(known.get(module, ()))

    def choose(found: list[Row]) -> list[Row]:
        left = [
            row for row in found if not f"{row['function']}: {row['change']}".startswith(equivalent)
        ]
        if given.again:
            return [row for row in left if identity(row | {"module": module}) in alive]
        if given.all or len(left) <= given.sample:
            return left
        return [left[i * len(left) // given.sample] for i in range(given.sample)]

    return choose


def tested(module: str, choose: Callable[[list[Row]], list[Row]]) -> list[Row]:
    """Check a module, print what survives and the share that is caught. Returns the rows."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for row in check(module, choose, Path(folder).resolve()):
            rows.append({key: row[key] for key in COLUMNS})
            if not row["caught"]:
                place = f"{source_of(module)}:{row['line']}"
                print(f"survived  {place}  {row['function']}: {row['change']}", flush=True)
    caught = sum(row["caught"] for row in rows)
    share = caught / max(len(rows), 1)
    seconds = sum(row["seconds"] for row in rows)
    print(f"{module}: {caught} of {len(rows)} caught, {share:.1%}, in {seconds:.0f} s", flush=True)
    return rows


def write_table(rows: list[Row]) -> None:
    """Write rows to TABLE."""
    TABLE.parent.mkdir(parents=True, exist_ok=True)
    with TABLE.open("w", newline="") as out:
        writer = csv.DictWriter(out, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", metavar="module", help=", ".join(TESTS))
    parser.add_argument(
        "--sample", type=int, default=40, help="faults of each module, evenly over its lines"
    )
    parser.add_argument("--all", action="store_true", help="every fault")
    parser.add_argument("--again", action="store_true", help="what survived the last time")
    given = parser.parse_args()
    modules = given.modules or list(TESTS)
    known = yaml.safe_load(Path(__file__).with_name("equivalent_mutants.yaml").read_text())
    before = list(csv.DictReader(TABLE.open())) if TABLE.exists() else []
    alive = {identity(row) for row in before if row["caught"] == "False"}
    rows = []
    for module in modules:
        rows += tested(module, chooser(module, known, alive, given))
    now = {identity(row) for row in rows}
    kept = [
        row
        for row in before
        if row["module"] not in modules or (given.again and identity(row) not in now)
    ]
    write_table([*kept, *rows])


if __name__ == "__main__":
    main()
