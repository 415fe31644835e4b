"""Deflection of light by a lens: a singular isothermal ellipsoid, external shear, substructure.

Substructure is point masses, or a line of uniform mass in closed form. Units and angles are as in
truth_tables.py.
"""

import numpy as np
import torch

from lensnb.lensing.priors import FLOOR, Prior
from lensnb.lensing.truth_tables import Table, einstein_radius


def deflection(
    truth: Table, points: Table, prior: Prior, x: torch.Tensor, y: torch.Tensor
) -> torch.Tensor:
    """Deflection [arcsec] by everything in n lenses, (2, n, H, W): its x and its y component.

    x, y : places in the image [arcsec], which broadcast to (H, W).
    """
    from caustics.lenses import func

    c = column_tensors(truth, x)
    ax, ay = func.reduced_deflection_angle_sie(
        c["x"], c["y"], c["q"], c["phi"], c["theta_E_smooth"], x, y, FLOOR
    )
    g1 = c["gamma"] * torch.cos(2 * c["phi_gamma"])
    g2 = c["gamma"] * torch.sin(2 * c["phi_gamma"])
    sx, sy = func.reduced_deflection_angle_external_shear(c["x"], c["y"], g1, g2, x, y)
    alpha = torch.stack([ax + sx, ay + sy])  # (2, n, H, W)
    _add_points(alpha, points, x, y)
    if not prior.vortex_points:
        _add_lines(alpha, truth, prior, x, y)
    return alpha


def column_tensors(table: Table, like: torch.Tensor) -> dict[str, torch.Tensor]:
    """Columns (n,) as tensors (n, 1, 1) of the type of `like` and on its device, by one copy."""
    stacked = np.stack([np.asarray(column, float) for column in table.values()])
    columns = to_device(stacked, like)[:, :, None, None]
    return dict(zip(table, columns, strict=True))


def to_device(array: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    """The array as a tensor of the type of `like` and on its device. A GPU is not waited for."""
    # the type changes first: not every device has float64
    tensor = torch.as_tensor(array, dtype=like.dtype)
    return tensor.to(like.device, non_blocking=like.is_cuda)


def _add_points(alpha: torch.Tensor, points: Table, x: torch.Tensor, y: torch.Tensor) -> None:
    """Add t^2 (z - z_k) / |z - z_k|^2 to `alpha`, the k-th point of all lenses at once.

    Lenses are sorted by their number of points, so that those with a k-th point come first. One
    buffer serves all points.
    """
    count = (points["theta_E"] > 0).sum(1)
    rows = np.argsort(-count)[: (count > 0).sum()]
    if not len(rows):
        return
    sorted_points = np.stack([points[name][rows].T for name in ("x", "y", "theta_E")])
    at = to_device(sorted_points, x)[..., None, None]  # (3, K, rows, 1, 1)
    added = torch.zeros_like(alpha[:, : len(rows)])
    scratch = torch.empty_like(added[0])
    for k in range(count.max()):
        many = (count > k).sum()
        x_k, y_k, theta_E = at[:, k, :many]
        dx = x - x_k  # (many, 1, W) on a pixel grid
        dy = y - y_k  # (many, H, 1)
        r2 = torch.add(dx**2 + FLOOR**2, dy**2, out=scratch[:many])
        pull = torch.div(theta_E**2, r2, out=r2)
        added[0, :many].addcmul_(pull, dx)
        added[1, :many].addcmul_(pull, dy)
    alpha.index_add_(1, _indices(rows, alpha), added)


def _indices(rows: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(rows).to(like.device, non_blocking=like.is_cuda)


def _add_lines(
    alpha: torch.Tensor, truth: Table, prior: Prior, x: torch.Tensor, y: torch.Tensor
) -> None:
    """Add the deflection of each vortex, as a line of uniform mass, to `alpha`."""
    rows = np.flatnonzero(truth["vortex_mass"])
    if not len(rows):
        return
    line = {name: column[rows] for name, column in truth.items()}
    line["theta_E"] = einstein_radius(line["vortex_mass"], prior)
    c = column_tensors(line, x)
    added = line_deflection(
        c["x"], c["y"], c["vortex_angle"], c["vortex_half_length"], c["theta_E"], x, y
    )
    alpha.index_add_(1, _indices(rows, alpha), torch.stack(added))


def line_deflection(
    x0: torch.Tensor,
    y0: torch.Tensor,
    angle: torch.Tensor,
    half_length: torch.Tensor,
    theta_E: torch.Tensor,
    x: torch.Tensor,
    y: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Deflection by a straight line of uniform mass, in closed form: its x and its y component.

    x0, y0 : the line's centre. The tensors broadcast.

    With z = x + iy along the line, the point at s deflects by t^2 / conj(z - s). The mean over
    -L < s < L is the conjugate of t^2/(2L) log((z + L)/(z - L)), which is
    t^2/(2L) [artanh(2Lx / (|z|^2 + L^2)), arctan2(2Ly, |z|^2 - L^2)].
    """
    cos = torch.cos(angle)
    sin = torch.sin(angle)
    along = (x - x0) * cos + (y - y0) * sin
    across = (y - y0) * cos - (x - x0) * sin
    r2 = along**2 + across**2
    length = 2 * half_length
    below_one = 1 - torch.finfo(r2.dtype).eps  # the deflection is infinite at the two ends
    a = torch.atanh((length * along / (r2 + half_length**2)).clamp(-below_one, below_one))
    b = torch.atan2(length * across, r2 - half_length**2)
    pull = theta_E**2 / length
    return pull * (a * cos - b * sin), pull * (a * sin + b * cos)
