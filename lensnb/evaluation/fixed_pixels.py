"""Is any pixel brighter or fainter than its neighbours, the same one in all images?

Lenses have no favourite pixel, but detectors and networks do: hot pixels, marks of upsampling. The
contrast of a pixel is its value less the mean of its four neighbours. Lens light is smooth, so its
contrast scatters little more than the noise; the mean over n images then shows a step of a few
noise / sqrt(n). Other measures see such a pixel only through the light of the lenses on it.
"""

import math
from typing import Any

import numpy as np

from lensnb.evaluation import uncertainty
from lensnb.evaluation.image_stats import grey

UNIT = "sky noise"
CLIP = 5.0  # sky noises, so that one bright arc does not outweigh many images
CHUNK = 256  # images that are read at a time
SINGLE = 0.01  # share of the pixels that may stand out and still be single ones
PATTERN = 2  # times the median of t^2 by chance, beyond which all pixels have a part in it
SURE = -1e-6  # log of the chance of what is as good as sure, so that z stays finite
MEDIAN = 0.455  # of the square of a normal variable
Tree = dict[str, Any]
Maps = tuple[int, np.ndarray, np.ndarray]  # number of images, mean and variance of each pixel


def contrast_maps(images: Any, noise: float) -> Maps:
    """Mean and variance (H, W) of the contrast of each pixel of images (N, C, H, W).

    In units of `noise`. Images may be memory-mapped.
    """
    shape = np.asarray(images[:1]).shape[2:]
    total, squares = np.zeros(shape), np.zeros(shape)
    for at in range(0, len(images), CHUNK):
        maps = grey(np.asarray(images[at : at + CHUNK])) / (noise or 1.0)
        padded = np.pad(maps, ((0, 0), (1, 1), (1, 1)), mode="reflect")
        around = padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1] + padded[:, 1:-1, :-2]
        contrast = (maps - (around + padded[:, 1:-1, 2:]) / 4).clip(-CLIP, CLIP)
        total += contrast.sum(0)
        squares += np.square(contrast).sum(0)
    n = len(images)
    mean = total / n
    return n, mean, np.maximum(squares / n - mean**2, 0) * n / (n - 1)


def found_in(made: Maps, real: Maps) -> Tree:
    """The tree of metrics.json: the largest step of a pixel's contrast, with its floor and z.

    z is that of Welch's t of this pixel, made as rare as the largest of all pixels is by chance
    (Sidak 1967). The floor is the size that chance gives to the largest of them. `parts` has
    `pixel` if few pixels stand out, and `grid` if many do.
    """
    (n, a, spread_a), (m, b, spread_b) = made, real
    gap, error = a - b, np.sqrt(spread_a / n + spread_b / m)
    t = np.divide(gap, error, out=np.where(gap == 0, 0.0, np.inf), where=error > 0)
    certain = np.isinf(t)  # pixels without scatter
    size = np.where(certain, np.abs(gap), 0) if certain.any() else np.abs(t)
    at = np.unravel_index(size.argmax(), t.shape)
    by_chance, scatter = largest_by_chance(t.size)
    one = uncertainty.normal(float(np.abs(t[at])), n - 1) if np.isfinite(t[at]) else math.inf
    stand_out = np.abs(t) > by_chance + 3 * scatter
    many = stand_out.mean() > SINGLE or np.median(t**2) > PATTERN * MEDIAN
    sides = [
        {"value": float(x[at]), "error": math.sqrt(v[at] / k)}
        for k, x, v in ((n, a, spread_a), (m, b, spread_b))
    ]
    signed = math.copysign(one, gap[at]) if math.isfinite(one) else None
    step = {"unit": UNIT, "generated": sides[0], "real": sides[1], "z": signed}
    return {
        "unit": UNIT,
        "n": n,
        "resample": "own",
        "seed": 0,
        "bootstrap": 0,
        "floors": 0,
        "value": float(np.abs(gap[at])),
        "error": float(error[at]),
        "floor": by_chance * float(np.median(error)),
        "floor_error": scatter * float(np.median(error)),
        "z": of_the_largest(one, t.size) if math.isfinite(one) else None,
        "ratio": None,
        "deviations": [],
        "pixel": [int(i) for i in at],
        "parts": {"grid" if many else "pixel": step},
    }


def of_the_largest(z: float, count: int) -> float:
    """Deviations of a normal variable that are as rare as the largest of `count` sizes is z."""
    from scipy import special

    log_p = math.log(2) + float(special.log_ndtr(-z))  # of one pixel, on both sides
    expected = math.log(count) + log_p  # how many of them
    log_any = expected if expected < -20 else math.log(-math.expm1(-math.exp(expected)))
    return -float(special.ndtri_exp(min(log_any, SURE)))


def largest_by_chance(count: int) -> tuple[float, float]:
    """Mean and scatter of the largest size among `count` normal variables.

    The mean of a Gumbel variable, to which the largest tends, lies at 0.570 of its distribution.
    """
    from scipy import stats

    def at(share: float) -> float:
        return float(stats.norm.isf((1 - share ** (1 / count)) / 2))

    return at(0.570), (at(0.841) - at(0.159)) / 2
