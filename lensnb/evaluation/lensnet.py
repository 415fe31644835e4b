"""Where distances between sets of images are measured: LensNet, a small frozen network.

LensNet was trained on the broad simulated prior to tell the class of substructure and to read the
lens and source parameters off an image. Its weights ship with the package, so that the distances
of two people compare. `python -m tools.train_lensnet FOLDER` trains it anew.
"""

from pathlib import Path

import safetensors.torch
import torch
from torch import nn
from torch.nn import functional as F

from lensnb import io
from lensnb.errors import InputError

WEIGHTS = Path(__file__).parents[1] / "weights" / "lensnet.safetensors"
CLASSES = 3
READS = ("theta_E", "q", "gamma", "source_radius", "snr")  # what is regressed, beside the class


class LensNet(nn.Module):
    """Images (N, 1, H, W) in the prior's units -> features (N, 64).

    The image is resampled to radius and angle; convolutions are circular in angle. Mean and amplitude
    of the quadrupole over the angle make the features blind to the orientation of the lens.
    """

    SIZE = 64
    RADII = 32
    ANGLES = 96
    FEATURES = 64

    def __init__(self):
        super().__init__()
        self.register_buffer("grid", self._polar_grid(), persistent=False)
        widths = (1, 32, 48, 96, 128)
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=1 if i == 0 else 2)
            for i, (a, b) in enumerate(zip(widths[:-1], widths[1:], strict=True))
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(w) for w in widths[1:])
        self.register_buffer("waves", self._waves(self.ANGLES // 8), persistent=False)
        self.project = nn.Linear(2 * widths[-1] * self.RADII // 8, self.FEATURES)
        self.head = nn.Linear(self.FEATURES, CLASSES + len(READS))

    def _polar_grid(self):
        radius = (torch.arange(self.RADII) + 0.5) / self.RADII * 0.95  # of half the image
        angle = torch.arange(self.ANGLES) * 2 * torch.pi / self.ANGLES
        return torch.stack([radius[:, None] * angle.cos(), radius[:, None] * angle.sin()], dim=-1)

    def _waves(self, angles):
        turn = torch.arange(angles) * 2 * torch.pi / angles
        return torch.stack([(2 * turn).cos(), (2 * turn).sin()], dim=1) / angles  # (angles, 2)

    def forward(self, x):
        x = (
            F.interpolate(x, (self.SIZE, self.SIZE), mode="bilinear", antialias=True)
            if x.shape[-1] != self.SIZE
            else x
        )
        x = torch.asinh(x / 3) / 2  # ring and noise both in view
        h = F.grid_sample(
            x, self.grid.expand(len(x), -1, -1, -1), mode="bicubic", align_corners=False
        )
        for conv, norm in zip(self.convs, self.norms, strict=True):  # (N, w, radii, angles)
            h = F.pad(F.pad(h, (1, 1, 0, 0), mode="circular"), (0, 0, 1, 1))
            h = F.relu(norm(conv(h)))
        quadrupole = (
            (h @ self.waves).square().sum(3) + 1e-6
        ).sqrt()  # its amplitude: (N, w, radii)
        return F.silu(self.project(torch.cat([h.mean(3), quadrupole], dim=1).flatten(1)))  # (N, 64)

    def read(self, x):
        """Class logits (N, 3) and standardised readings (N, 5) of the columns READS."""
        return self.head(self(x)).split([CLASSES, len(READS)], dim=1)


class Units:
    """The one rule that brings images of any unit to the network's: one affine map for a whole comparison.

    It takes the mean and standard deviation of the reference pixels to those of the broad prior, so
    that a generated set that is brighter than its reference stays brighter.
    """

    def __init__(self, reference):
        self.prior = io.read_json(WEIGHTS.with_suffix(".json"))["pixels"]
        self.mean = float(reference.mean(dtype="float64"))
        self.std = float(reference.std(dtype="float64"))

    def __call__(self, images):
        """Images (N, C, H, W) of the reference's unit -> tensor (N, 1, H, W) in the prior's."""
        grey = torch.tensor(images).float().mean(dim=1, keepdim=True)
        return (grey - self.mean) / self.std * self.prior["std"] + self.prior["mean"]


def load():
    """The shipped LensNet in evaluation mode; refuses weights whose sha256 is not the published one."""
    card = io.read_json(WEIGHTS.with_suffix(".json"))
    if io.sha256(WEIGHTS) != card["sha256"]:
        raise InputError(
            f"{WEIGHTS}: not the published weights (sha256 differs); install lensnb again"
        )
    net = LensNet()
    net.load_state_dict(safetensors.torch.load_file(WEIGHTS))
    return net.eval()


@torch.inference_mode()
def features(images, units, net=None, batch=256):
    """Features (N, 64), float64, of images (N, C, H, W); `units` is the comparison's Units."""
    net = net or load()
    return (
        torch.cat([net(units(images[i : i + batch])) for i in range(0, len(images), batch)])
        .double()
        .numpy()
    )


@torch.inference_mode()
def readings(images, units, net=None, batch=256):
    """What LensNet reads off images (N, C, H, W): column -> (N,), the class as a number, lengths in arcsec of the broad prior."""
    net = net or load()
    card = io.read_json(WEIGHTS.with_suffix(".json"))["held_out"]
    logits, scaled = (
        torch.cat(part)
        for part in zip(
            *(net.read(units(images[i : i + batch])) for i in range(0, len(images), batch)),
            strict=True,
        )
    )
    columns = {
        name: scaled[:, i].double() * card["prior_std"][name] + card["prior_mean"][name]
        for i, name in enumerate(READS)
    }
    return {
        "class": logits.argmax(1).numpy(),
        **{name: (c.exp() if name == "snr" else c).numpy() for name, c in columns.items()},
    }
