"""How images come about, two methods side by side: a widget over stored pictures."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import ipywidgets as widgets
import matplotlib.colors
import numpy as np

from lensnb.display import html, stills
from lensnb.display.parts import STILLS, WIDE, WRAPPED, evenly, pages_of, player, stack, stored
from lensnb.display.stretch import arranged, limits, picture
from lensnb.display.style import colour, name
from lensnb.evaluation import image_stats

# Columns of frames.csv, states x and predicted images x0 of a method, both (F, N, C, H, W).
Trajectory = tuple[Mapping[str, Any], np.ndarray, np.ndarray]

POINTS = 16  # points of a curve in a frame
# The most characters in the pages of a journey: the whole widget then takes about a megabyte.
LARGEST = 800_000
# Column of frames.csv -> how a caption tells its value.
PLACES = {"sigma": "sigma {:.3g}", "angle_deg": "{:.0f}° through latent space"}
# Column of frames.csv -> what the pictures of a frame are.
SHOWS = {
    "sigma": "Left: the noisy state. Right: the image that the network predicts from it.",
    "angle_deg": "The image at this angle of a closed walk through latent space.",
}


def journey(
    trajectories: Mapping[str, Trajectory], real: np.ndarray, images: int = 3, count: int = 14
) -> stills.StillBox:
    """How images come about, two methods side by side.

    Each frame shows the noisy state, the predicted image, its radial profile and its spectrum.

    trajectories : method -> (columns of frames.csv, x, x0), as `lensnb.load_trajectory` gives them
    real : images (N, C, H, W); dashed curves show their means
    images : how many images of each method; fewer where the pages would pass a megabyte
    count : moments on the way of each image.
    """
    pages = _journey_pages(trajectories, np.asarray(real), images, count)
    slider, controls = player(count, "share of the way")
    shown = len(next(iter(pages.values())))
    options = [(str(i + 1), i) for i in range(shown)]
    which = widgets.Dropdown(options=options, description="image", style=WIDE)
    shows = [SHOWS.get(_place(table), "") for table, _, _ in trajectories.values()]
    ways = [
        stack([stack(pages_of(way), (slider, "value")) for way in of_images], (which, "index"))
        for of_images in pages.values()
    ]
    sides = [
        _side(list(trajectories), ways, shows, first, label)
        for first, label in ((0, "left"), (min(len(ways), 4) - 1, "right"))
    ]
    legend = widgets.HTML(
        "Below the images: on the left, brightness from the centre to the edge of the image; on "
        "the right, the logarithm of the power from its largest to its smallest structures. "
        "Dashed: the mean of real images."
    )
    return stored(
        [controls, which, widgets.Box(sides, layout=WRAPPED), legend],
        lambda: _still_journey(trajectories, span=limits(np.asarray(real))),
        "How images come about: for each method, one image at moments on its way",
    )


def _still_journey(trajectories: Mapping[str, Trajectory], span: tuple[float, float]) -> bytes:
    """The first image of each method at a few moments, as a PNG."""
    rows = []
    for table, x, x0 in trajectories.values():
        frames = evenly(len(x), STILLS)
        if _place(table) == "sigma":
            rows.append([arranged(_unit(x[f, 0])) for f in frames])
        else:
            rows.append(list(picture(x0[frames, 0], *span)))
    titles = [f"{share:.0%} of the way" for share in np.linspace(0, 1, STILLS)]
    return stills.sheet(rows, [name(method) for method in trajectories], titles)


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
    key = _place(table)
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
    tiles = arranged(_unit(x))[None, None]
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


def _place(table: Mapping[str, Any]) -> str:
    """The column of frames.csv that tells where on its way a frame is."""
    return next(key for key in table if key != "step")


def _unit(x: np.ndarray) -> np.ndarray:
    """A state in model units, [-1.5, 1.5], to [0, 1]."""
    return ((x + 1.5) / 3).clip(0, 1)


def _side(
    methods: Sequence[str],
    ways: Sequence[widgets.Widget],
    shows: Sequence[str],
    first: int,
    label: str,
) -> widgets.VBox:
    """One side of a journey: a choice of the method above its pages; both sides share the pages.

    shows : what the pictures of each method are, told below them.
    """
    choice = widgets.Dropdown(
        options=[(name(method), i) for i, method in enumerate(methods)],
        value=first,
        description=label,
        style=WIDE,
    )
    shown = widgets.Stack(ways, selected_index=first)
    told = widgets.Stack(pages_of(shows), selected_index=first)
    for follower in (shown, told):
        widgets.jslink((choice, "index"), (follower, "selected_index"))
    return widgets.VBox([choice, shown, told], layout={"flex": "1 1 300px", "max_width": "30em"})
