"""The sky of an image: its level, its slope, its stripes. Images (N, C, H, W) in, rows (N, d) out.

All are read off the frame along the border that a lens in the middle leaves free. Each pixel of it
counts by at most CLIP deviations, so that a bright arc in the frame pulls little.
"""

from typing import Any

import numpy as np

from lensnb.evaluation.image_stats import above_sky, common, frame, in_chunks

CLIP = 3  # standard deviations of the sky


@in_chunks(256)
def sky_level(images: Any) -> np.ndarray:
    """Median of the frame along the border: (N, 1), in the images' unit."""
    return above_sky(images)[1][:, 0]


@common
def _sky_deviations(images: Any) -> tuple[np.ndarray, np.ndarray]:
    """Maps (n, H, W) above the sky in deviations of the sky, clipped; and the frame (H, W)."""
    above, _, scatter = above_sky(images)
    apart = np.divide(above, scatter, out=np.zeros_like(above), where=scatter > 0)
    return apart.clip(-CLIP, CLIP), frame(above.shape[1:])


@in_chunks(256)
def sky_gradient(images: Any) -> np.ndarray:
    """Rise of the sky from edge to edge along x and along y: (N, 2), in deviations of the sky.

    Least squares on the frame, whose symmetry makes both slopes independent. White noise alone
    scatters by 0.07 at 64 pixels.
    """
    apart, free = _sky_deviations(images)
    height, width = free.shape
    y, x = np.meshgrid(
        (np.arange(height) - (height - 1) / 2) / height,
        (np.arange(width) - (width - 1) / 2) / width,
        indexing="ij",
    )
    return np.stack([apart[:, free] @ u[free] / (u[free] ** 2).sum() for u in (x, y)], axis=1)


@in_chunks(256)
def sky_stripes(images: Any) -> np.ndarray:
    """Variance of the means of rows and of columns, over that of white noise: (N, 2).

    The means are those of the frame's two sides. Half the mean square difference of neighbouring
    means is their variance if each stripe is one pixel wide; slow changes, such as light at the
    border, do not enter (von Neumann 1941). White noise gives 1, neighbours that are alike less.
    """
    apart, free = _sky_deviations(images)
    side = max(free.shape[1] // 8, 1)
    found = []
    for maps in (apart, apart.swapaxes(1, 2)):
        means = np.concatenate([maps[:, :, :side], maps[:, :, -side:]], axis=2).mean(2)
        found.append(side * (np.diff(means, axis=1) ** 2).mean(1))  # 2 side pixels, over 2
    return np.stack(found, axis=1)
