"""Pictures and curves as HTML that needs nothing else: what the widgets show. Strings only; no widget is made here."""

import base64
import html
import io

import matplotlib
import numpy as np

# grey levels: no eye sees more at 64x64, and noise, which packs badly, needs fewer still
FINE = 32
COARSE = 8


def png(tiles, levels=FINE):
    """Tiles (rows, columns, H, W) in [0, 1] as one palette PNG with a gap between tiles; bytes."""
    from PIL import Image

    grey = (np.asarray(tiles).clip(0, 1) * (levels - 1)).round().astype(np.uint8)
    padded = np.pad(grey, ((0, 0), (0, 0), (1, 1), (1, 1)))[
        :, :, ::-1
    ]  # origin below, as in the figures
    sheet = np.concatenate([np.concatenate(list(row), axis=1) for row in padded], axis=0)
    image = Image.fromarray(sheet, mode="P")
    colours = matplotlib.colormaps["inferno"](np.linspace(0, 1, levels))[:, :3]
    image.putpalette((colours * 255).astype(np.uint8).tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True, bits=(levels - 1).bit_length())
    return buffer.getvalue()


def picture(tiles, alt, zoom=2, levels=FINE):
    """An <img> of tiles (rows, columns, H, W) in [0, 1], `zoom` screen pixels a pixel, with its alternative text."""
    tiles = np.asarray(tiles)
    data = base64.b64encode(png(tiles, levels)).decode()
    return (
        f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{data}" '
        f'style="width:{zoom * tiles.shape[1] * (tiles.shape[3] + 2)}px;image-rendering:pixelated">'
    )


def captioned(content, caption):
    """A <figure> of `content` with a line of plain text below."""
    return f'<figure style="margin:2px;display:inline-block;vertical-align:top">{content}<figcaption>{html.escape(caption)}</figcaption></figure>'


def curve(y, reference, colour, alt, span, size=(130, 70)):
    """An <svg> of a curve y (K,) over a dashed reference (K,), evenly spaced in x; `span` is what the height shows."""

    def line(values, style):
        return f'<polyline points="{_points(values, span, size)}" fill="none" {style}/>'

    return (
        f'<svg role="img" aria-label="{html.escape(alt)}" width="{size[0]}" height="{size[1]}" '
        'style="border:solid #888;border-width:0 0 1px 1px;margin:4px 2px">'
        + line(reference, 'stroke="currentColor" stroke-dasharray="3 3" opacity=".6"')
        + line(y, f'stroke="{colour}" stroke-width="2"')
        + "</svg>"
    )


def _points(values, span, size):
    x = np.linspace(1, size[0] - 1, len(values))
    y = (size[1] - 1) * (1 - ((np.asarray(values) - span[0]) / (span[1] - span[0])).clip(-0.1, 1.1))
    return " ".join(f"{a:.0f},{b:.0f}" for a, b in zip(x, y, strict=True))
