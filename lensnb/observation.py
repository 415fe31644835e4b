"""What was measured: data y = A(u) + noise of images u, and how likely images make them.

The noise is Gaussian, and u and y are in the user's units. A prior knows scaled images x instead,
with u = inverse(x). For an asinh scaling this is not linear, so samplers see the data linearised
about a predicted image. `log_likelihood` and `chi2` are exact.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lensnb.errors import InputError
from lensnb.operators import Linear, Operator, conjugate_gradients, identity, transpose
from lensnb.prior import Prior, slope_of

PROBES = 4  # random images that measure how much each datum sees
FLAT = 0.01  # share of the range of the scaled training pixels below which data are constant
FEW = 9  # data that may be alike by chance are fewer

Variance = Callable[[Tensor], Tensor]  # noiseless data -> variance of the noise


class Linearised(NamedTuple):
    """Data about a predicted image x0: y - A(inverse(x)) = residual - A(slope (x - x0)) + noise."""

    slope: Tensor  # (B, C, H, W) of the user's units by the scaled ones
    residual: Tensor  # (B, ...) 0 where nothing is seen
    variance: Tensor  # (B, ...) of the noise
    gain: Tensor  # (B, ...) diagonal of A slope^2 A^T, estimated


@dataclasses.dataclass(frozen=True)
class Observation:
    """Data of B images; build one with `observe`.

    y : data (B, ...), 0 where nothing is seen; seen : 1 or 0, of the same shape
    operator : u -> y without noise
    noise : standard deviation (B, ...), or a function: noiseless data (B, ...) -> variance
    """

    y: Tensor
    seen: Tensor
    operator: Operator
    noise: Tensor | Variance
    prior: Prior

    def rows(self, index: Sequence[int]) -> "Observation":
        """The observation of some rows, which may repeat."""
        which = torch.as_tensor(index, device=self.y.device)
        noise = self.noise[which] if isinstance(self.noise, Tensor) else self.noise
        return dataclasses.replace(self, y=self.y[which], seen=self.seen[which], noise=noise)

    def variance(self, noiseless: Tensor) -> Tensor:
        """The variance (B, ...) of the noise around noiseless data (B, ...)."""
        return self.noise**2 if isinstance(self.noise, Tensor) else self.noise(noiseless)

    def image(self, x0: Tensor) -> Tensor:
        """Scaled images in the user's units.

        They are clamped to three times the range of the training pixels, because the inverse of
        asinh overflows far outside.
        """
        scaling = self.prior.scaling
        span = scaling.high - scaling.low
        image: Tensor = scaling.inverse(x0.clamp(scaling.low - span, scaling.high + span))
        return image

    def linearised(self, x0: Tensor) -> Linearised:
        """The data linearised about scaled images x0 (B, C, H, W).

        Residual and variance are those along the scaling's stretch, in which data are nearly linear
        in x: for a mask they are linear. Both are multiplied by the same number, so that the
        gradient of the likelihood at x0 stays exact. Along the tangent, faint predictions of bright
        data would overshoot by the exponential of an asinh scaling.
        """
        slope = slope_of(self.image, x0)
        noiseless = self.operator(self.image(x0))
        residual = (self.y - noiseless) * self.seen
        along = _secant(self.prior.scaling.forward, noiseless, noiseless + residual)
        variance = self.variance(noiseless) * along
        return Linearised(slope, residual * along, variance, self.gain(slope))

    def gain(self, slope: Tensor) -> Tensor:
        """The diagonal of A slope^2 A^T (B, ...): exact for masks, else estimated from a few signs.

        Hutchinson's estimator for a diagonal (Bekas et al. 2007, doi:10.1016/j.apnum.2007.01.003).
        """
        seen = [self.operator(slope * signs) ** 2 for signs in _signs(slope)]
        return torch.stack(seen).mean(0)

    def back(self, v: Tensor) -> Tensor:
        """A transposed, applied to data v (B, ...) where they are seen; images (B, C, H, W)."""
        return transpose(self.operator, v * self.seen, self.prior.shape)

    def gain_of(
        self, at: Linearised, residual: Tensor, covariance: Linear, diagonal: float, iterations: int
    ) -> Tensor:
        """J^T (S + J V J^T)^-1 residual (B, C, H, W): a Kalman gain without its first factor V.

        J = A slope; S : covariance of the noise; V : `covariance` of scaled images, which has about
        `diagonal` on its diagonal; iterations : of conjugate gradients
        """

        def in_data(v: Tensor) -> Tensor:
            u = covariance(at.slope * self.back(v))
            return self.seen * self.operator(at.slope * u)

        guess = at.variance + diagonal * at.gain
        v = conjugate_gradients(in_data, at.variance, residual, guess, iterations)
        return at.slope * self.back(v)

    def log_likelihood(self, x0: Tensor, wider: Tensor | float = 0.0) -> Tensor:
        """log p(y | x0) (B,) in nats up to a constant, of scaled images; differentiable.

        wider : added to the variance of each datum
        """
        noiseless = self.operator(self.image(x0))
        variance = self.variance(noiseless) + wider
        each = -((self.y - noiseless) ** 2 / variance + variance.log()) / 2
        return (each * self.seen).flatten(1).sum(1)

    def chi2(self, u: Tensor) -> Tensor:
        """The squared residuals in units of the noise, a datum; (B,) for images u (B, C, H, W)."""
        noiseless = self.operator(u)
        squares = (self.y - noiseless) ** 2 / self.variance(noiseless) * self.seen
        return squares.flatten(1).sum(1) / self.seen.flatten(1).sum(1)


def _secant(function: Callable[[Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
    """The slope of a rising function from a to b, over its slope at a."""
    rise = function(b) - function(a)
    near = rise.abs() < 1e-2  # where the difference would round
    secant = torch.where(near, slope_of(function, (a + b) / 2), rise / torch.where(near, 1, b - a))
    return secant / slope_of(function, a)


def _signs(like: Tensor) -> Tensor:
    """PROBES images of random signs, always the same: (PROBES, C, H, W)."""
    generator = torch.Generator().manual_seed(0)
    return (2 * torch.randint(0, 2, (PROBES, *like.shape[1:]), generator=generator) - 1).to(like)


# What the user gives ------------------------------------------------------------------------------


def observe(
    prior: Prior, y: Any, operator: Operator = identity, noise: Any = None, seen: Any = None
) -> Observation:
    """The Observation of data y in the user's units, checked.

    y : data of one image, as the operator makes them, or of N images (N, ...); NaN where missing
    noise : standard deviation, a number or a map like y, or a function such as operators.poisson
    seen : a map like y, 0 where a datum is missing
    Raises InputError for shapes that do not fit, for noise that is not known or not positive, where
    nothing is seen, and for data in other units than the prior's.
    """
    dark = torch.zeros(1, *prior.shape, device=prior.device, dtype=prior.dtype)
    data = operator(dark).shape[1:]
    values = _rows_of("y", y, data).to(dark)
    kept = torch.isfinite(values)
    if seen is not None:
        kept = kept & (_rows_of("mask", seen, data) != 0).to(prior.device)
    noise = noise if callable(noise) else _deviation(noise, kept).to(dark)
    made = Observation(torch.where(kept, values, 0), kept.to(dark), operator, noise, prior)
    made = _without_blind(made)
    _check_units(made)
    return made


def _rows_of(name: str, values: Any, data: Sequence[int]) -> Tensor:
    """Real numbers as a tensor (B, *data); raises InputError for others, and another shape."""
    array = values if isinstance(values, Tensor) else np.asarray(values)
    if not isinstance(array, Tensor):
        if array.dtype.kind not in "fiub":
            raise InputError(f"{name}: found {array.dtype}, expected real numbers")
        array = torch.from_numpy(np.array(array))
    data = tuple(data)
    of_one = [data, data[1:]] if data[0] == 1 else [data]
    if array.shape in of_one:
        return array.reshape(1, *data)
    if array.shape[1:] == data and len(array):
        return array
    raise InputError(
        f"{name}: has the shape {tuple(array.shape)}, expected {of_one[-1]} for one image or "
        f"(N, {', '.join(map(str, data))}) for N of them"
    )


def _deviation(noise: Any, kept: Tensor) -> Tensor:
    """The standard deviation of the noise, of the shape of `kept`; 1 where nothing is seen.

    Float64, on the CPU, because mps has no float64.
    """
    if noise is None:
        raise InputError(
            "noise: not given; its standard deviation must be known, in the units of the data"
        )
    given = (
        torch.as_tensor(noise) if np.ndim(noise) == 0 else _rows_of("noise", noise, kept.shape[1:])
    )
    kept = kept.cpu()
    deviation = given.cpu().double().expand(kept.shape)
    if not bool((torch.isfinite(deviation) & (deviation > 0))[kept].all()):
        raise InputError("noise: expected standard deviations above 0 wherever a datum is seen")
    return deviation.where(kept, 1)


def _without_blind(made: Observation) -> Observation:
    """The observation without data that the operator leaves at 0; raises if nothing is left."""
    ones = made.y.new_ones(1, *made.prior.shape)
    kept = made.seen * (made.gain(ones) > 0)
    empty = (kept.flatten(1).sum(1) == 0).nonzero().flatten().tolist()
    if empty:
        which = f"of image {empty[0]} " if len(kept) > 1 else ""
        raise InputError(
            f"y: no datum {which}is seen; the mask is 0, or the data are NaN, everywhere"
        )
    return dataclasses.replace(made, seen=kept)


def _check_units(made: Observation) -> None:
    """Raise InputError for data that no image of the prior's range could make.

    Only an operator that keeps the surface brightness can be checked.
    """
    seen = made.seen.bool()
    ones = made.y.new_ones(1, *made.prior.shape)
    if abs(made.operator(ones).expand_as(made.y)[seen].median().item() - 1) > 0.1:
        return
    scaling, y = made.prior.scaling, made.y[seen]
    span = scaling.high - scaling.low
    edges = torch.tensor([scaling.low, scaling.high], dtype=torch.float64)
    low, high = scaling.inverse(edges).tolist()
    least, most = scaling.inverse(edges + torch.tensor([-span, span]) / 4).tolist()
    chance = 6 * made.variance(made.y)[seen] ** 0.5
    outside = bool(((y + chance < least) | (y - chance > most)).any())
    reach = scaling.forward(torch.stack([y.min(), y.max()]))
    flat = len(y) >= FEW and (reach[1] - reach[0]).item() < FLAT * span
    if outside or flat:
        raise InputError(
            f"y: its values lie between {y.min():.4g} and {y.max():.4g}, and the prior's images "
            f"between {low:.4g} and {high:.4g}; bring the data to the units of the prior"
        )
