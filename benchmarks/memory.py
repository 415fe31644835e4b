"""Peak memory of a DDPM training step at 64x64, batch 64, with attention.

    python benchmarks/memory.py

The published network ran out of memory at 39.56 GiB. Each variant here is one training step of
params/deeplense_ddim.yaml in a process of its own. On a GPU the peak is what torch allocated, on a
CPU how much the process grew.
"""

import multiprocessing
import resource
import time

VARIANTS = {
    "all at once": "train.accumulate=1 train.precision=fp32 model.checkpointing=false",
    "activations computed twice": "train.accumulate=1 train.precision=fp32",
    "in 4 pieces": "train.precision=fp32 model.checkpointing=false",
    "in 4 pieces, computed twice": "train.precision=fp32",
    "the same in bfloat16, as the recipe says": "",
    "width 128 and attention on every map": (
        "model.width=128 model.attention=[0,1,2,3] model.side=null"
    ),
}


def step(overrides: str) -> tuple[float, float, int, str]:
    """(GiB, seconds, parameters, device) of one training step, the model itself not counted."""
    from types import SimpleNamespace

    import torch

    from lensnb import io
    from lensnb.datasets.dataset import Scaling
    from lensnb.recipes.recipe import load_recipe
    from lensnb.training import loop
    from lensnb.training.accelerator import make_accelerator

    recipe = load_recipe(io.home() / "params/deeplense_ddim.yaml", overrides)
    x = torch.randn(recipe.train.batch, 1, 64, 64)
    dataset = SimpleNamespace(
        images=x.numpy(),
        classes=(),
        labels=None,
        truth={},
        sigma_data=0.5,
        scaling=Scaling("linear", 1, 0, 1, -1, 1),
    )
    accelerator = make_accelerator(recipe.device, recipe.train.precision)
    device = accelerator.device
    task = loop.task("diffusion", recipe, dataset, accelerator)
    before = 0 if device.type == "cuda" else process_bytes()
    start = time.perf_counter()
    task.step(0, x.to(device), None, torch.Generator(device).manual_seed(0))
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else process_bytes()
    seconds = time.perf_counter() - start
    parameters = sum(p.numel() for p in task.model.parameters())
    return (peak - before) / 2**30, seconds, parameters, str(device)


def process_bytes() -> int:
    """The largest memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Print a line for each variant."""
    context = multiprocessing.get_context("spawn")
    for name, overrides in VARIANTS.items():
        with context.Pool(1) as pool:
            gib, seconds, parameters, device = pool.apply(step, (overrides,))
        print(
            f"{name:44s}{gib:7.2f} GiB {seconds:7.1f} s  "
            f"({parameters / 1e6:.1f} M parameters, {device})",
            flush=True,
        )


if __name__ == "__main__":
    main()
