"""The lens-model fit: can an image be a lens, has it dark substructure, is its noise right?

Each image is fitted by what simulate.py renders without substructure: a singular isothermal
ellipsoid with external shear, one elliptical Sersic source, the known PSF; and a constant
background. Reduced chi2 is 1 where this explains the image down to the noise. It is larger for
substructure, and for images that no lens can make.

The 13 parameters are found by damped least squares (Levenberg-Marquardt; More 1978,
doi:10.1007/BFb0067700). Brightness and background enter linearly and are solved for at every step
(Golub & Pereyra 1973, doi:10.1137/0710036).
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from lensnb.errors import InputError
from lensnb.evaluation import image_stats
from lensnb.evaluation.lens_model import BOX, BROAD, Optics, box, named
from lensnb.evaluation.lens_model import deviation as deviation_of
from lensnb.lensing import simulate
from lensnb.lensing.priors import FLOOR, whole_number

FREE = len(BOX) + 2  # brightness and background
# Rays a pixel and axis of the derivatives. These set only the direction of a step, so few rays do.
SLOPE_RAYS = (1, 2)
SEARCH = 12  # steps at most, from each start
CACHED = 32  # images that are fitted at once on a CPU
AT_A_TIME = 512  # and on other devices
POLISH = 25  # steps at most, from the best of these
ENOUGH = 0.01  # a descent ends where a step promises less gain in chi2; one error bar is 1
FAINTEST = 1e-3  # share of an image's range: the least noise that it is taken to have


class Fit(NamedTuple):
    """The best smooth lens of each of N images.

    chi2 : (N,), sum of the squared residuals over `freedom`.
    parameters : name -> (N,), as in a truth table: theta_E_smooth, q, phi, x, y, gamma, phi_gamma,
        source_x, source_y, source_radius, source_n, source_q, source_phi [unit of pixel_scale];
        snr, which tells a ring from mere noise (chi2 is 1 for both); brightness at the source
        radius per square unit, background per pixel.
    model, residual : (N, 1, H, W), in the image's unit; (image - model) / noise.
    noise : (N,), standard deviation of the sky.
    start : (N,), the start that won; 0 is the ring as the image shows it.
    freedom : degrees of freedom, pixels less the 15 parameters.
    """

    chi2: np.ndarray
    parameters: dict
    model: np.ndarray
    residual: np.ndarray
    noise: np.ndarray
    start: np.ndarray
    freedom: int


def fit(
    images: Any,
    pixel_scale: float = BROAD.pixel_scale,
    psf_fwhm: float = BROAD.psf_fwhm,
    noise: Any = None,
    photons: float = 1.0,
    oversample: int = BROAD.oversample,
    starts: int = 3,
    seed: int = 0,
    batch: int | None = None,
    device: str | torch.device = "cpu",
) -> Fit:
    """Fit a smooth lens to images (N, C, H, W), channels averaged; returns a Fit.

    pixel_scale : size of a pixel [arcsec; or 1: lengths are in pixels].
    psf_fwhm : width of a Gaussian PSF, same unit. It is not fitted: a fitted width would absorb
        the blur that the fit is meant to find.
    noise : standard deviation of the sky, a number or (N,); or of all noise, a map (H, W) or
        (N, 1, H, W). None reads the sky off each image: chi2 is then blind to the level of noise.
    photons : variance of the photon noise over the sky's variance, at the ring's mean brightness
        (1 in the broad prior; simulate.ring_signal). It follows the model's brightness, and is not
        used with a map.
    oversample : rays a pixel and axis of the model.
    starts : number of descents; the seed displaces the start of all but the first at random.

    batch : images at once; by default CACHED on a CPU, and AT_A_TIME elsewhere
    device : where they are fitted; it must know float64

    Every image is fitted by itself. Raises InputError for unusable arguments.
    """
    maps = _checked_images(images)
    deviations, photons = _checked_noise(noise, maps, _checked("photons", photons, 0))
    unit = _checked("pixel_scale", pixel_scale, FLOOR) * min(maps.shape[1:]) / 2
    rays = whole_number("oversample", oversample, 1)
    count = whole_number("starts", starts, 1)
    seed = whole_number("seed", seed, 0)
    fwhm = _checked("psf_fwhm", psf_fwhm, 0) / unit
    device = torch.device(device)
    usual = CACHED if device.type == "cpu" else AT_A_TIME
    batch = usual if batch is None else whole_number("batch", batch, 1)
    fine, *coarse = (Optics(maps.shape[1:], fwhm, r, device) for r in (rays, *SLOPE_RAYS))
    parts = [
        _fit_batch(
            maps[i : i + batch], deviations[i : i + batch], photons, fine, coarse, count, seed
        )
        for i in range(0, len(maps), batch)
    ]
    chi2, p, brightness, background, snr, model, residual, sky, start = (
        np.concatenate(part) for part in zip(*parts, strict=True)
    )
    parameters = named(p, unit) | {
        "brightness": brightness / pixel_scale**2,
        "background": background,
        "snr": snr,
    }
    return Fit(chi2, parameters, model, residual, sky, start, freedom=maps[0].size - FREE)


def sky_noise(images: Any) -> np.ndarray:
    """Standard deviation of the sky that images (N, C, H, W) show, (N,).

    It is good to 2 % at 64 x 64 pixels. A pixel less the mean of its eight neighbours passes no
    smooth structure. The noise is the mean absolute value of this difference (after Immerkaer 1996,
    doi:10.1006/cviu.1996.0060) over the fainter half of the pixels, where there is little ring. It
    is at least a thousandth of the image's range, and 1 for an image of one value.
    """
    maps = torch.tensor(image_stats.grey(images))

    def inner(values: torch.Tensor) -> torch.Tensor:
        return values[:, 1:-1, 1:-1].flatten(1)

    high = inner(maps - _smooth(maps, 3)).abs() * 3 / math.sqrt(8)
    low = inner(_smooth(maps, 5))
    faint = low <= low.median(1, keepdim=True).values
    found = math.sqrt(math.pi / 2) * (high * faint).sum(1) / faint.sum(1)
    span = maps.flatten(1).amax(1) - maps.flatten(1).amin(1)
    return torch.where(span > 0, torch.maximum(found, FAINTEST * span), 1.0).numpy()


# ---- arguments


def _checked_images(images: Any) -> np.ndarray:
    """Images as float64 maps (N, H, W), all finite."""
    images = np.asarray(images)
    if images.ndim != 4 or min(images.shape[:2]) < 1 or min(images.shape[2:]) < 8:
        raise InputError(
            f"images have shape {images.shape}, expected (N, C, H, W) with at least 8 x 8 pixels"
        )
    maps = image_stats.grey(images)
    image_stats.refuse_not_finite(maps)
    return maps


def _checked_noise(noise: Any, maps: np.ndarray, photons: float) -> tuple[np.ndarray, float]:
    """Noise in each pixel (N, H, W), and the photon noise to add to it: none to a map."""
    given = np.asarray(sky_noise(maps[:, None]) if noise is None else noise, float)
    n, h, w = maps.shape
    if (
        given.shape not in ((), (n,), (h, w), (n, 1, h, w))
        or not ((given > 0) & (given < math.inf)).all()
    ):
        raise InputError(
            f"noise has shape {given.shape} and values from {given.min(initial=math.inf):g}, "
            f"expected positive ones of shape (), ({n},), ({h}, {w}) or ({n}, 1, {h}, {w})"
        )
    if given.ndim > 1:
        return np.broadcast_to(given.reshape(-1, h, w), maps.shape), 0.0
    return np.broadcast_to(given.reshape(-1, 1, 1), maps.shape), photons


def _checked(name: str, value: Any, least: float) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float, np.number))
        or not least <= value < math.inf
    ):
        raise InputError(f"{name} is {value!r}, expected a finite number of at least {least:g}")
    return float(value)


# ---- the descent


def _fit_batch(
    maps: np.ndarray,
    noise: np.ndarray,
    photons: float,
    fine: Optics,
    coarse: Sequence[Optics],
    count: int,
    seed: int,
) -> tuple[np.ndarray, ...]:
    """The fit of maps (n, H, W) with noise (n, H, W).

    fine, coarse : the optics of the model, and those of the derivatives, the coarsest first
    Returns chi2 (n,), parameters (n, 13), brightness, background and snr (n,), model and residual
    (n, 1, H, W), sky and start (n,).
    """
    numbers = np.s_[:, None, None]
    middle = np.median(maps, (1, 2))[numbers]
    sky = np.median(noise, (1, 2))[numbers]
    image = torch.tensor((maps - middle) / sky).float().to(fine.x.device)
    relative = torch.tensor(noise / sky).float().to(fine.x.device)
    p, start = _search(image, relative, photons, coarse[0], count, seed)
    for optics in coarse:
        deviation = deviation_of(relative, fine.image(p), photons)
        p, _ = _descend(p, image, deviation, fine, optics, POLISH)
    light = fine.image(p)
    a, b = (values[numbers] for values in _line(light, image, deviation))
    residual = (image - a * light - b) / deviation_of(relative, light, photons)
    chi2 = residual.double().square().sum((1, 2)) / (image[0].numel() - FREE)
    snr = torch.nan_to_num(simulate.ring_signal(a * light)) / math.sqrt(1 + photons)
    model = (a * light + b).cpu().numpy() * sky + middle
    return (
        chi2.cpu().numpy(),
        p.cpu().numpy(),
        (a.cpu().numpy() * sky)[:, 0, 0],
        (b.cpu().numpy() * sky + middle)[:, 0, 0],
        snr.cpu().numpy(),
        model[:, None].astype("float32"),
        residual[:, None].cpu().numpy(),
        sky[:, 0, 0],
        start.cpu().numpy(),
    )


def _search(
    image: torch.Tensor,
    noise: torch.Tensor,
    photons: float,
    optics: Optics,
    count: int,
    seed: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The best of `count` descents on a coarse model: parameters (n, 13), number of the start (n,).

    Of the starts that lead to within 1 of the least chi2, the first one is taken.
    """
    seen = _smooth(image, 3).clamp(min=0)  # stands in for the model until there is one

    def each(values: torch.Tensor) -> torch.Tensor:
        """Rows (n, ...) repeated for each start: (n * count, ...)."""
        return values.repeat_interleave(count, 0)

    first = _starts(seen, count, seed).flatten(0, 1)
    deviation = each(deviation_of(noise, seen, photons))
    p, chi2 = (
        values.reshape(len(image), count, -1)
        for values in _descend(first, each(image), deviation, optics, optics, SEARCH)
    )
    start = (chi2 <= chi2.amin(1, keepdim=True) + 1)[..., 0].int().argmax(1)
    return p[torch.arange(len(p), device=p.device), start], start


def _starts(seen: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    """Starts (n, count, 13) about the circle through the bright pixels of smoothed maps (n, H, W).

    The circle is x^2 + y^2 = 2ax + 2by + c by weighted least squares. A round lens in the middle
    shows a source at (a, b) as a ring about (a, b): r = theta_E + a cos(phi) + b sin(phi).
    """
    low, high, scatter = box(seen.device)
    optics = Optics(seen.shape[1:], 0, 1, seen.device)
    x, y = (v.double().flatten() for v in torch.meshgrid(optics.x, optics.y, indexing="xy"))
    basis = torch.stack([2 * x, 2 * y, torch.ones_like(x)])  # (3, HW)
    bright = (seen * (seen > 0.3 * seen.amax((1, 2), keepdim=True))).flatten(1).double()
    bright = bright / bright.sum(1, keepdim=True).clamp(min=FLOOR)
    # the 1e-6 is for an image without any bright pixel
    normal = (bright[:, None] * basis) @ basis.T + 1e-6 * torch.eye(3, device=seen.device)
    a, b, c = torch.linalg.solve(normal, (bright * (x**2 + y**2)) @ basis.T).T.float()
    ring = torch.sqrt((c + a**2 + b**2).clamp(min=0)).clamp(low[0], high[0])
    o = torch.zeros_like(a)
    e = torch.full_like(a, 0.02)  # at e = 0 the angle has no derivative
    first = torch.stack([ring, e, e, o, o, o, o, a, b, 0.17 * ring, o + 1, e, e], 1)
    random = np.random.default_rng(seed).standard_normal((count, len(BOX)))
    offsets = torch.tensor(random).float().to(scatter) * scatter
    offsets[0] = 0
    return torch.clamp(first[:, None] + offsets, low, high)


def _descend(
    p: torch.Tensor,
    image: torch.Tensor,
    deviation: torch.Tensor,
    optics: Optics,
    coarse: Optics,
    steps: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Damped least squares from p (n, 13), each row by itself: parameters and chi2 (n,) at the end.

    coarse : the optics of the derivatives.
    """
    p = p.clone()
    live = torch.arange(len(p), device=p.device)
    chi2, normal, pull = _measure(p, image, deviation, optics, coarse)
    damping = torch.full_like(chi2, 0.01)
    for _ in range(steps):
        tried, gain = _step(p[live], normal[live], pull[live], damping[live])
        live = live[gain > ENOUGH]
        tried = tried[gain > ENOUGH]
        if not len(live):
            break
        found = _measure(tried, image[live], deviation[live], optics, coarse)
        better = found[0] < chi2[live]
        for old, new in zip((p, chi2, normal, pull), (tried, *found), strict=True):
            old[live[better]] = new[better]
        damping[live] *= torch.where(better, 0.2, 5.0)
    return p, chi2


def _measure(
    p: torch.Tensor,
    image: torch.Tensor,
    deviation: torch.Tensor,
    optics: Optics,
    coarse: Optics,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The linearised problem at p, float64.

    Returns chi2 (n,), normal matrix (n, 15, 15) and right-hand side (n, 15).
    """
    light = optics.image(p)
    a, b = (values[:, None, None] for values in _line(light, image, deviation))
    residual = (image - a * light - b) / deviation
    slopes = torch.cat(
        [a[:, None] * coarse.slopes(p), light[:, None], torch.ones_like(light)[:, None]], 1
    )
    slopes = (slopes / deviation[:, None]).flatten(2)
    pull = (slopes @ residual.flatten(1)[:, :, None])[:, :, 0]
    return residual.double().square().sum((1, 2)), (slopes @ slopes.mT).double(), pull.double()


def _line(
    light: torch.Tensor, image: torch.Tensor, deviation: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The best a >= 0 and b of image = a light + b, (n,) each."""
    weight = deviation.double() ** -2

    def mean(values: torch.Tensor) -> torch.Tensor:
        return (weight * values).sum((1, 2)) / weight.sum((1, 2))

    x = mean(light)
    y = mean(image)
    apart = light - x[:, None, None]
    a = (mean(apart * image) / mean(apart**2).clamp(min=1e-30)).clamp(min=0)
    return a.float(), (y - a * x).float()


def _step(
    p: torch.Tensor, normal: torch.Tensor, pull: torch.Tensor, damping: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The next parameters (n, 13), and the gain in chi2 (n,) that the linearised problem promises.

    A parameter at its bound stays there if the step would lead beyond it.
    """
    low, high, _ = box(p.device)
    inner = pull[:, : p.shape[1]]
    held = (p <= low) & (inner < 0) | (p >= high) & (inner > 0)
    free = torch.nn.functional.pad(~held, (0, FREE - p.shape[1]), value=True).double()
    normal = normal * free[:, :, None] * free[:, None, :]
    pull = pull * free
    size = normal.diagonal(dim1=1, dim2=2)
    # the small terms are for slopes that are all 0
    extra = damping[:, None] * size + 1e-9 * size.amax(1, keepdim=True) + 1e-30
    step = torch.linalg.solve(normal + torch.diag_embed(extra), pull)
    tried = torch.clamp(p + step[:, : p.shape[1]].float(), low, high)
    step[:, : p.shape[1]] = tried.double() - p
    return tried, (2 * pull * step).sum(1) - (step * (normal @ step[:, :, None])[:, :, 0]).sum(1)


def _smooth(maps: torch.Tensor, width: int) -> torch.Tensor:
    """Means over width x width pixels, of maps (n, H, W)."""
    return torch.nn.functional.avg_pool2d(
        maps[:, None], width, 1, width // 2, count_include_pad=False
    )[:, 0]
