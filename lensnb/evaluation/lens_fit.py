"""The lens-model fit as a judge: can an image be a lens, is its dark substructure there, is its noise right?

Each image is fitted by what simulate.py renders without substructure: a singular isothermal ellipsoid
with external shear, one elliptical Sersic source, the known PSF; and a constant background. Reduced
chi2 is 1 where that explains it down to the noise. Substructure leaves more, and so does what no lens can make.

13 parameters by damped least squares (Levenberg-Marquardt; More 1978, doi:10.1007/BFb0067700); brightness and
background, which enter linearly, are solved for at every step (Golub & Pereyra 1973, doi:10.1137/0710036).
"""

import math
from typing import NamedTuple

import numpy as np
import torch

from lensnb.errors import InputError
from lensnb.evaluation import image_stats
from lensnb.lensing import simulate
from lensnb.lensing.priors import FLOOR, PRIORS, whole_number

BROAD = PRIORS["broad"]
# Bounds of a descent, and how far its start is displaced from the ring that the image shows.
# Lengths in half sides of the image; e = (1 - q) / (1 + q) times the cosine and sine of 2 phi.
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
LOW, HIGH, SCATTER = torch.tensor(list(BOX.values())).T
FREE = len(BOX) + 2  # brightness and background
LENGTHS = "theta_E_smooth", "x", "y", "source_x", "source_y", "source_radius"
SLOPE_RAYS = (1, 2)  # a pixel and axis; derivatives only show the way: coarse ones first
# most steps from each start, and then from the best
SEARCH = 12
POLISH = 25
ENOUGH = 0.01  # promised gain in chi2 that ends a descent; an error bar is a gain of 1
FAINTEST = 1e-3  # of an image's range: its noise, where it shows less


class Fit(NamedTuple):
    """The best smooth lens of each of N images.

    chi2 : (N,), sum of the squared residuals over `freedom`.
    parameters : name -> (N,), as in a truth table: theta_E_smooth, q, phi, x, y, gamma, phi_gamma,
        source_x, source_y, source_radius, source_n, source_q, source_phi [unit of pixel_scale] and
        snr, which tells a ring from mere noise: chi2 is 1 for both; brightness at the source
        radius per square unit, background per pixel.
    model, residual : (N, 1, H, W), in the image's unit; (image - model) / noise.
    noise : (N,), standard deviation of the sky. start : (N,), which won; 0: the ring as the image shows it.
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
    images,
    pixel_scale=BROAD.pixel_scale,
    psf_fwhm=BROAD.psf_fwhm,
    noise=None,
    photons=1.0,
    oversample=BROAD.oversample,
    starts=3,
    seed=0,
    batch=32,
):
    """Fit a smooth lens to images (N, C, H, W), channels averaged; returns a Fit.

    pixel_scale : of a pixel [arcsec; or 1: lengths are in pixels].
    psf_fwhm : of a Gaussian PSF, same unit. Not fitted: that would absorb the blur to be found.
    noise : standard deviation of the sky, a number or (N,); or of all noise, a map (H, W) or
        (N, 1, H, W). None reads the sky off each image: chi2 is then blind to the level of noise.
    photons : variance of the photon noise over the sky's, at the ring's mean brightness (1 in the
        broad prior; simulate.ring_signal). It follows the model's brightness; idle with a map.
    oversample : rays a pixel and axis of the model.
    starts : descents; all but the first are displaced at random, by the seed.

    Every image is fitted by itself, `batch` at once. Raises InputError for what cannot be used.
    """
    maps = _checked_images(images)
    noise, photons = _checked_noise(noise, maps, _checked("photons", photons, 0))
    unit = _checked("pixel_scale", pixel_scale, FLOOR) * min(maps.shape[1:]) / 2
    whole = [
        whole_number(*knob)
        for knob in (("oversample", oversample, 1), ("starts", starts, 1), ("seed", seed, 0))
    ]
    knobs = (photons, _checked("psf_fwhm", psf_fwhm, 0) / unit, *whole)
    batch = whole_number("batch", batch, 1)
    parts = [
        _fit_batch(maps[i : i + batch], noise[i : i + batch], *knobs)
        for i in range(0, len(maps), batch)
    ]
    chi2, p, brightness, background, snr, *shown = (
        np.concatenate(part) for part in zip(*parts, strict=True)
    )
    named = _named(p, unit) | {
        "brightness": brightness / pixel_scale**2,
        "background": background,
        "snr": snr,
    }
    return Fit(chi2, named, *shown, maps[0].size - FREE)


def sky_noise(images):
    """Standard deviation of the sky that images (N, C, H, W) show, (N,); good to 2 % at 64 x 64 pixels.

    A pixel less the mean of its eight neighbours passes no smooth structure; its mean absolute value
    (after Immerkaer 1996, doi:10.1006/cviu.1996.0060) over the fainter half of the pixels, where
    there is little ring. At least a thousandth of the image's range; 1 for an image of one value.
    """
    maps = torch.tensor(image_stats.grey(images))

    def inner(values):
        return values[:, 1:-1, 1:-1].flatten(1)

    high = inner(maps - _smooth(maps, 3)).abs() * 3 / math.sqrt(8)
    low = inner(_smooth(maps, 5))
    faint = low <= low.median(1, keepdim=True).values
    found = math.sqrt(math.pi / 2) * (high * faint).sum(1) / faint.sum(1)
    span = maps.flatten(1).amax(1) - maps.flatten(1).amin(1)
    return torch.where(span > 0, torch.maximum(found, FAINTEST * span), 1.0).numpy()


# ---- what is given


def _checked_images(images):
    images = np.asarray(images)
    if images.ndim != 4 or min(images.shape[:2]) < 1 or min(images.shape[2:]) < 8:
        raise InputError(
            f"images have shape {images.shape}, expected (N, C, H, W) with at least 8 x 8 pixels"
        )
    maps = image_stats.grey(images)
    bad = np.flatnonzero(~np.isfinite(maps).all((1, 2)))
    if len(bad):
        raise InputError(
            f"image {bad[0]} holds NaN or infinite pixels (as do {len(bad) - 1} others), expected finite ones"
        )
    return maps


def _checked_noise(noise, maps, photons):
    """Noise in each pixel (N, H, W), and the photons to add to it: none to a map."""
    given = np.asarray(sky_noise(maps[:, None]) if noise is None else noise, float)
    n, h, w = maps.shape
    if (
        given.shape not in ((), (n,), (h, w), (n, 1, h, w))
        or not ((given > 0) & (given < math.inf)).all()
    ):
        raise InputError(
            f"noise has shape {given.shape} and values from {given.min(initial=math.inf):g}, expected "
            f"positive ones of shape (), ({n},), ({h}, {w}) or ({n}, 1, {h}, {w})"
        )
    if given.ndim > 1:
        return np.broadcast_to(given.reshape(-1, h, w), maps.shape), 0.0
    return np.broadcast_to(given.reshape(-1, 1, 1), maps.shape), photons


def _checked(name, value, least):
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float, np.number))
        or not least <= value < math.inf
    ):
        raise InputError(f"{name} is {value!r}, expected a finite number of at least {least:g}")
    return float(value)


# ---- the model


class Optics:
    """How (H, W) pixels see a source: traced by `rays` a pixel and axis; lengths in half sides of the image."""

    def __init__(self, shape, fwhm, rays):
        step = 2 / min(shape) / rays
        self.y, self.x = (
            (torch.arange(side * rays) - (side * rays - 1) / 2) * step for side in shape
        )
        sigma = max(
            fwhm / math.sqrt(8 * math.log(2)) / step, 1e-3
        )  # in rays; the least leaves them alone
        self.blurs = [
            simulate.psf_matrix(side, rays, sigma, BROAD.psf_truncation) for side in shape
        ]
        self.rows = max(1, simulate.CACHED_RAYS // (len(self.x) * len(self.y)))

    def image(self, p):
        """Images (n, H, W) of the parameters (n, 13), for a brightness of 1 at the source radius."""
        return torch.cat(
            [self._blur(self._light(some.T[..., None, None])) for some in p.split(self.rows)]
        )

    def slopes(self, p):
        """Derivatives of `image` by the parameters, (n, 13, H, W)."""
        return torch.cat([self._blur(self._ray_slopes(some)) for some in p.split(self.rows)])

    def _blur(self, light):
        tall, wide = (
            self.blurs
        )  # a ray through a centre may have no derivative, and then shows no way
        return tall @ torch.nan_to_num(light, 0, 0, 0) @ wide.T

    def _ray_slopes(self, p):
        """(n, 13, rays, rays) by one backward pass: given its own copy of p, no ray depends on another's."""
        shape = (len(p), len(self.y), len(self.x))
        copies = [column[:, None, None].expand(shape).requires_grad_() for column in p.T]
        with torch.enable_grad():
            return torch.stack(torch.autograd.grad(self._light(copies).sum(), copies), 1)

    def _light(self, p):
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


def _ellipse(e1, e2):
    """Axis ratio and angle; the floor keeps clear of q = 1, where the deflection is 0/0."""
    e = torch.sqrt(e1**2 + e2**2 + 1e-6)
    return (1 - e) / (1 + e), torch.atan2(e2, e1) / 2


def _smooth(maps, width):
    """Means over width x width pixels, of maps (n, H, W)."""
    return torch.nn.functional.avg_pool2d(
        maps[:, None], width, 1, width // 2, count_include_pad=False
    )[:, 0]


def _deviation(noise, light, photons):
    """Standard deviation of each pixel, (n, H, W), with the photon noise of `light` >= 0 of that shape."""
    return noise * torch.sqrt(
        1 + photons * torch.nan_to_num(light / simulate.ring_signal(light)[:, None, None])
    )


# ---- the descent


def _fit_batch(maps, noise, photons, fwhm, oversample, count, seed):
    """chi2 (n,), parameters (n, 13), brightness, background, snr (n,), model, residual (n, 1, H, W), sky, start (n,)."""
    numbers = np.s_[:, None, None]
    middle = np.median(maps, (1, 2))[numbers]
    sky = np.median(noise, (1, 2))[numbers]
    image = torch.tensor((maps - middle) / sky).float()
    noise = torch.tensor(noise / sky).float()
    fine, *coarse = (Optics(maps.shape[1:], fwhm, rays) for rays in (oversample, *SLOPE_RAYS))
    p, start = _search(image, noise, photons, coarse[0], count, seed)
    for optics in coarse:
        deviation = _deviation(noise, fine.image(p), photons)
        p, _ = _descend(p, image, deviation, fine, optics, POLISH)
    light = fine.image(p)
    a, b = (values[numbers] for values in _line(light, image, deviation))
    residual = (image - a * light - b) / _deviation(noise, light, photons)
    chi2 = residual.double().square().sum((1, 2)) / (image[0].numel() - FREE)
    snr = torch.nan_to_num(simulate.ring_signal(a * light)) / math.sqrt(1 + photons)
    a, b, model = a.numpy() * sky, b.numpy() * sky + middle, (a * light + b).numpy() * sky + middle
    return (
        chi2.numpy(),
        p.numpy(),
        a[:, 0, 0],
        b[:, 0, 0],
        snr.numpy(),
        model[:, None].astype("float32"),
        residual[:, None].numpy(),
        sky[:, 0, 0],
        start.numpy(),
    )


def _search(image, noise, photons, optics, count, seed):
    """The best of `count` descents on a coarse model: parameters (n, 13), which one (n,)."""
    seen = _smooth(image, 3).clamp(min=0)  # stands in for the model until there is one

    def each(values):
        return values.repeat_interleave(count, 0)

    first = _starts(seen, count, seed).flatten(0, 1)
    deviation = each(_deviation(noise, seen, photons))
    p, chi2 = (
        values.reshape(len(image), count, -1)
        for values in _descend(first, each(image), deviation, optics, optics, SEARCH)
    )
    start = (
        (chi2 <= chi2.amin(1, keepdim=True) + 1)[..., 0].int().argmax(1)
    )  # the first of those as good
    return p[torch.arange(len(p)), start], start


def _starts(seen, count, seed):
    """Starts (n, count, 13) about the circle through the bright pixels of smoothed images (n, H, W).

    x^2 + y^2 = 2ax + 2by + c by weighted least squares. A round lens in the middle shows a source at
    (a, b) as a ring about (a, b): r = theta_E + a cos(phi) + b sin(phi).
    """
    optics = Optics(seen.shape[1:], 0, 1)
    x, y = (v.double().flatten() for v in torch.meshgrid(optics.x, optics.y, indexing="xy"))
    basis = torch.stack([2 * x, 2 * y, torch.ones_like(x)])  # (3, HW)
    bright = (seen * (seen > 0.3 * seen.amax((1, 2), keepdim=True))).flatten(1).double()
    bright = bright / bright.sum(1, keepdim=True).clamp(min=FLOOR)
    normal = (bright[:, None] * basis) @ basis.T + 1e-6 * torch.eye(
        3
    )  # there may be no bright pixel
    a, b, c = torch.linalg.solve(normal, (bright * (x**2 + y**2)) @ basis.T).T.float()
    ring = torch.sqrt((c + a**2 + b**2).clamp(min=0)).clamp(LOW[0], HIGH[0])
    # at e = 0 the angle has no derivative
    o = torch.zeros_like(a)
    few = torch.full_like(a, 0.02)
    first = torch.stack([ring, few, few, o, o, o, o, a, b, 0.17 * ring, o + 1, few, few], 1)
    offsets = (
        torch.tensor(np.random.default_rng(seed).standard_normal((count, len(BOX)))).float()
        * SCATTER
    )
    offsets[0] = 0
    return torch.clamp(first[:, None] + offsets, LOW, HIGH)


def _descend(p, image, deviation, optics, coarse, steps):
    """Damped least squares from p (n, 13), each row by itself: where it ends, and chi2 (n,) there."""
    p, live = p.clone(), torch.arange(len(p))
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


def _measure(p, image, deviation, optics, coarse):
    """chi2 (n,), normal matrix (n, 15, 15) and right-hand side (n, 15) of the linearised problem, float64."""
    light = optics.image(p)
    a, b = (values[:, None, None] for values in _line(light, image, deviation))
    residual = (image - a * light - b) / deviation
    slopes = torch.cat(
        [a[:, None] * coarse.slopes(p), light[:, None], torch.ones_like(light)[:, None]], 1
    )
    slopes = (slopes / deviation[:, None]).flatten(2)
    pull = (slopes @ residual.flatten(1)[:, :, None])[:, :, 0]
    return residual.double().square().sum((1, 2)), (slopes @ slopes.mT).double(), pull.double()


def _line(light, image, deviation):
    """The best a >= 0 and b of image = a light + b, (n,) each."""
    weight = deviation.double() ** -2

    def mean(values):
        return (weight * values).sum((1, 2)) / weight.sum((1, 2))

    x = mean(light)
    y = mean(image)
    apart = light - x[:, None, None]
    a = (mean(apart * image) / mean(apart**2).clamp(min=1e-30)).clamp(min=0)
    return a.float(), (y - a * x).float()


def _step(p, normal, pull, damping):
    """The next parameters (n, 13), and the gain in chi2 (n,) that the linearised problem promises."""
    inner = pull[:, : p.shape[1]]
    held = (p <= LOW) & (inner < 0) | (p >= HIGH) & (inner > 0)
    free = torch.nn.functional.pad(~held, (0, FREE - p.shape[1]), value=True).double()
    normal = normal * free[:, :, None] * free[:, None, :]
    pull = pull * free
    size = normal.diagonal(dim1=1, dim2=2)
    extra = (
        damping[:, None] * size + 1e-9 * size.amax(1, keepdim=True) + 1e-30
    )  # some slopes may all be 0
    step = torch.linalg.solve(normal + torch.diag_embed(extra), pull)
    tried = torch.clamp(p + step[:, : p.shape[1]].float(), LOW, HIGH)
    step[:, : p.shape[1]] = tried.double() - p
    return tried, (2 * pull * step).sum(1) - (step * (normal @ step[:, :, None])[:, :, 0]).sum(1)


def _named(p, unit):
    """Parameters (N, 13) as columns of a truth table; angles in 0 to pi."""
    found = dict(zip(BOX, p.astype(float).T, strict=True))
    named = {name: found[name] * unit for name in LENGTHS} | {"source_n": found["source_n"]}
    for e, phi, size in (
        ("e", "phi", "q"),
        ("gamma", "phi_gamma", "gamma"),
        ("source_e", "source_phi", "source_q"),
    ):
        cos = found[e + "1"]
        sin = found[e + "2"]
        named[size] = np.hypot(cos, sin)
        named[phi] = np.arctan2(sin, cos) / 2 % math.pi
    return named | {q: (1 - named[q]) / (1 + named[q]) for q in ("q", "source_q")}
