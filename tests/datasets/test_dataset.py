"""What `prepare_dataset` writes, against plain numpy: split, scaling and simulated images."""

import json
import tracemalloc
import types
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from images import noise, read

from lensnb.datasets import pixels, sources
from lensnb.datasets.dataset import Scaling, load_dataset, prepare_dataset, split
from lensnb.errors import InputError
from lensnb.lensing.priors import CLASSES
from lensnb.lensing.simulate import simulate
from lensnb.recipes.recipe import validate
from lensnb.recipes.schema import Data
from lensnb.registry import Registry


def test_pixel_scale_follows_the_size(src, out):
    np.save(src / "a.npy", noise(10, 16, 16))
    assert read(src / "a.npy", out, pixel_scale=0.05).pixel_scale == pytest.approx(0.1)
    assert read(src / "a.npy", out, pixel_scale=0.05, size=16).pixel_scale == 0.05


def test_minmax_per_image_and_the_way_back(src, out):
    want = noise(12, 8, 8) * np.geomspace(1e-6, 1e6, 12)[:, None, None]
    np.save(src / "a.npy", want)
    got = read(src / "a.npy", out, scaling="minmax")
    low = want.min(axis=(1, 2))
    high = want.max(axis=(1, 2))
    assert (got.images.min(axis=(1, 2, 3)) == 0).all() and (
        got.images.max(axis=(1, 2, 3)) == 1
    ).all()
    np.testing.assert_allclose(got.truth["image_min"], low, rtol=1e-6)
    np.testing.assert_allclose(got.truth["image_max"], high, rtol=1e-6)
    back = (
        got.images[:, 0] * (got.truth["image_max"] - got.truth["image_min"])[:, None, None]
        + got.truth["image_min"][:, None, None]
    )
    assert (np.abs(back - want).max(axis=(1, 2)) < 1e-6 * np.abs(want).max(axis=(1, 2))).all()


def test_memory_stays_constant(src, out):
    big = np.lib.format.open_memmap(src / "a.npy", "w+", np.float64, (4000, 64, 64))  # 131 MB
    for i in range(0, 4000, 1000):
        big[i : i + 1000] = noise(1000, 64, 64, seed=i)
    del big
    tracemalloc.start()
    read(src / "a.npy", out, size=64, n=4000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 5e6 < peak < 60e6


def test_a_second_prepare_leaves_nothing_of_the_first(src, out):
    np.savez(src / "a.npz", images=noise(12, 8, 8), labels=np.arange(12) % 2, mass=noise(12))
    np.save(src / "b.npy", noise(9, 8, 8))
    read(src / "a.npz", out)
    read(src / "b.npy", out)
    assert sorted(p.name for p in out.iterdir()) == [
        "dataset.json",
        "heldout.npy",
        "images.npy",
        "train.npy",
    ]


def test_same_seed_same_bytes(src, tmp_path):
    np.savez(
        src / "a.npz",
        images=noise(30, 16, 16),
        labels=np.arange(30) % 2,
        zeta=noise(30),
        mass=noise(30),
    )
    for name in "ab":
        np.random.seed(ord(name))
        read(src / "a.npz", tmp_path / name, n=25, scaling="asinh")
    files = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert files == [
        "dataset.json",
        "heldout.npy",
        "images.npy",
        "labels.npy",
        "train.npy",
        "truth.csv",
    ]
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


# Split --------------------------------------------------------------------------------------------


@given(st.integers(2, 3000), st.floats(0.01, 0.5), st.integers(0, 2**31 - 1))
@settings(max_examples=60, deadline=None)
def test_split_is_disjoint_covering_sorted_and_stable(n, holdout, seed):
    train, heldout = split(n, holdout, seed)
    assert len(heldout) == max(1, round(n * holdout))
    assert sorted([*train, *heldout]) == list(range(n))
    assert (np.diff(train) > 0).all() and (np.diff(heldout) > 0).all()
    np.random.seed(1)
    np.testing.assert_array_equal(split(n, holdout, seed)[1], heldout)


def test_split_is_random_and_leaves_numpys_global_state_alone():
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    held = np.array([split(100, 0.1, seed)[1] for seed in range(500)])
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    often = np.bincount(held.ravel(), minlength=100)  # binomial(500, 0.1): 50 +- 6.7
    assert often.min() > 50 - 5 * 6.7 and often.max() < 50 + 5 * 6.7


# Scaling ------------------------------------------------------------------------------------------

small_images = hnp.arrays(
    np.float32, (4, 1, 4, 4), elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
)


@given(small_images, st.sampled_from(["linear", "asinh", "minmax", "range"]))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
def test_inverse_of_forward_is_the_image(images, kind):
    """To 3e-5 of the largest value (of 1 for minmax) in float32.

    sinh multiplies rounding by its argument, which is below 30.
    """
    if kind == "minmax":
        images = np.abs(images) / 1e6
    if np.ptp(images) <= 1e-6 * np.abs(images).max():
        return
    scaling = Scaling.fit(images, kind)
    assert Scaling(**json.loads(json.dumps(asdict(scaling)))) == scaling
    largest = 1.0 if kind == "minmax" else float(np.abs(images).max())
    back = scaling.inverse(scaling.forward(images))
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, images, rtol=0, atol=3e-5 * largest)
    tensor = torch.from_numpy(images)[0, 0]
    back = scaling.inverse(scaling.forward(tensor))
    assert back.dtype == torch.float32 and back.shape == (4, 4)
    np.testing.assert_allclose(back.numpy(), images[0, 0], rtol=0, atol=3e-5 * largest)
    np.testing.assert_allclose(
        scaling.forward(tensor).numpy(), scaling.forward(images[0, 0]), rtol=1e-4, atol=1e-5
    )
    seen = scaling.forward(images.astype(float))
    assert (seen.min(), seen.max()) == pytest.approx((scaling.low, scaling.high))


@pytest.mark.parametrize("kind, softening", [("linear", 3), ("asinh", 1), ("asinh", 3)])
def test_scaling_equals_its_definition(kind, softening):
    images = np.random.default_rng(3).gamma(0.5, 2.0, (50, 1, 8, 8)).astype(np.float32)
    f = images.astype(float)
    width = softening * f.std() if kind == "asinh" else 1
    if kind == "asinh":
        f = np.arcsinh(f / width)
    scaling = Scaling.fit(images, kind, softening=softening)
    np.testing.assert_allclose(
        scaling.forward(images.astype(float)), (f - f.mean()) / f.std() / 2, rtol=0, atol=1e-9
    )
    assert scaling.softening == pytest.approx(width, rel=1e-9)


def test_minmax_maps_zero_and_one():
    scaling = Scaling.fit(np.array([0, 0.2, 1, 0.7], np.float32).reshape(1, 1, 2, 2), "minmax")
    np.testing.assert_allclose(scaling.forward(np.array([0.0, 0.5, 1.0])), [-1, 0, 1])
    assert (scaling.low, scaling.high) == (-1, 1)


def test_range_maps_the_ends_of_eight_bits_exactly():
    images = np.random.default_rng(0).integers(0, 256, (20, 1, 8, 8)).astype(np.float32)
    images[3, 0, 1, 2] = 0
    images[7, 0, 4, 4] = 255
    scaling = Scaling.fit(images, "range")
    assert (scaling.low, scaling.high, scaling.offset, scaling.scale) == (-1, 1, 127.5, 127.5)
    for x in (images, torch.from_numpy(images)):
        y = scaling.forward(x)
        assert y.dtype == x.dtype and (y.min(), y.max()) == (-1, 1)
        assert y[3, 0, 1, 2] == -1 and y[7, 0, 4, 4] == 1
        assert (scaling.inverse(y.min()), scaling.inverse(y.max())) == (0, 255)
        np.testing.assert_allclose(scaling.inverse(y), images, rtol=0, atol=2e-5)


def test_range_is_that_of_all_training_pixels_and_not_of_each_image(src, out):
    images = noise(40, 8, 8) * np.arange(1, 41)[:, None, None]
    images[split(40, 0.25, 0)[1][0], 0, 0] = 1e4  # held out
    np.save(src / "a.npy", images)
    got = read(src, out, scaling="range")
    train = got.scaling.forward(got.images[got.train].astype(float))
    assert (train.min(), train.max()) == pytest.approx((-1, 1), abs=1e-12)
    assert np.ptp(train, axis=(1, 2, 3)).min() < 0.5
    assert got.scaling.forward(got.images[got.heldout]).max() > 10  # not clipped
    assert got.scaling.inverse(-1.0) == pytest.approx(images[got.train].min(), rel=1e-6)


@pytest.mark.parametrize("kind", ["linear", "asinh"])
def test_chunked_fit_of_a_memory_map_equals_whole_array_statistics(kind, tmp_path, monkeypatch):
    images = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.float32, (301, 1, 8, 8))
    images[:] = noise(301, 1, 8, 8) + 1e4 * (np.arange(301) % 2)[:, None, None, None]
    rows = np.sort(np.random.default_rng(0).permutation(301)[:250])
    monkeypatch.setattr(pixels, "CHUNK", 64 * 7)
    assert len(pixels.chunks(250, 64)) == 36
    got = Scaling.fit(images, kind, rows, softening=1)
    whole = np.array(images[rows], dtype=float)
    f = whole if kind == "linear" else np.arcsinh(whole / whole.std())
    assert got.offset == pytest.approx(f.mean(), rel=1e-6) and got.scale == pytest.approx(
        2 * f.std(), rel=1e-6
    )


@pytest.mark.parametrize("kind", ["linear", "asinh", "minmax", "range"])
def test_scaling_is_fitted_on_training_images_alone(kind, src, tmp_path):
    images = noise(40, 8, 8)
    held = split(40, 0.25, 0)[1]
    np.save(src / "a.npy", images)
    images[held[0], 0, 0] = 1e9
    np.save(src / "b.npy", images)
    a, b = (read(src / f"{x}.npy", tmp_path / x, scaling=kind) for x in "ab")
    assert a.heldout.tolist() == held.tolist() == b.heldout.tolist()
    assert a.scaling == b.scaling and a.sigma_data == b.sigma_data
    images[a.train[0], 0, 0] = 1e9  # the same outlier in the training part does change it
    np.save(src / "c.npy", images)
    c = read(src / "c.npy", tmp_path / "c", scaling=kind)
    if kind == "minmax":
        assert abs(c.sigma_data - a.sigma_data) > 1e-3
    else:
        assert max(c.scaling.softening / a.scaling.softening, c.scaling.scale / a.scaling.scale) > 2


@pytest.mark.parametrize("kind", ["linear", "asinh", "minmax", "range"])
def test_sigma_data_is_measured(kind, src, out):
    np.save(src / "a.npy", np.random.default_rng(0).gamma(0.3, 1, (40, 8, 8)))
    got = read(src / "a.npy", out, scaling=kind)
    scaled = got.scaling.forward(got.images[got.train].astype(float))
    assert got.sigma_data == pytest.approx(scaled.std(), rel=1e-6)
    if kind in ("minmax", "range"):
        assert abs(got.sigma_data - 0.5) > 0.01 and (got.scaling.low, got.scaling.high) == (-1, 1)
    else:
        assert got.sigma_data == pytest.approx(0.5, rel=1e-6) and abs(scaled.mean()) < 1e-6


def test_scaling_refusals():
    with pytest.raises(InputError, match="did you mean minmax"):
        Scaling.fit(noise(4, 1, 4, 4), "minmx")
    with pytest.raises(InputError, match="vary"):
        Scaling.fit(np.ones((4, 1, 4, 4)), "asinh")


# Simulated images ---------------------------------------------------------------------------------


@pytest.fixture
def fake_simulator(monkeypatch):
    def simulate_file(path, prior, seed, device, workers):
        out = np.lib.format.open_memmap(path, mode="r+")
        n, _, size, _ = out.shape
        out[:, :1] = np.random.default_rng(seed).normal(5, 2, (n, 1, size, size))
        return {"theta_E": np.linspace(0.8, 1.6, n), "class": np.arange(n) % 3}

    monkeypatch.setattr(sources, "simulate_file", simulate_file)
    broad = types.SimpleNamespace(size=64, pixel_scale=0.08)
    monkeypatch.setattr(sources, "PRIORS", Registry("prior", [("broad", broad)]))


@pytest.mark.parametrize("channels", [None, 1, 3])
def test_simulated(channels, out, fake_simulator):
    prepare_dataset(Data(n=40, size=16, channels=channels, scaling="linear"), 7, out)
    got = load_dataset(out)
    want = np.random.default_rng(7).normal(5, 2, (40, 1, 16, 16)).astype(np.float32)
    np.testing.assert_array_equal(got.images, np.repeat(want, channels or 1, axis=1))
    assert got.labels.tolist() == [i % 3 for i in range(40)] and got.classes == (
        "no_sub",
        "cdm",
        "vortex",
    )
    assert got.pixel_scale == pytest.approx(0.32)
    np.testing.assert_array_equal(got.truth["theta_E"], np.linspace(0.8, 1.6, 40))
    assert "broad" in got.source and "7" in got.source


def test_simulated_refusals(out, fake_simulator):
    with pytest.raises(InputError, match="did you mean '?broad"):
        validate({"data": {"prior": "brod"}}, "recipe")
    with pytest.raises(InputError, match="data.labels"):
        prepare_dataset(Data(labels="a.npy"), 0, out)
    with pytest.raises(InputError, match="2 of each"):
        prepare_dataset(Data(n=20, holdout=0.05), 0, out)


def test_the_real_simulator_fits(out):
    prepare_dataset(Data(n=20, size=16), 3, out)
    got = load_dataset(out)
    assert got.images.shape == (20, 1, 16, 16) and got.classes == CLASSES
    np.testing.assert_array_equal(got.images, simulate(20, prior="broad", seed=3, size=16)[0])
