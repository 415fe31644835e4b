"""Images a second of the training steps of both generators and of sampling, on this machine.

python benchmarks/training.py
"""

import itertools
import resource
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

from lensnb import sampler, schedule
from lensnb.datasets.dataset import Scaling
from lensnb.networks import GAN_NETWORKS
from lensnb.recipes.recipe import validate
from lensnb.training import loader, loop
from lensnb.training.accelerator import make_accelerator
from lensnb.training.task import Task

THREADS = 2
BATCH = 32
SIZE = 64
STEMS = ((4, (1, 2)), (2, (1, 2, 2)), (1, (1, 2, 2)))  # patch, multipliers


def seconds(call: Callable[[], object], times: int) -> float:
    """Mean seconds of a call, after two calls to warm up."""
    call()
    call()
    start = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - start) / times


def prepared(name: str, **changes: Any) -> tuple[Task, Callable[[int], object]]:
    """A training task at the sizes of the quick recipe, and its step k with a batch."""
    recipe = validate({"device": "cpu", **changes}, "benchmark")
    x = torch.randn(4 * BATCH, 1, SIZE, SIZE)
    dataset = SimpleNamespace(
        images=x.numpy(),
        train=range(len(x)),
        classes=(),
        labels=None,
        truth={},
        sigma_data=0.5,
        scaling=Scaling("linear", 1, 0, 1, -1, 1),
    )
    task = loop.task(name, recipe, dataset, make_accelerator("cpu"))
    batches = loader.Batches(x, None, BATCH, "square", recipe.seed)

    def step(k: int) -> object:
        return loop.one_step(task, batches, k, recipe.seed, "cpu")

    return task, step


def trained(task: Task, step: Callable[[int], object], times: int) -> str:
    """Parameters, and images a second of `times` steps from step 1,000 on."""
    count = sum(p.numel() for net in task.nets for p in net.parameters())
    k = itertools.count(1000)
    rate = BATCH / seconds(lambda: step(next(k)), times)
    return f"{count / 1e6:.2f} M parameters: training {rate:6.1f} images/s"


def of_diffusion(patch: int, multipliers: tuple[int, ...]) -> str:
    """One line on the denoiser with this stem, at the width of the quick recipe."""
    task, step = prepared("diffusion", model={"patch": patch, "multipliers": multipliers})
    told = trained(task, step, 10 if patch == 4 else 3)
    net = task.model.module.eval()
    sigmas = schedule.cosine().sample_sigmas(2)
    x = torch.randn(BATCH, 1, SIZE, SIZE)

    def draw() -> None:
        list(sampler.ddim(net, sigmas, x, None))

    with torch.inference_mode():
        evaluation = seconds(draw, 5) / 2 / BATCH
    return f"stem {patch}, {told}, sampling {1e3 * evaluation:6.2f} ms an evaluation of an image"


def of_gan(kind: str) -> str:
    """One line on a kind of GAN, at the width of the quick recipe."""
    return f"GAN, {kind}, {trained(*prepared('gan', gan={'kind': kind}), times=8)}"


def main() -> None:
    """Print a line for patch stems of 4, 2 and 1, and for each kind of GAN; the peak memory."""
    torch.set_num_threads(THREADS)
    threads = torch.get_num_threads()
    print(f"torch {torch.__version__}, {threads} threads, {SIZE}x{SIZE}, batch {BATCH}")
    for patch, multipliers in STEMS:
        print(of_diffusion(patch, multipliers), flush=True)
    for kind in GAN_NETWORKS:
        print(of_gan(kind), flush=True)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
