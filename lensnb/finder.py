"""The lens finder: does an image show a gravitational lens at all?

A small network of LensNet's kind tells lenses of the broad prior, of all classes, from what is not
lensed: ellipticals, spirals, face-on rings, mergers and empty sky, simulated here at the same size,
PSF, noise and signal-to-noise. Its weights ship with the package, so that the shares of two people
compare. `python -m lensnb.finder FOLDER` trains it anew.
"""

import argparse
import hashlib
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional as F

from lensnb import store, train
from lensnb.errors import InputError
from lensnb.features import LensNet
from lensnb.priors import PRIORS, draw_truth, random_stream, whole_number
from lensnb.sampler import derived_seed
from lensnb.simulate import add_noise, psf_matrix, ring_signal, simulate, source_light

WEIGHTS = Path(__file__).with_name("weights") / "finder.safetensors"
PRIOR = PRIORS["broad"]         # how non-lenses are observed
FALSE_POSITIVES = 0.01          # share of non-lenses that the threshold lets pass
NON_LENS, LIGHT = 31, 3         # purpose of derived seeds; random stream beside those of a lens


# ---- what is not a lens

def sersic(x, y, at, radius, n, q=1.0, phi=0.0):
    """Sersic brightness, 1 at the radius [arcsec], about `at`; x (1, W), y (H, 1) to (H, W)."""
    row = {"x": at[0], "y": at[1], "radius": radius, "n": n, "q": q, "phi": phi}
    return source_light({f"source_{k}": np.array([v]) for k, v in row.items()}, PRIOR, x[None], y[None])[0]


def within(rng, reach):
    """A point, uniform in a disc of that radius."""
    r, angle = reach * math.sqrt(rng.random()), rng.uniform(0, 2 * math.pi)
    return r * math.cos(angle), r * math.sin(angle)


def polar(x, y, at, q, phi):
    """Elliptical radius, of the circle of equal area, and angle about `at`, each (H, W)."""
    along = (x - at[0]) * math.cos(phi) + (y - at[1]) * math.sin(phi)
    across = (y - at[1]) * math.cos(phi) - (x - at[0]) * math.sin(phi)
    return torch.sqrt(q * along**2 + across**2 / q + 1e-6), torch.atan2(across / q, along)


def elliptical(rng, x, y):
    """One Sersic galaxy, from a disc to a cusp."""
    return sersic(x, y, within(rng, 0.35), rng.uniform(0.6, 1.6), rng.uniform(0.7, 4), rng.uniform(0.4, 1), rng.uniform(0, math.pi))


def spiral(rng, x, y):
    """An exponential disc with two to four logarithmic arms, theta = ln r / tan(pitch), and a bulge."""
    at, q, phi = within(rng, 0.35), rng.uniform(0.4, 1), rng.uniform(0, math.pi)
    radius, pitch, hand = rng.uniform(0.7, 1.5), math.radians(rng.uniform(12, 35)), rng.choice([-1, 1])
    r, angle = polar(x, y, at, q, phi)
    wave = torch.cos(rng.integers(2, 5) * (angle - hand * torch.log(r) / math.tan(pitch)))
    arms = 1 - rng.uniform(0.5, 1) * (1 - wave) / 2
    bulge = sersic(x, y, at, rng.uniform(0.1, 0.3), rng.uniform(1, 3), max(q, 0.7), phi)
    return sersic(x, y, at, radius, 1.0, q, phi) * arms + rng.uniform(0, 3) * bulge


def ring(rng, x, y):
    """A ring galaxy seen nearly face-on, uneven along the ring, with or without a core: the hardest to tell."""
    at, q, phi = within(rng, 0.2), rng.uniform(0.7, 1), rng.uniform(0, math.pi)
    r, angle = polar(x, y, at, q, phi)
    rim = torch.exp(-((r - rng.uniform(0.7, 1.3)) / rng.uniform(0.08, 0.25)) ** 2 / 2)
    uneven = 1 + rng.uniform(0, 0.9) * torch.cos(rng.integers(1, 6) * angle + rng.uniform(0, 2 * math.pi))
    core = sersic(x, y, at, rng.uniform(0.1, 0.4), rng.uniform(1, 2), max(q, 0.7), phi)
    return rim * uneven + rng.integers(2) * rng.uniform(0.2, 1) * core


def merger(rng, x, y):
    """Two or three overlapping Sersic galaxies."""
    parts = [rng.uniform(0.3, 1) * sersic(x, y, within(rng, 1.2), rng.uniform(0.3, 1.1), rng.uniform(0.7, 2.5),
                                          rng.uniform(0.4, 1), rng.uniform(0, math.pi)) for _ in range(rng.integers(2, 4))]
    return sum(parts)


def group(rng, x, y):
    """Two to five small galaxies about an empty middle, drawn out more or less along a circle, as arcs are."""
    parts = []
    for _ in range(rng.integers(2, 6)):
        r, angle = rng.uniform(0.8, 1.6), rng.uniform(0, 2 * math.pi)
        along = angle + math.pi / 2 + rng.normal(0, 0.5)
        parts.append(rng.uniform(0.3, 1) * sersic(x, y, (r * math.cos(angle), r * math.sin(angle)), rng.uniform(0.25, 0.6),
                                                  rng.uniform(0.7, 2), rng.uniform(0.2, 0.7), along))
    return sum(parts)


def sky(rng, x, y):
    """Nothing but scattered light, faint and sloping."""
    slope = within(rng, 0.2)
    return 1 + slope[0] * x + slope[1] * y


KINDS = {f.__name__: f for f in (elliptical, spiral, ring, merger, group, sky)}


def non_lenses(n, seed=0, kinds=tuple(KINDS)):
    """n images without a lens (n, 1, 64, 64), float32, in units of the sky's deviation, the kinds in turn.

    Signal-to-noise and exposure are drawn as the broad prior draws them; the sky has up to 15 % of
    that signal. Image i depends on (seed, i) and its kind alone. Raises InputError for an unknown kind.
    """
    if unknown := set(kinds) - set(KINDS):
        raise InputError(f"kinds holds {sorted(unknown)[0]!r}, expected some of {', '.join(KINDS)}")
    seed = derived_seed(whole_number("seed", seed, 0), NON_LENS)
    truth = draw_truth(n, PRIOR, seed)
    spacing = PRIOR.pixel_scale / PRIOR.oversample
    axis = (torch.arange(PRIOR.size * PRIOR.oversample) + 0.5) * spacing - PRIOR.size * PRIOR.pixel_scale / 2
    blur = psf_matrix(PRIOR.size, PRIOR.oversample, PRIOR.psf_fwhm / math.sqrt(8 * math.log(2)) / spacing, PRIOR.psf_truncation)
    clean = torch.empty(n, PRIOR.size, PRIOR.size)
    for i in range(n):
        rng, kind = random_stream(seed, i, LIGHT), kinds[i % len(kinds)]
        image = blur @ KINDS[kind](rng, axis[None], axis[:, None]) @ blur.T
        signal = math.sqrt(2) * truth["snr"][i] * (rng.uniform(0, 0.15) if kind == "sky" else 1)
        clean[i] = image * (signal / ring_signal(image))
    return add_noise(clean, truth, PRIOR)[:, None].numpy()


# ---- the network

class Classifier(LensNet):
    """LensNet's body with a head of its own: images (N, 1, H, W) -> logits (N, classes) by `logits`."""

    def __init__(self, classes):
        super().__init__()
        self.head = nn.Linear(self.FEATURES, classes)

    def logits(self, x):
        """Logits (N, classes)."""
        return self.head(self(x))


class ClassifierTask:
    """One update of a Classifier by cross entropy, as the training loop wants it."""

    def __init__(self, net, steps, rate=2e-3):
        self.net = net
        self.optimiser = torch.optim.AdamW(net.parameters(), rate, weight_decay=0.01)
        self.rate = torch.optim.lr_scheduler.OneCycleLR(self.optimiser, rate, steps)
        self.parts = {"net": net, "optimiser": self.optimiser, "rate": self.rate}

    def step(self, k, x, target, generator):
        """Update once with images x (B, 1, H, W) and their classes (B, 1)."""
        loss = F.cross_entropy(self.net.logits(x), target[:, 0])
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.rate.step()
        return {"class": loss.item()}


@torch.inference_mode()
def lens_probability(net, x, batch=256):
    """Probability (N,), float64, that images x (N, 1, H, W) in the prior's units are lenses."""
    return torch.cat([net.logits(some).softmax(1)[:, 1] for some in x.split(batch)]).double().numpy()
