"""Do the tests see a fault? Plants small ones in the numerical core, one at a time, and runs the tests that execute them.

    python tests/mutants.py [module ...] [--sample 40 | --all | --again]

Which faults: tests/faults.py. Each stands in a copy of the package in a temporary folder, never in the working tree. What
the tests import is imported once, and each fault gets a forked process, so that one costs a second or two. Which tests
execute a function is recorded in a first run without a fault; the quickest go first, and the first that fails ends it.

Prints the share that is caught for each module and what survives, and writes outputs/benchmarks/mutants.csv. Faults that
no test can or should see are left out by rule (faults.spared) or one by one, with the reason, in equivalent_mutants.yaml.

Of the tools at hand mutmut 3.8 is as fast and works here, but leaves out decorated functions (most measures of images) and
tables of lambdas (the weights of the loss), has no faults of axes, roots and clamps, and counts `x = None`, which cannot run;
cosmic-ray would pay ten seconds of imports for each fault; mutatest ended in 2022.
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
from pathlib import Path

import faults
import hypothesis
import pytest
import yaml

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "outputs/benchmarks/mutants.csv"
COLUMNS = ("module", "line", "function", "change", "caught", "tests", "seconds", "by")
TESTS = {  # module: files with its tests
    "schedule": ("schedule", "sampler", "properties"),
    "denoiser": ("networks", "sampler", "properties"),
    "sampler": ("sampler", "properties"),
    "metrics": ("metrics", "two_sample", "properties"),
    "physics": ("physics", "metrics", "morphology"),
    "morphology": ("morphology", "properties"),
}


class Recorder:
    """A pytest plugin that notes which functions of a module each test executes, by their first lines, and its seconds."""

    def __init__(self, folder, module):
        self.name = f"lensnb.{module}"
        self.file = str(folder / f"lensnb/{module}.py")
        self.calls = {}
        self.seconds = {}
        self.imports = set()

    @contextlib.contextmanager
    def noting(self, calls):
        for function in list(vars(sys.modules.get(self.name, contextlib)).values()):
            getattr(function, "cache_clear", int)()  # what is in a cache is not executed
        sys.setprofile(
            lambda frame, event, _: (
                calls.add(frame.f_code.co_firstlineno)
                if frame.f_code.co_filename == self.file
                else None
            )
        )
        yield
        sys.setprofile(None)

    @pytest.hookimpl(wrapper=True)
    def pytest_collection(self):
        with self.noting(self.imports):  # for the parameters of tests
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        start = time.perf_counter()
        calls = set()
        with self.noting(calls):
            done = yield
        self.seconds[item.nodeid] = time.perf_counter() - start
        self.calls[item.nodeid] = sorted(calls)
        return done


class Chosen:
    """A pytest plugin that runs the given tests alone, in their order."""

    def __init__(self, names):
        self.place = {name: i for i, name in enumerate(names)}

    def pytest_collection_modifyitems(self, items):
        items[:] = sorted(
            (item for item in items if item.nodeid in self.place),
            key=lambda item: self.place[item.nodeid],
        )


def in_child(seconds, log, work, *args):
    """The exit status of work(*args) in a forked process, below zero if it took longer; what it prints goes to a file."""
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


def run_tests(folder, module, plugin):
    """pytest on the copy in a folder: 0 if all pass."""
    sys.path.insert(0, str(folder))
    os.chdir(folder)
    phases = (
        hypothesis.Phase.explicit,
        hypothesis.Phase.generate,
    )  # a failure need not be made simple
    hypothesis.settings.register_profile("mutants", derandomize=True, database=None, phases=phases)
    hypothesis.settings.load_profile("mutants")
    files = [f"tests/test_{file}.py" for file in TESTS[module]]
    status = pytest.main(
        ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:cov", *files], [plugin]
    )
    if Path(sys.modules["lensnb"].__file__).parent != folder / "lensnb":
        raise AssertionError("another lensnb than the copy was tested")
    return status


def record(folder, module):
    """Run all tests of a module once; write which functions each executes, and what all of them import."""
    plugin = Recorder(folder, module)
    status = run_tests(folder, module, plugin)
    ours = ("lensnb", "test_", "conftest", "images", "faults", "__main__")
    (folder / "record.json").write_text(
        json.dumps(
            {
                "calls": plugin.calls,
                "seconds": plugin.seconds,
                "imports": sorted(plugin.imports),
                "modules": [name for name in sys.modules if not name.startswith(ours)],
            }
        )
    )
    return status


def check(module, chosen, folder):
    """Plant each of the faults that `chosen` picks in a copy and run the tests that execute it; yields rows."""
    for part in ("lensnb", "tests", "params"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    target = folder / f"lensnb/{module}.py"
    log = folder / "log"
    source = target.read_text()
    if in_child(1800, log, record, folder, module):
        sys.exit(f"the tests of {module} fail without any fault:\n{log.read_text()[-3000:]}")
    seen = json.loads((folder / "record.json").read_text())
    for name in seen["modules"]:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    sys.dont_write_bytecode = True
    for row in chosen(faults.mutants(source)):
        owner = row["owner"]
        names = [
            n
            for n, lines in seen["calls"].items()
            if lines and owner in (None, *lines) or owner in seen["imports"]
        ]
        names.sort(key=lambda n: (owner not in seen["calls"][n], seen["seconds"][n]))
        target.write_text(row["source"])
        start = time.perf_counter()
        limit = 60 + 10 * sum(seen["seconds"][n] for n in names)
        status = in_child(limit, log, run_tests, folder, module, Chosen(names)) if names else 0
        failed = (
            [line for line in log.read_text().splitlines() if line.startswith(("FAILED", "ERROR"))]
            if status
            else []
        )
        yield row | {
            "module": module,
            "caught": status != 0,
            "tests": len(names),
            "seconds": round(time.perf_counter() - start, 2),
            "by": (failed or ["time" if status < 0 else "import"])[0][:120] if status else "",
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", metavar="module", help=", ".join(TESTS))
    parser.add_argument(
        "--sample", type=int, default=40, help="faults of each module, evenly over its lines"
    )
    parser.add_argument("--all", action="store_true", help="every fault")
    parser.add_argument("--again", action="store_true", help="what survived the last time")
    args = parser.parse_args()
    known = yaml.safe_load(Path(__file__).with_name("equivalent_mutants.yaml").read_text())
    rows = []
    before = list(csv.DictReader(TABLE.open())) if TABLE.exists() else []
    alive = {
        (row["module"], row["function"], row["change"])
        for row in before
        if row["caught"] == "False"
    }
    for module in args.modules or TESTS:

        def chosen(found, module=module, spared=tuple(known.get(module, ()))):
            left = [
                row for row in found if not f"{row['function']}: {row['change']}".startswith(spared)
            ]
            if args.again:
                return [row for row in left if (module, row["function"], row["change"]) in alive]
            return (
                left
                if args.all
                else [
                    left[i * len(left) // args.sample] for i in range(min(args.sample, len(left)))
                ]
            )

        start = len(rows)
        with tempfile.TemporaryDirectory() as folder:
            for row in check(module, chosen, Path(folder).resolve()):
                rows.append({key: row[key] for key in COLUMNS})
                if not row["caught"]:
                    print(
                        f"survived  lensnb/{module}.py:{row['line']}  {row['function']}: {row['change']}",
                        flush=True,
                    )
        done = rows[start:]
        caught = sum(row["caught"] for row in done)
        seconds = sum(row["seconds"] for row in done)
        print(
            f"{module}: {caught} of {len(done)} caught, {caught / max(len(done), 1):.1%}, in {seconds:.0f} s",
            flush=True,
        )
    now = {(row["module"], row["function"], row["change"]) for row in rows}
    others = [
        row
        for row in before
        if row["module"] not in (args.modules or TESTS)
        or args.again
        and (row["module"], row["function"], row["change"]) not in now
    ]
    TABLE.parent.mkdir(parents=True, exist_ok=True)
    with TABLE.open("w", newline="") as out:
        writer = csv.DictWriter(out, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows([*others, *rows])


if __name__ == "__main__":
    main()
