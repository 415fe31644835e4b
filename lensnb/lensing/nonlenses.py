"""What is not a lens: ellipticals, spirals, rings, mergers, groups and empty sky, as the lens finder learns them.

They are observed as the lenses of a prior are: the same size, PSF, noise and signal-to-noise. Image i
of a seed is the same however many are drawn.
"""

import math

import numpy as np
import torch

from lensnb.errors import InputError
from lensnb.lensing.priors import draw_truth, get_prior, random_stream, whole_number
from lensnb.lensing.simulate import add_noise, psf_matrix, ring_signal, source_light
from lensnb.seeds import Purpose, derived_seed

# random stream beside the streams of a lens
LIGHT = 3
FAINT = 0.15  # of a lens's signal: the most that an empty sky has


# ---- shapes; x (1, W), y (H, 1) in arcsec to brightness (H, W)


def sersic(x, y, at, radius, n, q=1.0, phi=0.0):
    """Sersic brightness about `at`, 1 at the radius [arcsec] of the circle of equal area."""
    row = {"x": at[0], "y": at[1], "radius": radius, "n": n, "q": q, "phi": phi}
    shape = (1, len(y), x.shape[1])
    return source_light(
        {f"source_{k}": np.array([v]) for k, v in row.items()},
        get_prior("broad"),
        x.expand(shape),
        y.expand(shape),
    )[0]


def within(rng, reach):
    """A point, uniform in a disc of that radius."""
    r = reach * math.sqrt(rng.random())
    angle = rng.uniform(0, 2 * math.pi)
    return r * math.cos(angle), r * math.sin(angle)


def polar(x, y, at, q, phi):
    """Elliptical radius, of the circle of equal area, and angle about `at`, each (H, W)."""
    along = (x - at[0]) * math.cos(phi) + (y - at[1]) * math.sin(phi)
    across = (y - at[1]) * math.cos(phi) - (x - at[0]) * math.sin(phi)
    return torch.sqrt(q * along**2 + across**2 / q + 1e-6), torch.atan2(across / q, along)


def elliptical(rng, x, y):
    """One Sersic galaxy, from a disc to a cusp."""
    return sersic(
        x,
        y,
        within(rng, 0.35),
        rng.uniform(0.6, 1.6),
        rng.uniform(0.7, 4),
        rng.uniform(0.4, 1),
        rng.uniform(0, math.pi),
    )


def spiral(rng, x, y):
    """An exponential disc with two to four logarithmic arms, theta = ln r / tan(pitch), and a bulge."""
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


def waves(rng, angle, orders, strength):
    """A random periodic function of the angle: orders 1, 2, ... with normal amplitudes of that strength."""
    return sum(
        rng.normal(0, strength) * torch.cos(m * angle + rng.uniform(0, 2 * math.pi))
        for m in range(1, orders + 1)
    )


def ring(rng, x, y):
    """A ring galaxy seen nearly face-on, uneven, out of round, with or without a core; some are but an arc."""
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


def merger(rng, x, y):
    """Two or three overlapping Sersic galaxies."""
    return sum(
        rng.uniform(0.3, 1)
        * sersic(
            x,
            y,
            within(rng, 1.2),
            rng.uniform(0.3, 1.1),
            rng.uniform(0.7, 2.5),
            rng.uniform(0.4, 1),
            rng.uniform(0, math.pi),
        )
        for _ in range(rng.integers(2, 4))
    )


def group(rng, x, y):
    """Two to five small galaxies about an empty middle, drawn out more or less along a circle, as arcs are."""

    def member():
        r = rng.uniform(0.8, 1.6)
        angle = rng.uniform(0, 2 * math.pi)
        at = (r * math.cos(angle), r * math.sin(angle))
        along = angle + math.pi / 2 + rng.normal(0, 0.5)
        return rng.uniform(0.3, 1) * sersic(
            x, y, at, rng.uniform(0.25, 0.6), rng.uniform(0.7, 2), rng.uniform(0.2, 0.7), along
        )

    return sum(member() for _ in range(rng.integers(2, 6)))


def sky(rng, x, y):
    """Nothing but scattered light, faint and sloping."""
    slope = within(rng, 0.2)
    return 1 + slope[0] * x + slope[1] * y


KINDS = {f.__name__: f for f in (elliptical, spiral, ring, merger, group, sky)}


# ---- images


def non_lenses(n, seed=0, kinds=tuple(KINDS), prior="broad"):
    """n images without a lens (n, 1, H, W), float32, in units of the sky's deviation, the kinds in turn.

    They are observed as a prior with a signal-to-noise says, which is drawn and means what it does
    there; the sky has at most FAINT of that signal. Image i depends on (seed, i) and its kind alone.
    Raises InputError for an unknown kind or a prior without signal-to-noise.
    """
    prior = get_prior(prior)
    n = whole_number("n", n, 1)
    kinds = tuple(kinds)
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise InputError(f"kinds holds {unknown[0]!r}, expected some of {', '.join(KINDS)}")
    if not kinds or prior.snr is None:
        raise InputError(
            "non-lenses need at least one kind and a prior with a signal-to-noise, such as broad"
        )
    seed = derived_seed(whole_number("seed", seed, 0), Purpose.NON_LENSES)
    truth = draw_truth(n, prior, seed)
    signal = math.sqrt(2) * prior.background * truth["snr"]
    clean = torch.stack(
        [
            _clean(kinds[i % len(kinds)], random_stream(seed, i, LIGHT), prior, signal[i])
            for i in range(n)
        ]
    )
    return add_noise(clean, truth, prior)[:, None].numpy()


def _clean(kind, rng, prior, signal):
    """One image (H, W) without noise, blurred and averaged over pixels, its mean bright pixel at `signal`."""
    spacing = prior.pixel_scale / prior.oversample
    axis = (
        torch.arange(prior.size * prior.oversample) + 0.5
    ) * spacing - prior.size * prior.pixel_scale / 2
    blur = psf_matrix(
        prior.size,
        prior.oversample,
        prior.psf_fwhm / math.sqrt(8 * math.log(2)) / spacing,
        prior.psf_truncation,
    )
    image = blur @ KINDS[kind](rng, axis[None], axis[:, None]) @ blur.T
    return image * (signal * (rng.uniform(0, FAINT) if kind == "sky" else 1) / ring_signal(image))
