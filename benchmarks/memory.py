"""Peak memory of DDPM training at 64x64, batch 64, with attention: the published network that ran out at 39.56 GiB.

    python benchmarks/memory.py

Each way is one training step of params/deeplense_ddim.yaml in a process of its own. On a GPU the
peak is what torch allocated, on a CPU how much the process grew.
"""

import multiprocessing
import resource
import time

WAYS = {
    "all at once": "train.accumulate=1 train.precision=fp32 model.checkpointing=false",
    "activations computed twice": "train.accumulate=1 train.precision=fp32",
    "in 4 pieces": "train.precision=fp32 model.checkpointing=false",
    "in 4 pieces, computed twice": "train.precision=fp32",
    "the same in bfloat16, as the recipe says": "",
    "so, of width 128 with attention on every map": "model.width=128 model.attention=[0,1,2,3] model.side=null",
}


def step(overrides):
    """(GiB, seconds, parameters, device) of one training step, after the model is there."""
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
    on = make_accelerator(recipe.device, recipe.train.precision)
    task = loop.task("diffusion", recipe, dataset, on)
    cuda = on.device.type == "cuda"
    before = 0 if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    start = time.perf_counter()
    task.step(0, x.to(on.device), None, torch.Generator(on.device).manual_seed(0))
    peak = (
        torch.cuda.max_memory_allocated()
        if cuda
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    parameters = sum(p.numel() for p in task.model.parameters())
    return (peak - before) / 2**30, time.perf_counter() - start, parameters, str(on.device)


def main():
    """Print a line for each way."""
    context = multiprocessing.get_context("spawn")
    for way, overrides in WAYS.items():
        with context.Pool(1) as pool:
            gib, seconds, parameters, device = pool.apply(step, (overrides,))
        print(
            f"{way:44s}{gib:7.2f} GiB {seconds:7.1f} s  ({parameters / 1e6:.1f} M parameters, {device})",
            flush=True,
        )


if __name__ == "__main__":
    main()
