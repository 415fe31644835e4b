"""Images a second of the diffusion model's training step and of its sampling, on this machine.

python benchmarks/training.py
"""

import resource
import time
from collections.abc import Callable
from types import SimpleNamespace

import torch

from lensnb import sampler, schedule
from lensnb.datasets.dataset import Scaling
from lensnb.recipes.recipe import validate
from lensnb.training import loop
from lensnb.training.accelerator import make_accelerator

THREADS = 2
BATCH = 32
STEMS = ((4, (1, 2)), (2, (1, 2, 2)), (1, (1, 2, 2)))  # patch, multipliers


def seconds(call: Callable[[], object], times: int) -> float:
    """Mean seconds of a call, after two calls to warm up."""
    call()
    call()
    start = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - start) / times


def measure(patch: int, multipliers: tuple[int, ...]) -> str:
    """One line on the network with this stem, at the width of the quick recipe."""
    model = {"patch": patch, "multipliers": multipliers}
    recipe = validate({"device": "cpu", "model": model}, "benchmark")
    x = torch.randn(BATCH, 1, 64, 64)
    dataset = SimpleNamespace(
        images=x.numpy(),
        classes=(),
        labels=None,
        truth={},
        sigma_data=0.5,
        scaling=Scaling("linear", 1, 0, 1, -1, 1),
    )
    task = loop.task("diffusion", recipe, dataset, make_accelerator("cpu"))
    generator = torch.Generator().manual_seed(0)

    def step() -> None:
        task.step(1000, x, None, generator)

    step_seconds = seconds(step, 10 if patch == 4 else 3)
    net = task.model.module.eval()
    sigmas = schedule.from_params(recipe.diffusion).sample_sigmas(2)

    def draw() -> None:
        list(sampler.ddim(net, sigmas, x, None))

    with torch.inference_mode():
        evaluation_seconds = seconds(draw, 5) / 2
    count = sum(p.numel() for p in net.parameters())
    return (
        f"stem {patch}, {count / 1e6:.2f} M parameters: "
        f"training {BATCH / step_seconds:6.1f} images/s, "
        f"sampling {1e3 * evaluation_seconds / BATCH:6.2f} ms an evaluation of an image"
    )


def main() -> None:
    """Print a line for patch stems of 4, 2 and 1, and the peak memory."""
    torch.set_num_threads(THREADS)
    threads = torch.get_num_threads()
    print(f"torch {torch.__version__}, {threads} threads, 64x64, batch {BATCH}")
    for patch, multipliers in STEMS:
        print(measure(patch, multipliers), flush=True)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
