"""Tangential critical curves of a lens, and the caustics onto which it maps them.

On the critical curve a source is stretched without bound along the ring. A source that crosses the
caustic gains or loses two images.
"""

import numpy as np
import torch

from lensnb.lensing.deflection import deflection
from lensnb.lensing.priors import Prior, get_prior
from lensnb.lensing.truth_tables import Table, draw_points

STEP = 1e-4  # arcsec, of the central differences; the deflection is float64 here

Curves = list[np.ndarray]  # each (K, 2): x and y [arcsec] along a curve


def critical_curves(
    truth: Table, prior: str | Prior = "broad", points: int = 120
) -> tuple[Curves, Curves]:
    """The tangential critical curves of the first lens of a truth table, and their caustics.

    points : of the grid over the field of view, on a side. A loop around a subhalo that is
    smaller than the grid's spacing is missed.

    On the curve the tangential eigenvalue of the lens mapping, 1 - kappa - |gamma|, is zero
    (Schneider, Ehlers & Falco 1992, section 5.2).
    """
    from matplotlib.figure import Figure

    prior = get_prior(prior)
    first = {name: column[:1] for name, column in truth.items()}
    bend = _Bend(first, prior)
    half = prior.size * prior.pixel_scale / 2
    axis = torch.linspace(-half, half, points, dtype=torch.float64)
    eigenvalue = _tangential(bend, axis[None, :], axis[:, None]).numpy()
    contours = Figure().add_subplot().contour(axis, axis, eigenvalue, levels=[0.0])
    critical: Curves = list(contours.allsegs[0])
    return critical, [curve - bend.at(curve) for curve in critical]


class _Bend:
    """The deflection of one lens at any place, in float64."""

    def __init__(self, truth: Table, prior: Prior) -> None:
        self.truth = truth
        self.prior = prior
        self.points = draw_points(truth, prior)

    def __call__(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Deflection (2, H, W) at x and y, which broadcast to (H, W)."""
        return deflection(self.truth, self.points, self.prior, x, y)[:, 0]

    def at(self, curve: np.ndarray) -> np.ndarray:
        """Deflection (K, 2) along a curve (K, 2)."""
        x, y = torch.as_tensor(curve.T)
        return self(x[None, :], y[None, :])[:, 0].numpy().T


def _tangential(bend: _Bend, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """1 - kappa - |gamma| at x and y, (H, W), by central differences."""
    by_x = (bend(x + STEP, y) - bend(x - STEP, y)) / (2 * STEP)
    by_y = (bend(x, y + STEP) - bend(x, y - STEP)) / (2 * STEP)
    kappa = (by_x[0] + by_y[1]) / 2
    shear = torch.hypot((by_x[0] - by_y[1]) / 2, (by_x[1] + by_y[0]) / 2)
    return 1 - kappa - shear
