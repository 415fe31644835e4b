"""The Frechet distance in one call: real against real, a fault, bad input."""

import numpy as np
import pytest

from lensnb.errors import InputError
from lensnb.evaluation.frechet import Distance, frechet
from lensnb.lensing.simulate import simulate

FEW = {"times": 10, "floors": 8}  # resamplings


@pytest.fixture(scope="module")
def real():
    return simulate(160, "broad", seed=31)[0]


@pytest.fixture(scope="module")
def made():
    return simulate(40, "broad", seed=32)[0]


@pytest.fixture(scope="module")
def as_real(made, real):
    return frechet(made, real, **FEW)


def test_real_against_real_is_near_the_floor(as_real):
    assert as_real.n == 40 and float(as_real) == as_real.value
    assert 0.6 < as_real.ratio < 1.6 and abs(as_real.z) < 3
    assert as_real.ratio == as_real.value / as_real.floor and as_real.error > 0


def test_brighter_images_are_far(as_real, made, real):
    far = frechet(1.5 * made, real, **FEW)
    assert far.z > 3 and far.value > 2 * as_real.value
    assert (far.floor, far.floor_error) == (as_real.floor, as_real.floor_error)


def test_the_unit_of_the_images_does_not_matter(as_real, made, real):
    scaled = frechet(10 * made + 5, 10 * real + 5, **FEW)
    assert scaled.value == pytest.approx(as_real.value, rel=1e-2)


def test_the_seed_decides(as_real, made, real):
    assert frechet(made, real, **FEW) == as_real
    assert frechet(made, real, seed=1, **FEW).value != as_real.value


@pytest.mark.parametrize("n, m, expected", [(8, 160, 8), (40, 60, 20)])
def test_both_sides_have_as_many_images_as_the_smaller_allows(made, real, n, m, expected):
    assert frechet(made[:n], real[:m], **FEW).n == expected


def test_it_reads_as_a_sentence():
    full = Distance(12.34, 0.81, 2.6, 0.4, 9.1, 4.746, 16)
    assert str(full) == (
        "12.3 +- 0.8, 4.7 times the real-vs-real floor of 2.6 +- 0.4 (z = 9.1, n = 16)"
    )
    bare = Distance(12.34, 0.81, 0.0, 0.0, None, None, 16)
    assert str(bare) == "12.3 +- 0.8, the real-vs-real floor is 0.0 +- 0.0 (n = 16)"


HOLES = np.zeros((30, 1, 8, 8))
HOLES[[3, 7], 0, 2, 2] = np.nan


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"made": np.zeros((30, 8, 8))}, r"made has shape \(30, 8, 8\) .* expected images"),
        ({"real": np.array([["a"]])}, "real has shape"),
        ({"made": np.zeros((30, 3, 8, 8))}, "expected the same channels and pixels"),
        ({"made": np.ones((7, 1, 8, 8))}, "found 7 made and 30 real images, expected at least 8"),
        ({"real": np.ones((23, 1, 8, 8))}, "found 30 made and 23 real images.* 24 real"),
        ({"made": HOLES}, r"made: image 3 holds NaN or infinite pixels \(as do 1 others\)"),
        ({"real": np.ones((30, 1, 8, 8))}, "real: all pixels are the same"),
    ],
)
def test_bad_input_is_one_sentence(arguments, message):
    images = np.random.default_rng(0).normal(size=(30, 1, 8, 8))
    with pytest.raises(InputError, match=message) as caught:
        frechet(**{"made": images, "real": images} | arguments)
    assert "\n" not in str(caught.value)
