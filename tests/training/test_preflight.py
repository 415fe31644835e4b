"""Time and memory that a training will take."""

import copy
from types import SimpleNamespace

import torch
from small_training import recipe

from lensnb.training import loader, loop, preflight
from lensnb.training.accelerator import make_accelerator


def same(a, b):
    return torch.equal(a, b) if torch.is_tensor(a) else a == b


def test_the_estimate_leaves_no_trace(dataset):
    made = loop.task("gan", recipe(), dataset, make_accelerator("cpu"))
    before = {
        name: copy.deepcopy(net.state_dict())
        for name, net in (("g", made.generator), ("d", made.discriminator), ("e", made.model))
    }
    context = torch.eye(2)[torch.arange(36) % 2]
    source = loader.Batches(torch.randn(36, 1, 32, 32), context, 8, "none", 0)
    told = preflight.Estimate(made, source, make_accelerator("cpu")).describe(100)
    assert "100 steps in about" in told and "GiB on cpu" in told
    for name, net in (("g", made.generator), ("d", made.discriminator), ("e", made.model)):
        assert all(same(v, before[name][k]) for k, v in net.state_dict().items())
    assert not made.adam_g.state and not made.adam_d.state


def test_memory_is_that_of_the_layers_and_falls_with_checkpointing(dataset):
    """Oracle: of a chain of n linear layers and SiLUs autograd keeps the inputs, 2 n maps."""
    net = torch.nn.Sequential(
        *(m for _ in range(5) for m in (torch.nn.Linear(64, 64), torch.nn.SiLU()))
    )
    saved = preflight.SavedTensors()
    with torch.autograd.graph.saved_tensors_hooks(saved, lambda tensor: tensor):
        kept = net(torch.randn(1000, 64, requires_grad=True))
    weights = 5 * 64 * 64 * 4
    assert saved.total - weights == 10 * 1000 * 64 * 4 and kept.shape == (1000, 64)
    source = loader.Batches(torch.randn(36, 1, 32, 32), None, 8, "none", 0)

    def make(**model):
        return preflight.Estimate(
            loop.task(
                "diffusion",
                recipe(model={"context": "none", **model}),
                dataset,
                make_accelerator("cpu"),
            ),
            source,
            make_accelerator("cpu"),
        ).image

    assert make(checkpointing=True) < 0.7 * make()


def test_the_memory_of_an_image_is_without_that_of_the_weights(dataset):
    """Oracle: one convolution keeps its input and what the loss keeps, whatever its own size."""

    def make(width):
        net = torch.nn.Sequential(torch.nn.Conv2d(1, width, 1), torch.nn.Conv2d(width, 1, 1))

        def step(k, x, context, generator):
            return net(x).mean().backward()

        task = SimpleNamespace(step=step, pieces=1, parts={}, nets=(net,))
        return preflight.Estimate(
            task,
            loader.Batches(torch.randn(36, 1, 32, 32), None, 8, "none", 0),
            make_accelerator("cpu"),
        ).image

    assert make(64) == (64 + 1) * 32 * 32 * 4 and make(1024) == (1024 + 1) * 32 * 32 * 4
