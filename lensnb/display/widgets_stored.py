"""Widgets over stored pictures: nothing is computed when they move, so they work without a kernel.

They are made only of HTML, Stack, IntSlider, Play, Dropdown and links: the report can show them.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import ipywidgets as widgets
import matplotlib.colors
import numpy as np

from lensnb.display import html
from lensnb.display.stretch import arranged, limits, picture, side_by_side
from lensnb.display.style import colour, name
from lensnb.evaluation import image_stats

# Columns of frames.csv, states x and predicted images x0 of a method, both (F, N, C, H, W).
Trajectory = tuple[Mapping[str, Any], np.ndarray, np.ndarray]

WIDE = {"description_width": "initial"}
POINTS = 16  # points of a curve in a frame
# The most characters in the pages of a journey: the whole widget then takes about a megabyte.
LARGEST = 800_000
# Column of frames.csv -> how a caption tells its value.
PLACES = {"sigma": "sigma {:.3g}", "angle_deg": "{:.0f}° through latent space"}


def scrub(
    sheets: Sequence[np.ndarray], captions: Sequence[str], label: str = "frame", zoom: int = 2
) -> widgets.VBox:
    """One slider with a play button over stored pictures.

    sheets : (F, rows, columns, H, W) in [0, 1], in colour (..., 3); captions : a line of text each.
    """
    slider, controls = _player(len(sheets), label)
    pages = _html(
        html.captioned(html.picture(sheet, text, zoom), text)
        for sheet, text in zip(sheets, captions, strict=True)
    )
    return _stored([controls, _stack(pages, (slider, "value"))])


def journey(
    trajectories: Mapping[str, Trajectory], real: np.ndarray, images: int = 3, count: int = 14
) -> widgets.VBox:
    """How images come about, two methods side by side.

    Each frame shows the noisy state, the predicted image, its radial profile and its spectrum.

    trajectories : method -> (columns of frames.csv, x, x0), as `lensnb.load_trajectory` gives them
    real : images (N, C, H, W); dashed curves show their means
    images : how many images of each method; fewer where the pages would pass a megabyte
    count : moments on the way of each image.
    """
    pages = _journey_pages(trajectories, np.asarray(real), images, count)
    slider, controls = _player(count, "share of the way")
    shown = len(next(iter(pages.values())))
    options = [(str(i + 1), i) for i in range(shown)]
    which = widgets.Dropdown(options=options, description="image", style=WIDE)
    ways = [
        _stack([_stack(_html(way), (slider, "value")) for way in of_images], (which, "index"))
        for of_images in pages.values()
    ]
    sides = [
        _side(list(trajectories), ways, first, label)
        for first, label in ((0, "left"), (min(len(ways), 4) - 1, "right"))
    ]
    legend = widgets.HTML(
        "Below each pair: on the left, brightness from the centre to the edge of the image; on the "
        "right, the logarithm of the power from its largest to its smallest structures. "
        "Dashed: the mean of real images."
    )
    return _stored([controls, which, widgets.HBox(sides), legend])


def gallery(
    sets: Mapping[str, np.ndarray],
    captions: Mapping[str, Sequence[str]],
    page: int = 14,
    zoom: int = 2,
) -> widgets.VBox:
    """Images to browse with their physics.

    sets : name -> images (N, C, H, W); captions : name -> N lines of text
    page : images on a page.
    """
    span = limits(np.asarray(next(iter(sets.values()))))
    pages = max(-(-len(images) // page) for images in sets.values())
    slider = widgets.IntSlider(0, 0, pages - 1, description="page", style=WIDE)
    options = [(name(key), i) for i, key in enumerate(sets)]
    shown = widgets.Dropdown(options=options, description="images", style=WIDE)
    books = []
    for key, images in sets.items():
        cells = _cells(name(key), np.asarray(images), captions[key], span, zoom)
        width = zoom * (images.shape[-1] * side_by_side(images) + side_by_side(images) + 1)
        sheets = _html(_fixed(cells[at : at + page], width) for at in range(0, len(cells), page))
        books.append(_stack(sheets, (slider, "value")))
    return _stored([widgets.HBox([shown, slider]), _stack(books, (shown, "index"))])


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


# ---- the pages of a journey


def _journey_pages(
    trajectories: Mapping[str, Trajectory], real: np.ndarray, images: int, count: int
) -> dict[str, list[list[str]]]:
    """Method -> image -> `count` pages, for as many images as LARGEST allows."""
    mean = _curves(real).mean(axis=0)  # (2, POINTS)
    span = limits(real)
    images = min(images, *(x.shape[1] for _, x, _ in trajectories.values()))
    pages = {
        method: [_moments(method, way, image, count, mean, span) for image in range(images)]
        for method, way in trajectories.items()
    }
    while images > 1 and _characters(pages) > LARGEST:
        images -= 1
        pages = {method: of_images[:images] for method, of_images in pages.items()}
    return pages


def _characters(pages: Mapping[str, list[list[str]]]) -> int:
    """The characters of all pages; a page that stands twice is stored once."""
    ways = [way for of_images in pages.values() for way in of_images]
    return sum(len(page) for way in ways for page in set(way))


def _curves(images: np.ndarray) -> np.ndarray:
    """Radial profile, asinh-stretched, and log power of images (N, C, H, W): (N, 2, POINTS)."""
    profile = np.arcsinh(image_stats.radial_profile(images))
    power = image_stats.log_power(images)
    return np.stack([_thinned(profile), _thinned(power)], axis=1)


def _thinned(curves: np.ndarray) -> np.ndarray:
    """Curves (N, K) at POINTS evenly spaced places: (N, POINTS)."""
    return curves[:, np.linspace(0, curves.shape[1] - 1, POINTS).round().astype(int)]


def _moments(
    method: str,
    way: Trajectory,
    image: int,
    count: int,
    mean: np.ndarray,
    span: tuple[float, float],
) -> list[str]:
    """`count` pages of one image of a method; a method of fewer steps shows a page repeatedly."""
    table, x, x0 = way
    key = next(k for k in table if k != "step")
    place = PLACES.get(key, key + " {:.3g}")
    curves = _curves(x0[:, image])
    heights = [
        (min(*a, *b) - 0.2, max(*a, *b) + 0.2) for a, b in zip(curves[-1], mean, strict=True)
    ]

    @cache
    def page(f: int) -> str:
        steps = f"step {int(table['step'][f])} of {int(table['step'][-1])}"
        text = f"{name(method)}, {steps}, {place.format(table[key][f])}"
        noisy = _noisy(x[f, image], text) if key == "sigma" else ""
        clean = _clean(x0[f, image], text, span)
        lines = _lines(curves[f], mean, heights, method, text)
        return html.captioned(f"{noisy}{clean}<br>{lines}", text)

    return [page(f) for f in np.linspace(0, len(x) - 1, count).round().astype(int).tolist()]


def _noisy(x: np.ndarray, text: str) -> str:
    """A state x (C, H, W) in model units, [-1.5, 1.5] from black to white, as HTML."""
    tiles = arranged(((x + 1.5) / 3).clip(0, 1))[None, None]
    return html.picture(tiles, f"{text}: noisy state", _zoom(x), html.COARSE)


def _clean(x0: np.ndarray, text: str, span: tuple[float, float]) -> str:
    """A predicted image x0 (C, H, W) as HTML."""
    tiles = picture(x0, *span)[None, None]
    return html.picture(tiles, f"{text}: predicted image", _zoom(x0))


def _zoom(image: np.ndarray) -> int:
    """Screen pixels a pixel, for about 128 of them a side."""
    return max(1, 128 // image.shape[-1])


def _lines(
    curves: np.ndarray,
    mean: np.ndarray,
    heights: Sequence[tuple[float, float]],
    method: str,
    text: str,
) -> str:
    """Profile and spectrum of a frame over the means of real images, as HTML."""
    shade = matplotlib.colors.to_hex(colour(method))
    whats = ("radial profile", "power spectrum")
    return "".join(
        html.curve(curve, reference, shade, f"{text}: {what}", height)
        for curve, reference, height, what in zip(curves, mean, heights, whats, strict=True)
    )


# ---- parts of stored widgets


def _side(
    methods: Sequence[str], ways: Sequence[widgets.Widget], first: int, label: str
) -> widgets.VBox:
    """One side of a journey: a choice of the method above its pages; both sides share the pages."""
    choice = widgets.Dropdown(
        options=[(name(method), i) for i, method in enumerate(methods)],
        value=first,
        description=label,
        style=WIDE,
    )
    stack = widgets.Stack(ways, selected_index=first)
    widgets.jslink((choice, "index"), (stack, "selected_index"))
    return widgets.VBox([choice, stack], layout={"min_width": "300px"})


def _player(count: int, label: str) -> tuple[widgets.IntSlider, widgets.HBox]:
    """A slider over 0..count-1, and the box of play button, slider and speed.

    All are linked in the browser.
    """
    slider = widgets.IntSlider(
        0, 0, count - 1, description=label, style=WIDE, layout={"width": "26em"}
    )
    play = widgets.Play(value=0, min=0, max=count - 1, interval=200, tooltip="play")
    pause = widgets.IntSlider(
        200, 50, 1000, step=50, description="ms a frame", style=WIDE, layout={"width": "18em"}
    )
    widgets.jslink((play, "value"), (slider, "value"))
    widgets.jslink((pause, "value"), (play, "interval"))
    return slider, widgets.HBox([play, slider, pause])


def _stack(pages: Sequence[widgets.Widget], chooser: tuple[widgets.Widget, str]) -> widgets.Stack:
    """Pages of which the browser shows the one that `chooser` (widget, trait) selects."""
    stack = widgets.Stack(pages, selected_index=0)
    widgets.jslink(chooser, (stack, "selected_index"))
    return stack


def _html(texts: Iterable[str]) -> list[widgets.HTML]:
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


def _stored(parts: Sequence[widgets.Widget]) -> widgets.VBox:
    """A box of stored widgets. It hides the marks of a missing kernel, which they do not need."""
    quiet = widgets.HTML(
        "<style>.lensnb-stored .jupyter-widgets-disconnected::before, "
        ".lensnb-stored.jupyter-widgets-disconnected::before { display: none }</style>"
    )
    box = widgets.VBox([*parts, quiet])
    box.add_class("lensnb-stored")
    return box
