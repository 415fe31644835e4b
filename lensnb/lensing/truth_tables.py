"""Truth tables: what each simulated image shows, drawn from a prior.

A table holds every lens, source and piece of dark substructure. The mass within the ring is
shared between lens and substructure. Lengths are in arcsec and masses in solar masses. Position
angles are in radians, from +x towards +y.

Every image has random numbers of its own, keyed by (seed, image number). So image i is the same
however many images are drawn, and in whatever chunks. All rows are drawn at once.
"""

import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from lensnb.errors import InputError
from lensnb.lensing.priors import CLASSES, FLOOR, Prior, Range, get_prior, whole_number
from lensnb.noise import halves, uniforms
from lensnb.seeds import Purpose, seeds_of

UNIFORMS = 19  # uniform numbers that one row of a table takes
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

Table = Mapping[str, np.ndarray]  # column name -> (n,)


# ---- what is drawn


def draw_truth(
    n: int, prior: str | Prior = "broad", seed: int = 0, start: int = 0
) -> dict[str, np.ndarray]:
    """What n images show: a dict of numpy columns (n,).

    Row i describes image start + i of the seed. The columns are

    - seed, index, class (position in CLASSES, which repeat in turn);
    - theta_E [arcsec]: the mean convergence, with all mass counted, is 1 within the ellipse of the
      lens's q and phi and of area pi theta_E^2 (for DeepLenseSim it follows from the other
      columns); theta_E_smooth: the Einstein radius of the SIE;
    - q, phi, x, y: the lens; gamma, phi_gamma: the shear;
    - source_x, source_y (absolute), source_radius, source_n, source_q, source_phi;
    - snr (inf: no noise, NaN: not prescribed), exposure;
    - subhalos: how many there are; vortex_mass, vortex_half_length [arcsec], vortex_angle,
      axion_mass_ev: 0 where there is no vortex;
    - substructure_mass [solar masses inside the ring].

    Raises InputError for a bad argument and for a prior whose substructure outweighs its lens.
    """
    prior = get_prior(prior)
    n = whole_number("n", n, 1)
    seed = whole_number("seed", seed, 0)
    start = whole_number("start", start, 0)
    index = np.arange(start, start + n)
    truth = {"seed": np.full(n, seed), "index": index, "class": index % len(CLASSES)}
    u = iter(_uniform_columns(truth, Purpose.TRUTH, UNIFORMS))
    truth |= _draw_smooth(u, prior) | _draw_exposure(u, prior)
    truth |= _draw_substructure(u, prior, truth["class"])
    return truth | _share_mass(truth, prior)


def altered(truth: Table, prior: str | Prior, **columns: Any) -> dict[str, np.ndarray]:
    """A truth table with some columns changed, to a number or to (n,) values.

    The mass is then shared again between lens and substructure.
    """
    prior = get_prior(prior)
    n = len(truth["index"])
    changed = {name: np.full(n, column, float) for name, column in columns.items()}
    table = {**truth, **changed}
    return table | _share_mass(table, prior)


def _uniform_columns(truth: Table, purpose: Purpose, count: int) -> np.ndarray:
    """Uniform numbers (count, n) for the images in the rows of a table; contiguous rows.

    Numpy's functions can round the entries of strided arrays in another way.
    """
    seeds = seeds_of(truth["seed"], truth["index"], purpose)
    return np.ascontiguousarray(uniforms(halves(seeds), count).T)


def _between(u: np.ndarray, bounds: Any) -> np.ndarray:
    """Uniform numbers in [0, 1) to uniform ones within bounds (low, high)."""
    return bounds[0] + (bounds[1] - bounds[0]) * u


def _log_between(u: np.ndarray, bounds: Range) -> np.ndarray:
    """Uniform numbers in [0, 1) to log-uniform ones within bounds (low, high)."""
    low, high = bounds
    if low == high:
        return low * np.ones_like(u)
    return low * (high / low) ** u


def _draw_smooth(u: Iterator[np.ndarray], prior: Prior) -> dict[str, np.ndarray]:
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
    dx, dy = _draw_offset(u, prior)
    drawn["source_x"] = drawn["x"] + prior.source_offset * dx
    drawn["source_y"] = drawn["y"] + prior.source_offset * dy
    return drawn


def _draw_offset(u: Iterator[np.ndarray], prior: Prior) -> tuple[np.ndarray, np.ndarray]:
    """The source's place relative to the lens, in a disc of radius 1 or a square of side 2."""
    if not prior.source_in_disc:
        dx = 2 * next(u) - 1
        dy = 2 * next(u) - 1
        return dx, dy
    r = np.sqrt(next(u))
    angle = 2 * math.pi * next(u)
    return r * np.cos(angle), r * np.sin(angle)


def _draw_exposure(u: Iterator[np.ndarray], prior: Prior) -> dict[str, np.ndarray]:
    if prior.snr is None:
        exposure = _log_between(next(u), prior.exposure)
        return {"snr": np.where(np.isinf(exposure), np.inf, np.nan), "exposure": exposure}
    snr = _log_between(next(u), prior.snr)
    # the photons' variance, signal / exposure, is the sky's at the signal sqrt(2) snr background
    return {"snr": snr, "exposure": math.sqrt(2) * snr / prior.background}


def _draw_substructure(
    u: Iterator[np.ndarray], prior: Prior, label: np.ndarray
) -> dict[str, np.ndarray]:
    count = _poisson(next(u), prior.cdm_count) if prior.cdm_poisson else prior.cdm_count
    half_length = _log_between(next(u), prior.vortex_half_length)
    vortex = {
        "vortex_mass": _between(next(u), prior.vortex_mass),
        "vortex_half_length": half_length,
        "vortex_angle": 2 * math.pi * next(u),
        "axion_mass_ev": 0.03e-22 / half_length,  # half a de Broglie wavelength at z = 0.5
    }
    vortex = {name: np.where(label == 2, column, 0.0) for name, column in vortex.items()}
    return {"subhalos": np.where(label == 1, count, 0)} | vortex


def _poisson(u: np.ndarray, mean: float) -> np.ndarray:
    """Poisson counts by the inverse cumulative distribution: one uniform number, one count."""
    k = np.arange(int(mean + 12 * math.sqrt(mean) + 20))
    log_p = k * math.log(mean) - mean - np.array([math.lgamma(i + 1) for i in k])
    return np.searchsorted(np.cumsum(np.exp(log_p)), u)


# ---- point masses


def draw_points(truth: Table, prior: str | Prior = "broad") -> dict[str, np.ndarray]:
    """The point masses in the rows of a truth table: x, y, theta_E [arcsec], each (n, K).

    K is the largest number of points in a row. theta_E is 0 beyond a row's own number. The points
    follow from the rows' seeds and columns, so a truth table is enough to render its images
    again.
    """
    prior = get_prior(prior)
    vortex = truth["class"] == 2
    count = np.where(vortex, prior.vortex_points, truth["subhalos"]).astype(int)
    points = np.zeros((3, len(count), count.max(initial=0)))
    for draw, rows in ((_string, vortex), (_subhalos, ~vortex)):
        rows = np.flatnonzero(rows & (count > 0))
        if len(rows):
            most = count[rows].max()
            some = {name: column[rows] for name, column in truth.items()}
            drawn = draw(some, prior, most)  # (3, rows, most)
            there = np.arange(most) < count[rows, None]
            points[:, rows, :most] = np.where(there, drawn, 0.0)
    x, y, mass = points
    return {"x": x, "y": y, "theta_E": einstein_radius(mass, prior)}


def _subhalos(truth: Table, prior: Prior, most: int) -> np.ndarray:
    """CDM subhalos of all rows, `most` in each: x, y, mass (3, n, most).

    dN/dm ~ m^slope is drawn by its inverse cumulative distribution. Subhalo k of a row is the same
    for any `most`.
    """
    drawn = _uniform_columns(truth, Purpose.SUBHALOS, 3 * most).reshape(most, 3, -1)
    u, r, angle = np.ascontiguousarray(drawn.transpose(1, 2, 0))  # (n, most) each
    a = prior.cdm_slope + 1
    if abs(a) < 1e-9:
        mass = _log_between(u, prior.cdm_mass)
    else:
        mass = _between(u, np.power(prior.cdm_mass, a)) ** (1 / a)
    r = _between(r, prior.cdm_radius)
    angle = 2 * math.pi * angle
    x = truth["x"][:, None] + r * np.cos(angle)
    y = truth["y"][:, None] + r * np.sin(angle)
    return np.stack([x, y, mass])


def _string(truth: Table, prior: Prior, most: int) -> np.ndarray:
    """DeepLense's vortex in all rows, as equal points evenly spaced from end to end.

    x, y, mass (3, n, most).
    """
    s = np.linspace(-1, 1, most) * truth["vortex_half_length"][:, None]  # (n, most)
    x = truth["x"][:, None] + s * np.cos(truth["vortex_angle"])[:, None]
    y = truth["y"][:, None] + s * np.sin(truth["vortex_angle"])[:, None]
    mass = np.broadcast_to(truth["vortex_mass"][:, None] / most, s.shape)
    return np.stack([x, y, mass])


# ---- mass and the ring


def einstein_radius(mass: float | np.ndarray, prior: Prior) -> np.ndarray:
    """Einstein radius [arcsec] of a point mass [solar masses], number or array, for that Prior."""
    scale = prior.radius_1e12 or einstein_radius_1e12(prior.z_lens, prior.z_source)
    return scale * np.sqrt(mass / 1e12)


@lru_cache
def einstein_radius_1e12(z_lens: float, z_source: float) -> float:
    """Einstein radius [arcsec] of a point of 1e12 solar masses; flat LCDM, H0 70, Om0 0.3.

    theta^2 = 4 G M D_ls / (c^2 D_l D_s), in angular-diameter distances.
    """
    from astropy import constants, cosmology, units

    distance = cosmology.FlatLambdaCDM(H0=70, Om0=0.3).angular_diameter_distance
    geometry = distance(z_lens, z_source) / (distance(z_lens) * distance(z_source))
    theta = np.sqrt(4e12 * constants.G * constants.M_sun / constants.c**2 * geometry)
    return theta.to_value(units.dimensionless_unscaled) * units.rad.to(units.arcsec)


def _share_mass(truth: Table, prior: Prior) -> dict[str, np.ndarray]:
    """The Einstein radii of the whole and of the smooth lens, and the substructure's mass.

    Solves theta_E^2 = theta_E theta_E_smooth + inside(theta_E) for the radius that is not drawn.
    In units of pi Sigma_crit an SIE holds theta_E_smooth r within its ellipse of mean radius r,
    and a point holds the square of its Einstein radius.
    """
    points = draw_points(truth, prior)
    r2 = _elliptical(points, truth)
    whole = smooth = truth["theta_E"]
    inside = _inside(whole, r2, truth, points, prior)
    if prior.theta_E_is_whole:
        smooth = whole - inside / whole
        _check_smooth(smooth, truth)
    else:
        for _ in range(50):  # from below: a larger ring holds more mass, which widens it
            before = whole
            whole = (smooth + np.sqrt(smooth**2 + 4 * inside)) / 2
            inside = _inside(whole, r2, truth, points, prior)
            if np.array_equal(whole, before):
                break
    return {
        "theta_E": whole,
        "theta_E_smooth": smooth,
        "substructure_mass": inside / einstein_radius(1e12, prior) ** 2 * 1e12,
    }


def _check_smooth(smooth: np.ndarray, truth: Table) -> None:
    if (smooth <= 0).any():
        raise InputError(
            f"the substructure of image {truth['index'][smooth.argmin()]} outweighs its lens, "
            "expected a prior with fewer or lighter subhalos"
        )


def _elliptical(points: Table, truth: Table) -> np.ndarray:
    """The squares of the mean radii of the ellipses that the points lie on, (K, n)."""
    q = truth["q"]
    cos = np.cos(truth["phi"])
    sin = np.sin(truth["phi"])
    dx = points["x"].T - truth["x"]  # (K, n)
    dy = points["y"].T - truth["y"]
    return q * (dx * cos + dy * sin) ** 2 + (dy * cos - dx * sin) ** 2 / q


def _inside(
    ring: np.ndarray, r2: np.ndarray, truth: Table, points: Table, prior: Prior
) -> np.ndarray:
    """Substructure within the ellipse of mean radius `ring`, in arcsec^2, (n,).

    r2 : of `_elliptical`
    """
    inside = np.zeros(len(ring))
    if len(r2):
        # cumsum adds one point after the other; the order of sum, and so the last bit, depends on n
        inside = np.cumsum(points["theta_E"].T ** 2 * (r2 < ring**2), axis=0)[-1]
    if prior.vortex_points:
        return inside
    angle = truth["vortex_angle"] - truth["phi"]
    q = truth["q"]
    chord = ring / np.sqrt(q * np.cos(angle) ** 2 + np.sin(angle) ** 2 / q)
    within = np.minimum(1, chord / np.maximum(truth["vortex_half_length"], FLOOR))
    return inside + within * einstein_radius(truth["vortex_mass"], prior) ** 2
