"""The smooth lens that `lens_fit.py` fits: its 13 parameters, their bounds and its image."""

import functools
import math
from collections.abc import Sequence

import numpy as np
import torch

from lensnb.lensing import simulate
from lensnb.lensing.priors import FLOOR, PRIORS

BROAD = PRIORS["broad"]
# Lower and upper bound of a descent, and scatter of its start about the ring that the image shows.
# Lengths are in half sides of the image; e = (1 - q) / (1 + q) times cosine and sine of 2 phi.
BOX = {
    "theta_E_smooth": (0.05, 1.0, 0.015),
    "e1": (-0.4, 0.4, 0.05),
    "e2": (-0.4, 0.4, 0.05),
    "x": (-0.15, 0.15, 0.0),
    "y": (-0.15, 0.15, 0.0),
    "gamma1": (-0.3, 0.3, 0.0),
    "gamma2": (-0.3, 0.3, 0.0),
    "source_x": (-0.4, 0.4, 0.02),
    "source_y": (-0.4, 0.4, 0.02),
    "source_radius": (0.005, 0.5, 0.01),
    "source_n": (0.3, 5.0, 0.1),
    "source_e1": (-0.5, 0.5, 0.05),
    "source_e2": (-0.5, 0.5, 0.05),
}
DEVICE_RAYS = 2**22  # traced at once on other devices than a CPU: some GiB with all derivatives
LENGTHS = ("theta_E_smooth", "x", "y", "source_x", "source_y", "source_radius")


@functools.lru_cache
def box(device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Lower bounds, upper bounds and scatter of the starts, (13,) each, on a device."""
    low, high, scatter = torch.tensor(list(BOX.values()), device=device).T
    return low, high, scatter


class Optics:
    """How (H, W) pixels see a source, traced by `rays` rays a pixel and axis on a device.

    Lengths are in half sides of the image.
    """

    def __init__(
        self,
        shape: Sequence[int],
        fwhm: float,
        rays: int,
        device: str | torch.device = "cpu",
    ) -> None:
        step = 2 / min(shape) / rays
        self.y, self.x = (
            (torch.arange(side * rays, device=device) - (side * rays - 1) / 2) * step
            for side in shape
        )
        # width of the PSF in rays; the least value leaves the image as it is
        width = max(fwhm / math.sqrt(8 * math.log(2)) / step, 1e-3)
        self.blurs = [
            simulate.psf_matrix(side, rays, width, BROAD.psf_truncation).to(device)
            for side in shape
        ]
        at_once = simulate.CACHED_RAYS if self.x.device.type == "cpu" else DEVICE_RAYS
        self.rows = max(1, at_once // (len(self.x) * len(self.y)))

    def image(self, p: torch.Tensor) -> torch.Tensor:
        """Images (n, H, W) of parameters (n, 13), for a brightness of 1 at the source radius."""
        return torch.cat(
            [self._blur(self._light(some.T[..., None, None])) for some in p.split(self.rows)]
        )

    def slopes(self, p: torch.Tensor) -> torch.Tensor:
        """Derivatives of `image` by the parameters, (n, 13, H, W)."""
        return torch.cat([self._blur(self._ray_slopes(some)) for some in p.split(self.rows)])

    def _blur(self, light: torch.Tensor) -> torch.Tensor:
        tall, wide = self.blurs
        # a ray through a centre may have no derivative: it then counts as 0
        return tall @ torch.nan_to_num(light, 0, 0, 0) @ wide.T

    def _ray_slopes(self, p: torch.Tensor) -> torch.Tensor:
        """Derivatives (n, 13, rays, rays) by one backward pass.

        Each ray has its own copy of p, so that no ray depends on another's.
        """
        shape = (len(p), len(self.y), len(self.x))
        copies = [column[:, None, None].expand(shape).requires_grad_() for column in p.T]
        with torch.enable_grad():
            return torch.stack(torch.autograd.grad(self._light(copies).sum(), copies), 1)

    def _light(self, p: Sequence[torch.Tensor] | torch.Tensor) -> torch.Tensor:
        """Brightness of the source along each ray."""
        from caustics.lenses import func
        from caustics.light.func import brightness_sersic, k_lenstronomy

        ring, e1, e2, x, y, gamma1, gamma2, source_x, source_y, radius, n, source_e1, source_e2 = p
        across = self.x[None, :]
        up = self.y[:, None]
        ax, ay = func.reduced_deflection_angle_sie(x, y, *_ellipse(e1, e2), ring, across, up, FLOOR)
        sx, sy = func.reduced_deflection_angle_external_shear(x, y, gamma1, gamma2, across, up)
        q, phi = _ellipse(source_e1, source_e2)
        return brightness_sersic(
            source_x,
            source_y,
            q,
            phi,
            n,
            radius / torch.sqrt(q),
            1.0,
            across - ax - sx,
            up - ay - sy,
            k_lenstronomy(n),
        )


def _ellipse(e1: torch.Tensor, e2: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Axis ratio and angle; 1e-6 keeps q below 1, where the deflection is 0/0."""
    e = torch.sqrt(e1**2 + e2**2 + 1e-6)
    return (1 - e) / (1 + e), torch.atan2(e2, e1) / 2


def deviation(noise: torch.Tensor, light: torch.Tensor, photons: float) -> torch.Tensor:
    """Standard deviation of each pixel (n, H, W), with the photon noise of `light` >= 0."""
    signal = simulate.ring_signal(light)[:, None, None]
    return noise * torch.sqrt(1 + photons * torch.nan_to_num(light / signal))


def named(p: np.ndarray, unit: float) -> dict[str, np.ndarray]:
    """Parameters (N, 13) as columns of a truth table; angles in 0 to pi."""
    found = dict(zip(BOX, p.astype(float).T, strict=True))
    columns = {name: found[name] * unit for name in LENGTHS} | {"source_n": found["source_n"]}
    for e, phi, size in (
        ("e", "phi", "q"),
        ("gamma", "phi_gamma", "gamma"),
        ("source_e", "source_phi", "source_q"),
    ):
        cos = found[e + "1"]
        sin = found[e + "2"]
        columns[size] = np.hypot(cos, sin)
        columns[phi] = np.arctan2(sin, cos) / 2 % math.pi
    return columns | {q: (1 - columns[q]) / (1 + columns[q]) for q in ("q", "source_q")}
