"""What a GAN's generator and discriminator want: their losses and gradient penalties.

cross_entropy : with smoothed labels (Salimans et al. 2016, arXiv:1606.03498), as in the DeepLense
GAN. relativistic : pairs of a real and a generated image (R3GAN; Huang et al. 2024,
arXiv:2501.05441). hinge : only images within a margin count (Lim & Ye 2017, arXiv:1705.02894). The
modern networks have no norm that bounds the discriminator. So they take zero-centred gradient
penalties on real and on generated images with any loss.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from lensnb.networks import GAN_NETWORKS
from lensnb.registry import Registry

# Losses of logits ---------------------------------------------------------------------------------


def smoothed(logits: torch.Tensor, real: bool, smoothing: float) -> torch.Tensor:
    """Cross entropy of logits against the label 1 - smoothing (real) or smoothing (generated)."""
    label = torch.full_like(logits, 1 - smoothing if real else smoothing)
    return F.binary_cross_entropy_with_logits(logits, label)


def pairing(better: torch.Tensor, worse: torch.Tensor) -> torch.Tensor:
    """Relativistic pairing loss of logits of equal shape.

    softplus(-(better - worse)) (R3GAN, eq. 2).
    """
    return F.softplus(worse - better).mean()


def hinge(logits: torch.Tensor, real: bool) -> torch.Tensor:
    """Mean of how far logits fall short of the margin, 1 for real images and -1 for generated.

    max(0, 1 - logit) or max(0, 1 + logit) (Lim & Ye 2017, arXiv:1705.02894).
    """
    return F.relu(1 - logits if real else 1 + logits).mean()


# What the two networks want -----------------------------------------------------------------------


@dataclass(frozen=True)
class Losses:
    """The losses of both networks, scalars from logits of real and of generated images.

    discriminator(real, fake, smoothing), generator(real, fake)
    """

    discriminator: Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]
    generator: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _entropy_discriminator(
    real: torch.Tensor, fake: torch.Tensor, smoothing: float
) -> torch.Tensor:
    return smoothed(real, True, smoothing) + smoothed(fake, False, smoothing)


def _entropy_generator(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    return smoothed(fake, True, 0)  # the generator aims at the label 1 itself


def _pairing_discriminator(
    real: torch.Tensor, fake: torch.Tensor, smoothing: float
) -> torch.Tensor:
    return pairing(real, fake)


def _pairing_generator(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    return pairing(fake, real.detach())


def _hinge_discriminator(real: torch.Tensor, fake: torch.Tensor, smoothing: float) -> torch.Tensor:
    return hinge(real, True) + hinge(fake, False)


def _hinge_generator(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    return -fake.mean()  # no margin: the generator never has enough


LOSSES: Registry[Losses] = Registry("loss of GANs")
LOSSES.add("cross_entropy", Losses(_entropy_discriminator, _entropy_generator))
LOSSES.add("relativistic", Losses(_pairing_discriminator, _pairing_generator))
LOSSES.add("hinge", Losses(_hinge_discriminator, _hinge_generator))


def losses_of(settings: Any) -> Losses:
    """The losses that a recipe's gan section names, or the losses of its kind of GAN."""
    own = GAN_NETWORKS.find(settings.kind, "gan.kind").loss
    return LOSSES.find(settings.loss or own, "gan.loss")


# Gradient penalties -------------------------------------------------------------------------------


def steepness(logits: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Squared norm of the logits' gradient at the images x (B, C, H, W), summed over the images.

    It is R1 at real images and R2 at generated ones, if an image's logit depends only on that
    image. With minibatch statistics, it has the slopes of the other logits of the group, too.
    """
    (slope,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    return slope.square().sum()


def penalty(k: int, settings: Any) -> float:
    """Weight gamma of the gradient penalties at step k, 0 for none.

    settings : a recipe's gan section. Gamma falls geometrically from `penalty` to `penalty_end`
    during the training. Only every `penalty_every`-th step computes penalties, with as many times
    the weight.
    """
    if not GAN_NETWORKS.find(settings.kind).penalised or k % settings.penalty_every:
        return 0
    fall = (settings.penalty_end / settings.penalty) ** (k / settings.steps)
    return float(settings.penalty * fall * settings.penalty_every)
