"""Lens physics: truth tables to images.

A ray at theta is traced to beta = theta - alpha(theta), through a singular isothermal ellipsoid,
external shear and dark substructure, onto a Sersic source. The PSF (a Gaussian), the pixels and
the noise follow. Units and angles are as in truth_tables.py, where the tables are drawn.
"""

import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from lensnb.errors import InputError
from lensnb.lensing.priors import CLASSES, FLOOR, Prior, get_prior, whole_number
from lensnb.lensing.truth_tables import (
    NOISE,
    SMOOTH,
    Table,
    altered,
    draw_points,
    draw_truth,
    einstein_radius,
    random_stream,
)

CACHED_RAYS = 2**19  # traced at once on a CPU; fields that fit its cache run twice as fast


# ---- deflections


def deflection(
    truth: Table, points: Table, prior: Prior, x: torch.Tensor, y: torch.Tensor
) -> torch.Tensor:
    """Deflection [arcsec] by everything in n lenses, (2, n, H, W): its x and its y component.

    x, y : places in the image [arcsec], which broadcast to (H, W).
    """
    from caustics.lenses import func

    c = _column_tensors(truth, x)
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


def _column_tensors(table: Table, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Columns (n,) as tensors (n, 1, 1) of x's type and on x's device."""
    return {name: torch.as_tensor(column).to(x)[:, None, None] for name, column in table.items()}


def _add_points(alpha: torch.Tensor, points: Table, x: torch.Tensor, y: torch.Tensor) -> None:
    """Add t^2 (z - z_k) / |z - z_k|^2 to `alpha`, the k-th point of all lenses at once.

    Lenses are sorted by their number of points, so that those with a k-th point come first. One
    buffer serves all points.
    """
    count = (points["theta_E"] > 0).sum(1)
    rows = np.argsort(-count)[: (count > 0).sum()]
    added = torch.zeros_like(alpha[:, : len(rows)])
    scratch = torch.empty_like(added[0])
    for k in range(count.max()):
        many = (count > k).sum()
        p = _column_tensors({name: column[rows[:many], k] for name, column in points.items()}, x)
        dx = x - p["x"]  # (many, 1, W) on a pixel grid
        dy = y - p["y"]  # (many, H, 1)
        r2 = torch.add(dx**2 + FLOOR**2, dy**2, out=scratch[:many])
        pull = torch.div(p["theta_E"] ** 2, r2, out=r2)
        added[0, :many].addcmul_(pull, dx)
        added[1, :many].addcmul_(pull, dy)
    alpha[:, rows] += added


def _add_lines(
    alpha: torch.Tensor, truth: Table, prior: Prior, x: torch.Tensor, y: torch.Tensor
) -> None:
    """Add the deflection of each vortex, as a line of uniform mass, to `alpha`."""
    rows = np.flatnonzero(truth["vortex_mass"])
    line = {name: column[rows] for name, column in truth.items()}
    line["theta_E"] = einstein_radius(line["vortex_mass"], prior)
    c = _column_tensors(line, x)
    added = line_deflection(
        c["x"], c["y"], c["vortex_angle"], c["vortex_half_length"], c["theta_E"], x, y
    )
    alpha[:, rows] += torch.stack(added)


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


# ---- images


def simulate(
    n: int,
    prior: str | Prior = "broad",
    seed: int = 0,
    size: int | None = None,
    device: str | torch.device = "cpu",
    batch: int = 64,
    out: np.ndarray | None = None,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Draw and render n images: (float32 array (n, 1, H, W), truth columns as in draw_truth).

    `out`, an array or memory map of that shape, is filled batch by batch in constant memory.
    Raises InputError for an unknown prior, n < 1, size < 8 and an `out` that does not fit.
    """
    prior = get_prior(prior, size)
    batch = whole_number("batch", batch, 1)
    shape = (whole_number("n", n, 1), 1, prior.size, prior.size)
    out = np.empty(shape, np.float32) if out is None else out
    if out.shape != shape or out.dtype != np.float32:
        raise InputError(f"out is {out.dtype} {out.shape}, expected float32 {shape}")
    tables = []
    for start in range(0, n, batch):
        tables.append(draw_truth(min(batch, n - start), prior, seed, start))
        out[start : start + batch] = render(tables[-1], prior, device, batch).cpu().numpy()
    return out, {name: np.concatenate([t[name] for t in tables]) for name in tables[0]}


def simulate_images(
    n: int, seed: int = 0, prior: str | Prior = "broad", size: int | None = None
) -> np.ndarray:
    """n simulated lens images, float32 (n, 1, H, W), without the truth that made them.

    >>> simulate_images(2, seed=1, size=16).shape
    (2, 1, 16, 16)
    """
    images, _ = simulate(n, prior, seed, size)
    return images


def siblings(prior: str | Prior = "broad", seed: int = 0) -> np.ndarray:
    """One lens with each kind of substructure, float32 (len(CLASSES), 1, H, W), without noise.

    The lens, the shear and the source are the same in all images.
    """
    prior = get_prior(prior)
    truth = draw_truth(len(CLASSES), prior, seed)
    truth = altered(truth, prior, **{name: truth[name][0] for name in SMOOTH})
    return clean_images(truth, draw_points(truth, prior), prior).float().numpy()[:, None]


def render(
    truth: Table,
    prior: str | Prior = "broad",
    device: str | torch.device = "cpu",
    batch: int = 64,
) -> torch.Tensor:
    """Images of the rows of a truth table, float32 tensor (n, 1, H, W) on `device`.

    Prior `broad` gives units of the sky's standard deviation. The DeepLenseSim priors give what
    their files hold: photons (set 1), or twice the counts a second (sets 2 and 3). At most `batch`
    images are traced at once.
    """
    prior = get_prior(prior)
    if torch.device(device).type == "cpu":
        batch = min(batch, max(1, CACHED_RAYS // (prior.size * prior.oversample) ** 2))
    images = []
    for start in range(0, len(truth["index"]), batch):
        rows = {name: column[start : start + batch] for name, column in truth.items()}
        clean = clean_images(rows, draw_points(rows, prior), prior, device)
        images.append(add_noise(clean, rows, prior))
    return torch.cat(images)[:, None]


def clean_images(
    truth: Table, points: Table, prior: Prior, device: str | torch.device = "cpu"
) -> torch.Tensor:
    """Images without noise, (n, H, W): traced, blurred, averaged over pixels, scaled."""
    rays = prior.size * prior.oversample
    spacing = prior.pixel_scale / prior.oversample
    axis = (torch.arange(rays, device=device) - (rays - 1) / 2) * spacing
    x = axis[None, :]
    y = axis[:, None]
    ax, ay = deflection(truth, points, prior, x, y)
    light = source_light(truth, prior, x - ax, y - ay)  # (n, rays, rays)
    blur = psf_of(prior).to(device)
    image = blur @ light @ blur.T * prior.pixel_scale**2  # (n, H, W)
    if prior.snr is None:
        return image
    signal = math.sqrt(2) * prior.background * torch.as_tensor(truth["snr"]).to(image)
    return image * (signal / ring_signal(image))[:, None, None]


def source_light(truth: Table, prior: Prior, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Sersic brightness at x, y (n, H, W) in the source plane, per square arcsec."""
    from caustics.light.func import brightness_sersic, k_lenstronomy

    c = _column_tensors(truth, x)
    major = c["source_radius"] / torch.sqrt(c["source_q"])  # caustics measures along this axis
    return brightness_sersic(
        c["source_x"],
        c["source_y"],
        c["source_q"],
        c["source_phi"],
        c["source_n"],
        major,
        prior.brightness,
        x,
        y,
        k_lenstronomy(c["source_n"]),
    )


def psf_of(prior: Prior) -> torch.Tensor:
    """The PSF and the pixels of a prior as one matrix (size, rays), see `psf_matrix`."""
    spacing = prior.pixel_scale / prior.oversample
    width = prior.psf_fwhm / math.sqrt(8 * math.log(2)) / spacing
    return psf_matrix(prior.size, prior.oversample, width, prior.psf_truncation)


@lru_cache
def psf_matrix(size: int, oversample: int, width: float, truncation: float) -> torch.Tensor:
    """A Gaussian blur and the average over each pixel, as one matrix (size, rays).

    width : standard deviation of the blur, in rays. With this matrix A the image is A rays A^T. The
    outermost rays repeat beyond the edges, as in lenstronomy.
    """
    rays = np.arange(size * oversample)
    reach = int(truncation * width + 0.5)
    steps = np.arange(-reach, reach + 1)
    kernel = np.exp(-0.5 * (steps / width) ** 2)
    matrix = np.zeros((len(rays), len(rays)))
    for step, weight in zip(steps, kernel / kernel.sum(), strict=True):
        matrix[rays, np.clip(rays + step, 0, rays[-1])] += weight
    return torch.tensor(matrix.reshape(size, oversample, -1).mean(1), dtype=torch.float32)


def ring_signal(image: torch.Tensor) -> torch.Tensor:
    """Mean of the pixels above 30 % of the peak, (n, H, W) to (n,): the signal in `snr`."""
    bright = image > 0.3 * image.amax((-2, -1), keepdim=True)
    return (image * bright).sum((-2, -1)) / bright.sum((-2, -1))


def add_noise(image: torch.Tensor, truth: Table, prior: Prior) -> torch.Tensor:
    """Images (n, H, W) with sky and photon noise, from each image's own random stream.

    Photon noise is a Gaussian of the photons' variance. A ring has hundreds of photons, so this is
    accurate, and a last bit of rounding in the image moves a pixel by a last bit only. With
    `counts` the noisy image is then exposed and its photons are counted, as DeepLenseSim's set 1
    does on top of both noises.
    """
    if not prior.background:
        return image
    streams = [
        random_stream(int(seed), int(index), NOISE)
        for seed, index in zip(truth["seed"], truth["index"], strict=True)
    ]
    normal = np.stack([s.standard_normal(image.shape[1:], dtype=np.float32) for s in streams])
    exposure = _column_tensors({"exposure": truth["exposure"]}, image)["exposure"]
    noise_level = torch.sqrt(prior.background**2 + image / exposure)
    noisy = image + noise_level * torch.tensor(normal).to(image)
    return _count_photons(noisy, exposure, streams) if prior.counts else noisy


def _count_photons(image: torch.Tensor, exposure: torch.Tensor, streams: list[Any]) -> torch.Tensor:
    """Poisson counts of the exposed images, drawn from the streams that drew their noise."""
    expected = (exposure * image).clamp(min=0).cpu().numpy()
    counts = [stream.poisson(mean) for stream, mean in zip(streams, expected, strict=True)]
    return torch.tensor(np.stack(counts)).to(image)
