"""LensNet: the small frozen network in whose features distances between images are measured.

LensNet was trained on simulated lenses to tell the class of substructure and to read the lens and
source parameters off an image. Its weights ship with the package, so that two people's distances
can be compared. `python -m tools.train_lensnet FOLDER` trains it again.

There are two versions. Version 2 also says how a lens lies on the sky; distances of version 1 can
be repeated with `load(version=1)`. Distances of different versions must not be compared.
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
VERSION = 2  # of WEIGHTS; version 1 lies beside them
CLASSES = 3
CACHED = 32  # images at a time, whose maps stay in the cache of a CPU: more take twice as long
AT_A_TIME = 1024  # images at a time on other devices
READS = ("theta_E", "q", "gamma", "source_radius", "snr")  # regressed, beside the class
# What turns with the lens, each by two numbers: along x and along y, or cos 2 phi and sin 2 phi.
OFFSETS = ("source_offset", "centre")  # m = 1
STRETCHES = ("ellipticity", "shear", "source_ellipticity")  # m = 2
ORIENTED = tuple(f"{name}_{part}" for name in (*OFFSETS, *STRETCHES) for part in (1, 2))

Net = TypeVar("Net", bound=nn.Module)
T = TypeVar("T")
ToUnits = Callable[[Any], torch.Tensor]  # such as Units: images (N, C, H, W) -> (N, 1, H, W)


class LensNet(nn.Module):
    """Images (N, 1, H, W) in the prior's units -> features (N, 64).

    The image is resampled to radius and angle, and convolutions are circular in angle. Of the
    angle only the mean and the quadrupole's amplitude are kept, so that the features are blind to
    the orientation of the lens.
    """

    version = 1
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
            nn.Conv2d(a, b, 3, stride=1 if i == 0 else 2, padding=(1, 0))
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

    def maps(self, x: torch.Tensor, turned: torch.Tensor | None = None) -> torch.Tensor:
        """The last maps (N, 128, 4 radii, 12 angles) of images (N, 1, H, W).

        turned : orthogonal matrices (N, 2, 2), by which the images are turned and mirrored
        """
        if x.shape[-1] != self.SIZE:
            x = F.interpolate(x, (self.SIZE, self.SIZE), mode="bilinear", antialias=True)
        x = torch.asinh(x / 3) / 2  # shows both ring and noise
        grid = self.grid.expand(len(x), -1, -1, -1)
        if turned is not None:
            grid = grid @ turned[:, None]  # what was at v is then seen at (turned @ v)
        h = F.grid_sample(x, grid, mode="bicubic", align_corners=False)
        for conv, norm in zip(self.convs, self.norms, strict=True):  # (N, w, radii, angles)
            h = torch.cat([h[..., -1:], h, h[..., :1]], dim=3)  # angles go round, radii end
            h = F.relu(norm(conv(h)))
        return h

    def blind(self, h: torch.Tensor) -> torch.Tensor:
        """Features (N, 64) of the last maps, see `maps`."""
        amplitude = ((h @ self.waves).square().sum(3) + 1e-6).sqrt()  # quadrupole: (N, w, radii)
        return F.silu(self.project(torch.cat([h.mean(3), amplitude], dim=1).flatten(1)))  # (N, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features (N, 64) of images (N, 1, H, W)."""
        return self.blind(self.maps(x))

    def read(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Class logits (N, 3) and standardised readings (N, 5) of the columns READS."""
        return self.head(self(x)).split([CLASSES, len(READS)], dim=1)


class LensNet2(LensNet):
    """LensNet with a second output (N, 10) of the columns ORIENTED, which is not blind.

    The signed cosine and sine of m = 1 and m = 2 of the last maps are weighted alike. So the output
    turns as the lens turns: two numbers of m = 1 by the same angle, of m = 2 by twice the angle.
    """

    version = 2
    signed: torch.Tensor  # (angles, 4)

    def __init__(self) -> None:
        super().__init__()
        turn = torch.arange(self.ANGLES // 8) * 2 * torch.pi / (self.ANGLES // 8)
        waves = [turn.cos(), turn.sin(), (2 * turn).cos(), (2 * turn).sin()]
        self.register_buffer("signed", torch.stack(waves, dim=1) / len(turn), persistent=False)
        inputs = self.project.in_features // 2
        self.offsets = nn.Linear(inputs, len(OFFSETS), bias=False)
        self.stretches = nn.Linear(inputs, len(STRETCHES), bias=False)

    def oriented(self, h: torch.Tensor) -> torch.Tensor:
        """What turns with the lens (N, 10), in standard deviations of the prior, from `maps`."""
        waves = (h @ self.signed).flatten(1, 2).mT  # (N, 4, w * radii)
        offsets = self.offsets(waves[:, :2]).mT  # (N, 2 offsets, 2)
        stretches = self.stretches(waves[:, 2:]).mT  # (N, 3 stretches, 2)
        return torch.cat([offsets, stretches], dim=1).flatten(1)  # (N, 10)


NETWORKS = {1: LensNet, 2: LensNet2}


class Units:
    """The affine map that brings images of any unit to the network's, one for a whole comparison.

    It takes the mean and standard deviation of the reference pixels to the values of the broad
    prior. A generated set that is brighter than its reference stays brighter.
    """

    def __init__(self, reference: np.ndarray) -> None:
        self.prior = card_of()["pixels"]  # the same in all versions
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


def weights_of(version: int = VERSION) -> Path:
    """The file of a version's weights. Raises InputError for a version that there is not."""
    if version not in NETWORKS:
        raise InputError(f"LensNet has no version {version!r}, expected 1 or {VERSION}")
    return WEIGHTS if version == VERSION else WEIGHTS.with_name(f"lensnet-{version}.safetensors")


def card_of(version: int = VERSION) -> dict[str, Any]:
    """What is known of a version: how it was trained, its sha256, its errors on unseen images."""
    card: dict[str, Any] = io.read_json(weights_of(version).with_suffix(".json"))
    return card


def version_of(sha256: str) -> int | None:
    """The version whose weights have this sha256, as metrics.json records it; None if none has."""
    found = [version for version in NETWORKS if card_of(version)["sha256"] == sha256]
    return found[0] if found else None


def load(device: str | torch.device = "cpu", version: int = VERSION) -> LensNet:
    """The shipped LensNet of that version on a device, see `with_weights`."""
    weights = weights_of(version)
    return with_weights(NETWORKS[version](), weights).to(device)


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
        self._last: tuple[Any, tuple[torch.Tensor, ...]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_last": None}  # other processes get no images

    def _said_of(self, images: Any) -> tuple[torch.Tensor, ...]:
        """Features (N, 64), the head's numbers (N, 8) and, of version 2, ORIENTED; on the CPU."""
        if self._last is None or self._last[0] is not images:
            parts = outputs(images, self.units, self.net, self._all)
            said = tuple(torch.cat(part).cpu() for part in zip(*parts, strict=True))
            self._last = (images, said)
        return self._last[1]

    def _all(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        maps = self.net.maps(x)
        features = self.net.blind(maps)
        said = features, self.net.head(features)
        return (*said, self.net.oriented(maps)) if isinstance(self.net, LensNet2) else said

    def features(self, images: Any) -> np.ndarray:
        """Features (N, 64), float64."""
        found: np.ndarray = self._said_of(images)[0].double().numpy()
        return found

    def oriented(self, images: Any) -> np.ndarray:
        """The columns ORIENTED (N, 10), float64, in standard deviations of the broad prior.

        Raises InputError for version 1, which does not have them.
        """
        if not isinstance(self.net, LensNet2):
            raise InputError("LensNet 1 is blind to orientation, load version 2")
        found: np.ndarray = self._said_of(images)[2].double().numpy()
        return found

    def readings(self, images: Any) -> dict[str, np.ndarray]:
        """What LensNet reads off the images: "class" and READS -> (N,).

        The class is a number; lengths are in arcsec of the broad prior.
        """
        card = card_of(self.net.version)["held_out"]
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
