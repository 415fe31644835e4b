"""What an instrument does to an image, as linear functions u (B, C, H, W) -> y (B, ...).

A function of your own serves as well: `linear` checks it. Transposes come from autograd, so that
they are exact. All are in the user's units, and all but functions of your own keep the surface
brightness: a constant image stays the same constant, except at the edges of a blur.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lensnb.errors import InputError

Operator = Callable[[Tensor], Tensor]
Linear = Callable[[Tensor], Tensor]


def identity(u: Tensor) -> Tensor:
    """The image itself."""
    return u


def mask(seen: Any) -> Operator:
    """An operator that sees only some pixels; the others are 0.

    seen : (H, W) or (C, H, W); 1 or true where a pixel is seen, 0 or false where it is missing
    Raises InputError for other values, and for a mask that sees nothing.
    """
    kept = torch.as_tensor(seen)
    if kept.ndim not in (2, 3) or not bool(((kept == 0) | (kept == 1)).all()):
        raise InputError(
            f"mask: expected zeros and ones of shape (H, W) or (C, H, W), found {kept.dtype} "
            f"values of shape {tuple(kept.shape)}"
        )
    if not bool(kept.any()):
        raise InputError("mask: every pixel is 0, so none is seen; 1 marks the pixels to keep")

    def masked(u: Tensor) -> Tensor:
        if u.shape[-2:] != kept.shape[-2:] or kept.shape[:-2] not in ((), u.shape[1:2]):
            raise InputError(
                f"mask: has the shape {tuple(kept.shape)}, and the images have {tuple(u.shape[1:])}"
            )
        return u * kept.to(u)

    return masked


def blur(psf: Any) -> Operator:
    """An operator that convolves with a point-spread function; outside the image the sky is 0.

    psf : (h, w), centred on pixel (h // 2, w // 2); it is divided by its sum
    Raises InputError for another shape, for values that are not finite and for a sum that is not
    positive.
    """
    kernel = torch.as_tensor(psf).double()
    if kernel.ndim != 2 or not bool(torch.isfinite(kernel).all()) or not kernel.sum() > 0:
        raise InputError(
            f"psf: expected finite numbers of shape (h, w) with a positive sum, found shape "
            f"{tuple(kernel.shape)}"
        )
    kernel = kernel / kernel.sum()
    top, left = (side // 2 for side in kernel.shape)

    def blurred(u: Tensor) -> Tensor:
        height, width = u.shape[-2:]
        # padded, so that nothing wraps around
        size = (height + kernel.shape[0] - 1, width + kernel.shape[1] - 1)
        product = torch.fft.rfft2(u, size) * torch.fft.rfft2(kernel.to(u), size)
        y: Tensor = torch.fft.irfft2(product, size)
        return y[..., top : top + height, left : left + width]

    return blurred


def gaussian_psf(fwhm: float) -> Tensor:
    """A Gaussian point-spread function (h, h) of this full width at half maximum, in pixels."""
    if not 0 < fwhm < 1e3:
        raise InputError(f"fwhm: expected a width in pixels above 0, found {fwhm:g}")
    width = fwhm / 2.354820045
    half = max(1, round(4 * width))
    place = torch.arange(-half, half + 1, dtype=torch.float64)
    profile = torch.exp(-((place / width) ** 2) / 2)
    psf = profile[:, None] * profile
    return psf / psf.sum()


def downsample(factor: int) -> Operator:
    """An operator that averages over squares of factor x factor pixels, as larger pixels do."""
    if factor < 1:
        raise InputError(f"factor: expected 1 or more pixels, found {factor}")

    def averaged(u: Tensor) -> Tensor:
        if u.shape[-1] % factor or u.shape[-2] % factor:
            raise InputError(
                f"factor: images of {u.shape[-2]} x {u.shape[-1]} pixels are not divisible by "
                f"{factor}"
            )
        return F.avg_pool2d(u, factor)

    return averaged


def chain(*operators: Operator) -> Operator:
    """The operators one after the other, the first of them first."""

    def chained(u: Tensor) -> Tensor:
        for operator in operators:
            u = operator(u)
        return u

    return chained


def linear(function: Operator, shape: tuple[int, ...]) -> Operator:
    """A function of your own as an operator, after a check that it is one.

    function : torch operations on images u (B, C, H, W); shape : (C, H, W) of one image
    Raises InputError for a function that is not linear, mixes images or cannot be differentiated.
    """
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 2, *shape, generator=generator, dtype=torch.float64)
    with torch.enable_grad():
        u = (2 * a - 3 * b).requires_grad_()
        y = function(u)
    expected = 2 * function(a) - 3 * function(b)
    size = expected.abs().max().item()
    if not (y.detach() - expected).abs().max().item() <= 1e-6 * size:
        raise InputError("operator: not linear, f(2a - 3b) differs from 2 f(a) - 3 f(b)")
    alone = function(a[:1])
    if alone.shape[1:] != y.shape[1:] or not (alone - function(a)[:1]).abs().max() <= 1e-6 * size:
        raise InputError("operator: an image alone gives other data than beside another one")
    if not y.requires_grad:
        raise InputError("operator: cannot be differentiated; use torch operations only")
    return function


def transpose(operator: Operator, v: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The transpose of an operator applied to v (B, ...): images (B, *shape), by autograd."""
    with torch.enable_grad():
        u = torch.zeros(len(v), *shape, dtype=v.dtype, device=v.device, requires_grad=True)
        y = operator(u)
    if not y.requires_grad:
        raise InputError("operator: cannot be differentiated; use torch operations only")
    return torch.autograd.grad(y, u, v)[0]


# Equations with operators -------------------------------------------------------------------------


def dot(a: Tensor, b: Tensor) -> Tensor:
    """The product of a and b, summed over all but the rows; the summed axes keep length 1."""
    return (a * b).sum(tuple(range(1, a.ndim)), keepdim=True)


def conjugate_gradients(
    covariance: Linear, variance: Tensor, b: Tensor, guess: Tensor, iterations: int
) -> Tensor:
    """v with (variance + covariance) v = b, row by row (Hestenes & Stiefel 1952).

    covariance : a linear map; guess : of the diagonal of variance + covariance, which preconditions
    A row ends at a relative error of about 1e-3, and where the covariance of a trained network
    turns out not to be positive.
    """
    v = torch.zeros_like(b)
    r = b
    z = r / guess
    p = z
    left = first = dot(r, z)
    for _ in range(iterations):
        certain = dot(p, variance * p)
        product = variance * p + covariance(p)
        length = dot(p, product)
        going = (length >= certain) & (left > 1e-6 * first)
        if not bool(going.any()):
            break
        step = torch.where(going, left / length, 0)
        v = v + step * p
        r = r - step * product
        z = r / guess
        now = torch.where(going, dot(r, z), 0)
        p = torch.where(going, z + now / left * p, 0)
        left = now
    return v


# Variance of the noise ----------------------------------------------------------------------------


def poisson(sky: float, exposure: float) -> Callable[[Tensor], Tensor]:
    """The variance of counted light, as a function of the noiseless data: sky^2 + u / exposure.

    It is the Gaussian form of Poisson noise. sky : standard deviation of the background;
    exposure : counts for one unit of brightness. Raises InputError unless both are positive.
    """
    if not (sky > 0 and exposure > 0):
        raise InputError(f"noise: expected a sky and an exposure above 0, found {sky}, {exposure}")
    return lambda noiseless: sky**2 + noiseless.clamp(min=0) / exposure
