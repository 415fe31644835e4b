"""What a GAN's generator and discriminator want: their losses and gradient penalties.

published : cross entropy with smoothed labels (Salimans et al. 2016, arXiv:1606.03498), as in the
DeepLense GAN. modern : the relativistic pairing loss with zero-centred gradient penalties on real
and on generated images (R3GAN; Huang et al. 2024, arXiv:2501.05441).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

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


# What the two networks want -----------------------------------------------------------------------


@dataclass(frozen=True)
class Losses:
    """The losses of one kind of GAN, scalars from logits of real and of generated images.

    discriminator(real, fake, smoothing), generator(real, fake)
    penalised : whether the discriminator's gradients are penalised, see `penalty`
    """

    discriminator: Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]
    generator: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    penalised: bool = False


def _published_discriminator(
    real: torch.Tensor, fake: torch.Tensor, smoothing: float
) -> torch.Tensor:
    return smoothed(real, True, smoothing) + smoothed(fake, False, smoothing)


def _published_generator(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    return smoothed(fake, True, 0)  # the generator aims at the label 1 itself


def _modern_discriminator(real: torch.Tensor, fake: torch.Tensor, smoothing: float) -> torch.Tensor:
    return pairing(real, fake)


def _modern_generator(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    return pairing(fake, real.detach())


LOSSES: Registry[Losses] = Registry("kind of GAN")
LOSSES.add("published", Losses(_published_discriminator, _published_generator))
LOSSES.add("modern", Losses(_modern_discriminator, _modern_generator, penalised=True))


# Gradient penalties -------------------------------------------------------------------------------


def steepness(logits: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Squared norm of the logits' gradient at the images x (B, C, H, W), summed over the images.

    It is R1 at real images and R2 at generated ones. An image's logit must depend only on
    that image.
    """
    (slope,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    return slope.square().sum()


def penalty(k: int, settings: Any) -> float:
    """Weight gamma of the gradient penalties at step k, 0 for none.

    settings : a recipe's gan section. Gamma falls geometrically from `penalty` to `penalty_end`
    during the training. Only every `penalty_every`-th step computes penalties, with as many times
    the weight.
    """
    if not LOSSES.find(settings.kind).penalised or k % settings.penalty_every:
        return 0
    fall = (settings.penalty_end / settings.penalty) ** (k / settings.steps)
    return float(settings.penalty * fall * settings.penalty_every)
