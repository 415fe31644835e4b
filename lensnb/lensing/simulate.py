"""Lens physics: truth tables to images.

A ray at theta is traced to beta = theta - alpha(theta), through a singular isothermal ellipsoid,
external shear and dark substructure, onto a Sersic source. The PSF (a Gaussian), the pixels and
the noise follow. Units and angles are as in truth_tables.py, where the tables are drawn.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch

from lensnb.errors import InputError
from lensnb.lensing.deflection import column_tensors, deflection, to_device
from lensnb.lensing.photons import add_noise
from lensnb.lensing.priors import CLASSES, Prior, get_prior, whole_number
from lensnb.lensing.truth_tables import SMOOTH, Table, altered, draw_points, draw_truth

CACHED_RAYS = 2**19  # traced at once on a CPU; fields that fit its cache run twice as fast
DEVICE_RAYS = 2**25  # and on a GPU: enough work to hide how kernels are started
RAY_BYTES = 128  # memory that a ray takes at most, of what is free
BATCH = 64  # images drawn and written at once from a CPU


def simulate(
    n: int,
    prior: str | Prior = "broad",
    seed: int = 0,
    size: int | None = None,
    device: str | torch.device = "cpu",
    batch: int | None = None,
    out: np.ndarray | None = None,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Draw and render n images: (float32 array (n, 1, H, W), truth columns as in draw_truth).

    `out`, an array or memory map of that shape, is filled batch by batch in constant memory. On a
    GPU a batch is copied back while the next one is rendered. Images of different devices agree to
    rounding.
    Raises InputError for an unknown prior, n < 1, size < 8 and an `out` that does not fit.
    """
    prior = get_prior(prior, size)
    batch = batch_of(prior, device) if batch is None else whole_number("batch", batch, 1)
    shape = (whole_number("n", n, 1), 1, prior.size, prior.size)
    out = np.empty(shape, np.float32) if out is None else out
    if out.shape != shape or out.dtype != np.float32:
        raise InputError(f"out is {out.dtype} {out.shape}, expected float32 {shape}")
    tables = []
    arriving = []  # at most two batches: where they belong, and how they are waited for
    for start in range(0, n, batch):
        tables.append(draw_truth(min(batch, n - start), prior, seed, start))
        images = render(tables[-1], prior, device, batch)
        arriving.append((slice(start, start + batch), _to_host(images)))
        if len(arriving) == 2:
            _write(out, *arriving.pop(0))
    _write(out, *arriving.pop())
    return out, joined(tables)


def batch_of(prior: Prior, device: str | torch.device) -> int:
    """How many images of a prior are rendered at once on a device."""
    device = torch.device(device)
    if device.type == "cpu":
        return BATCH
    rays = DEVICE_RAYS
    if device.type == "cuda":
        rays = min(rays, torch.cuda.mem_get_info(device)[0] // RAY_BYTES)
    return max(1, rays // (prior.size * prior.oversample) ** 2)


def joined(tables: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Truth tables one below the other."""
    return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}


def _to_host(images: torch.Tensor) -> Callable[[], np.ndarray]:
    """Begin to copy images to the host; the function that is returned waits for them."""
    if not images.is_cuda:
        return images.cpu().numpy
    host = torch.empty(images.shape, dtype=images.dtype, pin_memory=True)
    host.copy_(images, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record(torch.cuda.current_stream(images.device))

    def wait() -> np.ndarray:
        copied.synchronize()
        return host.numpy()

    return wait


def _write(out: np.ndarray, rows: slice, wait: Callable[[], np.ndarray]) -> None:
    out[rows] = wait()


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
    batch: int = BATCH,
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
    blur = to_device(psf_of(prior).numpy(), light)
    image = blur @ light @ blur.T * prior.pixel_scale**2  # (n, H, W)
    if prior.snr is None:
        return image
    signal = to_device(math.sqrt(2) * prior.background * truth["snr"], image)
    return image * (signal / ring_signal(image))[:, None, None]


def source_light(truth: Table, prior: Prior, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Sersic brightness at x, y (n, H, W) in the source plane, per square arcsec."""
    from caustics.light.func import brightness_sersic, k_lenstronomy

    c = column_tensors(truth, x)
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
