"""Parts of stored widgets: players, pages that a browser turns, and the box around them."""

from collections.abc import Callable, Iterable, Sequence

import ipywidgets as widgets
import numpy as np

from lensnb.display import stills

WIDE = {"description_width": "initial"}
# What stands side by side is wrapped where a cell is too narrow for it.
WRAPPED = {"flex_flow": "row wrap", "max_width": "100%"}
STILLS = 7  # moments or images in a row of a still picture


def player(count: int, label: str) -> tuple[widgets.IntSlider, widgets.Box]:
    """A slider over 0..count-1, and the box of play button, slider and speed.

    All are linked in the browser.
    """
    slider = widgets.IntSlider(0, 0, count - 1, description=label, style=WIDE, layout=wide("26em"))
    play = widgets.Play(value=0, min=0, max=count - 1, interval=200, tooltip="play")
    pause = widgets.IntSlider(
        200, 50, 1000, step=50, description="ms a frame", style=WIDE, layout=wide("18em")
    )
    widgets.jslink((play, "value"), (slider, "value"))
    widgets.jslink((pause, "value"), (play, "interval"))
    return slider, widgets.Box([play, slider, pause], layout=WRAPPED)


def wide(width: str) -> dict[str, str]:
    """The layout of a knob: this wide where there is room."""
    return {"width": width, "max_width": "100%"}


def stack(pages: Sequence[widgets.Widget], chooser: tuple[widgets.Widget, str]) -> widgets.Stack:
    """Pages of which the browser shows the one that `chooser` (widget, trait) selects."""
    made = widgets.Stack(pages, selected_index=0)
    widgets.jslink(chooser, (made, "selected_index"))
    return made


def pages_of(texts: Iterable[str]) -> list[widgets.HTML]:
    """One HTML widget a text.

    The same text gets the same widget, and all share one layout and one style: models of their own
    would double the file.
    """
    texts = list(texts)
    first = widgets.HTML()
    made = {
        text: widgets.HTML(text, layout=first.layout, style=first.style)
        for text in dict.fromkeys(texts)
    }
    first.close()
    return [made[text] for text in texts]


def stored(
    parts: Sequence[widgets.Widget], still: Callable[[], bytes], alt: str
) -> stills.StillBox:
    """A box of stored widgets. It hides the marks of a missing kernel, which they do not need."""
    quiet = widgets.HTML(
        "<style>.lensnb-stored .jupyter-widgets-disconnected::before, "
        ".lensnb-stored.jupyter-widgets-disconnected::before { display: none }</style>"
    )
    box = stills.StillBox([*parts, quiet], still, alt)
    box.add_class("lensnb-stored")
    return box


def evenly(count: int, most: int) -> np.ndarray:
    """`most` evenly spaced indices of 0..count-1, the first and the last among them."""
    return np.linspace(0, count - 1, most).round().astype(int)


def glued(sheet: np.ndarray) -> np.ndarray:
    """A sheet (rows, columns, H, W) as one picture, origin below as in its tiles."""
    rows = [np.concatenate(list(row), axis=1) for row in sheet[::-1]]
    return np.concatenate(rows, axis=0)
