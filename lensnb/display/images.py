"""Figures made of images: galleries, strips, noise levels and an animation.

All images of one figure share one asinh stretch, so that faint arcs and bright cores are both seen.
Three bands become a colour picture, any other number stands side by side (`stretch.picture`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lensnb.display.stretch import (
    Span,
    arranged,
    colour_bar,
    is_colour,
    limits,
    picture,
    shown_sets,
    side_by_side,
)
from lensnb.display.style import colour, has_colour, styled


@styled
def gallery(
    rows: Mapping[str, np.ndarray],
    columns: int = 8,
    pixel_scale: float | None = None,
    span: Span | None = None,
) -> Figure:
    """Rows of images under one asinh stretch, with a colour bar for images in one colour.

    rows : label -> images (N, C, H, W), of which the first `columns` panels are shown; labels
        without images are left out, and of many labels those behind the first MOST_SETS
    pixel_scale : arcsec a pixel; where it is given, a bar of one arcsecond is drawn
    span : (low, high) of the stretch; `limits` of the first row if not given.
    """
    rows, left_out = shown_sets(rows)
    span = span or limits(next(iter(rows.values())))
    figure, axes = _sheet(list(rows.values()), columns, span, pixel_scale)
    if left_out:
        figure.text(0.5, 0.1, left_out, ha="center", va="top", fontsize=8)
    for axis, label in zip(axes[:, 0], rows, strict=True):
        shade = colour(label.lower()) if label.lower() == "real" else colour(label)
        _row_label(axis, label, color=shade if has_colour(label) else "black")
    if not any(is_colour(images) for images in rows.values()):
        colour_bar(figure, axes, span)
    return figure


@styled
def progress(steps: Sequence[float], frames: np.ndarray, rows: int = 4, columns: int = 8) -> Figure:
    """Images drawn along a training from the same latents, one row a step.

    steps : the step of each frame; frames : (F, N, C, H, W), of which at most `rows` are shown.
    """
    shown = _evenly(len(frames), rows)
    figure, axes = _sheet(list(frames[shown]), columns, limits(frames[-1]))
    for axis, f in zip(axes[:, 0], shown, strict=True):
        _row_label(axis, f"{int(steps[f]):,} steps", fontsize=7)
    return figure


@styled
def walk(
    table: Mapping[str, Any],
    frames: np.ndarray,
    images: int = 3,
    columns: int = 9,
    span: Span | None = None,
) -> Figure:
    """A few images (rows) at moments (columns) of a walk through the latent space.

    table : columns of frames.csv, with the angle of each frame in degrees
    frames : (F, N, C, H, W).
    """
    shown = _evenly(len(frames), _fewer(columns, frames))
    lines = [frames[shown, image] for image in range(min(images, frames.shape[1]))]
    figure, axes = _sheet(lines, columns, span or limits(frames))
    for axis, f in zip(axes[0], shown, strict=False):
        axis.set_title(_angle(table["angle_deg"][f]), fontsize=7)
    return figure


def _angle(degrees: float) -> str:
    """An angle to ten degrees, marked where it is rounded.

    >>> _angle(46.15), _angle(360.0)
    ('≈ 50°', '360°')
    """
    tens = round(degrees, -1)
    return f"{'' if abs(degrees - tens) < 0.05 else '≈ '}{tens:.0f}°"


@styled
def filmstrip(
    table: Mapping[str, Any],
    x: np.ndarray,
    x0: np.ndarray,
    image: int = 0,
    frames: int = 8,
    span: Span | None = None,
) -> Figure:
    """How one image comes about, in at most `frames` moments.

    table : columns of frames.csv, with the noise level (sigma) or the angle of each frame
    x : states (F, N, C, H, W) in model units, shown above
    x0 : predicted images (F, N, C, H, W) in the user's units, shown below.
    """
    shown = _evenly(len(x), _fewer(frames, x))
    figure, axes = _grid(2, len(shown), (1.1 * len(shown) * side_by_side(x), 2.45), gap=0.04)
    span = span or limits(x0[-1])
    key = next(k for k in table if k != "step")
    for (above, below), f in zip(axes.T, shown, strict=True):
        _show_linear(above, x[f, image], (-1.5, 1.5))
        _show(below, x0[f, image], span)
        place = table[key][f]
        title = rf"$\sigma$ = {place:.2g}" if key == "sigma" else f"{place:.0f}°"
        above.set_title(title, fontsize=7)
    _row_label(axes[0][0], "state $x$")
    _row_label(axes[1][0], "predicted $x_0$")
    return figure


@styled
def noise_levels(sigmas: Sequence[float], x: np.ndarray, span: Span = (-1, 1)) -> Figure:
    """Images x (F, C, H, W) at the noise levels `sigmas`, each scaled to unit variance."""
    shown = _evenly(len(x), _fewer(len(x), x))
    figure, axes = _grid(1, len(shown), (1.1 * len(shown) * side_by_side(x), 1.35), gap=0.04)
    for axis, f in zip(axes[0], shown, strict=True):
        sigma, image = sigmas[f], x[f]
        _show_linear(axis, image, span)
        axis.set_title(rf"$\sigma$ = {sigma:.2g}", fontsize=7)
    return figure


@styled
def siblings(names: Sequence[str], images: np.ndarray, pixel_scale: float | None = None) -> Figure:
    """Images (N, 1, H, W) under one stretch, then the difference of each to the first.

    The differences are shares of the first image's brightest pixel.
    """
    peak = float(images[0].max())
    panels = 2 * len(images) - 1
    figure, axes = plt.subplots(1, panels, figsize=(2.1 * len(images), 1.5), layout="constrained")
    for axis, label, image in zip(axes, names, images, strict=False):
        _show(axis, image, (0, peak), pixel_scale)
        axis.set_title(label, fontsize=8)
    for axis, label, image in zip(axes[len(images) :], names[1:], images[1:], strict=True):
        difference = (image - images[0])[0] / peak
        shown = axis.imshow(difference, origin="lower", cmap="RdBu_r", vmin=-0.5, vmax=0.5)
        _bare(axis)
        axis.set_title(f"{label} - {names[0]}", fontsize=8)
    figure.colorbar(shown, ax=axes[-1], label="share of the peak", ticks=[-0.5, 0, 0.5])
    return figure


def animation(
    frames: np.ndarray,
    path: str | Path | IO[bytes],
    columns: int = 8,
    zoom: int = 2,
    seconds: float = 0.4,
) -> None:
    """Save frames (F, N, C, H, W) as a GIF with `columns` images in a row.

    Each frame is shown for `seconds`, the last one for three seconds.
    """
    from PIL import Image

    sheets = _sheets(frames, _fewer(columns, frames))
    colours = (plt.get_cmap("inferno")(np.linspace(0, 1, 256))[:, :3] * 255).astype(np.uint8)
    pages = []
    for sheet in sheets:
        values = (sheet * 255).round().astype(np.uint8)
        small = Image.fromarray(values, mode="P" if sheet.ndim == 2 else "RGB")
        page = small.resize(
            (zoom * sheet.shape[1], zoom * sheet.shape[0]), Image.Resampling.NEAREST
        )
        if sheet.ndim == 2:
            page.putpalette(colours.tobytes())
        pages.append(page)
    pages[0].save(
        path,
        "GIF",
        save_all=True,
        append_images=pages[1:],
        loop=0,
        duration=[1000 * seconds] * (len(pages) - 1) + [3000],
    )


def _sheets(frames: np.ndarray, columns: int) -> np.ndarray:
    """Frames (F, N, C, H, W) as sheets (F, rows * H, columns * W) in [0, 1], in colour (..., 3).

    Images that fill no whole row are left out.
    """
    rows = frames.shape[1] // columns
    pictures = picture(frames[:, : rows * columns], *limits(frames[-1]))
    pictures = pictures[:, :, ::-1]  # (F, N, H, W, ...), origin below
    f, _, h, w, *colours = pictures.shape
    tiles = pictures.reshape(f, rows, columns, h, w, *colours)
    return tiles.swapaxes(2, 3).reshape(f, rows * h, columns * w, *colours)


def _evenly(count: int, most: int) -> np.ndarray:
    """At most `most` evenly spaced indices of 0..count-1, the first and the last among them."""
    return np.linspace(0, count - 1, min(most, count)).round().astype(int)


def _fewer(columns: int, images: np.ndarray) -> int:
    """How many images (..., C, H, W) stand in a row of `columns` panels, two at least."""
    return columns if side_by_side(images) == 1 else max(2, columns // side_by_side(images))


def _grid(
    rows: int, columns: int, size: tuple[float, float], gap: float = 0.03
) -> tuple[Figure, np.ndarray]:
    """A figure of `size` inches with (rows, columns) axes that nearly touch."""
    return plt.subplots(
        rows,
        columns,
        figsize=size,
        squeeze=False,
        gridspec_kw={"wspace": gap, "hspace": gap},
    )


def _sheet(
    lines: Sequence[np.ndarray], columns: int, span: Span, pixel_scale: float | None = None
) -> tuple[Figure, np.ndarray]:
    """A grid of images, one row for each (N, C, H, W) of `lines`.

    Places without an image stay empty.
    """
    columns = _fewer(columns, lines[0])
    width = columns * side_by_side(lines[0]) + 0.5
    figure, axes = _grid(len(lines), columns, (width, 1.02 * len(lines)))
    for row, images in zip(axes, lines, strict=True):
        for i, axis in enumerate(row):
            if i < len(images):
                _show(axis, images[i], span, pixel_scale if i == 0 else None)
            else:
                axis.axis("off")
    return figure, axes


def _show(axis: Axes, image: np.ndarray, span: Span, pixel_scale: float | None = None) -> None:
    """Show an image (C, H, W) under the stretch of `span`, with a bar of one arcsecond."""
    shown = picture(image, *span)  # (H, W), or in colour (H, W, 3)
    axis.imshow(shown, origin="lower", vmin=0, vmax=1, interpolation="nearest")
    _bare(axis)
    if pixel_scale:
        _scale_bar(axis, image.shape[-1], pixel_scale)


def _show_linear(axis: Axes, image: np.ndarray, span: Span) -> None:
    """Show an image (C, H, W) linearly between the two values of `span`."""
    low, high = span
    shown = arranged(((image - low) / (high - low)).clip(0, 1))
    axis.imshow(shown, origin="lower", vmin=0, vmax=1)
    _bare(axis)


def _bare(axis: Axes) -> None:
    """Take away ticks and frame."""
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)


def _row_label(axis: Axes, text: str, **style: Any) -> None:
    """A label to the left of a row of images, written horizontally."""
    axis.set_ylabel(text, rotation=0, ha="right", va="center", **style)


def _scale_bar(axis: Axes, size: int, pixel_scale: float) -> None:
    """A bar of one arcsecond in the lower left corner of an image of `size` pixels."""
    left = 0.06 * size
    length = 1 / pixel_scale
    axis.plot([left, left + length], [0.07 * size] * 2, color="white", lw=1.5)
    axis.text(
        left + length / 2,
        0.1 * size,
        '1"',
        color="white",
        ha="center",
        va="bottom",
        fontsize=7,
    )
