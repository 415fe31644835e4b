"""What lensnb does on the GPU of this machine, by one command for whoever has one for ten minutes.

    python benchmarks/gpu.py [--only steps sample ...] [--limit 120] [--small]

Sections: machine, simulate, steps, peers, memory, sample, judge. Each runs in a process of its own
with a time limit (seconds, --limit) and prints its rows as it finds them. So a run that is cut off
keeps what it has: outputs/benchmarks/gpu.json has all rows so far, gpu.md the same as tables for
docs/gpu.md. Sections that --only leaves out keep their rows. --small tries the script out on a CPU.
Without a GPU everything runs on the CPU; what only a GPU has (kernels, copies, synchronisations)
stays empty.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from lensnb import io

Row = dict[str, Any]
Section = Callable[[SimpleNamespace], Iterator[Row]]

SECTIONS: dict[str, Section] = {}
FULL = SimpleNamespace(
    batch=256, steps=50, images=10_000, simulated=40_000, size=64, fit=32, nets=""
)
SMALL = SimpleNamespace(
    batch=4,
    steps=2,
    images=40,
    simulated=128,
    size=64,
    fit=2,
    nets="model.width=16 gan.width=16",
)
PEERS = ("diffusers", "denoising-diffusion-pytorch", "smalldiffusion")
# One call of the CUDA runtime that waits for the card, by its name in a profile.
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx")


def section(run: Section) -> Section:
    """Enter a function that yields rows as the section of its name."""
    SECTIONS[run.__name__] = run
    return run


def device() -> torch.device:
    """The GPU, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def wait() -> None:
    """Wait until the GPU has done all its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(call: Callable[..., Any], *arguments: Any) -> float:
    """The seconds that a call takes, the GPU's work included."""
    wait()
    start = time.perf_counter()
    call(*arguments)
    wait()
    return time.perf_counter() - start


def peak_gib() -> float | None:
    """The most memory [GiB] that torch has held on the GPU since the last reset; None on a CPU."""
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None


# What is there -----------------------------------------------------------------------------------


@section
def machine(size: SimpleNamespace) -> Iterator[Row]:
    """The card, the cores and the versions."""
    found: Row = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU only",
        "GPU memory [GiB]": (
            torch.cuda.get_device_properties(0).total_memory / 2**30
            if torch.cuda.is_available()
            else None
        ),
        "CPU cores": len(os.sched_getaffinity(0)),
        "torch": torch.__version__,
        "CUDA": torch.version.cuda or "none",
        "Python": sys.version.split()[0],
    }
    yield found


# Simulation --------------------------------------------------------------------------------------


@section
def simulate(size: SimpleNamespace) -> Iterator[Row]:
    """Images a second: traced on the device in one process, and by worker processes on the CPU."""
    import tempfile

    from lensnb.datasets.dataset import prepare_dataset
    from lensnb.lensing.simulate import simulate as make
    from lensnb.lensing.truth_tables import draw_truth
    from lensnb.recipes.recipe import validate

    n = size.simulated
    made: dict[str, Any] = {"batch": 1024} if device().type == "cuda" else {}
    make(min(n, 2048), device=device(), **made)  # imports, caches, allocations
    took = seconds(lambda: make(n, device=device(), **made))
    tables = seconds(lambda: draw_truth(n))
    yield {
        "how": f"one process, {device().type}",
        "images": n,
        "images/s": n / took,
        "truth tables, share of the time": tables / took,
    }
    for workers in sorted({1, len(os.sched_getaffinity(0))}):
        recipe = validate({"device": "cpu", "data": {"n": n, "workers": workers}}, "benchmark")
        with tempfile.TemporaryDirectory() as folder:
            took = seconds(prepare_dataset, recipe.data, 0, Path(folder) / "data")
        yield {"how": f"01_data, {workers} CPU workers", "images": n, "images/s": n / took}


# Training steps ----------------------------------------------------------------------------------


@section
def steps(size: SimpleNamespace) -> Iterator[Row]:
    """The anatomy of a training step of each generator of params/gpu.yaml."""
    for name, compile in (("diffusion", True), ("diffusion", False), ("gan", True)):
        yield step_of(name, compile and torch.cuda.is_available(), size)


def step_of(name: str, compile: bool, size: SimpleNamespace) -> Row:
    """The row of one task: first step, wall, kernels, copies, synchronisations, launches."""
    from lensnb.recipes.recipe import load_recipe
    from lensnb.training import loader, loop
    from lensnb.training.accelerator import make_accelerator

    overrides = f"train.batch={size.batch} gan.batch={size.batch} model.context=none {size.nets}"
    for part in ("train", "gan"):
        overrides += f" {part}.compile={str(compile).lower()}"
    recipe = load_recipe(io.home() / "params/gpu.yaml", overrides)
    settings = recipe.gan if name == "gan" else recipe.train
    precision = settings.precision if torch.cuda.is_available() else "fp32"
    accelerator = make_accelerator(device().type, precision)
    dataset = blank_dataset(size)
    start = time.perf_counter()
    task = loop.task(name, recipe, dataset, accelerator)
    x = torch.from_numpy(dataset.images).to(device())
    batches = loader.Batches(x, None, size.batch, settings.flips, recipe.seed)

    def step(k: int) -> None:
        loop.one_step(task, batches, k, recipe.seed, device())

    step(0)
    wait()
    first = time.perf_counter() - start
    for k in range(1, 9):  # both shapes of a GAN's step, with penalties and without, are warm
        step(k)

    def some_steps() -> None:
        for k in range(8, 8 + size.steps):
            step(k)

    took = seconds(some_steps) / size.steps
    row: Row = {
        "task": f"{name}, {'compiled' if compile else 'eager'}, {precision}",
        "parameters [M]": sum(p.numel() for net in task.nets for p in net.parameters()) / 1e6,
        "batch": size.batch,
        "first step [s]": first,
        "wall [ms]": 1e3 * took,
        "images/s": size.batch / took,
    }
    return row | anatomy(step, size.steps) | {"peak [GiB]": peak_gib()}


def blank_dataset(size: SimpleNamespace) -> Any:
    """What a task asks of a dataset, with random images."""
    from lensnb.datasets.dataset import Scaling

    images = np.random.default_rng(0).standard_normal(
        (4 * size.batch, 1, size.size, size.size), np.float32
    )
    return SimpleNamespace(
        images=images,
        classes=(),
        labels=None,
        truth={},
        train=np.arange(len(images)),
        sigma_data=0.5,
        scaling=Scaling("linear", 1, 0, 1, -4, 4),
    )


def anatomy(step: Callable[[int], None], count: int) -> Row:
    """Of one step on a GPU: kernels [ms], copies from the host, synchronisations, launches.

    The profile begins and ends with a synchronisation of its own, which are not counted.
    """
    if not torch.cuda.is_available():
        return {}
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    wait()
    with torch.profiler.profile(activities=activities) as profile:
        for k in range(100, 100 + count):
            step(k)
    events = profile.key_averages()
    on_card = sum(event.self_device_time_total for event in events)

    def calls(*names: str) -> float:
        return sum(event.count for event in events if event.key.startswith(names)) / count

    return {
        "kernels [ms]": on_card / 1e3 / count,
        "copies from the host": calls("Memcpy HtoD"),
        "copies to the host": calls("Memcpy DtoH"),
        "synchronisations": max(0.0, calls(*WAITS) - 2 / count),
        "launches": calls(*LAUNCHES, "cudaGraphLaunch"),
    }


# Peers -------------------------------------------------------------------------------------------


@section
def peers(size: SimpleNamespace) -> Iterator[Row]:
    """Training images a second of the peers that are installed here, at lensnb's parameters.

    bfloat16 and compilation are allowed to all.
    """
    import peers_worker as worker

    wanted = 1.0e6 if size is SMALL else 7.9e6
    worker.stand_in()
    for library in PEERS:
        if importlib.util.find_spec(library.replace("-", "_")) is None:
            yield {"library": library, "note": "not installed"}
            continue
        try:
            yield peer(worker, library, wanted, size)
        except Exception as error:  # a peer that fails does not keep out the others
            yield {"library": library, "note": f"failed: {error}"[:200]}


def peer(worker: Any, library: str, wanted: float, size: SimpleNamespace) -> Row:
    """The row of one library."""
    x = torch.rand(4 * size.batch, 1, size.size, size.size, device=device()) * 2 - 1
    width = worker.width_for(library, wanted)
    cuda = device().type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    with torch.autocast(device().type, torch.bfloat16, enabled=cuda):
        net, update, _ = worker.LIBRARIES[library](x, 10_000, size.batch, width)
        if cuda:
            net.compile()
        found = worker.speed(update, device().type, 20.0 if cuda else 0.1, size.batch)
    return {
        "library": library,
        "parameters [M]": sum(p.numel() for p in net.parameters()) / 1e6,
        "batch": size.batch,
        "images/s": found["images_per_second"],
        "peak [GiB]": found["peak_gib"],
    }


# Memory of the published DDPM --------------------------------------------------------------------


@section
def memory(size: SimpleNamespace) -> Iterator[Row]:
    """Peak memory of a step of the published DDPM (64x64, batch 64, attention on every map).

    It ran out of memory at 39.56 GiB. benchmarks/memory.py has the variants.
    """
    import memory as variants

    wanted = list(variants.VARIANTS.items())
    for name, overrides in wanted[:1] if size is SMALL else wanted:
        small = f"{overrides} train.batch=4" if size is SMALL else overrides
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        try:
            gib, took, parameters, where = variants.step(small)
        except torch.OutOfMemoryError:
            yield {"variant": name, "note": f"out of memory, {peak_gib():.1f} GiB held"}
            continue
        yield {
            "variant": name,
            "peak [GiB]": gib,
            "first step [s]": took,
            "parameters [M]": parameters / 1e6,
            "device": where,
        }


# Drawing -----------------------------------------------------------------------------------------

DRAWN = {
    "DPM-Solver++, 18": ("dpm", "", 1),
    "DDPM, 100": ("ddpm", "'sample.methods.ddpm={sampler: ddpm, steps: 100}'", 2),
}


@section
def sample(size: SimpleNamespace) -> Iterator[Row]:
    """Images a second of the networks of params/gpu.yaml, untrained, and the share of the noise.

    The last row compares bfloat16 with float32 by the shipped reference: the mean absolute
    difference of images from the same noise, in the units of the images' standard deviation.
    """
    from lensnb.sampler import ImageNoise
    from lensnb.seeds import image_seeds

    for label, (method, overrides, divisor) in DRAWN.items():
        n = size.images // divisor
        drawer = untrained(method, overrides, size)
        list(drawer.batches(min(n, 512), seed=1))  # compiles
        took = seconds(drawer.draw, n, 0)
        row = {"method": label, "images": n, "seconds": took, "images/s": n / took}
        if method == "ddpm":
            noise = ImageNoise(image_seeds(0, 0, min(n, 1024)))
            shape = (1, size.size, size.size)
            noise(shape, device=device())
            once = seconds(noise, shape, torch.float32, device())
            row["noise, share of the time"] = once * 100 * n / min(n, 1024) / took
        yield row | {"peak [GiB]": peak_gib()}
    yield precision_row(size)


def untrained(method: str, overrides: str, size: SimpleNamespace) -> Any:
    """A Generator of params/gpu.yaml with random weights."""
    from lensnb import generator
    from lensnb.recipes.recipe import load_recipe

    recipe = load_recipe(
        io.home() / "params/gpu.yaml", f"model.context=none {size.nets} {overrides}"
    )
    dataset = blank_dataset(size)
    net = generator.untrained_denoiser(recipe, dataset).to(device()).eval()
    return generator.Generator(
        recipe, recipe.sample.methods[method], dataset, net.requires_grad_(False), device()
    )


def precision_row(size: SimpleNamespace) -> Row:
    """How far bfloat16 drawing is from float32, by the reference that ships."""
    import lensnb

    n = min(size.images, 256)
    images = {}
    for precision in ("fp32", "bf16"):
        drawer = lensnb.load("reference")
        chosen = drawer.params.sample.model_copy(update={"precision": precision})
        params = drawer.params.model_copy(update={"sample": chosen})
        again = type(drawer)(params, drawer.method, drawer.dataset, drawer.inner.net, drawer.device)
        images[precision] = again.draw(n, seed=0)
    difference = np.abs(images["bf16"] - images["fp32"]).mean() / images["fp32"].std()
    flux = images["bf16"].mean() / images["fp32"].mean()
    return {
        "method": "reference, bf16 - fp32",
        "images": n,
        "difference": float(difference),
        "flux, ratio": float(flux),
    }


# Judging -----------------------------------------------------------------------------------------


@section
def judge(size: SimpleNamespace) -> Iterator[Row]:
    """Seconds to measure the real images once, and to judge one method."""
    import tempfile

    from lensnb.datasets.dataset import load_dataset, prepare_dataset
    from lensnb.evaluation.judge import Judge, evaluate
    from lensnb.lensing.simulate import simulate_images
    from lensnb.recipes.recipe import validate

    n = size.images
    recipe = validate(
        {
            "data": {"n": 3 * n + 600, "holdout": 0.45},
            "sample": {"n": n},
            "evaluate": {"n": n, "fit": size.fit},
        },
        "benchmark",
    )
    made = simulate_images(n, seed=12345)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data"
        prepare_dataset(recipe.data, 0, path)
        start = time.perf_counter()
        ours = Judge(recipe, load_dataset(path))
        real = time.perf_counter() - start
        (Path(folder) / "it").mkdir()
        took = seconds(lambda: evaluate(ours, "it", made, None, Path(folder) / "it"))
    yield {"n": ours.n, "real images [s]": real, "one method [s]": took}


# The command -------------------------------------------------------------------------------------


def work(name: str, size: SimpleNamespace, path: Path) -> None:
    """Run one section; write its rows to `path`, and print them, as they come."""
    rows = []
    for row in SECTIONS[name](size):
        rows.append(row)
        io.write_json(path, {"rows": rows})
        print(f"{name}: " + ", ".join(f"{k} {shown(v)}" for k, v in row.items()), flush=True)


def shown(value: Any) -> str:
    """A value of a row as text; nothing for None."""
    if not isinstance(value, float):
        return "" if value is None else str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def page(found: dict[str, Any]) -> str:
    """The rows of all sections as Markdown tables."""
    parts = []
    for name, result in found.items():
        rows = result["rows"]
        heads = list(dict.fromkeys(key for row in rows for key in row))
        note = (SECTIONS[name].__doc__ or "").strip().splitlines()[0]
        lines = [f"### {name}", "", note, ""]
        if result.get("cut"):
            lines += [f"Not all of it: {result['cut']}.", ""]
        if not rows:
            parts.append("\n".join(lines).strip())
            continue
        lines.append("| " + " | ".join(heads) + " |")
        lines.append("|" + "---|" * len(heads))
        lines += ["| " + " | ".join(shown(row.get(k, "")) for k in heads) + " |" for row in rows]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def run_section(name: str, given: argparse.Namespace, path: Path) -> dict[str, Any]:
    """The result of a section, made in a process of its own within the time limit."""
    path.unlink(missing_ok=True)
    command = [sys.executable, __file__, "--worker", name, *(["--small"] if given.small else [])]
    cut = ""
    try:
        done = subprocess.run(command, timeout=given.limit)
        cut = f"it failed with exit status {done.returncode}" if done.returncode else ""
    except subprocess.TimeoutExpired:
        cut = f"it was cut off after {given.limit:g} s"
    rows = json.loads(path.read_text())["rows"] if path.is_file() else []
    return {"rows": rows} | ({"cut": cut} if cut else {})


def main() -> None:
    """Run the sections one after the other; both files are written after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--limit", type=float, default=240.0, help="seconds for each section")
    parser.add_argument("--small", action="store_true", help="a few images: does it run?")
    parser.add_argument("--worker", choices=SECTIONS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    folder = io.home() / "outputs" / "benchmarks"
    io.make_folder(folder)
    part = folder / "gpu-part.json"
    if given.worker:
        return work(given.worker, SMALL if given.small else FULL, part)
    whole = folder / "gpu.json"
    known = json.loads(whole.read_text()) if whole.is_file() else {}
    for name in given.only:
        known[name] = run_section(name, given, part)
        known = {key: known[key] for key in SECTIONS if key in known}
        io.write_json(whole, known)
        with io.atomic(folder / "gpu.md", "w") as file:
            file.write(page(known))
    part.unlink(missing_ok=True)
    return None


if __name__ == "__main__":
    main()
