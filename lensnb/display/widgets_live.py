"""Widgets that compute: an image of a trained model or of the simulator for each move of a knob."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets as widgets
import numpy as np

from lensnb.display import html
from lensnb.display.stretch import limits, picture, stretch
from lensnb.display.style import name
from lensnb.errors import InputError
from lensnb.generator import Generator

# One width for all descriptions, so that knobs below each other start at one place.
LINED_UP = {"description_width": "11em"}
# Column of a truth table -> words of its knob.
KNOBS = {
    "theta_E": "Einstein radius [arcsec]",
    "q": "axis ratio of the lens",
    "gamma": "shear",
}


ASKED = "asked "  # before a column's name, which may be "seed" or "steps" as well


def live(
    generators: Mapping[str, Generator], seed: int = 0, images: int = 6, zoom: int = 2
) -> widgets.HBox:
    """Draws from trained models.

    generators : method -> its Generator. The knobs are method, steps and seed. Models that are told
    what to draw add a knob for each condition, and guidance. The line below the
    images says how many seconds they took.
    """
    first = next(iter(generators.values()))
    span = limits(first.dataset.examples(256))
    quickest = _quickest(generators)
    steps = min(10, generators[quickest].method.steps or 10)
    knobs = {
        "method": _choice("method", {name(m): m for m in generators}, value=quickest),
        "steps": _slider("steps", steps, 1, 100),
        "seed": _slider("seed", seed, 0, 999),
    } | _context_knobs(first)

    def drawn(method: str, steps: int, seed: int, guidance: float = 1.0, **asked: Any) -> str:
        generator = generators[method].variant(steps=steps, guidance=guidance)
        table = {key.removeprefix(ASKED): np.array([value]) for key, value in asked.items()} or None
        start = time.perf_counter()
        pictures = generator.draw(images, seed, table=table)
        seconds = time.perf_counter() - start
        text = (
            f"{name(method)}: {images} images in {seconds:.2f} s, "
            f"{generator.nfe} network evaluations each"
        )
        tiles = picture(pictures, *span)[None]
        return html.captioned(html.picture(tiles, text, zoom), text)

    return _answering(knobs, drawn)


def lens(zoom: int = 4, pixels: int = 64) -> widgets.HBox:
    """A simulated lens whose light one bends by hand; no trained model is needed."""
    from lensnb.lensing import priors, simulate, truth_tables

    prior = priors.get_prior("broad", pixels)
    knobs = {
        "kind": _choice("substructure", {label: i for i, label in enumerate(priors.CLASSES)}),
        "theta_E": _slider(KNOBS["theta_E"], 1.2, 0.5, 1.8),
        "q": _slider(KNOBS["q"], 0.8, 0.4, 1.0),
        "gamma": _slider(KNOBS["gamma"], 0.05, 0.0, 0.2),
        "source_x": _slider("source to the right [arcsec]", 0.1, -0.6, 0.6),
        "source_radius": _slider("source radius [arcsec]", 0.2, 0.05, 0.5),
        "seed": _slider("seed", 0, 0, 999),
    }

    def drawn(kind: int, seed: int, **columns: float) -> str:
        truth = truth_tables.draw_truth(1, prior, seed, start=kind)
        truth = truth_tables.altered(truth, prior, x=0.0, y=0.0, source_y=0.05, **columns)
        image = simulate.render(truth, prior).numpy()
        text = (
            f"{priors.CLASSES[kind]}: Einstein radius {columns['theta_E']:.2f} arcsec, "
            f"axis ratio {columns['q']:.2f}, shear {columns['gamma']:.2f}; "
            f"the image is {pixels * prior.pixel_scale:.1f} arcsec wide"
        )
        return html.captioned(html.picture(stretch(image[:1], *limits(image)), text, zoom), text)

    return _answering(knobs, drawn)


def _answering(knobs: Mapping[str, widgets.Widget], draw: Callable[..., str]) -> widgets.HBox:
    """The knobs beside the HTML of `draw(**values)`, drawn again when a knob is let go.

    An InputError of `draw` is shown in place of the picture.
    """
    shown = widgets.HTML()

    def refresh(_: Any = None) -> None:
        try:
            shown.value = draw(**{key: knob.value for key, knob in knobs.items()})
        except InputError as error:
            shown.value = html.captioned("", str(error))

    for knob in knobs.values():
        knob.observe(refresh, "value")
    refresh()
    return widgets.HBox([widgets.VBox(list(knobs.values())), shown])


def _quickest(generators: Mapping[str, Generator]) -> str:
    """The method with the fewest network evaluations, but one with a single one comes last."""
    return min(generators, key=lambda method: (generators[method].nfe == 1, generators[method].nfe))


def _context_knobs(generator: Generator) -> dict[str, widgets.Widget]:
    """The knobs of what a model is told to draw; none for a model that is told nothing."""
    asked = generator.asked(512)
    if asked is None:
        return {}
    knobs = {}
    for column, values in asked.items():
        knobs[ASKED + column] = _context_knob(column, values, generator.dataset.classes)
    return knobs | {"guidance": _slider("guidance", 1.0, 1.0, 5.0)}


def _context_knob(column: str, values: np.ndarray, classes: Sequence[str]) -> widgets.Widget:
    """A choice of classes or words, or a slider over the numbers of training images."""
    label = KNOBS.get(column, column.replace("_", " "))
    if column == "class" and values.dtype.kind in "iu":
        return _choice(label, {name: i for i, name in enumerate(classes)})
    if values.dtype.kind not in "fiu":
        return _choice(label, {word: word for word in sorted(set(values.tolist()) - {""})})
    low, middle, high = np.nanpercentile(values.astype(float), [1, 50, 99]).tolist()
    step = 10 ** math.floor(math.log10((high - low) / 30)) if high > low else 0.01
    low, middle, high = (round(value / step) * step for value in (low, middle, high))
    return _slider(label, middle, low, high, step)


def _choice(label: str, options: Mapping[str, Any], **value: Any) -> widgets.Dropdown:
    """A choice; `options` maps what is shown to the value."""
    return widgets.Dropdown(
        options=list(options.items()), description=label, style=LINED_UP, **value
    )


def _slider(
    label: str, value: float, low: float, high: float, step: float = 0.01
) -> widgets.Widget:
    """A slider that answers when it is let go: of whole numbers if `value` is an int."""
    kind = widgets.IntSlider if isinstance(value, int) else widgets.FloatSlider
    return kind(
        value=value,
        min=low,
        max=high,
        step=1 if isinstance(value, int) else step,
        **({} if step >= 0.01 else {"readout_format": ".3g"}),
        description=label,
        style=LINED_UP,
        continuous_update=False,
        layout={"width": "30em"},
    )
