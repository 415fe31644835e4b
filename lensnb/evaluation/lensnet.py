"""LensNet: the small frozen network in whose features distances between images are measured.

LensNet was trained on the broad simulated prior to tell the class of substructure and to read the
lens and source parameters off an image. Its weights ship with the package, so that two people's
distances can be compared. `python -m tools.train_lensnet FOLDER` trains it again.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional as F

from lensnb import devices, io
from lensnb.errors import InputError

WEIGHTS = Path(__file__).parents[1] / "weights" / "lensnet.safetensors"
CLASSES = 3
CACHED = 32  # images at a time, whose maps stay in the cache of a CPU: more take twice as long
AT_A_TIME = 1024  # images at a time on other devices
READS = ("theta_E", "q", "gamma", "source_radius", "snr")  # regressed, beside the class

Net = TypeVar("Net", bound=nn.Module)
T = TypeVar("T")
ToUnits = Callable[[Any], torch.Tensor]  # such as Units: images (N, C, H, W) -> (N, 1, H, W)


class LensNet(nn.Module):
    """Images (N, 1, H, W) in the prior's units -> features (N, 64).

    The image is resampled to radius and angle, and convolutions are circular in angle. Of the
    angle only the mean and the quadrupole's amplitude are kept, so that the features are blind to
    the orientation of the lens.
    """

    SIZE = 64
    RADII = 32
    ANGLES = 96
    FEATURES = 64
    grid: torch.Tensor  # (radii, angles, 2)
    waves: torch.Tensor  # (angles, 2)

    def __init__(self) -> None:
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

    def _polar_grid(self) -> torch.Tensor:
        radius = (torch.arange(self.RADII) + 0.5) / self.RADII * 0.95  # of half the image
        angle = torch.arange(self.ANGLES) * 2 * torch.pi / self.ANGLES
        return torch.stack([radius[:, None] * angle.cos(), radius[:, None] * angle.sin()], dim=-1)

    def _waves(self, angles: int) -> torch.Tensor:
        turn = torch.arange(angles) * 2 * torch.pi / angles
        return torch.stack([(2 * turn).cos(), (2 * turn).sin()], dim=1) / angles  # (angles, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features (N, 64) of images (N, 1, H, W)."""
        if x.shape[-1] != self.SIZE:
            x = F.interpolate(x, (self.SIZE, self.SIZE), mode="bilinear", antialias=True)
        x = torch.asinh(x / 3) / 2  # shows both ring and noise
        grid = self.grid.expand(len(x), -1, -1, -1)
        h = F.grid_sample(x, grid, mode="bicubic", align_corners=False)
        for conv, norm in zip(self.convs, self.norms, strict=True):  # (N, w, radii, angles)
            h = F.pad(F.pad(h, (1, 1, 0, 0), mode="circular"), (0, 0, 1, 1))
            h = F.relu(norm(conv(h)))
        amplitude = ((h @ self.waves).square().sum(3) + 1e-6).sqrt()  # quadrupole: (N, w, radii)
        return F.silu(self.project(torch.cat([h.mean(3), amplitude], dim=1).flatten(1)))  # (N, 64)

    def read(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Class logits (N, 3) and standardised readings (N, 5) of the columns READS."""
        return self.head(self(x)).split([CLASSES, len(READS)], dim=1)


class Units:
    """The affine map that brings images of any unit to the network's, one for a whole comparison.

    It takes the mean and standard deviation of the reference pixels to the values of the broad
    prior. A generated set that is brighter than its reference stays brighter.
    """

    def __init__(self, reference: np.ndarray) -> None:
        self.prior = io.read_json(WEIGHTS.with_suffix(".json"))["pixels"]
        self.mean = float(reference.mean(dtype="float64"))
        self.std = float(reference.std(dtype="float64"))

    def __call__(self, images: np.ndarray) -> torch.Tensor:
        """Images (N, C, H, W) in the reference's unit -> tensor (N, 1, H, W) in the prior's."""
        grey = torch.tensor(images).float().mean(dim=1, keepdim=True)
        return (grey - self.mean) / self.std * self.prior["std"] + self.prior["mean"]


def with_weights(net: Net, weights: Path) -> Net:
    """The network with shipped weights, in evaluation mode.

    Raises InputError for weights of another sha256 than their card says.
    """
    if io.sha256(weights) != io.read_json(weights.with_suffix(".json"))["sha256"]:
        raise InputError(
            f"{weights}: not the published weights (sha256 differs); install lensnb again"
        )
    net.load_state_dict(safetensors.torch.load_file(weights))
    return net.eval()


def load(device: str | torch.device = "cpu") -> LensNet:
    """The shipped LensNet on a device, see `with_weights`."""
    return with_weights(LensNet(), WEIGHTS).to(device)


@torch.inference_mode()
def outputs(
    images: Any, units: ToUnits, net: nn.Module, of: Callable[[torch.Tensor], T]
) -> list[T]:
    """of(x) for the images in the prior's units x (B, 1, H, W), some at a time.

    x is where the network's weights are; float32 products are not rounded further there.
    """
    device = next(net.parameters()).device
    batch = CACHED if device.type == "cpu" else AT_A_TIME
    with devices.full_precision(device):
        return [of(units(images[i : i + batch]).to(device)) for i in range(0, len(images), batch)]


class Reader:
    """What LensNet says of images (N, C, H, W) in the units of a comparison.

    Several measures ask for the same images one after the other, so the last answer is kept.
    """

    def __init__(self, units: ToUnits, net: LensNet | None = None) -> None:
        self.units = units
        self.net = net or load()
        self._last: tuple[Any, torch.Tensor, torch.Tensor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_last": None}  # other processes get no images

    def _said_of(self, images: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (N, 64) and the head's numbers (N, 8), on the CPU."""
        if self._last is None or self._last[0] is not images:
            parts = outputs(images, self.units, self.net, self._both)
            features, heads = (torch.cat(part).cpu() for part in zip(*parts, strict=True))
            self._last = (images, features, heads)
        return self._last[1:]

    def _both(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.net(x)
        return features, self.net.head(features)

    def features(self, images: Any) -> np.ndarray:
        """Features (N, 64), float64."""
        found: np.ndarray = self._said_of(images)[0].double().numpy()
        return found

    def readings(self, images: Any) -> dict[str, np.ndarray]:
        """What LensNet reads off the images: "class" and READS -> (N,).

        The class is a number; lengths are in arcsec of the broad prior.
        """
        card = io.read_json(WEIGHTS.with_suffix(".json"))["held_out"]
        logits, scaled = self._said_of(images)[1].split([CLASSES, len(READS)], dim=1)
        found = {"class": logits.argmax(1).numpy()}
        for i, name in enumerate(READS):
            column = scaled[:, i].double() * card["prior_std"][name] + card["prior_mean"][name]
            found[name] = (column.exp() if name == "snr" else column).numpy()
        return found

    def table(self, images: Any) -> np.ndarray:
        """The readings as rows (N, 6): the class, and the columns READS."""
        return np.stack(list(self.readings(images).values()), axis=1)


def columns(table: np.ndarray) -> dict[str, np.ndarray]:
    """The rows of `Reader.table` as readings: "class" and READS -> (N,)."""
    return {"class": table[:, 0].astype(int)} | dict(zip(READS, table[:, 1:].T, strict=True))


def features(images: Any, units: ToUnits, net: LensNet | None = None) -> np.ndarray:
    """Features (N, 64), float64, of images (N, C, H, W); `units` is the comparison's Units."""
    return Reader(units, net).features(images)


def readings(images: Any, units: ToUnits, net: LensNet | None = None) -> dict[str, np.ndarray]:
    """What LensNet reads off images (N, C, H, W), see `Reader.readings`."""
    return Reader(units, net).readings(images)
