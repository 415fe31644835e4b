"""Sliders over stored frames. Nothing is computed when they move, so they work without a kernel."""

import base64
import io

import matplotlib
import numpy as np

from lensnb import plots

LEVELS = 64     # grey levels of a frame: half the bytes of 256, and no eye sees it at 64x64


def _png(tiles):
    """Tiles (rows, columns, H, W) in [0, 1] as one palette PNG with a gap between tiles; bytes."""
    from PIL import Image

    levels = (tiles.clip(0, 1) * (LEVELS - 1)).round().astype(np.uint8)
    padded = np.pad(levels, ((0, 0), (0, 0), (1, 1), (1, 1)))[:, :, ::-1]       # origin below, as in the figures
    sheet = np.concatenate([np.concatenate(list(row), axis=1) for row in padded], axis=0)
    image = Image.fromarray(sheet, mode="P")
    colours = matplotlib.colormaps["inferno"](np.linspace(0, 1, LEVELS))[:, :3]
    image.putpalette((colours * 255).astype(np.uint8).tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True, bits=6)
    return buffer.getvalue()


def _frame(tiles, text, zoom):
    picture = base64.b64encode(_png(tiles)).decode()
    width = zoom * tiles.shape[1] * tiles.shape[3]
    return (f'<figure style="margin:0"><img alt="{text}" src="data:image/png;base64,{picture}" '
            f'style="width:{width}px;image-rendering:pixelated"><figcaption>{text}</figcaption></figure>')


def scrub(table, x, x0, images=2, zoom=2, label="denoising step"):
    """A slider with a play button over stored frames: above x, below the predicted x0, for the first few images.

    table : columns of frames.csv; x, x0 : (F, N, C, H, W). Returns an ipywidgets box of at most
    1 MB; the link between slider and picture lives in the browser.
    """
    import ipywidgets as widgets

    span = plots.limits(x0[-1])
    key = next(k for k in table if k != "step")
    frames = []
    for f in range(len(x)):
        noisy = (x[f, :images].mean(axis=1) + 1.5) / 3                          # (images, H, W)
        clean = plots.stretch(x0[f, :images].mean(axis=1), *span)
        text = f"step {int(table['step'][f])} of {int(table['step'][-1])}, {key} {table[key][f]:.3g}"
        frames.append(widgets.HTML(_frame(np.stack([noisy, clean]), text, zoom)))
    slider = widgets.IntSlider(0, 0, len(frames) - 1, description=label, style={"description_width": "initial"})
    play = widgets.Play(value=0, min=0, max=len(frames) - 1, interval=120)
    stack = widgets.Stack(frames, selected_index=0)
    widgets.jslink((play, "value"), (slider, "value"))
    widgets.jslink((slider, "value"), (stack, "selected_index"))
    return widgets.VBox([widgets.HBox([play, slider]), stack])
