"""Images without a lens: ellipticals, spirals, rings, mergers, groups and empty sky.

The lens finder learns them as its second class. They are observed as a prior's lenses are, with
the same size, PSF, noise and signal-to-noise. Image i of a seed is the same however many images
are drawn.
"""

import math
from collections.abc import Callable, Iterable

import numpy as np
import torch

from lensnb.errors import InputError
from lensnb.lensing.photons import add_noise
from lensnb.lensing.priors import Prior, get_prior, whole_number
from lensnb.lensing.simulate import psf_of, ring_signal, source_light
from lensnb.lensing.truth_tables import draw_truth
from lensnb.seeds import Purpose, derived_seed

LIGHT = 3  # random stream of a galaxy's shape
FAINT = 0.15  # brightest empty sky, as a share of a lens's signal

Point = tuple[float, float]  # x, y in arcsec


# ---- shapes; x (1, W), y (H, 1) in arcsec to brightness (H, W)


def sersic(
    x: torch.Tensor,
    y: torch.Tensor,
    at: Point,
    radius: float,
    n: float,
    q: float = 1.0,
    phi: float = 0.0,
) -> torch.Tensor:
    """Sersic brightness (H, W) about the point `at`; 1 at the Sersic radius.

    radius : of the circle of equal area [arcsec].
    """
    row = {"x": at[0], "y": at[1], "radius": radius, "n": n, "q": q, "phi": phi}
    truth = {f"source_{name}": np.array([value]) for name, value in row.items()}
    shape = (1, len(y), x.shape[1])
    return source_light(truth, get_prior("broad"), x.expand(shape), y.expand(shape))[0]


def within(rng: np.random.Generator, reach: float) -> Point:
    """A random point, uniform in a disc of radius `reach` about the middle."""
    r = reach * math.sqrt(rng.random())
    angle = rng.uniform(0, 2 * math.pi)
    return r * math.cos(angle), r * math.sin(angle)


def polar(
    x: torch.Tensor, y: torch.Tensor, at: Point, q: float, phi: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Elliptical radius and angle about the point `at`, each (H, W).

    The radius is the radius of the circle whose area equals the ellipse's.
    """
    along = (x - at[0]) * math.cos(phi) + (y - at[1]) * math.sin(phi)
    across = (y - at[1]) * math.cos(phi) - (x - at[0]) * math.sin(phi)
    return torch.sqrt(q * along**2 + across**2 / q + 1e-6), torch.atan2(across / q, along)


def elliptical(rng: np.random.Generator, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """One Sersic galaxy, from a disc to a cusp."""
    at = within(rng, 0.35)
    radius = rng.uniform(0.6, 1.6)
    n = rng.uniform(0.7, 4)
    q = rng.uniform(0.4, 1)
    return sersic(x, y, at, radius, n, q, rng.uniform(0, math.pi))


def spiral(rng: np.random.Generator, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """An exponential disc with two to four arms, and a bulge.

    The arms are logarithmic: theta = ln r / tan(pitch).
    """
    at = within(rng, 0.35)
    q = rng.uniform(0.4, 1)
    phi = rng.uniform(0, math.pi)
    radius = rng.uniform(0.7, 1.5)
    pitch = math.radians(rng.uniform(12, 35))
    hand = rng.choice([-1, 1])
    r, angle = polar(x, y, at, q, phi)
    wave = torch.cos(rng.integers(2, 5) * (angle - hand * torch.log(r) / math.tan(pitch)))
    arms = 1 - rng.uniform(0.5, 1) * (1 - wave) / 2
    bulge = sersic(x, y, at, rng.uniform(0.1, 0.3), rng.uniform(1, 3), max(q, 0.7), phi)
    return sersic(x, y, at, radius, 1.0, q, phi) * arms + rng.uniform(0, 3) * bulge


def waves(
    rng: np.random.Generator, angle: torch.Tensor, orders: int, strength: float
) -> torch.Tensor:
    """A random periodic function of the angle, as a sum of cosines of orders 1, 2, ...

    strength : standard deviation of the normal amplitudes.
    """
    total = torch.zeros_like(angle)
    for m in range(1, orders + 1):
        amplitude = rng.normal(0, strength)
        total = total + amplitude * torch.cos(m * angle + rng.uniform(0, 2 * math.pi))
    return total


def ring(rng: np.random.Generator, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """A ring galaxy seen nearly face-on, uneven and out of round, with or without a core.

    Some are no more than an arc.
    """
    at = within(rng, 0.2)
    q = rng.uniform(0.7, 1)
    phi = rng.uniform(0, math.pi)
    r, angle = polar(x, y, at, q, phi)
    crest = rng.uniform(0.75, 1.5) * (1 + waves(rng, angle, 3, 0.05))
    rim = torch.exp(
        -(((r - crest) / rng.uniform(0.1, 0.25)) ** 2) / 2 + waves(rng, angle, 4, rng.uniform(0, 1))
    )
    core = sersic(x, y, at, rng.uniform(0.1, 0.4), rng.uniform(1, 2), max(q, 0.7), phi)
    return rim + rng.integers(2) * rng.uniform(0.2, 1) * core


def merger(rng: np.random.Generator, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Two or three overlapping Sersic galaxies."""
    return _sum_of(_merging_galaxy, int(rng.integers(2, 4)), rng, x, y)


def _merging_galaxy(rng: np.random.Generator, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    brightness = rng.uniform(0.3, 1)
    at = within(rng, 1.2)
    radius = rng.uniform(0.3, 1.1)
    n = rng.uniform(0.7, 2.5)
    q = rng.uniform(0.4, 1)
    return brightness * sersic(x, y, at, radius, n, q, rng.uniform(0, math.pi))


def group(rng: np.random.Generator, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Two to five small galaxies about an empty middle.

    They are drawn out more or less along a circle, as arcs are.
    """
    return _sum_of(_group_member, int(rng.integers(2, 6)), rng, x, y)


def _group_member(rng: np.random.Generator, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    r = rng.uniform(0.8, 1.6)
    angle = rng.uniform(0, 2 * math.pi)
    at = (r * math.cos(angle), r * math.sin(angle))
    along = angle + math.pi / 2 + rng.normal(0, 0.5)
    brightness = rng.uniform(0.3, 1)
    radius = rng.uniform(0.25, 0.6)
    n = rng.uniform(0.7, 2)
    return brightness * sersic(x, y, at, radius, n, rng.uniform(0.2, 0.7), along)


Shape = Callable[[np.random.Generator, torch.Tensor, torch.Tensor], torch.Tensor]


def _sum_of(
    draw: Shape, n: int, rng: np.random.Generator, x: torch.Tensor, y: torch.Tensor
) -> torch.Tensor:
    """The light of n galaxies, each drawn by `draw`."""
    return sum((draw(rng, x, y) for _ in range(n)), torch.zeros(()))


def sky(rng: np.random.Generator, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Nothing but scattered light, faint and sloping."""
    slope = within(rng, 0.2)
    return 1 + slope[0] * x + slope[1] * y


KINDS: dict[str, Shape] = {
    shape.__name__: shape for shape in (elliptical, spiral, ring, merger, group, sky)
}


# ---- images


def non_lenses(
    n: int,
    seed: int = 0,
    kinds: Iterable[str] = tuple(KINDS),
    prior: str | Prior = "broad",
) -> np.ndarray:
    """n images without a lens, float32 (n, 1, H, W), the kinds in turn.

    Units are the sky's standard deviation. The images are observed as the prior says, and its
    signal-to-noise is drawn and defined as for lenses. An empty sky has at most FAINT of that
    signal. Image i depends only on (seed, i) and its kind.

    Raises InputError for an unknown kind and for a prior without signal-to-noise.
    """
    prior = get_prior(prior)
    n = whole_number("n", n, 1)
    kinds = _check_kinds(kinds, prior)
    seed = derived_seed(whole_number("seed", seed, 0), Purpose.NON_LENSES)
    truth = draw_truth(n, prior, seed)
    signal = math.sqrt(2) * prior.background * truth["snr"]
    images = []
    for i in range(n):
        rng = np.random.Generator(np.random.Philox(key=[seed, LIGHT], counter=[0, i, 0, 0]))
        images.append(_clean(kinds[i % len(kinds)], rng, prior, signal[i]))
    return add_noise(torch.stack(images), truth, prior)[:, None].numpy()


def _check_kinds(kinds: Iterable[str], prior: Prior) -> tuple[str, ...]:
    kinds = tuple(kinds)
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise InputError(f"kinds holds {unknown[0]!r}, expected some of {', '.join(KINDS)}")
    if not kinds or prior.snr is None:
        raise InputError(
            "non-lenses need at least one kind and a prior with a signal-to-noise, such as broad"
        )
    return kinds


def _clean(kind: str, rng: np.random.Generator, prior: Prior, signal: float) -> torch.Tensor:
    """One image (H, W) without noise, blurred and averaged over pixels.

    The mean of its bright pixels is `signal`, or a random share of it for an empty sky.
    """
    spacing = prior.pixel_scale / prior.oversample
    half = prior.size * prior.pixel_scale / 2
    axis = (torch.arange(prior.size * prior.oversample) + 0.5) * spacing - half
    blur = psf_of(prior)
    image = blur @ KINDS[kind](rng, axis[None], axis[:, None]) @ blur.T
    share = rng.uniform(0, FAINT) if kind == "sky" else 1
    return image * (signal * share / ring_signal(image))
