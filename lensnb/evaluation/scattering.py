"""Wavelet scattering: mean moduli of an image filtered by Morlet wavelets, once and twice."""

import functools
from typing import Any

import numpy as np
import torch

from lensnb.evaluation.image_stats import grey

CACHED = 8  # images at a time, whose maps stay in the cache of a CPU
AT_A_TIME = 512  # images at a time on other devices: about 2 GiB
TINY = torch.finfo(torch.float32).tiny


@functools.lru_cache
def wavelets(size: int, scales: int, orientations: int = 4) -> torch.Tensor:
    """Fourier transforms of Morlet wavelets on a periodic grid: (scales, orientations, size, size).

    float32. A wavelet is a plane wave of 3 pi / 4 / 2^j radians a pixel under a Gaussian of
    0.8 * 2^j pixels, less the part that gives it a mean (Bruna & Mallat 2013, arXiv:1203.1513;
    parameters of kymatio for 4 orientations). Its height is about 1.
    """
    # frequencies with their aliases on both sides
    k = (2 * np.pi * (np.fft.fftfreq(size) + np.array([[-1], [0], [1]]))).ravel()

    def gaussian(width: float, x: float, y: float) -> np.ndarray:
        spectrum = np.exp(-(width**2) * ((k[:, None] - y) ** 2 + (k - x) ** 2) / 2)
        return spectrum.reshape(3, size, 3, size).sum((0, 2))  # aliases fold onto one grid

    bank = np.empty((scales, orientations, size, size), np.float32)
    for j in range(scales):
        width = 0.8 * 2**j
        wave = 0.75 * np.pi / 2**j
        envelope = gaussian(width, 0, 0)
        for turn in range(orientations):
            angle = np.pi * turn / orientations
            gabor = gaussian(width, wave * np.cos(angle), wave * np.sin(angle))
            bank[j, turn] = gabor - gabor[0, 0] / envelope[0, 0] * envelope
    return torch.from_numpy(bank)


def _moduli(spectra: torch.Tensor, bank: torch.Tensor) -> torch.Tensor:
    """Moduli of maps, given as spectra (..., 1, H, W), filtered by a bank (..., H, W)."""
    return torch.fft.ifft2(spectra * bank).abs()


def _low(spectra: torch.Tensor, half: int) -> torch.Tensor:
    """The lowest 2 * half frequencies in both directions."""
    kept = torch.arange(-half, half, device=spectra.device).roll(half)
    return spectra[..., kept, :][..., kept]


def _by_angle(count: int) -> torch.Tensor:
    """Weights (count^2, count // 2 + 1): means over pairs of orientations with the same angle."""
    turn = (torch.arange(count)[:, None] - torch.arange(count)).abs()
    same = torch.minimum(turn, count - turn).flatten()[:, None] == torch.arange(count // 2 + 1)
    return same / same.sum(0)


def _second_order(spectra: torch.Tensor, bank: torch.Tensor, half: int) -> torch.Tensor:
    """Mean second moduli by the angle between two wavelets: (n, L // 2 + 1).

    spectra : of the first moduli (n, L, H, W); bank : the wavelets of one scale (L, H, W).
    Frequencies beyond `half` are left out. The wavelets are zero there, and a coarser map has the
    same mean (to 2e-4 dex).
    """
    coarse = _moduli(_low(spectra, half)[:, :, None], _low(bank, half))  # (n, L, L, 2 half, 2 half)
    means = coarse.mean((-2, -1)) * (2 * half / spectra.shape[-1]) ** 2
    return means.flatten(1) @ _by_angle(len(bank)).to(means)


def scattering(
    images: Any,
    scales: int | None = None,
    orientations: int = 4,
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """log10 of mean wavelet moduli of first and second order, over pixels and orientations: (N, d).

    |x * psi_j| for each of J scales comes first, in the images' unit. Then comes
    ||x * psi_j| * psi_k| / |x * psi_j| for each j < k, by the angle between the two wavelets (0,
    45, 90 degrees). J is log2(size) - 2 unless given: at 64 pixels J = 4 and d = 4 + 6 * 3. A
    modulus of 0 counts as the smallest positive float.
    """
    chunk = CACHED if torch.device(device).type == "cpu" else AT_A_TIME
    parts = (images[i : i + chunk] for i in range(0, len(images), chunk))
    rows = [_scattering(some, scales, orientations, device) for some in parts]
    return torch.cat(rows).cpu().double().clamp(min=TINY).log10().numpy()


def _scattering(
    images: Any, scales: int | None, orientations: int, device: str | torch.device
) -> torch.Tensor:
    """The means behind `scattering` (n, d), on the device."""
    grey_maps = grey(images)
    maps = torch.from_numpy(grey_maps - grey_maps.mean((1, 2), keepdims=True)).float().to(device)
    size = maps.shape[-1]
    scales = scales or max(int(np.log2(size)) - 2, 1)
    bank = wavelets(size, scales, orientations).to(device)
    first = _moduli(torch.fft.fft2(maps)[:, None, None], bank)  # (n, J, L, H, W)
    means = first.mean((-3, -2, -1))  # (n, J)
    spectra = torch.fft.fft2(first)  # (n, J, L, H, W)
    second = [
        _second_order(spectra[:, j], bank[k], size >> max(k, 1)) / means[:, j, None].clamp(min=TINY)
        for j in range(scales)
        for k in range(j + 1, scales)
    ]
    return torch.cat([means, *second], 1)
