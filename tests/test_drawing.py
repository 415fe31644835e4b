"""Drawing many images: precision, compiling, batches that fit, and nothing that makes a GPU wait.

There may be no GPU: what it would do is checked on tensors without values (device meta), which
refuse whatever would have to wait for a value.
"""

import dataclasses

import numpy as np
import pytest
import torch

import lensnb
from lensnb import batches, devices, generator, sampler
from lensnb.datasets import conditions
from lensnb.datasets.dataset import Dataset, Scaling
from lensnb.errors import InputError
from lensnb.pipeline import noise_left_out
from lensnb.recipes.recipe import validate

CUDA = torch.device("cuda")


def recipe(**sample):
    methods = {
        name: {
            "sampler": name,
            "steps": 4,
            "spacing": "karras",
            "guidance": 2.0 if name == "ddim" else 1.0,
        }
        for name in sampler.SAMPLERS
    }
    tree = {
        "device": "cpu",
        "data": {"size": 16},
        "model": {"width": 16, "context": "class"},
        "gan": {"width": 8, "latent": 8},
        "sample": {"methods": methods | {"gan": {"model": "gan"}}} | sample,
    }
    return validate(tree, "test")


@pytest.fixture(scope="module")
def dataset():
    return Dataset(
        images=np.zeros((6, 1, 16, 16), np.float32),
        labels=np.arange(6) % 2,
        classes=("a", "b"),
        truth={},
        pixel_scale=None,
        train=np.arange(6),
        heldout=np.arange(0),
        scaling=Scaling("linear", 1, 0, 1, -1, 1),
        sigma_data=0.5,
        source="zeros",
    )


def made_of(dataset, method="dpmpp_2m", device="cpu", **sample):
    """A generator with random weights."""
    params = recipe(**sample)
    chosen = params.sample.methods[method]
    torch.manual_seed(0)
    net = generator.untrained(chosen.model, params, dataset).eval().requires_grad_(False)
    for p in net.parameters():  # none stays zero
        torch.nn.init.normal_(p, std=0.1)
    return generator.Generator(params, chosen, dataset, net.to(device), device)


# ---- noise that a sampler leaves out


@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize(
    "noise, words", [(0.22, ""), (0.18, "sigma_min: 0.03"), (0.1, "sigma_min: 0.02"), (0, "")]
)
def test_a_sampler_that_stops_above_the_noise_says_so(dataset, noise, words, bands):
    shape = (300, bands, 16, 16)
    images = np.random.default_rng(0).normal(0, 2 * noise, shape).astype(np.float32)
    images[:, 1:] *= 1.5  # the band with the least noise decides
    noisy = dataclasses.replace(
        dataset,
        images=images,
        labels=np.arange(300) % 2,
        train=np.arange(300),
        scaling=Scaling("linear", 1, 0, 2, -1, 1),
    )
    told = noise_left_out(made_of(noisy))  # its last level is 0.05
    assert words in told and bool(told) == bool(words)
    assert noise_left_out(made_of(noisy, "gan")) == ""


# ---- nothing waits


@pytest.mark.parametrize("method", recipe().sample.methods)
def test_no_step_needs_to_know_a_value_and_all_happens_on_the_device(dataset, method, monkeypatch):
    monkeypatch.setattr(sampler, "ImageNoise", EmptyNoise)
    made = made_of(dataset, method, "meta")
    context = torch.empty(3, 2, device="meta")
    assert made.inner.images([1, 2, 3], context).device.type == "meta"


class EmptyNoise:
    """Noise without values."""

    def __init__(self, seeds):
        self.seeds = seeds

    def __call__(self, shape, dtype=torch.float32, device="meta"):
        return torch.empty(len(self.seeds), *shape, dtype=dtype, device="meta")

    def like(self, x):
        return torch.empty_like(x)


def test_contexts_are_encoded_once(dataset, monkeypatch):
    calls = []
    encode = conditions.encode

    def counted(*args):
        calls.append(args)
        return encode(*args)

    monkeypatch.setattr(conditions, "encode", counted)
    made_of(dataset).draw(7, batch=2)
    assert len(calls) == 1


# ---- precision


def test_bf16_is_for_the_network_alone_and_changes_little():
    """0.012 was measured on a GPU along 18 steps; pixel noise is ten times as large."""
    shipped = lensnb.load("reference", "dpm").variant(6)
    drawn = {}
    for precision in ("fp32", "bf16"):
        sample = shipped.params.sample.model_copy(update={"precision": precision})
        params = shipped.params.model_copy(update={"sample": sample})
        made = generator.Generator(
            params, shipped.method, shipped.dataset, shipped.inner.net, shipped.device
        )
        context = made._encoded(made.asked(3, 1))
        with torch.inference_mode():
            states = list(made.inner.states([1, 2, 3], context))
        assert {s.x.dtype for s in states} | {s.x0.dtype for s in states} == {torch.float32}
        drawn[precision] = states[-1].x
    apart = (drawn["bf16"] - drawn["fp32"]).abs().mean().item()
    assert 1e-4 < apart < 0.03
    assert drawn["fp32"].std() > 0.3


def test_auto_is_bf16_for_a_sampler_on_a_gpu_that_has_it(dataset, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert devices.find_precision("auto", CUDA) == devices.find_precision("bf16", CUDA) == "bf16"
    assert devices.find_precision("auto", torch.device("cpu")) == "fp32"
    monkeypatch.setattr(devices, "find_precision", lambda name, device: f"{name} is looked up")
    assert made_of(dataset).precision == "auto is looked up"
    assert made_of(dataset, "gan").precision == "fp32"  # one call: nothing to gain
    assert made_of(dataset, "gan", precision="bf16").precision == "bf16 is looked up"


def test_bf16_is_refused_where_it_is_missing(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old Card")
    assert devices.find_precision("auto", CUDA) == "fp32"
    with pytest.raises(InputError) as refused:
        devices.find_precision("bf16", CUDA)
    assert str(refused.value) == (
        "sample.precision: Old Card has no bfloat16; set it to auto or fp32"
    )


# ---- compiled


@pytest.mark.parametrize("method", ["dpmpp_2m", "ddim", "gan"])
def test_a_compiled_network_sees_one_shape(dataset, method, monkeypatch):
    shapes = set()

    def compile(net, dynamic):
        def call(*tensors, **more):
            given = [t for t in (*tensors, *more.values()) if t is not None]
            shapes.add(tuple((t.shape, t.stride(), t.dtype) for t in given))
            return net(*tensors, **more)

        return call

    monkeypatch.setattr(torch, "compile", compile)
    plain = made_of(dataset, method, compile=False).draw(7, seed=3, batch=3)
    assert not shapes
    padded = made_of(dataset, method, compile=True).draw(7, seed=3, batch=3)
    assert len(shapes) == 1 and padded.shape == plain.shape
    assert np.abs(padded - plain).max() < 1e-4


def test_a_compile_that_fails_costs_one_line(dataset, monkeypatch, capsys):
    def compile(net, dynamic):
        raise RuntimeError("no C++ compiler\nfound anywhere")

    monkeypatch.setattr(torch, "compile", compile)
    made = made_of(dataset, compile=True)
    drawn = made.draw(5, batch=2)
    said = capsys.readouterr().out
    assert said == "not compiled, so slower: no C++ compiler found anywhere\n"
    assert np.abs(drawn - made_of(dataset).draw(5, batch=2)).max() < 1e-4
    made.draw(2)
    assert capsys.readouterr().out == ""


def test_a_compiled_network_is_called_again_and_again(dataset, monkeypatch, capsys):
    """What torch.compile returns has no truth value: to ask for it raises an error."""
    real, called = torch.compile, []

    def compile(net, dynamic):
        fast = real(net, dynamic=dynamic, backend="eager")
        fast.register_forward_hook(lambda *_: called.append(1))
        return fast

    monkeypatch.setattr(torch, "compile", compile)
    made_of(dataset, compile=True).draw(4, batch=2)
    assert len(called) == 2 * 4  # two batches of four evaluations
    assert capsys.readouterr().out == ""


def test_auto_compiles_long_drawings_on_a_gpu(dataset):
    made = made_of(dataset)  # 4 evaluations an image
    for device, n, compiled in (("cuda", 10**4, False), ("cuda", 10**6, True), ("cpu", 10**6, 0)):
        made.inner.compiled = None
        batches.Batches(made.inner, device).compile("auto", n)
        assert (made.inner.compiled is not None) == bool(compiled)


# ---- memory


class Small:
    """Draws seeds as images, at most `room` at a time."""

    compiled = None

    def __init__(self, room, error=torch.OutOfMemoryError):
        self.room = room
        self.error = error

    def images(self, seeds, context):
        if len(seeds) > self.room:
            raise self.error("DefaultCPUAllocator: can't allocate memory")
        return torch.tensor(seeds)[:, None]


def onednn(text):
    return RuntimeError("could not create a primitive")


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError, onednn])
def test_a_batch_that_does_not_fit_is_halved(error, capsys):
    found = list(batches.Batches(Small(3, error), "cpu").drawn(list(range(10)), None, 8))
    assert torch.equal(torch.cat(found)[:, 0], torch.arange(10))
    assert [len(part) for part in found] == [2] * 5
    said = capsys.readouterr().out.splitlines()
    assert said == [f"out of memory: {b} images at a time, now {b // 2}" for b in (8, 4)]


def test_no_room_for_one_image_is_one_sentence_and_other_errors_stay():
    with pytest.raises(InputError, match="out of memory with one image at a time on cpu"):
        list(batches.Batches(Small(0), "cpu").drawn([1, 2], None, 2))
    broken = Small(0, lambda text: RuntimeError("a fault"))
    with pytest.raises(RuntimeError, match="a fault"):
        list(batches.Batches(broken, "cpu").drawn([1], None, 1))


def test_the_batch_is_measured_on_a_small_trial(dataset, monkeypatch):
    made = made_of(dataset)
    monkeypatch.setattr(devices, "free_bytes", lambda device: 1e9)
    monkeypatch.setattr(devices, "peak_bytes", lambda run, n, device: run(n) or 5e6 + 2e6 * n)
    seeds = list(range(1000))
    context = torch.zeros(1000, 2)
    fits = batches.Batches(made.inner, CUDA).fitting(seeds, context)
    assert fits == 334  # of 350 that fit: 1000 images in 3 batches of one size
    assert batches.Batches(made.inner, CUDA).fitting(seeds[:9], context) == batches.AT_A_TIME
    assert batches.Batches(made.inner, "cpu").fitting(seeds, context) == batches.AT_A_TIME


def test_images_do_not_depend_on_the_batch(dataset):
    made = made_of(dataset)
    whole = made.draw(5, seed=2)
    assert whole.dtype == np.float32 and made.draw(0).shape == (0, 1, 16, 16)
    for size in (1, 2, 5, 64):
        assert np.abs(made.draw(5, seed=2, batch=size) - whole).max() < 1e-4
    assert np.abs(made.draw(2, seed=2, first=3) - whole[3:]).max() < 1e-4
    sizes = [len(part) for part in made_of(dataset, batch=2).batches(5)]
    assert sizes == [2, 2, 1]


def test_a_device_that_is_missing_is_one_sentence(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="device: cuda is asked for, and this machine offers"):
        devices.find_device("cuda")
