"""torch.compile in a training: once, kept for a resumed job, and given up where it fails."""

import hmac
import stat
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from small_training import POLAR, recipe
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func
from torch._inductor.decomposition import select_decomp_table

from lensnb import Denoiser, UNet, denoiser, io, pipeline
from lensnb.networks.blocks import doubled
from lensnb.training import compiling, loop, optimise
from lensnb.training.accelerator import make_accelerator

SMALL = {"width": 8, "multipliers": (1, 2), "attention": (), "dropout": 0.0, **POLAR}


@pytest.fixture(autouse=True)
def own_key(tmp_path, monkeypatch):
    monkeypatch.setenv("LENSNB_KEY", str(tmp_path / "mine/key"))
    torch._dynamo.reset()


def train(folder, dataset, monkeypatch, backend, name="diffusion", **changes):
    """Weights of a training with this backend in place of inductor."""
    monkeypatch.setattr(compiling, "BACKEND", backend)
    folder.mkdir()
    p = recipe(**{"model": SMALL} | changes)
    pipeline.train_generator(name, p, dataset, folder)
    assert not list(folder.glob("compiled*"))
    return safetensors.torch.load_file(folder / "model.safetensors")


@pytest.mark.parametrize(
    "name, section, keys, graphs",
    [
        ("diffusion", "train", {"accumulate": 3}, 2),  # 8 images in 3 pieces: of 3 and of 2
        ("gan", "gan", {"penalty_every": 2}, 3),  # the discriminator alone, and for the generator
    ],
)
def test_a_training_compiles_each_function_once_and_before_it_begins(
    name, section, keys, graphs, dataset, tmp_path, monkeypatch
):
    made = []

    def backend(graph, inputs, options):
        made.append(options)
        return graph.forward

    begun = []
    fit = loop.fit
    monkeypatch.setattr(loop, "fit", lambda *a: begun.append(len(made)) or fit(*a))
    fast = train(
        tmp_path / "fast",
        dataset,
        monkeypatch,
        backend,
        name,
        **{section: keys | {"compile": True}},
    )
    assert begun == [graphs] and len(made) == graphs
    slow = train(tmp_path / "slow", dataset, monkeypatch, None, name, **{section: keys})
    assert max((fast[k] - slow[k]).abs().max() for k in slow) < 1e-4


def refuses_all(graph, inputs, options):
    raise OSError("no compiler here")


def refuses_gradients(graph, inputs, options):
    return aot_autograd(fw_compiler=lambda g, i: make_boxed_func(g.forward), bw_compiler=refuses)(
        graph, inputs
    )


def refuses(graph, inputs):
    raise OSError("no compiler here")


@pytest.mark.parametrize("backend", [refuses_all, refuses_gradients])
def test_where_compiling_fails_the_training_goes_on_without(
    backend, dataset, tmp_path, monkeypatch, capsys
):
    model = SMALL | {"multipliers": (1,)}
    train(tmp_path / "fast", dataset, monkeypatch, backend, model=model, train={"compile": True})
    told = capsys.readouterr().out
    assert told.count("torch.compile failed (") == 1 and "no compiler here" in told
    train(tmp_path / "slow", dataset, monkeypatch, None, model=model, train={"compile": False})
    files = (tmp_path / run / "model.safetensors" for run in ("fast", "slow"))
    assert len({io.sha256(file) for file in files}) == 1


def test_what_is_kept_is_loaded_only_with_the_key_that_signed_it(tmp_path, monkeypatch, capsys):
    compiler = compiling.Compiler(SimpleNamespace(compile=True, steps=1), torch.device("cpu"))
    loaded = []
    monkeypatch.setattr(torch.compiler, "save_cache_artifacts", lambda: (b"code", None))
    monkeypatch.setattr(torch.compiler, "load_cache_artifacts", loaded.append)
    compiler.keep(tmp_path)
    compiler.restore(tmp_path)
    assert loaded == [b"code"]
    key = tmp_path / "mine/key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600 and len(key.read_bytes()) == 32
    signed = (tmp_path / "compiled-0.bin").read_bytes()
    unsigned = hmac.digest(b"", b"code", "sha256") + b"code"
    for content in (signed[:-1] + b"f", b"code", b"", unsigned):
        (tmp_path / "compiled-0.bin").write_bytes(content)
        compiler.restore(tmp_path)
    (tmp_path / "compiled-0.bin").write_bytes(signed)
    for other in (b"x" * 32, b""):
        key.write_bytes(other)
        compiler.restore(tmp_path)
    assert loaded == [b"code"]
    assert capsys.readouterr().out.count("compiled-0.bin is not used (") == 6


@pytest.mark.parametrize(
    "asked, device, steps, on, graphs",
    [
        ("auto", "cuda", 3000, True, False),
        ("auto", "cuda", 2999, False, False),
        ("auto", "cpu", 9999, False, False),
        (True, "cpu", 1, True, False),
        (False, "cuda", 9999, False, False),
        ("graphs", "cuda", 1, True, True),
        ("graphs", "cpu", 1, True, False),
    ],
)
def test_when_a_training_is_compiled(asked, device, steps, on, graphs):
    settings = SimpleNamespace(compile=asked, steps=steps)
    compiler = compiling.Compiler(settings, torch.device(device))
    assert (compiler.on, compiler.graphs) == (on, graphs)


def test_gradients_that_stay_in_place_are_the_same_gradients(dataset):
    """CUDA graphs write to fixed places: gradients must not move, nor add up over the steps."""
    x = torch.randn(8, 1, 32, 32)
    context = torch.eye(2)[torch.arange(8) % 2]
    weights = []
    for keep in (False, True):
        task = loop.task("diffusion", recipe(model=SMALL), dataset, make_accelerator("cpu"))
        task.update.keep_gradients = keep
        places = set()
        for k in range(3):
            task.step(k, x, context, torch.Generator().manual_seed(k))
            places.add(tuple(p.grad.data_ptr() for p in task.update.weights))
        assert len(places) == 1 or not keep
        weights.append(torch.cat([p.detach().flatten() for p in task.update.weights]))
    assert torch.equal(*weights)


def test_the_doubled_map_is_the_same_when_it_is_compiled(monkeypatch):
    x = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last).requires_grad_()
    plain = doubled(x)
    (slope,) = torch.autograd.grad((plain**3).sum(), x)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    made = doubled(x)
    (same,) = torch.autograd.grad((made**3).sum(), x)
    assert torch.equal(plain, made) and (slope - same).abs().max() < 1e-5
    assert made.is_contiguous(memory_format=torch.channels_last)


def test_compiled_maps_are_channels_last_in_every_convolution():
    """Oracle: the memory order of what enters the convolutions, forward and backward.

    Image and output hold the pixels of a patch as channels; they alone may need a copy.
    """
    strides = []

    def look(graph, inputs):
        for node in graph.graph.nodes:
            if "convolution" in str(node.target):
                maps = node.args[: 2 if "backward" in str(node.target) else 1]
                strides.extend((m.meta["val"].shape[1], m.meta["val"].stride(1)) for m in maps)
        return make_boxed_func(graph.forward)

    backend = aot_autograd(fw_compiler=look, bw_compiler=look, decompositions=select_decomp_table())
    net = Denoiser(UNet(width=16, multipliers=(1, 2), attention=(), patch=2))
    optimise.on_device(net, torch.device("cpu"))
    loss = torch.compile(lambda *a: denoiser.loss(net, *a), backend=backend, dynamic=False)
    x = torch.randn(4, 1, 32, 32)
    sigma = torch.rand(4) + 0.1
    loss(x, sigma, torch.randn_like(x), sigma).backward()
    inside = [stride for channels, stride in strides if channels != 4]
    assert len(inside) > 30 and set(inside) == {1}
