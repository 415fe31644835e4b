"""Lens physics: truth tables to images.

Rays theta are traced to beta = theta - alpha(theta) through a singular isothermal ellipsoid,
external shear and dark substructure, onto a Sersic source; then Gaussian PSF, pixels, noise.
Units and angles as in priors.py, where the tables are drawn.
"""

import math
from functools import lru_cache

import numpy as np
import torch

from lensnb.errors import InputError
from lensnb.lensing.priors import (
    CLASSES,
    FLOOR,
    NOISE,
    SMOOTH,
    altered,
    draw_points,
    draw_truth,
    einstein_radius,
    get_prior,
    random_stream,
    whole_number,
)

CACHED_RAYS = 2**19  # traced at once on a CPU: fields that fit its cache run twice as fast


# ---- deflections


def deflection(truth, points, prior, x, y):
    """Deflection [arcsec] by everything in n lenses at x, y that broadcast to (H, W).

    Returns its two components, each (n, H, W).
    """
    from caustics.lenses import func

    c = _columns(truth, x)
    ax, ay = func.reduced_deflection_angle_sie(
        c["x"], c["y"], c["q"], c["phi"], c["theta_E_smooth"], x, y, FLOOR
    )
    g1, g2 = (c["gamma"] * f(2 * c["phi_gamma"]) for f in (torch.cos, torch.sin))
    sx, sy = func.reduced_deflection_angle_external_shear(c["x"], c["y"], g1, g2, x, y)
    alpha = torch.stack([ax + sx, ay + sy])  # (2, n, H, W)
    _add_points(alpha, points, x, y)
    if not prior.vortex_points:
        _add_lines(alpha, truth, prior, x, y)
    return alpha


def _columns(table, x):
    """Columns (n,) as tensors (n, 1, 1) of the type and on the device of x."""
    return {name: torch.as_tensor(column).to(x)[:, None, None] for name, column in table.items()}


def _add_points(alpha, points, x, y):
    """Add t^2 (z - z_k) / |z - z_k|^2, the k-th point of all lenses at once, in one buffer.

    Lenses sorted by their number of points: those that have a k-th come first.
    """
    count = (points["theta_E"] > 0).sum(1)
    rows = np.argsort(-count)[: (count > 0).sum()]
    added = torch.zeros_like(alpha[:, : len(rows)])
    scratch = torch.empty_like(added[0])
    for k in range(count.max()):
        many = (count > k).sum()
        p = _columns({name: column[rows[:many], k] for name, column in points.items()}, x)
        # (many, 1, W), (many, H, 1) on a pixel grid
        dx = x - p["x"]
        dy = y - p["y"]
        r2 = torch.add(dx**2 + FLOOR**2, dy**2, out=scratch[:many])
        pull = torch.div(p["theta_E"] ** 2, r2, out=r2)
        added[0, :many].addcmul_(pull, dx)
        added[1, :many].addcmul_(pull, dy)
    alpha[:, rows] += added


def _add_lines(alpha, truth, prior, x, y):
    rows = np.flatnonzero(truth["vortex_mass"])
    line = _columns({name: column[rows] for name, column in truth.items()}, x)
    theta_E = _columns({"theta_E": einstein_radius(truth["vortex_mass"][rows], prior)}, x)[
        "theta_E"
    ]
    alpha[:, rows] += torch.stack(
        line_deflection(
            line["x"], line["y"], line["vortex_angle"], line["vortex_half_length"], theta_E, x, y
        )
    )


def line_deflection(x0, y0, angle, half_length, theta_E, x, y):
    """Deflection of a straight line of uniform mass, closed form; tensors that broadcast.

    With z = x + iy along the line, the point at s deflects by t^2 / conj(z - s). Its mean over
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


def simulate(n, prior="broad", seed=0, size=None, device="cpu", batch=64, out=None):
    """Draw and render n images: (float32 array (n, 1, H, W), truth columns as in draw_truth).

    `out`, an array or memory map of that shape, is filled batch by batch in constant memory.
    Raises InputError for an unknown prior, n < 1, size < 8 or an `out` that does not fit.
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


def siblings(prior="broad", seed=0):
    """One lens with each kind of substructure, all else the same, without noise: (len(CLASSES), 1, H, W) float32."""
    prior = get_prior(prior)
    truth = draw_truth(len(CLASSES), prior, seed)
    truth = altered(truth, prior, **{name: truth[name][0] for name in SMOOTH})
    return clean_images(truth, draw_points(truth, prior), prior).float().numpy()[:, None]


def render(truth, prior="broad", device="cpu", batch=64):
    """Images of the rows of a truth table, float32 tensor (n, 1, H, W) on `device`.

    In units of the sky's standard deviation (`broad`), or what DeepLenseSim's files hold: photons
    (set 1), counts a second, twice (sets 2 and 3). At most `batch` images are traced at once.
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


def clean_images(truth, points, prior, device="cpu"):
    """Images without noise, (n, H, W): traced, blurred, averaged over pixels, scaled."""
    rays = prior.size * prior.oversample
    spacing = prior.pixel_scale / prior.oversample
    axis = (torch.arange(rays, device=device) - (rays - 1) / 2) * spacing
    x = axis[None, :]
    y = axis[:, None]
    ax, ay = deflection(truth, points, prior, x, y)
    light = source_light(truth, prior, x - ax, y - ay)  # (n, rays, rays)
    sigma = prior.psf_fwhm / math.sqrt(8 * math.log(2)) / spacing
    blur = psf_matrix(prior.size, prior.oversample, sigma, prior.psf_truncation).to(device)
    image = blur @ light @ blur.T * prior.pixel_scale**2  # (n, H, W)
    if prior.snr is None:
        return image
    signal = math.sqrt(2) * prior.background * torch.as_tensor(truth["snr"]).to(image)
    return image * (signal / ring_signal(image))[:, None, None]


def source_light(truth, prior, x, y):
    """Sersic brightness at x, y (n, H, W) in the source plane, per square arcsec."""
    from caustics.light.func import brightness_sersic, k_lenstronomy

    c = _columns(truth, x)
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


@lru_cache
def psf_matrix(size, oversample, sigma, truncation):
    """A Gaussian of `sigma` rays, then the pixel's average, as one matrix A (size, rays).

    The image is A rays A^T; beyond its edges the outermost rays repeat, as in lenstronomy.
    """
    rays = np.arange(size * oversample)
    reach = int(truncation * sigma + 0.5)
    steps = np.arange(-reach, reach + 1)
    kernel = np.exp(-0.5 * (steps / sigma) ** 2)
    matrix = np.zeros((len(rays), len(rays)))
    for step, weight in zip(steps, kernel / kernel.sum()):
        matrix[rays, np.clip(rays + step, 0, rays[-1])] += weight
    return torch.tensor(matrix.reshape(size, oversample, -1).mean(1), dtype=torch.float32)


def ring_signal(image):
    """Mean of the pixels above 30 % of the peak, (n, H, W) to (n,): the signal that snr means."""
    bright = image > 0.3 * image.amax((-2, -1), keepdim=True)
    return (image * bright).sum((-2, -1)) / bright.sum((-2, -1))


def add_noise(image, truth, prior):
    """Sky and photon noise from each image's own stream, (n, H, W) to the same.

    Photon noise is the Gaussian of the same variance: the ring has hundreds of photons, and a
    last bit of rounding then moves a pixel by a last bit. With `counts` the result is exposed
    and its photons are counted, as DeepLenseSim's set 1 does on top of both noises.
    """
    if not prior.background:
        return image
    streams = [random_stream(int(s), int(i), NOISE) for s, i in zip(truth["seed"], truth["index"])]
    normal = np.stack([s.standard_normal(image.shape[1:], dtype=np.float32) for s in streams])
    exposure = _columns({"t": truth["exposure"]}, image)["t"]
    deviation = torch.sqrt(prior.background**2 + image / exposure)
    noisy = image + deviation * torch.tensor(normal).to(image)
    if not prior.counts:
        return noisy
    expected = (exposure * noisy).clamp(min=0).cpu().numpy()
    return torch.tensor(np.stack([s.poisson(e) for s, e in zip(streams, expected)])).to(image)
