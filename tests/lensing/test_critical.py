"""Critical curves and caustics, against the closed forms of isothermal lenses."""

import numpy as np
import pytest

from lensnb.lensing.critical import critical_curves
from lensnb.lensing.truth_tables import altered, draw_truth


def a_lens(**columns):
    """A lens at the centre, without substructure or shear."""
    truth = draw_truth(1, "broad", seed=0)
    same = {"x": 0.0, "y": 0.0, "phi": 0.0, "gamma": 0.0, "phi_gamma": 0.0}
    return altered(truth, "broad", **same | columns)


def test_the_critical_curve_of_an_isothermal_sphere_is_its_einstein_ring():
    critical, caustics = critical_curves(a_lens(theta_E=1.2, q=1.0))
    assert len(critical) == len(caustics) == 1
    radius = np.hypot(*critical[0].T)
    assert np.abs(radius - 1.2).max() < 1e-3 and len(radius) > 100
    assert np.abs(caustics[0]).max() < 1e-3  # a point


@pytest.mark.parametrize("q", [0.5, 0.8])
def test_an_isothermal_ellipsoid_has_an_ellipse_and_an_astroid(q):
    """Kormann, Schneider & Bartelmann 1994: kappa = 1/2 on the critical curve."""
    theta_E = 1.3
    critical, caustics = critical_curves(a_lens(theta_E=theta_E, q=q))
    (curve,), (caustic,) = critical, caustics
    x, y = curve.T
    assert np.abs(np.sqrt(q * x**2 + y**2 / q) - theta_E).max() < 2e-3
    # The deflection of the ellipsoid in closed form, at the places on the curve.
    f = np.sqrt(1 - q**2)
    psi = np.sqrt(q**2 * x**2 + y**2)
    b = theta_E * np.sqrt(q)
    alpha = b / f * np.stack([np.arctan(f * x / psi), np.arctanh(f * y / psi)], axis=1)
    assert np.abs(caustic - (curve - alpha)).max() < 1e-4
    # Its cusps lie on the axes.
    assert np.abs(caustic[np.argmax(caustic[:, 0]), 1]) < 0.02


def test_shear_moves_the_critical_curve_of_a_sphere_as_in_closed_form():
    """With the potential g (x^2 - y^2) / 2, det A = 1 - g^2 - (1 - g cos 2 phi) theta_E / r."""
    g = 0.1
    (curve,), _ = critical_curves(a_lens(theta_E=1.2, q=1.0, gamma=g))
    phi = np.arctan2(curve[:, 1], curve[:, 0])
    radius = np.hypot(*curve.T)
    assert np.abs(radius - 1.2 * (1 - g * np.cos(2 * phi)) / (1 - g**2)).max() < 2e-3
