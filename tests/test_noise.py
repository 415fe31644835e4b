"""The one generator of noise: published vectors, the normal law, independence, any batch."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.utils._python_dispatch import TorchDispatchMode

from lensnb import noise
from lensnb.seeds import Purpose, derived_seed, image_seeds, seeds_of

FULL = 2**32 - 1
# Random123's known answers for philox4x32 with 10 rounds: counter, key, result.
KNOWN = [
    ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((FULL,) * 4, (FULL,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def as_array(word):
    return np.array([word], np.uint64)


def as_tensor(word):
    return torch.tensor([word])


def on_torch(seeds):
    """The seeds as they lie on a GPU, so that tensors compute the noise."""
    return torch.as_tensor(seeds.astype(np.int64))


def sky(images=64, seed=1, purpose=Purpose.IMAGES, calls=1, shape=(64, 64)):
    """The noise of some calls, (calls, images, *shape)."""
    draw = noise.ImageNoise(image_seeds(seed, 0, images, purpose))
    return np.stack([draw(shape).numpy() for _ in range(calls)])


# Philox -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [as_array, as_tensor])
@pytest.mark.parametrize("counter, key, expected", KNOWN)
def test_philox_gives_the_published_answers(make, counter, key, expected):
    words = noise.philox([make(word) for word in counter], key)
    assert tuple(int(word[0]) for word in words) == expected


@pytest.mark.parametrize("make", [as_array, as_tensor])
def test_counters_and_keys_broadcast(make):
    together = [counter + key for counter, key, _ in KNOWN]
    columns = list(np.array(together, np.uint64).T)
    if make is as_tensor:
        columns = [torch.as_tensor(column.astype(np.int64)) for column in columns]
    words = noise.philox(columns[:4], columns[4:])
    assert [tuple(int(word[i]) for word in words) for i in range(3)] == [k[2] for k in KNOWN]
    outer = noise.philox((columns[0][:, None], *columns[1:4]), (0, 0))
    alone = noise.philox((columns[0][2:], *[column[:1] for column in columns[1:4]]), (0, 0))
    assert all(a.shape == (3, 3) and a[2, 0] == b[0] for a, b in zip(outer, alone, strict=True))


# The normal law -----------------------------------------------------------------------------------


def test_noise_is_standard_normal():
    x = sky(images=128).ravel().astype(float)  # 524,288 numbers
    n = len(x)
    assert stats.kstest(x, "norm").pvalue > 1e-3
    moments = [(x**k).mean() for k in range(1, 7)]
    # the variance of a normal number's k-th power is E x^2k - (E x^k)^2
    errors = [math.sqrt(v / n) for v in (1, 2, 15, 96, 945, 10170)]
    assert all(
        abs(found - expected) < 4 * error
        for found, expected, error in zip(moments, (0, 1, 0, 3, 0, 15), errors, strict=True)
    ), moments
    for far in (3.0, 4.0, 4.5):
        expected = 2 * stats.norm.sf(far)
        assert stats.binomtest(int((np.abs(x) > far).sum()), n, expected).pvalue > 1e-3, far


@pytest.mark.parametrize("kind, error", [("float32", 2e-6), ("float64", 1e-13)])
@pytest.mark.parametrize("make", [np.array, torch.tensor])
def test_radius_and_angle_follow_from_the_words_to_the_far_tails(make, kind, error):
    """The radius has the survival exp(-r^2 / 2). No word gives infinity or NaN."""
    a = [0, 1, 2, 7, 1000, 2**20, 2**31, 2**32 - 2**8, 2**32 - 1]
    b = [0, 2**30, 3, 2**31, 5 * 2**29, 12345, 2**32 - 1, 2**29, 2**31 + 1]
    out = np.empty((1, 2, 9), kind) if make is np.array else torch.empty(1, 2, 9)
    if make is torch.tensor:
        out = out.to(getattr(torch, kind))
    noise._box_muller(make([a]), make([b]), out)
    x, y = np.asarray(out[0], float)
    u = np.array(a) * 2.0**-32 * (1 - 2.0**-24) + 2.0**-33
    theta = 2 * np.pi * np.array(b) * 2.0**-32
    r = np.sqrt(-2 * np.log(u))
    assert np.isfinite([x, y]).all() and r[0] == pytest.approx(6.764, abs=1e-3)
    near_one = [1] * 7 + [600] * 2  # log u has lost its digits there, where the radius is 4e-4
    assert (np.abs(x - r * np.cos(theta)) < error * np.array(near_one)).all()
    assert (np.abs(y - r * np.sin(theta)) < error * np.array(near_one)).all()


# Independence -------------------------------------------------------------------------------------


def correlation(a, b):
    """Their correlation in units of its standard error, for the values and for their squares."""
    a = np.ravel(a).astype(float)
    b = np.ravel(b).astype(float)
    values = (a * b).mean()
    squares = ((a**2 - 1) * (b**2 - 1)).mean() / 2
    return math.sqrt(a.size) * max(abs(values), abs(squares))


def test_neighbouring_pixels_are_independent():
    """Among them those of one block of four, whose numbers lie 1024 pixels apart."""
    x = sky(images=64)[0].reshape(64, -1)
    for apart in (1, 2, 3, 63, 64, 65, 1024, 2048, 3072):
        assert correlation(x[:, apart:], x[:, :-apart]) < 4.5, apart
    radii = x.reshape(64, 2, 2, 1024)
    assert correlation(radii[:, :, 0], radii[:, :, 1]) < 4.5  # of one radius: cosine and sine


def test_images_steps_and_purposes_are_independent():
    x = sky(images=32, calls=3)
    assert correlation(x[:, 1:], x[:, :-1]) < 4.5  # images
    assert correlation(x[1:], x[:-1]) < 4.5 and correlation(x[0], x[2]) < 4.5  # steps
    assert correlation(x[1:, 1:], x[:-1, :-1]) < 4.5
    for other in (sky(32, 1, Purpose.NOISE, 3), sky(32, 2, calls=3)):
        assert correlation(x, other) < 4.5
    seeds = noise.halves(np.arange(32))  # seeds in a row are as good as any
    raw = noise.normals(seeds, 4096)
    assert correlation(raw[1:], raw[:-1]) < 4.5 and stats.kstest(raw.ravel(), "norm").pvalue > 1e-3


# Any batch, any device ----------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3, 4, 257])
@pytest.mark.parametrize("make", [np.asarray, on_torch])
def test_an_image_is_the_same_in_any_batch_and_in_any_tiles(make, count, monkeypatch):
    seeds = noise.halves([derived_seed(i) for i in range(9)])
    whole = np.asarray(noise.normals(make(seeds), count, step=4))
    alone = [np.asarray(noise.normals(make(seeds[:, i : i + 1]), count, step=4)) for i in range(9)]
    assert np.array_equal(np.concatenate(alone), whole) and whole.shape == (9, count)
    for most in (1, 7, 130):
        monkeypatch.setattr(noise, "CACHED_BLOCKS", most)
        monkeypatch.setattr(noise, "DEVICE_BLOCKS", most)
        assert np.array_equal(np.asarray(noise.normals(make(seeds), count, step=4)), whole)


@pytest.mark.parametrize("precision, error", [("float32", 3e-6), ("float64", 1e-14)])
def test_tensors_give_what_arrays_give(precision, error):
    seeds = noise.halves(image_seeds(3, 0, 20))
    here = noise.normals(seeds, 5000, 2, precision)
    there = noise.normals(on_torch(seeds), 5000, 2, precision)
    assert there.dtype == getattr(torch, precision) and here.dtype == precision
    assert np.abs(there.numpy() - here).max() < error
    # in single precision the smallest radii keep a few digits only
    apart = np.abs(noise.normals(seeds, 5000, 2) - noise.normals(seeds, 5000, 2, "float64"))
    assert apart.mean() < 2e-7 and apart.max() < 1e-4


class Calls(TorchDispatchMode):
    """The operations that run within."""

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.names.append(function.overloadpacket.__name__)
        return function(*arguments, **(options or {}))

    def __enter__(self):
        self.names = []
        return super().__enter__()


def test_on_a_device_noise_waits_for_nothing():
    """A few kernels for a whole batch, no value read back, nothing copied between devices."""
    seeds = on_torch(noise.halves(image_seeds(0, 0, 40)))
    with Calls() as calls:
        noise.normals(seeds, 4096, 7)
    waiting = {"_local_scalar_dense", "nonzero", "item", "masked_select", "index"}
    assert not waiting & set(calls.names) and len(calls.names) < 250
    views = {"slice", "select", "unsqueeze", "view", "_unsafe_view", "alias", "detach", "expand"}
    assert len([name for name in calls.names if name not in views]) < 160


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_each_call_draws_fresh_noise_of_the_type_that_is_asked_for(dtype):
    draw = noise.ImageNoise([5, 6])
    x = draw.like(torch.empty(2, 3, 5, 7, dtype=dtype))
    y = draw((3, 5, 7), dtype)
    again = noise.ImageNoise([6])
    assert x.shape == (2, 3, 5, 7) and x.dtype == dtype and not torch.equal(x, y)
    assert torch.equal(again((3, 5, 7), dtype)[0], x[1])
    assert torch.equal(again((3, 5, 7), dtype)[0], y[1])
    assert noise.ImageNoise([])((1, 4, 4)).shape == (0, 1, 4, 4)
    assert draw((0, 4)).shape == (2, 0, 4)


# Uniform numbers and seeds ------------------------------------------------------------------------


def test_uniform_numbers_are_uniform_and_stand_for_themselves():
    seeds = noise.halves(image_seeds(4, 0, 2000, Purpose.TRUTH))
    u = noise.uniforms(seeds, 41)
    assert u.dtype == np.float64 and u.min() >= 0 and u.max() < 1
    assert stats.kstest(u.ravel(), "uniform").pvalue > 1e-3
    assert min(stats.kstest(column, "uniform").pvalue for column in u.T) > 1e-4
    z = (u - 0.5) * math.sqrt(12)
    together = np.corrcoef(z.T)[np.triu_indices(41, 1)] * math.sqrt(2000)
    assert np.abs(together).max() < 4.5 and together.std() == pytest.approx(1, abs=0.1)
    assert np.array_equal(noise.uniforms(seeds[:, 5:9], 3), u[5:9, :3])
    assert not np.intersect1d(noise.uniforms(seeds, 41, step=1), u).size


def test_seeds_of_images_depend_on_their_number_and_purpose_alone():
    seeds = image_seeds(5, 0, 9)
    assert image_seeds(5, 2, 3) == seeds[2:5] and image_seeds(5, 0, 0) == []
    assert seeds_of(np.array([5, 4, 5]), np.array([8, 0, 3]), Purpose.IMAGES).tolist() == [
        seeds[8],
        image_seeds(4, 0, 1)[0],
        seeds[3],
    ]
    assert not {*seeds} & {*image_seeds(5, 0, 9, Purpose.NOISE)}


def test_seeds_of_images_differ():
    many = np.concatenate([image_seeds(seed, 2**32 - 5, 20_000) for seed in (0, 1, 2**40, 2**62)])
    assert len(set(many.tolist())) == 80_000 and many.min() >= 0 and many.max() > 2**62
    bits = (many[:, None] >> np.arange(63)) & 1
    assert np.abs(bits.mean(0) - 0.5).max() < 4.5 * 0.5 / math.sqrt(80_000)
