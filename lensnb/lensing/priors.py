"""What a simulated image shows: priors, and truth tables drawn from them.

A table holds every lens, source and piece of dark substructure, and shares the mass within the
ring between lens and substructure. Arcsec, solar masses, position angles in radians from +x
towards +y.

Every image has random streams of its own, keyed by (seed, image number): image i is the same
however many are drawn, in whatever chunks.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from lensnb.errors import InputError, nearest

CLASSES = ("no_sub", "cdm", "vortex")
SMOOTH = (
    "theta_E",
    "q",
    "phi",
    "x",
    "y",
    "gamma",
    "phi_gamma",
    "source_x",
    "source_y",
    "source_radius",
    "source_n",
    "source_q",
    "source_phi",
    "snr",
    "exposure",
)  # columns that have nothing to do with substructure
TRUTH, POINTS, NOISE = range(3)  # the random streams of one image
FLOOR = 1e-8  # arcsec; keeps 0/0 away where a length is 0 or a ray hits a singular centre
DEEPLENSE_RADIUS = 1.281491  # arcsec, 1e12 solar masses, from luminosity distances as in its code
DEEPLENSE_SCALE = 0.633738  # D_ls/D_s for z_source 1.0 over that for 2.5, z_lens 0.5


@dataclass(frozen=True)
class Prior:
    """What is drawn and how it is observed. Pairs are ranges (low, high), uniform unless said.

    Sersic radii are those of the circle of equal area. Without noise, in flux per pixel:
    replace(prior, snr=None, background=0.0).
    """

    size: int = 64  # pixels on a side
    pixel_scale: float = 0.1  # arcsec
    oversample: int = 4  # rays per pixel and axis
    psf_fwhm: float = 0.17  # arcsec, Gaussian
    psf_truncation: float = 5.0  # standard deviations
    z_lens: float = 0.5
    z_source: float = 1.0
    radius_1e12: float | None = None  # Einstein radius of 1e12; None: from the redshifts
    theta_E: tuple = (0.9, 1.5)
    theta_E_is_whole: bool = True  # counts the substructure inside the ring
    q: tuple = (0.65, 0.98)
    phi: tuple = (0.0, math.pi)
    centre: tuple = (-0.05, 0.05)  # of the lens, in x and in y
    gamma: tuple = (0.0, 0.07)  # shear, uniform in gamma squared
    phi_gamma: tuple = (0.0, math.pi)
    source_offset: float = 0.35  # from the lens: radius of a disc, or half a square
    source_in_disc: bool = True
    source_radius: tuple = (0.12, 0.35)
    source_n: tuple = (0.7, 2.0)
    source_q: tuple = (0.5, 0.95)
    source_phi: tuple = (0.0, math.pi)
    brightness: float = 1.0  # per square arcsec at the Sersic radius; idle with snr
    snr: tuple | None = (20.0, 40.0)  # log-uniform; sets brightness and exposure
    background: float = 1.0  # standard deviation of the sky; 0: no noise at all
    exposure: tuple = (math.inf, math.inf)  # log-uniform; idle with snr
    counts: bool = False  # whole photons, not rates
    cdm_count: int = 25
    cdm_poisson: bool = True  # cdm_count is a mean
    cdm_mass: tuple = (1e7, 1e10)
    cdm_slope: float = -0.9  # of dN/dm; the physical -1.9 does not show at 64 pixels
    cdm_radius: tuple = (0.25, 2.0)  # from the lens
    vortex_mass: tuple = (2e10, 6e10)
    vortex_half_length: tuple = (0.5, 2.5)  # log-uniform
    vortex_points: int = 0  # 0: closed form of the line; else so many point masses


def _deeplensesim(scale=1.0, **instrument):
    """The public DeepLenseSim generator (Alexander et al. 2020, arXiv:1909.07346).

    `scale` weakens every deflection: sets 2 and 3 state the lens for a source at redshift 2.5,
    but place the source at 1.0. Its ellipticities are (0.1, 0) and (-0.1, 0.1).
    """
    e = math.hypot(0.1, 0.1)
    fixed = dict(
        theta_E=DEEPLENSE_RADIUS * scale,
        q=0.9 / 1.1,
        phi=0.0,
        centre=0.0,
        gamma=0.05 * scale,
        phi_gamma=0.0,
        source_radius=0.25,
        source_n=1.0,
        source_q=(1 - e) / (1 + e),
        source_phi=0.375 * math.pi,
        vortex_mass=3e10,
    )
    return Prior(
        **{name: (value, value) for name, value in fixed.items()},
        **instrument,
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


def _rate(magnitude, zero_point, radius=0.25, n=1.0):
    """Brightness at the Sersic radius of a whole source (Graham & Driver 2005, equation 4)."""
    b = 1.9992 * n - 0.3271
    flux = 2 * math.pi * n * radius**2 * math.exp(b) * b ** (-2 * n) * math.gamma(2 * n)
    return 10 ** (-0.4 * (magnitude - zero_point)) / flux


PRIORS = {
    "broad": Prior(),
    "deeplensesim-1": _deeplensesim(
        size=150,
        pixel_scale=0.05,
        psf_fwhm=0.087,
        psf_truncation=3.0,
        brightness=20.0,
        background=0.01,
        exposure=(1e3, 10**3.5),
        counts=True,
    ),
    # sets 2 and 3 hold the image added to itself: the factor 2
    "deeplensesim-2": _deeplensesim(
        DEEPLENSE_SCALE,
        pixel_scale=0.101,
        psf_fwhm=0.16,
        brightness=2 * _rate(20.0, 24.0),
        background=0.0,
    ),
    "deeplensesim-3": _deeplensesim(
        DEEPLENSE_SCALE,
        pixel_scale=0.08,
        psf_fwhm=0.08,
        brightness=2 * _rate(20.0, 25.96),
        background=0.0,
    ),
}


def get_prior(prior, size=None):
    """The Prior of that name, or the one given; at `size` pixels over the same field of view."""
    if not isinstance(prior, Prior):
        if not isinstance(prior, str) or prior not in PRIORS:
            near = nearest(prior, PRIORS)
            raise InputError(
                f"prior is {prior!r}, expected one of {', '.join(PRIORS)}"
                + (f" (did you mean {near}?)" if near else "")
            )
        prior = PRIORS[prior]
    if size is None or whole_number("size", size, 8) == prior.size:
        return prior
    return replace(prior, size=int(size), pixel_scale=prior.pixel_scale * prior.size / size)


def whole_number(name, value, least):
    """`value` as an int; raises InputError, by `name`, unless it is whole and at least `least`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise InputError(f"{name} is {value!r}, expected a whole number of at least {least}")
    return int(value)


# ---- what is drawn


def draw_truth(n, prior="broad", seed=0, start=0):
    """What n images show: a dict of numpy columns (n,); row i is image start + i of the seed.

    seed, index, class (position in CLASSES, cycling);
    theta_E [arcsec]: mean convergence 1, all mass counted, within the ellipse of the lens's q and
    phi and area pi theta_E^2 (for DeepLenseSim follows from the rest); theta_E_smooth: of the SIE;
    q, phi, x, y: lens; gamma, phi_gamma: shear; source_x, source_y (absolute), source_radius,
    source_n, source_q, source_phi; snr (inf: no noise, NaN: not prescribed), exposure;
    subhalos: their number; vortex_mass, vortex_half_length [arcsec], vortex_angle, axion_mass_ev:
    0 where there is none; substructure_mass [solar masses inside the ring].

    Raises InputError for a bad argument or a prior whose substructure outweighs its lens.
    """
    prior = get_prior(prior)
    n = whole_number("n", n, 1)
    seed = whole_number("seed", seed, 0)
    start = whole_number("start", start, 0)
    index = np.arange(start, start + n)
    u = np.array([random_stream(seed, i, TRUTH).random(19) for i in index.tolist()])
    u = iter(u.T.copy())  # contiguous (n,) each
    truth = {"seed": np.full(n, seed), "index": index, "class": index % len(CLASSES)}
    truth |= _draw_smooth(u, prior) | _draw_exposure(u, prior)
    truth |= _draw_substructure(u, prior, truth["class"])
    return truth | _share_mass(truth, prior)


def altered(truth, prior, **columns):
    """The rows of a truth table with some columns changed (numbers or (n,)), the mass shared anew between lens and substructure."""
    prior = get_prior(prior)
    n = len(truth["index"])
    truth = truth | {name: np.full(n, column, float) for name, column in columns.items()}
    return truth | _share_mass(truth, prior)


def random_stream(seed, index, stream):
    """The random generator of image `index` of `seed`, for its TRUTH, POINTS or NOISE."""
    return np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, index, 0, 0]))


def _between(u, bounds):
    return bounds[0] + (bounds[1] - bounds[0]) * u


def _log_between(u, bounds):
    return (
        bounds[0] * np.ones_like(u)
        if bounds[0] == bounds[1]
        else bounds[0] * (bounds[1] / bounds[0]) ** u
    )


def _draw_smooth(u, prior):
    names = [
        "theta_E",
        "q",
        "phi",
        "phi_gamma",
        "source_radius",
        "source_n",
        "source_q",
        "source_phi",
    ]
    drawn = {name: _between(next(u), getattr(prior, name)) for name in names}
    drawn |= {name: _between(next(u), prior.centre) for name in "xy"}
    drawn["gamma"] = np.sqrt(_between(next(u), np.square(prior.gamma)))
    if prior.source_in_disc:
        r = np.sqrt(next(u))
        angle = 2 * math.pi * next(u)
        dx = r * np.cos(angle)
        dy = r * np.sin(angle)
    else:
        dx = 2 * next(u) - 1
        dy = 2 * next(u) - 1
    return drawn | {
        "source_x": drawn["x"] + prior.source_offset * dx,
        "source_y": drawn["y"] + prior.source_offset * dy,
    }


def _draw_exposure(u, prior):
    if prior.snr is None:
        exposure = _log_between(next(u), prior.exposure)
        return {"snr": np.where(np.isinf(exposure), np.inf, np.nan), "exposure": exposure}
    snr = _log_between(next(u), prior.snr)
    # photon noise, signal / exposure, is as large as the sky's at a signal of sqrt(2) snr sky
    return {"snr": snr, "exposure": math.sqrt(2) * snr / prior.background}


def _draw_substructure(u, prior, label):
    count = _poisson(next(u), prior.cdm_count) if prior.cdm_poisson else prior.cdm_count
    half_length = _log_between(next(u), prior.vortex_half_length)
    vortex = {
        "vortex_mass": _between(next(u), prior.vortex_mass),
        "vortex_half_length": half_length,
        "vortex_angle": 2 * math.pi * next(u),
        "axion_mass_ev": 0.03e-22 / half_length,
    }  # half a de Broglie wavelength at z = 0.5
    return {"subhalos": np.where(label == 1, count, 0)} | {
        name: np.where(label == 2, column, 0.0) for name, column in vortex.items()
    }


def _poisson(u, mean):
    """Inverse cumulative distribution: one uniform number, one count."""
    k = np.arange(int(mean + 12 * math.sqrt(mean) + 20))
    log_p = k * math.log(mean) - mean - np.array([math.lgamma(i + 1) for i in k])
    return np.searchsorted(np.cumsum(np.exp(log_p)), u)


def draw_points(truth, prior="broad"):
    """The point masses in the rows of a truth table: x, y, theta_E [arcsec], each (n, K).

    theta_E is 0 beyond a row's own number. They follow from the rows' seeds and columns, so a
    truth table alone is enough to render its images again.
    """
    prior = get_prior(prior)
    count = np.where(truth["class"] == 2, prior.vortex_points, truth["subhalos"])
    points = np.zeros((3, len(count), count.max()))
    for row in np.flatnonzero(count):
        one = {name: column[row] for name, column in truth.items()}
        points[:, row, : count[row]] = (_string if one["class"] == 2 else _subhalos)(one, prior)
    x, y, mass = points
    return {"x": x, "y": y, "theta_E": einstein_radius(mass, prior)}


def _subhalos(one, prior):
    """CDM subhalos: x, y, mass; dN/dm ~ m^slope by its inverse cumulative distribution."""
    stream = random_stream(int(one["seed"]), int(one["index"]), POINTS)
    u, r, angle = stream.random((int(one["subhalos"]), 3)).T
    a = prior.cdm_slope + 1
    mass = (
        _log_between(u, prior.cdm_mass)
        if abs(a) < 1e-9
        else _between(u, np.power(prior.cdm_mass, a)) ** (1 / a)
    )
    r = _between(r, prior.cdm_radius)
    angle = 2 * math.pi * angle
    return one["x"] + r * np.cos(angle), one["y"] + r * np.sin(angle), mass


def _string(one, prior):
    """DeepLense's vortex, equal points evenly spaced from end to end: x, y, mass."""
    s = np.linspace(-1, 1, prior.vortex_points) * one["vortex_half_length"]
    x = one["x"] + s * np.cos(one["vortex_angle"])
    y = one["y"] + s * np.sin(one["vortex_angle"])
    return x, y, np.full_like(s, one["vortex_mass"] / prior.vortex_points)


# ---- mass and the ring


def einstein_radius(mass, prior):
    """Einstein radius [arcsec] of a point mass [solar masses], number or array, for that Prior."""
    scale = prior.radius_1e12 or einstein_radius_1e12(prior.z_lens, prior.z_source)
    return scale * np.sqrt(mass / 1e12)


@lru_cache
def einstein_radius_1e12(z_lens, z_source):
    """Einstein radius [arcsec] of a point of 1e12 solar masses; flat LCDM, H0 70, Om0 0.3.

    theta^2 = 4 G M D_ls / (c^2 D_l D_s), in angular-diameter distances.
    """
    from astropy import constants, cosmology, units

    distance = cosmology.FlatLambdaCDM(H0=70, Om0=0.3).angular_diameter_distance
    geometry = distance(z_lens, z_source) / (distance(z_lens) * distance(z_source))
    theta = np.sqrt(4e12 * constants.G * constants.M_sun / constants.c**2 * geometry)
    return theta.to_value(units.dimensionless_unscaled) * units.rad.to(units.arcsec)


def _share_mass(truth, prior):
    """Solve theta_E^2 = theta_E theta_E_smooth + inside(theta_E) for the one that is not drawn.

    In units of pi Sigma_crit an SIE holds theta_E_smooth r within its ellipse of mean radius r,
    and a point the square of its Einstein radius.
    """
    points = draw_points(truth, prior)
    whole = smooth = truth["theta_E"]
    inside = _inside(whole, truth, points, prior)
    if prior.theta_E_is_whole:
        smooth = whole - inside / whole
        if (smooth <= 0).any():
            raise InputError(
                f"the substructure of image {truth['index'][smooth.argmin()]} "
                "outweighs its lens, expected a prior with fewer or lighter subhalos"
            )
    else:
        for _ in range(50):  # from below: the ring grows to hold what makes it so large
            whole = (smooth + np.sqrt(smooth**2 + 4 * inside)) / 2
            inside = _inside(whole, truth, points, prior)
    return {
        "theta_E": whole,
        "theta_E_smooth": smooth,
        "substructure_mass": inside / einstein_radius(1e12, prior) ** 2 * 1e12,
    }


def _inside(ring, truth, points, prior):
    """Substructure within the ellipse of mean radius `ring`, in arcsec^2, (n,)."""
    q = truth["q"]
    cos = np.cos(truth["phi"])
    sin = np.sin(truth["phi"])
    # (K, n)
    dx = points["x"].T - truth["x"]
    dy = points["y"].T - truth["y"]
    r2 = q * (dx * cos + dy * sin) ** 2 + (dy * cos - dx * sin) ** 2 / q
    # one after the other: numpy's order of summing depends on the shape, and so the last bit
    inside = sum(points["theta_E"].T ** 2 * (r2 < ring**2), np.zeros(len(ring)))
    if prior.vortex_points:
        return inside
    angle = truth["vortex_angle"] - truth["phi"]
    chord = ring / np.sqrt(q * np.cos(angle) ** 2 + np.sin(angle) ** 2 / q)
    within = np.minimum(1, chord / np.maximum(truth["vortex_half_length"], FLOOR))
    return inside + within * einstein_radius(truth["vortex_mass"], prior) ** 2
