"""Sky and photon noise of simulated images, drawn where the images are.

Every image has noise of its own, keyed by the seed and the number in its row of the truth table. So
it is the same in any batch, and to rounding on any device.
"""

import math

import torch

from lensnb.lensing.deflection import to_device
from lensnb.lensing.priors import Prior
from lensnb.lensing.truth_tables import Table
from lensnb.noise import ImageNoise
from lensnb.seeds import Purpose, seeds_of

FEW = 5.0  # photons: below, counts are drawn by inversion, above by an expansion
MOST = 28  # counts beyond these have less than 1e-11 of the probability at a mean of FEW


def add_noise(image: torch.Tensor, truth: Table, prior: Prior) -> torch.Tensor:
    """Images (n, H, W) with sky and photon noise, each from its own random numbers.

    Photon noise is a Gaussian of the photons' variance. A ring has hundreds of photons, so this is
    accurate, and a last bit of rounding in the image moves a pixel by a last bit only. With
    `counts` the noisy image is then exposed and its photons are counted, as DeepLenseSim's set 1
    does on top of both noises.
    """
    if not prior.background:
        return image
    noise = ImageNoise(seeds_of(truth["seed"], truth["index"], Purpose.PHOTONS))
    exposure = to_device(truth["exposure"], image)[:, None, None]
    noise_level = torch.sqrt(prior.background**2 + image / exposure)
    noisy = image + noise_level * noise.like(image)
    if not prior.counts:
        return noisy
    return poisson((exposure * noisy).clamp(min=0), noise.like(image))


def poisson(mean: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """Poisson counts of these means from standard normal numbers z, of one shape: whole floats.

    It is the quantile of the Poisson law at the probability of z. Below a mean of FEW it is exact
    but for one z in 10,000. Above, it is off by one for at most one z in 600, by the expansion
    in 1 / sqrt(mean) of Giles 2016, "Algorithm 955".
    """
    return torch.where(mean < FEW, _by_inversion(mean.clamp(max=FEW), z), _by_expansion(mean, z))


def _by_expansion(mean: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    mean = mean.clamp(min=FEW)
    root = mean.sqrt()
    shift = 1 / 3 + z**2 / 6 - (z / 36 + z**3 / 72) / root
    shift += (-8 / 405 + 7 * z**2 / 810 + z**4 / 270) / mean
    return (mean + root * z + shift).floor().clamp(min=0)


def _by_inversion(mean: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """How many counts have a cumulative probability below that of z."""
    below = torch.erfc(-z / math.sqrt(2)) / 2
    # The sum of all shares must not be rounded to less than 1, for then z above 5 would never stop.
    share = torch.exp(-mean) * (1 + 2.0**-19)
    cumulative = share.clone()
    count = torch.zeros_like(mean, dtype=torch.int8)
    for k in range(1, MOST):
        count += (below > cumulative).view(torch.int8)
        share.mul_(mean).mul_(1 / k)
        cumulative += share
    return count.to(mean)
