"""Faults that are planted in simulated lenses of the broad prior, to learn who sees them.

Each takes images (n, 1, 64, 64), a strength, a random generator, the truth table of the images and
the training images, and returns images with the fault. At the strength in USUAL all were missed
once.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import scipy.ndimage

from lensnb.lensing.priors import PRIORS
from lensnb.lensing.simulate import clean_images, render
from lensnb.lensing.truth_tables import altered, draw_points

BROAD = PRIORS["broad"]
Truth = Mapping[str, np.ndarray]
Fault = Callable[[np.ndarray, float, np.random.Generator, Truth, np.ndarray], np.ndarray]


def _again(truth: Truth, **columns: np.ndarray) -> np.ndarray:
    """The same lenses with other columns."""
    return render(altered(truth, BROAD, **columns)).numpy()


def _some(x: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Numbers of a share of the images, drawn at random."""
    return rng.permutation(len(x))[: round(share * len(x))]


def opening(x, share, rng, truth, train):
    """A share of images turned by quarters so that the brighter arc lies to the right."""
    made = x.copy()
    angle = np.arctan2(truth["source_y"] - truth["y"], truth["source_x"] - truth["x"])
    for i in _some(x, share, rng):
        made[i] = np.rot90(x[i], round(angle[i] / (np.pi / 2)), (1, 2))
    return made


def equal_angles(x, share, rng, truth, train):
    """A share of lenses whose mass lies along one direction."""
    phi = truth["phi"].copy()
    phi[_some(x, share, rng)] = 0.3
    return _again(truth, phi=phi)


def off_centre(x, pixels, rng, truth, train):
    """Lenses and sources moved to the right."""
    step = pixels * BROAD.pixel_scale
    return _again(truth, x=truth["x"] + step, source_x=truth["source_x"] + step)


def gradient(x, sky, rng, truth, train):
    """A rise from -sky to +sky across the field, along the rows."""
    return x + np.linspace(-sky, sky, x.shape[-1], dtype=x.dtype)


def sky(x, level, rng, truth, train):
    """A brighter sky."""
    return x + x.dtype.type(level)


def stripes(x, level, rng, truth, train):
    """Each row of each image brighter or fainter by a random step."""
    return x + rng.normal(0, level, (*x.shape[:3], 1)).astype(x.dtype)


def noise(x, factor, rng, truth, train):
    """White noise that makes the noise of the sky larger by a factor."""
    return x + rng.normal(0, (factor**2 - 1) ** 0.5, x.shape).astype(x.dtype)


def light_detail(x, factor, rng, truth, train):
    """Photon noise times a factor, with the noise of the sky as it is."""
    clean = clean_images(truth, draw_points(truth, BROAD), BROAD)[:, None].numpy()
    photons = clean.clip(0) / truth["exposure"][:, None, None, None]
    return x + (np.sqrt((factor**2 - 1) * photons) * rng.normal(size=x.shape)).astype(x.dtype)


def noise_left(x, factor, rng, truth, train):
    """All noise times a factor: 0 leaves images without noise."""
    clean = clean_images(truth, draw_points(truth, BROAD), BROAD)[:, None].numpy()
    return clean + x.dtype.type(factor) * (x - clean)


def checkerboard(x, level, rng, truth, train):
    """Neighbouring pixels brighter and fainter."""
    i, j = np.indices(x.shape[2:])
    return x + (level * (-1.0) ** (i + j)).astype(x.dtype)


def hot_pixel(x, level, rng, truth, train):
    """One pixel brighter, the same in all images."""
    made = x.copy()
    made[:, :, 12, 41] += level
    return made


def elliptical_psf(x, pixels, rng, truth, train):
    """A blur along the columns."""
    return scipy.ndimage.gaussian_filter1d(x, pixels, axis=2)


def mirrored(x, share, rng, truth, train):
    """The left half of a share of images mirrored onto the right half."""
    made = x.copy()
    some = _some(x, share, rng)
    half = x.shape[-1] // 2
    made[some, :, :, -half:] = x[some, :, :, :half][..., ::-1]
    return made


def class_shares(x, extra, rng, truth, train):
    """More images of the first class: others give way to turned ones of that class."""
    made = x.copy()
    first = np.flatnonzero(truth["class"] == 0)
    others = np.flatnonzero(truth["class"] != 0)
    gone = rng.permutation(others)[: round(extra * len(x))]
    for i, j in zip(gone, rng.choice(first, len(gone)), strict=True):
        made[i] = np.rot90(x[j], rng.integers(1, 4), (1, 2))
    return made


def ring(x, arcsec, rng, truth, train):
    """Larger Einstein radii."""
    return _again(truth, theta_E=truth["theta_E"] + arcsec)


def correlated(x, correlation, rng, truth, train):
    """Einstein radius and axis ratio correlated: radii dealt out again by rank."""
    deviations = rng.normal(size=len(x))
    rank = np.argsort(np.argsort(truth["q"])) / len(x) + 0.5 / len(x)
    target = correlation * _normal(rank) + (1 - correlation**2) ** 0.5 * deviations
    radii = np.empty(len(x))
    radii[np.argsort(target)] = np.sort(truth["theta_E"])
    return _again(truth, theta_E=radii)


def _normal(share: np.ndarray) -> np.ndarray:
    from scipy import stats

    return stats.norm.ppf(share)


def weak_vortex(x, factor, rng, truth, train):
    """The mass of vortices times a factor."""
    return _again(truth, vortex_mass=factor * truth["vortex_mass"])


def few_subhalos(x, factor, rng, truth, train):
    """The number of subhalos times a factor."""
    return _again(truth, subhalos=np.round(factor * truth["subhalos"]))


def _copies(x, share, rng, train, change):
    made = x.copy()
    some = _some(x, share, rng)
    made[some] = change(train[rng.choice(len(train), len(some), replace=False)])
    return made


def copies(x, share, rng, truth, train):
    """A share of training images as they are."""
    return _copies(x, share, rng, train, lambda own: own)


def shifted_copies(x, share, rng, truth, train):
    """A share of training images moved by two pixels."""
    return _copies(x, share, rng, train, lambda own: np.roll(own, 2, axis=3))


def turned_copies(x, share, rng, truth, train):
    """A share of training images turned by 30 degrees."""

    def turned(own):
        return scipy.ndimage.rotate(own, 30, (2, 3), reshape=False, order=1, mode="reflect")

    return _copies(x, share, rng, train, turned)


def noisy_copies(x, share, rng, truth, train):
    """A share of training images with more noise."""
    return _copies(x, share, rng, train, lambda own: noise(own, 1.4, rng, None, None))


PLANTED: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (
        opening,
        equal_angles,
        off_centre,
        gradient,
        sky,
        stripes,
        noise,
        light_detail,
        noise_left,
        checkerboard,
        hot_pixel,
        elliptical_psf,
        mirrored,
        class_shares,
        ring,
        correlated,
        weak_vortex,
        few_subhalos,
        copies,
        shifted_copies,
        turned_copies,
        noisy_copies,
    )
}
# Fault -> strength, and the measure and column that should name it
USUAL: dict[str, tuple[float, str, Any]] = {
    "opening": (1.0, "handedness", "m1_cos"),
    "equal_angles": (1.0, "handedness", "m2_cos"),
    "off_centre": (0.5, "handedness", "centre_x"),
    "gradient": (0.1, "sky_gradient", "x"),
    "sky": (0.02, "sky_level", "sky_level"),
    "stripes": (0.1, "sky_stripes", "rows"),
    "noise": (1.02, "noise_level", "noise_level"),
    "light_detail": (1.3, "light_detail", "light_detail"),
    "checkerboard": (0.05, "mean_image", None),
    "hot_pixel": (0.5, "mean_image_largest", None),
    "elliptical_psf": (0.3, "spectrum_2d", None),
    "mirrored": (0.1, "mirror", "detail"),
    "class_shares": (0.27, "class_shares", "no_sub"),
    "ring": (0.01, "readings_each", "theta_E"),
    "correlated": (0.3, "readings_pairs", "theta_E * q"),
    "weak_vortex": (0.5, "lens_fit_by_class", "vortex"),
    "few_subhalos": (0.5, "lens_fit_by_class", "cdm"),
    "copies": (0.2, "copies", "copies"),
    "shifted_copies": (0.2, "copies", "copies"),
    "turned_copies": (0.2, "copies", "copies"),
    "noisy_copies": (0.2, "copies", "copies"),
}
