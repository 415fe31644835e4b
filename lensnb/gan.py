"""The GAN's task in the training loop: what generator and discriminator want, and one update of both.

published : cross entropy with smoothed labels (Salimans et al. 2016, arXiv:1606.03498), as in the
DeepLense GAN; modern : the relativistic pairing loss with zero-centred gradient penalties on real and
on generated images (R3GAN; Huang et al. 2024, arXiv:2501.05441).
"""

import torch
from torch.nn import functional as F

# What the two want: (logits of real images, of generated ones) -> a scalar --------------------------


def smoothed(logits, real, smoothing):
    """Cross entropy of logits against the label 1 - smoothing (real) or smoothing (generated)."""
    return F.binary_cross_entropy_with_logits(
        logits, torch.full_like(logits, 1 - smoothing if real else smoothing)
    )


def pairing(better, worse):
    """Relativistic pairing loss of logits of equal shape: softplus(-(better - worse)) (R3GAN, eq. 2)."""
    return F.softplus(worse - better).mean()


LOSSES = {  # (critic, generator); the published generator aims at the label 1 itself
    "published": (
        lambda real, fake, smoothing: (
            smoothed(real, True, smoothing) + smoothed(fake, False, smoothing)
        ),
        lambda real, fake: smoothed(fake, True, 0),
    ),
    "modern": (
        lambda real, fake, smoothing: pairing(real, fake),
        lambda real, fake: pairing(fake, real.detach()),
    ),
}


def steepness(logits, x):
    """Squared norm of the logits' gradient at the images x (B, C, H, W), added up over them: R1 and R2 where x holds real and generated ones."""
    (slope,) = torch.autograd.grad(
        logits.sum(), x, create_graph=True
    )  # an image's logit depends on that image alone
    return slope.square().sum()


def penalty(k, settings):
    """Weight gamma of the penalties at step k: it falls along the training, and what is computed at every few steps weighs as much more."""
    if settings.kind != "modern" or k % settings.penalty_every:
        return 0
    return (
        settings.penalty
        * (settings.penalty_end / settings.penalty) ** (k / settings.steps)
        * settings.penalty_every
    )
