"""Operators against scipy and numpy, and their transposes."""

import numpy as np
import pytest
import scipy.signal
import torch

from lensnb import operators
from lensnb.errors import InputError

SHAPE = (2, 12, 12)
LOPSIDED = np.random.default_rng(3).random((4, 5))
SEEN = np.random.default_rng(4).random((12, 12)) > 0.4
OPERATORS = {
    "identity": operators.identity,
    "mask": operators.mask(SEEN),
    "mask of each channel": operators.mask(np.stack([SEEN, ~SEEN])),
    "blur": operators.blur(LOPSIDED),
    "downsample": operators.downsample(3),
    "chain": operators.chain(operators.blur(LOPSIDED), operators.downsample(2)),
    "own": operators.linear(lambda u: torch.fft.rfft2(u).real[..., :3], SHAPE),
}


def images(n=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, *SHAPE, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
def test_the_transpose_is_exact(operator):
    u = images()
    y = operator(u)
    v = torch.randn(y.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    back = operators.transpose(operator, v, SHAPE)
    assert back.shape == u.shape
    one_side = (y * v).flatten(1).sum(1)
    other = (u * back).flatten(1).sum(1)
    assert (one_side - other).abs().max() < 1e-11 * one_side.abs().max()


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
def test_images_do_not_mix_and_single_precision_suffices(operator):
    u = images(3)
    assert (operator(u[1:2])[0] - operator(u)[1]).abs().max() < 1e-12
    assert (operator(u.float()) - operator(u)).abs().max() < 1e-4
    assert operator(u.float()).dtype == torch.float32


def test_a_blur_is_a_convolution_with_darkness_outside():
    u = images(1)
    y = OPERATORS["blur"](u)[0, 1].numpy()
    whole = scipy.signal.convolve2d(u[0, 1].numpy(), LOPSIDED / LOPSIDED.sum(), mode="full")
    assert np.abs(y - whole[2:14, 2:14]).max() < 1e-12  # (4, 5): centred on (2, 2)


def test_a_gaussian_has_its_width():
    psf = operators.gaussian_psf(5.0)
    middle = psf.shape[0] // 2
    assert abs(psf.sum() - 1) < 1e-12 and psf[middle, middle] == psf.max()
    # half the maximum is half the width away from the middle
    falling = np.interp(2.5, np.arange(middle + 1), psf[middle, middle:] / psf.max())
    assert abs(falling - 0.5) < 0.02


def test_larger_pixels_are_means():
    u = images(1)
    expected = u.numpy().reshape(1, 2, 4, 3, 4, 3).mean((3, 5))
    assert np.abs(OPERATORS["downsample"](u).numpy() - expected).max() < 1e-12


def test_a_mask_and_a_chain_do_what_they_say():
    u = images(1)
    assert torch.equal(OPERATORS["mask"](u), u * torch.as_tensor(SEEN))
    assert torch.equal(operators.chain()(u), u)
    assert torch.equal(OPERATORS["chain"](u), operators.downsample(2)(OPERATORS["blur"](u)))


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda: operators.mask(np.zeros((3, 3))), "every pixel is 0, so none is seen"),
        (lambda: operators.mask(np.full((3, 3), 0.5)), "expected zeros and ones"),
        (lambda: operators.mask(np.ones(3)), "expected zeros and ones"),
        (lambda: operators.mask(np.ones((3, 3)))(images()), "has the shape (3, 3), and the images"),
        (lambda: operators.blur(np.ones(3)), "expected finite numbers of shape (h, w)"),
        (lambda: operators.blur(np.zeros((3, 3))), "with a positive sum"),
        (lambda: operators.blur(np.full((3, 3), np.nan)), "expected finite numbers"),
        (lambda: operators.gaussian_psf(0), "expected a width in pixels above 0, found 0"),
        (lambda: operators.downsample(0), "expected 1 or more pixels, found 0"),
        (lambda: operators.downsample(5)(images()), "12 x 12 pixels are not divisible by 5"),
        (lambda: operators.linear(lambda u: u + 1, SHAPE), "not linear"),
        (lambda: operators.linear(lambda u: u**2, SHAPE), "not linear"),
        (lambda: operators.linear(lambda u: u - u.mean(0), SHAPE), "an image alone"),
        (lambda: operators.linear(lambda u: u.detach(), SHAPE), "cannot be differentiated"),
        (
            lambda: operators.transpose(lambda u: u.detach(), images(), SHAPE),
            "cannot be differentiated",
        ),
        (lambda: operators.poisson(0, 1), "expected a sky and an exposure above 0"),
    ],
)
def test_what_makes_no_sense_is_refused(call, said):
    with pytest.raises(InputError) as refused:
        call()
    assert said in str(refused.value)
