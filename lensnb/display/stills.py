"""Still pictures of widgets: what is seen where no widget can run.

A widget's output holds its view and, beside it, a PNG. GitHub shows no widget views, VS Code and
JupyterLab show none that they do not trust or that lack a kernel, and all of them fall back to the
PNG. HTML would not do: each of them removes something else from it.
"""

import base64
import io
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from lensnb.display.style import styled

HINT = "A still picture: run the cell to use its sliders."
COLOURS = 64  # of the palette; enough for the eye, and a third of the size
# Columns of a (rows, columns) sheet of pictures, each (H, W) in [0, 1].
Sheet = Sequence[Sequence[np.ndarray]]


class StillBox(widgets.VBox):
    """A box of widgets whose output in a notebook also holds a still picture.

    still : makes the PNG when the box is shown, or returns None; alt : its alternative text.
    """

    def __init__(
        self,
        children: Sequence[widgets.Widget],
        still: Callable[[], bytes | None],
        alt: str,
        **options: Any,
    ) -> None:
        super().__init__(list(children), **options)
        self.still = still
        self.alt = alt

    def _repr_mimebundle_(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """What a notebook stores: the widget's view, and the still picture."""
        data = super()._repr_mimebundle_(**options)
        picture = self.still()
        if picture is None:
            return data, {}
        data["image/png"] = base64.b64encode(picture).decode()
        return data, {"image/png": {"alt": self.alt}}


def sheet(
    pictures: Sheet,
    labels: Sequence[str] = (),
    titles: Sequence[str] = (),
    foot: str = "",
    curves: Sequence[tuple[np.ndarray, str]] = (),
    size: float = 1.0,
) -> bytes:
    """A PNG of pictures in rows and columns, with a line below that says that it is still.

    labels : one a row; titles : one a column; foot : a line of text below the pictures
    curves : drawn over the first picture, each ((K, 2) in its pixels, colour)
    size : inches of a picture.
    """
    figure = _drawn(pictures, labels, titles, foot, curves, size)
    return _packed(figure)


@styled
def _drawn(
    pictures: Sheet,
    labels: Sequence[str],
    titles: Sequence[str],
    foot: str,
    curves: Sequence[tuple[np.ndarray, str]],
    size: float,
) -> Figure:
    columns = max(map(len, pictures))
    across = max(size * columns, 3.2)
    above = [textwrap.wrap(title, int(17 * size)) for title in titles]
    below = [*textwrap.wrap(foot, int(18 * across)), HINT]
    lines = len(below) + max(map(len, above), default=0)
    figure, axes = plt.subplots(
        len(pictures),
        columns,
        figsize=(across + (1.1 if labels else 0), size * len(pictures) + 0.12 * lines + 0.1),
        squeeze=False,
        layout=ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0),
    )
    for axis in axes.flat:
        axis.axis("off")
    for row, line in zip(axes, pictures, strict=True):
        for axis, picture in zip(row, line, strict=False):
            shown = np.clip(picture, 0, 1)  # of colours matplotlib would warn
            axis.imshow(shown, origin="lower", vmin=0, vmax=1, interpolation="nearest")
    for axis, label in zip(axes[:, 0], labels, strict=False):
        axis.text(-0.08, 0.5, label, transform=axis.transAxes, ha="right", va="center", fontsize=8)
    for axis, title in zip(axes[0], above, strict=False):
        axis.set_title("\n".join(title), fontsize=6.5)
    for points, colour in curves:
        axes[0, 0].plot(*points.T, color=colour, lw=1.3)
    figure.supxlabel("\n".join(below), fontsize=7, color="0.35")
    return figure


def _packed(figure: Figure) -> bytes:
    """A figure as a PNG of few colours."""
    from PIL import Image

    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110, bbox_inches="tight", pad_inches=0.05)
    image = Image.open(drawn).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    packed = io.BytesIO()
    image.save(packed, "PNG", optimize=True)
    return packed.getvalue()
