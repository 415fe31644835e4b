"""Inception's features, for comparison with published numbers.

Inception was made for photographs, not for lenses. The features are optional: they need
torch-fidelity and its weights, and are never replaced by anything else.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from lensnb import io
from lensnb.errors import InputError, one_line


def load(weights: str | Path | None, device: str | torch.device = "cpu") -> Any:
    """torch-fidelity's InceptionV3 with 2048 features, on a device.

    weights : the path of its .pth file, or "download".
    Raises InputError if torch-fidelity is not installed, and for a file that is not its weights.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError:
        raise InputError(
            "evaluate.inception: torch-fidelity is not installed; pip install torch-fidelity, "
            "or set it to null"
        ) from None
    path = None if weights == "download" else str(_harmless(io.locate(weights or "")))
    try:
        net = FeatureExtractorInceptionV3("lensnb", ["2048"], feature_extractor_weights_path=path)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"evaluate.inception: {weights}: not the weights of torch-fidelity's InceptionV3, or "
            f"not to be downloaded ({one_line(error, 120)})"
        ) from None
    return net.to(device)


def _harmless(path: str | Path) -> str | Path:
    """The path, if its file holds tensors and nothing else; raises InputError otherwise.

    torch-fidelity itself would execute code that the file holds.
    """
    if not Path(path).is_file():
        raise InputError(
            f"evaluate.inception: {path}: no such file; name torch-fidelity's weights, or download"
        )
    try:
        torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # torch raises many kinds for damaged and foreign files
        raise InputError(
            f"evaluate.inception: {path}: not a file of weights ({one_line(error, 120)})"
        ) from None
    return path


@torch.inference_mode()
def features(
    images: Any,
    low: float,
    high: float,
    net: Any,
    batch: int = 32,
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """Features (N, 2048), float64, of images (N, C, H, W).

    Pixels in [low, high] become 0..255; a single channel, or the mean of bands
    that are not three, is repeated three times.
    """
    found = []
    for at in range(0, len(images), batch):
        x = torch.from_numpy(np.asarray(images[at : at + batch], np.float32)).to(device)
        x = ((x - low) / (high - low) * 255).round().clamp(0, 255).to(torch.uint8)
        if x.shape[1] not in (1, 3):  # the network sees colours: other bands are averaged
            x = x.float().mean(dim=1, keepdim=True).round().to(torch.uint8)
        found.append(net(x.expand(-1, 3, -1, -1))[0])
    rows: np.ndarray = torch.cat(found).cpu().double().numpy()
    return rows
