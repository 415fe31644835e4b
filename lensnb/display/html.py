"""Pictures and curves as HTML text that needs no other file; the widgets show them."""

import base64
import html
import io
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np

# Grey levels of images, and of noise, which compresses badly and needs fewer. No eye sees more.
FINE = 32
COARSE = 8


def png(tiles: Any, levels: int = FINE) -> bytes:
    """Tiles (rows, columns, H, W) in [0, 1] as one palette PNG, with a gap between tiles.

    Tiles of colour are (rows, columns, H, W, 3); they get a palette of their own.
    """
    from PIL import Image

    if np.ndim(tiles) == 5:
        return _colour_png(np.asarray(tiles))
    grey = (np.asarray(tiles).clip(0, 1) * (levels - 1)).round().astype(np.uint8)
    padded = np.pad(grey, ((0, 0), (0, 0), (1, 1), (1, 1)))
    padded = padded[:, :, ::-1]  # origin below, as in the figures
    image = Image.fromarray(_sheet(padded), mode="P")
    colours = matplotlib.colormaps["inferno"](np.linspace(0, 1, levels))[:, :3]
    image.putpalette((colours * 255).astype(np.uint8).tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True, bits=(levels - 1).bit_length())
    return buffer.getvalue()


def _sheet(tiles: np.ndarray) -> np.ndarray:
    """Tiles (rows, columns, H, W, ...) as one array (rows * H, columns * W, ...)."""
    return np.concatenate([np.concatenate(list(row), axis=1) for row in tiles], axis=0)


def _colour_png(tiles: np.ndarray) -> bytes:
    from PIL import Image

    colours = (tiles.clip(0, 1) * 255).round().astype(np.uint8)
    padded = np.pad(colours, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)))[:, :, ::-1]
    image = Image.fromarray(_sheet(padded), mode="RGB").quantize(128, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def picture(tiles: Any, alt: str, zoom: int = 2, levels: int = FINE) -> str:
    """An <img> of tiles (rows, columns, H, W), in colour (rows, columns, H, W, 3), in [0, 1].

    alt : its alternative text; zoom : screen pixels a pixel.
    """
    tiles = np.asarray(tiles)
    data = base64.b64encode(png(tiles, levels)).decode()
    width = zoom * tiles.shape[1] * (tiles.shape[3] + 2)
    return (
        f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{data}" '
        f'style="width:{width}px;max-width:100%;image-rendering:pixelated">'
    )


def overlaid(picture: str, curves: Sequence[tuple[np.ndarray, str, str]], size: int) -> str:
    """A `picture` of one tile with curves over it.

    curves : each ((K, 2) in pixels of the tile, colour, name); size : pixels on a side of the tile.
    """
    lines = "".join(
        f'<polyline points="{_points(points, size)}" stroke="{colour}" fill="none" '
        'stroke-width="1.5" vector-effect="non-scaling-stroke"/>'
        for points, colour, _ in curves
    )
    names = ", ".join(dict.fromkeys(name for _, _, name in curves))
    return (
        f'<div style="position:relative;display:inline-block">{picture}'
        f'<svg role="img" aria-label="{html.escape(names)}" viewBox="0 0 {size + 2} {size + 2}" '
        'style="position:absolute;left:0;top:0;width:100%;height:100%;pointer-events:none">'
        f"{lines}</svg></div>"
    )


def _points(points: np.ndarray, size: int) -> str:
    """Places (K, 2) in pixels, the first pixel's centre at 0, for an <svg> with its gap of one."""
    x = points[:, 0] + 1.5
    y = size + 0.5 - points[:, 1]  # origin below
    return " ".join(f"{a:.2f},{b:.2f}" for a, b in zip(x, y, strict=True))


def captioned(content: str, caption: str) -> str:
    """A <figure> of `content` with a line of plain text below."""
    return (
        '<figure style="margin:2px;display:inline-block;vertical-align:top">'
        f"{content}<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def curve(
    y: Sequence[float] | np.ndarray,
    reference: Sequence[float] | np.ndarray,
    colour: str,
    alt: str,
    span: tuple[float, float],
    size: tuple[int, int] = (130, 70),
) -> str:
    """An <svg> of a curve y (K,) over a dashed reference (K,), evenly spaced in x.

    span : the values at the lower and upper edge; size : width and height in screen pixels.
    """
    dashed = 'stroke="currentColor" stroke-dasharray="3 3" opacity=".6"'
    return (
        f'<svg role="img" aria-label="{html.escape(alt)}" width="{size[0]}" height="{size[1]}" '
        'style="border:solid #888;border-width:0 0 1px 1px;margin:4px 2px">'
        + _line(reference, span, size, dashed)
        + _line(y, span, size, f'stroke="{colour}" stroke-width="2"')
        + "</svg>"
    )


def _line(values: Any, span: tuple[float, float], size: tuple[int, int], style: str) -> str:
    """A <polyline> of `values`; what leaves the span by more than a tenth of it is cut off."""
    x = np.linspace(1, size[0] - 1, len(values))
    share = (np.asarray(values) - span[0]) / (span[1] - span[0])
    y = (size[1] - 1) * (1 - share.clip(-0.1, 1.1))
    points = " ".join(f"{a:.0f},{b:.0f}" for a, b in zip(x, y, strict=True))
    return f'<polyline points="{points}" fill="none" {style}/>'
