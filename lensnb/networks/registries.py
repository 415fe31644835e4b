"""The networks that a recipe may name.

A network of the diffusion model is a class, registered in NETWORKS where it is defined:

    net(x, c_noise, context) : x (B, C, H, W), c_noise (B,), context (B, K) or None -> (B, C, H, W)

Its constructor takes `channels`, `context` (length K, 0 for none) and keys of a recipe's model
section. It has the classmethods of `FromRecipe`.
"""

import inspect
from dataclasses import dataclass
from typing import Any

from torch import nn

from lensnb.registry import Registry

# Constructor arguments that the images give, and no recipe.
OF_THE_IMAGES = ("size", "channels", "context", "low", "high")


def of_section(cls: type, section: Any) -> dict[str, Any]:
    """The constructor arguments of a network that its section of a recipe gives, by name."""
    names = inspect.signature(cls).parameters
    return {n: getattr(section, n) for n in names if n not in OF_THE_IMAGES}


class FromRecipe:
    """What a class in NETWORKS answers about a recipe's model section."""

    @classmethod
    def options(cls, section: Any) -> dict[str, Any]:
        """The constructor arguments that the section gives, by name."""
        return of_section(cls, section)

    @classmethod
    def divisor(cls, section: Any) -> int:
        """The number that the image size must be a multiple of."""
        return int(section.patch)


@dataclass(frozen=True)
class GanNetworks:
    """The two networks of a GAN, as classes.

    Generator(size, channels, latent, width, context, low, high) : has `shapes`, the shapes of the
    noise that an image is made of; called with the noise and a context (B, K) or None
    Discriminator(size, channels, width, context) : called with images and a context -> logits
    Both may take further keys of a recipe's gan section, see `of_section`.
    loss : its own loss, a key of `gan.LOSSES`; penalised : whether the discriminator's gradients
    are penalised, see `gan.penalty`
    """

    Generator: type[nn.Module]
    Discriminator: type[nn.Module]
    loss: str = "cross_entropy"
    penalised: bool = False


NETWORKS: Registry[Any] = Registry("network")
GAN_NETWORKS: Registry[GanNetworks] = Registry("kind of GAN")
