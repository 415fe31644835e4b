"""Priors: the distributions of lenses and sources, and the instrument that observes them.

Lengths are in arcsec and masses in solar masses. Position angles are in radians, from +x
towards +y.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lensnb.errors import InputError
from lensnb.registry import Registry

CLASSES = ("no_sub", "cdm", "vortex")  # kinds of dark substructure
FLOOR = 1e-8  # arcsec; keeps 0/0 away where a length is 0 or a ray hits a singular centre
DEEPLENSE_RADIUS = 1.281491  # arcsec, for 1e12 solar masses, by luminosity distances as in its code
DEEPLENSE_SCALE = 0.633738  # D_ls/D_s for z_source 1.0 over D_ls/D_s for 2.5; z_lens is 0.5

Range = tuple[float, float]  # lowest and highest value


@dataclass(frozen=True)
class Prior:
    """What is drawn, and how it is observed.

    Pairs are ranges (low, high). Values are uniform in their range unless a comment says
    otherwise. A Sersic radius is the radius of the circle of equal area. For images without noise,
    in flux per pixel, use replace(prior, snr=None, background=0.0).
    """

    size: int = 64  # pixels on a side
    pixel_scale: float = 0.1  # arcsec
    oversample: int = 4  # rays per pixel and axis
    psf_fwhm: float = 0.17  # arcsec, Gaussian
    psf_truncation: float = 5.0  # standard deviations
    z_lens: float = 0.5
    z_source: float = 1.0
    radius_1e12: float | None = None  # Einstein radius of 1e12; None: from the redshifts
    theta_E: Range = (0.9, 1.5)
    theta_E_is_whole: bool = True  # counts the substructure inside the ring
    q: Range = (0.65, 0.98)
    phi: Range = (0.0, math.pi)
    centre: Range = (-0.05, 0.05)  # of the lens, in x and in y
    gamma: Range = (0.0, 0.07)  # shear, uniform in gamma squared
    phi_gamma: Range = (0.0, math.pi)
    source_offset: float = 0.35  # from the lens: radius of a disc, or half the side of a square
    source_in_disc: bool = True
    source_radius: Range = (0.12, 0.35)
    source_n: Range = (0.7, 2.0)
    source_q: Range = (0.5, 0.95)
    source_phi: Range = (0.0, math.pi)
    brightness: float = 1.0  # per square arcsec at the Sersic radius; not used with snr
    snr: Range | None = (20.0, 40.0)  # log-uniform; sets brightness and exposure
    background: float = 1.0  # standard deviation of the sky; 0: no noise at all
    exposure: Range = (math.inf, math.inf)  # log-uniform; not used with snr
    counts: bool = False  # whole photons, not rates
    cdm_count: int = 25
    cdm_poisson: bool = True  # cdm_count is a mean
    cdm_mass: Range = (1e7, 1e10)
    cdm_slope: float = -0.9  # of dN/dm; the physical -1.9 does not show at 64 pixels
    cdm_radius: Range = (0.25, 2.0)  # from the lens
    vortex_mass: Range = (2e10, 6e10)
    vortex_half_length: Range = (0.5, 2.5)  # log-uniform
    vortex_points: int = 0  # 0: closed form of the line; otherwise this many point masses


def _deeplensesim(scale: float = 1.0, **instrument: Any) -> Prior:
    """The prior of the public DeepLenseSim generator (Alexander et al. 2020, arXiv:1909.07346).

    `scale` weakens every deflection. Sets 2 and 3 state the lens for a source at redshift 2.5, but
    place the source at 1.0. The ellipticities are (0.1, 0) for the lens and (-0.1, 0.1) for the
    source.
    """
    e = math.hypot(0.1, 0.1)
    return Prior(
        **instrument,
        theta_E=_fixed(DEEPLENSE_RADIUS * scale),
        q=_fixed(0.9 / 1.1),
        phi=_fixed(0.0),
        centre=_fixed(0.0),
        gamma=_fixed(0.05 * scale),
        phi_gamma=_fixed(0.0),
        source_radius=_fixed(0.25),
        source_n=_fixed(1.0),
        source_q=_fixed((1 - e) / (1 + e)),
        source_phi=_fixed(0.375 * math.pi),
        vortex_mass=_fixed(3e10),
        radius_1e12=DEEPLENSE_RADIUS * math.sqrt(scale),
        theta_E_is_whole=False,
        oversample=1,
        source_in_disc=False,
        snr=None,
        cdm_poisson=False,
        cdm_mass=(1e6, 1e10),
        vortex_half_length=(0.03, 3.0),
        vortex_points=100,
    )


def _fixed(value: float) -> Range:
    return value, value


def _brightness(magnitude: float, zero_point: float, radius: float = 0.25, n: float = 1.0) -> float:
    """Brightness at the Sersic radius, from the whole source's magnitude.

    Graham & Driver 2005, equation 4.
    """
    b = 1.9992 * n - 0.3271
    flux = 2 * math.pi * n * radius**2 * math.exp(b) * b ** (-2 * n) * math.gamma(2 * n)
    return 10 ** (-0.4 * (magnitude - zero_point)) / flux


PRIORS: Registry[Prior] = Registry("prior")
PRIORS.add("broad", Prior())
PRIORS.add(
    "deeplensesim-1",
    _deeplensesim(
        size=150,
        pixel_scale=0.05,
        psf_fwhm=0.087,
        psf_truncation=3.0,
        brightness=20.0,
        background=0.01,
        exposure=(1e3, 10**3.5),
        counts=True,
    ),
)
# DeepLenseSim adds each image of sets 2 and 3 to itself: the factor 2
PRIORS.add(
    "deeplensesim-2",
    _deeplensesim(
        DEEPLENSE_SCALE,
        pixel_scale=0.101,
        psf_fwhm=0.16,
        brightness=2 * _brightness(20.0, 24.0),
        background=0.0,
    ),
)
PRIORS.add(
    "deeplensesim-3",
    _deeplensesim(
        DEEPLENSE_SCALE,
        pixel_scale=0.08,
        psf_fwhm=0.08,
        brightness=2 * _brightness(20.0, 25.96),
        background=0.0,
    ),
)


def get_prior(prior: str | Prior, size: int | None = None) -> Prior:
    """The Prior of that name, or the Prior itself; with `size` pixels over the same field of view.

    Raises InputError for an unknown name and for a size below 8.
    """
    if isinstance(prior, str):
        prior = PRIORS.find(prior)
    elif not isinstance(prior, Prior):
        raise InputError(f"prior is {prior!r}, expected one of {', '.join(PRIORS)}, or a Prior")
    if size is None or whole_number("size", size, 8) == prior.size:
        return prior
    return replace(prior, size=int(size), pixel_scale=prior.pixel_scale * prior.size / size)


def whole_number(name: str, value: object, least: int) -> int:
    """`value` as an int; raises InputError, by `name`, unless it is whole and at least `least`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise InputError(f"{name} is {value!r}, expected a whole number of at least {least}")
    return int(value)
