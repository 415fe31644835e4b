"""Images a second of the diffusion model's training step and of its sampling, on this machine.

python benchmarks/training.py
"""

import resource
import time
from types import SimpleNamespace

import torch

from lensnb import sampler, schedule
from lensnb.datasets.dataset import Scaling
from lensnb.recipes.recipe import validate
from lensnb.training import loop
from lensnb.training.accelerator import make_accelerator


def seconds(call, times):
    """Mean seconds of a call, after two to warm up."""
    call(), call()
    start = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - start) / times


def main():
    """Print the figures for patch stems of 4, 2 and 1 at the quick recipe's width and batch."""
    torch.set_num_threads(2)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, 64x64, batch 32")
    for patch, multipliers in ((4, (1, 2)), (2, (1, 2, 2)), (1, (1, 2, 2))):
        recipe = validate(
            {"device": "cpu", "model": {"patch": patch, "multipliers": multipliers}}, "benchmark"
        )
        x = torch.randn(32, 1, 64, 64)
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
        step = seconds(lambda: task.step(1000, x, None, generator), 10 if patch == 4 else 3)
        net = task.model.module.eval()
        sigmas = schedule.from_params(recipe.diffusion).sample_sigmas(2)
        with torch.inference_mode():
            draw = seconds(lambda: list(sampler.ddim(net, sigmas, x, None)), 5) / 2
        count = sum(p.numel() for p in net.parameters())
        print(
            f"stem {patch}, {count / 1e6:.2f} M parameters: training {32 / step:6.1f} images/s, "
            f"sampling {1e3 * draw / 32:6.2f} ms an evaluation of an image"
        )
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
