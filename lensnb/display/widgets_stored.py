"""Widgets over stored pictures: nothing is computed when they move, so they work without a kernel.

They are made only of boxes, HTML, Stack, IntSlider, Play, Dropdown and links: the report can show
them. Where no widget can run, a notebook shows a still picture of them instead.
"""

from collections.abc import Iterable, Mapping, Sequence

import ipywidgets as widgets
import numpy as np

from lensnb.display import html, stills
from lensnb.display.parts import (
    STILLS,
    WIDE,
    WRAPPED,
    evenly,
    glued,
    pages_of,
    player,
    stack,
    stored,
    wide,
)
from lensnb.display.stretch import limits, picture, shown_sets, side_by_side
from lensnb.display.style import name


def scrub(
    sheets: Sequence[np.ndarray], captions: Sequence[str], label: str = "frame", zoom: int = 2
) -> stills.StillBox:
    """One slider with a play button over stored pictures.

    sheets : (F, rows, columns, H, W) in [0, 1], in colour (..., 3); captions : a line of text each.
    """
    slider, controls = player(len(sheets), label)
    pages = pages_of(
        html.captioned(html.picture(sheet, text, zoom), text)
        for sheet, text in zip(sheets, captions, strict=True)
    )
    shown = evenly(len(sheets), STILLS)

    def still() -> bytes:
        row = [glued(np.asarray(sheets[f])) for f in shown]
        return stills.sheet([row], titles=[captions[f] for f in shown], size=1.3)

    return stored(
        [controls, stack(pages, (slider, "value"))],
        still,
        f"From left to right: {captions[0]} to {captions[-1]}",
    )


def gallery(
    sets: Mapping[str, np.ndarray],
    captions: Mapping[str, Sequence[str]],
    page: int = 14,
    zoom: int = 2,
) -> stills.StillBox:
    """Images to browse with their physics.

    sets : name -> images (N, C, H, W), of which `stretch.shown_sets` are shown
    captions : name -> N lines of text
    page : images on a page.
    """
    sets, left_out = shown_sets(sets)
    span = limits(np.asarray(next(iter(sets.values()))))
    pages = max(-(-len(images) // page) for images in sets.values())
    slider = widgets.IntSlider(0, 0, pages - 1, description="page", style=WIDE, layout=wide("22em"))
    options = [(name(key), i) for i, key in enumerate(sets)]
    shown = widgets.Dropdown(options=options, description="images", style=WIDE)
    books = []
    for key, images in sets.items():
        cells = _cells(name(key), np.asarray(images), captions[key], span, zoom)
        width = zoom * (images.shape[-1] * side_by_side(images) + side_by_side(images) + 1)
        sheets = pages_of(_fixed(cells[at : at + page], width) for at in range(0, len(cells), page))
        books.append(stack(sheets, (slider, "value")))
    controls = [shown, slider, *([widgets.HTML(left_out)] if left_out else [])]
    return stored(
        [widgets.Box(controls, layout=WRAPPED), stack(books, (shown, "index"))],
        lambda: _still_gallery(sets, span),
        f"Images to browse: {', '.join(name(key) for key in sets)}",
    )


def _still_gallery(sets: Mapping[str, np.ndarray], span: tuple[float, float]) -> bytes:
    """The first images of each set, as a PNG."""
    rows = [list(picture(images[:STILLS], *span)) for images in sets.values()]
    return stills.sheet(rows, [name(key) for key in sets])


def _cells(
    label: str,
    images: np.ndarray,
    captions: Sequence[str],
    span: tuple[float, float],
    zoom: int,
) -> list[str]:
    """Each image (C, H, W) with its caption, as HTML."""
    pictures = picture(images, *span)  # (N, H, W), or in colour (N, H, W, 3)
    return [
        html.captioned(html.picture(tile[None, None], f"{label}, image {i}: {text}", zoom), text)
        for i, (tile, text) in enumerate(zip(pictures, captions, strict=True), 1)
    ]


def _fixed(cells: Iterable[str], width: int) -> str:
    """Cells of a gallery, each `width` screen pixels wide."""
    style = f'<figure style="width:{width}px;line-height:1.3;font-size:11px;'
    sized = (cell.replace('<figure style="', style, 1) for cell in cells)
    return '<div style="max-width:1000px">' + "".join(sized) + "</div>"
