"""Networks and their parts.

Importing this package fills its registries, except for the U-Net, which lensnb/unet.py registers.
"""

from lensnb.networks import dit, gan_deeplense, gan_r3
from lensnb.networks.registries import GAN_NETWORKS, NETWORKS, FromRecipe, GanNetworks

__all__ = [
    "GAN_NETWORKS",
    "NETWORKS",
    "FromRecipe",
    "GanNetworks",
    "dit",
    "gan_deeplense",
    "gan_r3",
]
