"""The lens-model fit as a judge: can an image be a lens, is its dark substructure there, is its noise right?

Each image is fitted by a smooth lens, a singular isothermal ellipsoid with external shear, and one
elliptical Sersic source behind it, through the known PSF, on a constant background: the class
without substructure of simulate.py, whose names and angles are used. Reduced chi2 is 1 where that
explains the image down to the noise; substructure, or an image that no lens can make, leaves more.

13 parameters are found by damped least squares (Levenberg-Marquardt; More 1978,
doi:10.1007/BFb0067700). Brightness and background enter linearly and are solved for at every step
(variable projection; Golub & Pereyra 1973, doi:10.1137/0710036).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from lensnb import physics, simulate
from lensnb.errors import InputError
from lensnb.priors import FLOOR, PRIORS, whole_number

# Where a descent may go, and how far its start is displaced from the ring that the image shows.
# Lengths in half sides of the image; e = (1 - q) / (1 + q) times the cosine and sine of 2 phi.
BOX = {"theta_E_smooth": (0.05, 1.0, 0.03),
       "e1": (-0.4, 0.4, 0.1), "e2": (-0.4, 0.4, 0.1),
       "x": (-0.15, 0.15, 0.0), "y": (-0.15, 0.15, 0.0),
       "gamma1": (-0.3, 0.3, 0.0), "gamma2": (-0.3, 0.3, 0.0),
       "source_x": (-0.4, 0.4, 0.04), "source_y": (-0.4, 0.4, 0.04),
       "source_radius": (0.005, 0.5, 0.02), "source_n": (0.3, 5.0, 0.2),
       "source_e1": (-0.5, 0.5, 0.1), "source_e2": (-0.5, 0.5, 0.1)}
LOW, HIGH, SCATTER = torch.tensor(list(BOX.values())).T
CURVED, FREE = len(BOX), len(BOX) + 2       # parameters: without and with brightness and background
LENGTHS = ("theta_E_smooth", "x", "y", "source_x", "source_y", "source_radius")
RAYS, SLOPE_RAYS = 4, 1     # a pixel and axis, as simulated; derivatives only show the way, and may be coarse
SEARCH, POLISH = 12, 25     # most steps from each start, and from the best
ENOUGH = 0.01               # gain in chi2 below which a descent has arrived: an error bar is a gain of 1
FAINTEST = 1e-3             # of an image's range: its noise, where it shows less


@dataclass(frozen=True)
class Fit:
    """The best smooth lens of each of N images.

    chi2 : (N,), sum of the squared residuals over `freedom`.
    parameters : name -> (N,), as in the truth table theta_E_smooth, q, phi, x, y, gamma, phi_gamma,
        source_x, source_y, source_radius, source_n, source_q, source_phi (lengths in the unit of
        pixel_scale, angles in 0 to pi) and snr: nothing fits noise alone, and then snr tells;
        brightness at the source radius per square unit, background per pixel.
    model, residual : (N, 1, H, W), in the image's unit; (image - model) / noise.
    noise : (N,), standard deviation of the sky, in the image's unit.
    start : (N,), which one won; 0 is the ring as the image shows it.
    freedom : degrees of freedom, pixels less the 15 parameters.
    """

    chi2: np.ndarray
    parameters: dict
    model: np.ndarray
    residual: np.ndarray
    noise: np.ndarray
    start: np.ndarray
    freedom: int


def fit(images, pixel_scale=PRIORS["broad"].pixel_scale, psf_fwhm=PRIORS["broad"].psf_fwhm, noise=None,
        photons=1.0, starts=3, seed=0, batch=32):
    """Fit a smooth lens to images (N, C, H, W), channels averaged; returns a Fit.

    pixel_scale : of a pixel [arcsec; or 1: lengths are in pixels].
    psf_fwhm : of a Gaussian PSF [arcsec; or pixels]. It is given, not fitted: a free width would
        absorb the very blur that is to be found.
    noise : standard deviation of the sky, a number or (N,); or all the noise, a map (H, W) or
        (N, 1, H, W). None reads the sky off each image: chi2 is then blind to the level of noise.
    photons : variance of the photon noise over the sky's, at the mean brightness of the ring: 1 in
        the broad prior. It goes with the brightness of the model; idle with a map.
    starts : descents; all but the first are displaced at random, by the seed.

    Every image is fitted by itself, `batch` of them at once. Raises InputError for images, noise
    or knobs that cannot be used.
    """
    maps = _checked_images(images)
    noise, photons = _checked_noise(noise, maps, photons)
    _check_number("pixel_scale", pixel_scale, FLOOR), _check_number("psf_fwhm", psf_fwhm, 0)
    offsets = _offsets(whole_number("starts", starts, 1), whole_number("seed", seed, 0))
    batch, unit = whole_number("batch", batch, 1), pixel_scale * min(maps.shape[1:]) / 2
    parts = [_fit_batch(maps[i:i + batch], noise[i:i + batch], photons, psf_fwhm / unit, offsets)
             for i in range(0, len(maps), batch)]
    p, line, model, deviation, start = (np.concatenate(part) for part in zip(*parts, strict=True))
    residual, freedom, sky = (maps - model) / deviation, maps[0].size - FREE, np.median(noise, (1, 2))
    named = _named(p, unit) | {"brightness": line[:, 0] / pixel_scale**2, "background": line[:, 1]}
    named["snr"] = _ring(model - line[:, 1, None, None]) / (sky * math.sqrt(1 + photons))
    return Fit((residual**2).sum((1, 2)) / freedom, named, model[:, None].astype("float32"),
               residual[:, None].astype("float32"), sky, start, freedom)


def sky_noise(images):
    """Standard deviation of the sky that images (N, C, H, W) show, (N,), good to 2 % at 64 x 64.

    A pixel less the mean of its eight neighbours passes no smooth structure; its mean absolute value
    (after Immerkaer 1996, doi:10.1006/cviu.1996.0060) over the fainter half of the pixels, where
    there is little ring. At least a thousandth of the image's range; 1 for an image of one value.
    """
    maps = torch.tensor(physics.grey(images))
    high = (maps - _smooth(maps, 3))[:, 1:-1, 1:-1].flatten(1).abs() * 3 / math.sqrt(8)
    low = _smooth(maps, 5)[:, 1:-1, 1:-1].flatten(1)
    faint = low <= low.median(1, keepdim=True).values
    found = math.sqrt(math.pi / 2) * (high * faint).sum(1) / faint.sum(1)
    span = maps.flatten(1).amax(1) - maps.flatten(1).amin(1)
    return torch.where(span > 0, torch.maximum(found, FAINTEST * span), 1.0).numpy()


# ---- what is given

def _checked_images(images):
    images = np.asarray(images)
    if images.ndim != 4 or min(images.shape[:2], default=0) < 1 or min(images.shape[2:]) < 8:
        raise InputError(f"images have shape {images.shape}, expected (N, C, H, W) with at least 8 x 8 pixels")
    maps = physics.grey(images)
    bad = np.flatnonzero(~np.isfinite(maps).all((1, 2)))
    if len(bad):
        raise InputError(f"image {bad[0]} holds NaN or infinite pixels (as do {len(bad) - 1} others), expected finite ones")
    return maps


def _checked_noise(noise, maps, photons):
    """Noise in each pixel (N, H, W), and the photons to add to it: none to a map."""
    _check_number("photons", photons, 0)
    given, (n, h, w) = np.asarray(sky_noise(maps[:, None]) if noise is None else noise, float), maps.shape
    if given.shape not in ((), (n,), (h, w), (n, 1, h, w)) or not ((given > 0) & (given < math.inf)).all():
        raise InputError(f"noise has shape {given.shape} and a least value of {given.min(initial=math.inf):g}, expected "
                         f"positive finite numbers of shape (), ({n},), ({h}, {w}) or ({n}, 1, {h}, {w})")
    is_map = given.ndim > 1
    return np.broadcast_to(given.reshape(-1, h, w) if is_map else given.reshape(-1, 1, 1), maps.shape), 0.0 if is_map else photons


def _check_number(name, value, least):
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not least <= value < math.inf:
        raise InputError(f"{name} is {value!r}, expected a finite number of at least {least:g}")


# ---- the model

class Optics:
    """What a pixel sees: `rays` a pixel and axis, traced to the source; lengths in half sides of the image."""

    def __init__(self, shape, fwhm, rays):
        step = 2 / min(shape) / rays
        self.y, self.x = ((torch.arange(side * rays) - (side * rays - 1) / 2) * step for side in shape)
        sigma = max(fwhm / math.sqrt(8 * math.log(2)) / step, 1e-3)     # in rays; the least leaves them alone
        self.blurs = [simulate.psf_matrix(side, rays, sigma, PRIORS["broad"].psf_truncation) for side in shape]
        self.rows = max(1, simulate.CACHED_RAYS // (len(self.x) * len(self.y)))

    def image(self, p):
        """Images (n, H, W) for parameters (n, 13), of brightness 1 at the source radius; 0 where undefined."""
        return torch.cat([self._blur(self._light(some.T[..., None, None])) for some in p.split(self.rows)])

    def slopes(self, p):
        """Derivatives of `image` by the parameters, (n, 13, H, W)."""
        return torch.cat([self._blur(self._ray_slopes(some)) for some in p.split(self.rows)])

    def _blur(self, light):
        tall, wide = self.blurs
        return tall @ torch.nan_to_num(light, 0, 0, 0) @ wide.T

    def _ray_slopes(self, p):
        """A ray's light depends on its own parameters alone, so one backward pass gives every ray's derivatives."""
        shape = (len(p), len(self.y), len(self.x))
        own = [column[:, None, None].expand(shape).requires_grad_() for column in p.T]
        with torch.enable_grad():
            return torch.stack(torch.autograd.grad(self._light(own).sum(), own), 1)

    def _light(self, p):
        from caustics.lenses import func
        from caustics.light.func import brightness_sersic, k_lenstronomy

        ring, e1, e2, x, y, gamma1, gamma2, source_x, source_y, radius, n, source_e1, source_e2 = p
        across, up = self.x[None, :], self.y[:, None]
        ax, ay = func.reduced_deflection_angle_sie(x, y, *_ellipse(e1, e2), ring, across, up, FLOOR)
        sx, sy = func.reduced_deflection_angle_external_shear(x, y, gamma1, gamma2, across, up)
        q, phi = _ellipse(source_e1, source_e2)
        return brightness_sersic(source_x, source_y, q, phi, n, radius / torch.sqrt(q), 1.0,
                                 across - ax - sx, up - ay - sy, k_lenstronomy(n))


def _ellipse(e1, e2):
    """Axis ratio and angle; the floor keeps clear of q = 1, where the deflection is 0/0."""
    e = torch.sqrt(e1**2 + e2**2 + 1e-6)
    return (1 - e) / (1 + e), torch.atan2(e2, e1) / 2


def _deviation(noise, light, photons):
    """Standard deviation of each pixel, (n, H, W), with the photon noise of `light` of that shape, >= 0."""
    return noise * torch.sqrt(1 + photons * torch.nan_to_num(light / simulate.ring_signal(light)[:, None, None]))


# ---- the descent

def _fit_batch(maps, noise, photons, fwhm, offsets):
    """Parameters (n, 13), brightness and background (n, 2), models and deviations (n, H, W), starts (n,)."""
    n, count = len(maps), len(offsets)
    middle, sky = np.median(maps, (1, 2), keepdims=True), np.median(noise, (1, 2), keepdims=True)
    image, noise = torch.tensor((maps - middle) / sky).float(), torch.tensor(noise / sky).float()
    coarse, fine = (Optics(maps.shape[1:], fwhm, rays) for rays in (SLOPE_RAYS, RAYS))
    seen = _smooth(image, 3).clamp(min=0)       # stands in for the model until there is one
    each = lambda values: values.repeat_interleave(count, 0)
    p, chi2 = _descend(_starts(seen, offsets), each(image), each(_deviation(noise, seen, photons)), coarse, coarse, SEARCH)
    chi2 = chi2.reshape(n, count)
    start = (chi2 <= chi2.amin(1, keepdim=True) + 1).int().argmax(1)    # the first of those that are as good
    p = p.reshape(n, count, -1)[torch.arange(n), start]
    deviation = _deviation(noise, coarse.image(p), photons)
    p, _ = _descend(p, image, deviation, fine, coarse, POLISH)
    light = fine.image(p)
    a, b = _line(light, image, deviation)
    deviation = _deviation(noise, light, photons)
    model, line = a[:, None, None] * light + b[:, None, None], torch.stack([a, b], 1).numpy() * sky[:, 0]
    line[:, 1] += middle[:, 0, 0]
    return p.numpy(), line, model.numpy() * sky + middle, deviation.numpy() * sky, start.numpy()


def _offsets(count, seed):
    """Displacements of the starts, (count, 13), the same for every image; the first is not displaced."""
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([torch.zeros(1, CURVED), torch.randn(count - 1, CURVED, generator=generator) * SCATTER])


def _starts(seen, offsets):
    """Starts (n * count, 13) about the circle through the bright pixels of smoothed images (n, H, W).

    x^2 + y^2 = 2ax + 2by + c by weighted least squares. A round lens at the origin shows a source at
    (a, b) as a ring whose circle is centred there: r = theta_E + a cos(phi) + b sin(phi).
    """
    optics = Optics(seen.shape[1:], 0, 1)
    x, y = (v.double().flatten() for v in torch.meshgrid(optics.x, optics.y, indexing="xy"))
    basis = torch.stack([2 * x, 2 * y, torch.ones_like(x)])                     # (3, HW)
    bright = (seen * (seen > 0.3 * seen.amax((1, 2), keepdim=True))).flatten(1).double()
    bright = bright / bright.sum(1, keepdim=True).clamp(min=FLOOR)
    normal = (bright[:, None] * basis) @ basis.T + 1e-6 * torch.eye(3)          # an image may have no bright pixel
    a, b, c = torch.linalg.solve(normal, (bright * (x**2 + y**2)) @ basis.T).T.float()
    ring = torch.sqrt((c + a**2 + b**2).clamp(min=0)).clamp(min=LOW[0], max=HIGH[0])
    o, few = torch.zeros_like(a), torch.full_like(a, 0.02)      # not 0: there the angle has no derivative
    first = torch.stack([ring, few, few, o, o, o, o, a, b, 0.17 * ring, o + 1, few, few], 1)
    return torch.clamp(first[:, None] + offsets, LOW, HIGH).flatten(0, 1)


def _descend(p, image, deviation, optics, coarse, steps):
    """Damped least squares from p (n, 13), each row by itself: parameters and chi2 (n,) at the end."""
    p, live = p.clone(), torch.arange(len(p))
    chi2, normal, pull = _measure(p, image, deviation, optics, coarse)
    damping = torch.full_like(chi2, 0.01)
    for _ in range(steps):
        tried, gain = _step(p[live], normal[live], pull[live], damping[live])
        live, tried = live[gain > ENOUGH], tried[gain > ENOUGH]
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
    a, b = _line(light, image, deviation)
    residual = (image - a[:, None, None] * light - b[:, None, None]) / deviation
    slopes = torch.cat([a[:, None, None, None] * coarse.slopes(p), light[:, None], torch.ones_like(light)[:, None]], 1)
    slopes = (slopes / deviation[:, None]).flatten(2)
    return (residual.double().square().sum((1, 2)), (slopes @ slopes.mT).double(),
            (slopes @ residual.flatten(1)[:, :, None])[:, :, 0].double())


def _line(light, image, deviation):
    """The best a >= 0 and b in image = a light + b: (n,) each."""
    weight = deviation.double() ** -2
    weight = weight / weight.sum((1, 2), keepdim=True)
    mean = lambda values: (weight * values).sum((1, 2))
    x, y = mean(light), mean(image)
    dx = light - x[:, None, None]
    a = (mean(dx * image) / mean(dx**2).clamp(min=1e-30)).clamp(min=0)
    return a.float(), (y - a * x).float()


def _step(p, normal, pull, damping):
    """The next parameters (n, 13) and the gain in chi2 (n,) that the linearised problem promises."""
    stuck = ((p <= LOW) & (pull[:, :CURVED] < 0)) | ((p >= HIGH) & (pull[:, :CURVED] > 0))
    free = torch.nn.functional.pad(~stuck, (0, 2), value=True).double()
    normal, pull = normal * free[:, :, None] * free[:, None, :], pull * free
    size = normal.diagonal(dim1=1, dim2=2)
    damped = normal + torch.diag_embed(damping[:, None] * size + 1e-9 * size.amax(1, keepdim=True) + 1e-30)
    step = torch.linalg.solve(damped, pull)
    tried = torch.clamp(p + step[:, :CURVED].float(), LOW, HIGH)
    step[:, :CURVED] = tried.double() - p
    return tried, (2 * pull * step).sum(1) - (step * (normal @ step[:, :, None])[:, :, 0]).sum(1)


# ---- what is told

def _smooth(maps, width):
    """Means over width x width pixels, of maps (n, H, W)."""
    return torch.nn.functional.avg_pool2d(maps[:, None], width, 1, width // 2, count_include_pad=False)[:, 0]


def _named(p, unit):
    """Parameters (N, 13) as columns of a truth table."""
    found = dict(zip(BOX, p.astype(float).T, strict=True))
    named = {name: found[name] * (unit if name in LENGTHS else 1) for name in (*LENGTHS, "source_n")}
    for prefix in ("", "source_"):
        e, named[prefix + "phi"] = _polar(found[prefix + "e1"], found[prefix + "e2"])
        named[prefix + "q"] = (1 - e) / (1 + e)
    named["gamma"], named["phi_gamma"] = _polar(found["gamma1"], found["gamma2"])
    return named


def _polar(cos, sin):
    """Amplitude, and angle in 0 to pi, of a quantity that turns twice as fast."""
    return np.hypot(cos, sin), np.arctan2(sin, cos) / 2 % math.pi


def _ring(light):
    return np.nan_to_num(simulate.ring_signal(torch.tensor(light)).numpy())
