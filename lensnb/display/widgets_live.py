"""Widgets that compute: an image of a trained model or of the simulator for each move of a knob."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets as widgets
import numpy as np

from lensnb.display.answering import Answering, Drawn
from lensnb.display.stretch import limits, picture, stretch
from lensnb.display.style import name
from lensnb.generator import Generator

# One width for all descriptions, so that knobs below each other start at one place.
LINED_UP = {"description_width": "13em"}
WIDTH = "30em"  # of a knob; beside it, 400 pixels of a picture fit into a cell at 1280 pixels
# Column of a truth table -> words of its knob, format of its value.
KNOBS = {
    "theta_E": ("Einstein radius [arcsec]", ".2f"),
    "q": ("axis ratio of the lens", ".2f"),
    "gamma": ("shear", ".2f"),
}
CRITICAL = "#00e5ff"
CAUSTIC = "#5dff3b"
STEPS = 100  # the most that the slider of a sampler offers
ASKED = "asked "  # before a column's name, which may be "seed" or "steps" as well


def live(
    generators: Mapping[str, Generator], seed: int = 0, images: int = 6, zoom: int = 2
) -> Answering:
    """Draws from trained models.

    generators : method -> its Generator. The knobs are method, steps and seed. Models that are told
    what to draw add a knob for each condition, and guidance. The line below the images says what
    was drawn and how many seconds it took. A knob that a method does not have is grey, as steps of
    the GAN; of a consistency model the steps end at two.
    """
    first = next(iter(generators.values()))
    span = limits(first.dataset.examples(256))
    quickest = _quickest(generators)
    steps = min(10, generators[quickest].method.steps or 10)
    knobs = {
        "method": _choice("method", {name(m): m for m in generators}, value=quickest),
        "steps": _slider("steps", steps, 1, STEPS),
        "seed": _slider("seed", seed, 0, 999),
    } | _context_knobs(first)
    _offer(knobs, generators)

    def drawn(method: str, steps: int, seed: int, guidance: float = 1.0, **asked: Any) -> Drawn:
        generator = generators[method].variant(steps=steps, guidance=guidance)
        table = {key.removeprefix(ASKED): np.array([value]) for key, value in asked.items()} or None
        start = time.perf_counter()
        pictures = generator.draw(images, seed, table=table)
        seconds = time.perf_counter() - start
        passes = "1 network evaluation" if generator.nfe == 1 else f"{generator.nfe} evaluations"
        text = f"{name(method)}, seed {seed}: {images} images in {seconds:.2f} s, {passes} each"
        return Drawn(_rows(picture(pictures, *span)), text)

    return Answering(knobs, drawn, zoom)


def lens(zoom: int = 4, pixels: int = 64) -> Answering:
    """A simulated lens whose light one bends by hand; no trained model is needed.

    It follows a knob while it is dragged. On demand it shows the critical curve and the caustic.
    """
    from lensnb.lensing import priors, simulate, truth_tables

    prior = priors.get_prior("broad", pixels)
    knobs = {
        "kind": _choice("substructure", {label: i for i, label in enumerate(priors.CLASSES)}),
        "theta_E": _slider(KNOBS["theta_E"][0], 1.2, 0.5, 1.8),
        "q": _slider(KNOBS["q"][0], 0.8, 0.4, 1.0),
        "gamma": _slider(KNOBS["gamma"][0], 0.05, 0.0, 0.2),
        "source_x": _slider("source right [arcsec]", 0.1, -0.6, 0.6),
        "source_y": _slider("source up [arcsec]", 0.05, -0.6, 0.6),
        "source_radius": _slider("source radius [arcsec]", 0.2, 0.05, 0.5),
        "seed": _slider("seed", 0, 0, 999),
        "curves": widgets.Checkbox(
            description="show critical curve and caustic",
            indent=False,
            layout={"width": WIDTH, "max_width": "100%"},
        ),
    }
    for knob in knobs.values():
        if hasattr(knob, "continuous_update"):
            knob.continuous_update = True

    def drawn(kind: int, seed: int, curves: bool, **columns: float) -> Drawn:
        truth = truth_tables.draw_truth(1, prior, seed, start=kind)
        truth = truth_tables.altered(truth, prior, x=0.0, y=0.0, **columns)
        image = simulate.render(truth, prior).numpy()
        text = (
            f"{priors.CLASSES[kind]}: Einstein radius {columns['theta_E']:.2f} arcsec, "
            f"axis ratio {columns['q']:.2f}, shear {columns['gamma']:.2f}; "
            f"the image is {pixels * prior.pixel_scale:.1f} arcsec wide"
        )
        if curves:
            text += "; blue: critical curve, green: caustic in the plane of the source"
        lines = _curves(truth, prior) if curves else []
        return Drawn(stretch(image[:1], *limits(image)), text, lines)

    return Answering(knobs, drawn, zoom)


def _curves(truth: Any, prior: Any) -> list[tuple[np.ndarray, str, str]]:
    """Critical curves and caustics of a lens in pixels, with colours and names."""
    from lensnb.lensing.critical import critical_curves

    critical, caustics = critical_curves(truth, prior)
    named = [(curve, CRITICAL, "critical curve") for curve in critical]
    named += [(curve, CAUSTIC, "caustic") for curve in caustics]
    middle = (prior.size - 1) / 2
    return [(curve / prior.pixel_scale + middle, colour, what) for curve, colour, what in named]


def _rows(pictures: np.ndarray, most: int = 3) -> np.ndarray:
    """Pictures (N, H, W, ...) as tiles (rows, columns, H, W, ...), at most `most` in a row."""
    rows = math.ceil(len(pictures) / most)
    columns = math.ceil(len(pictures) / rows)
    black = np.zeros((rows * columns - len(pictures), *pictures.shape[1:]))
    tiles = np.concatenate([pictures, black])
    return tiles.reshape(rows, columns, *pictures.shape[1:])


def _offer(knobs: Mapping[str, widgets.Widget], generators: Mapping[str, Generator]) -> None:
    """Offer the steps and the guidance that the chosen method has; the others are grey."""

    def follow(_: Any = None) -> None:
        chosen = generators[knobs["method"].value]
        knobs["steps"].disabled = chosen.method.steps is None
        if chosen.method.steps is not None:
            _end_at(knobs["steps"], chosen.kind.own_steps or STEPS, chosen.method.steps)
        if "guidance" in knobs:
            knobs["guidance"].disabled = not chosen.kind.sampled

    knobs["method"].observe(follow, "value")
    follow()


def _end_at(slider: widgets.IntSlider, most: int, usual: int) -> None:
    """Let a slider end at `most`; where it ended earlier, its value was of another method."""
    longer = most > slider.max
    slider.max = most  # which cuts the value
    if longer:
        slider.value = min(10, usual)


def _quickest(generators: Mapping[str, Generator]) -> str:
    """The method with the fewest network evaluations, but one with a single one comes last."""
    return min(generators, key=lambda method: (generators[method].nfe == 1, generators[method].nfe))


def _context_knobs(generator: Generator) -> dict[str, widgets.Widget]:
    """The knobs of what a model is told to draw; none for a model that is told nothing."""
    asked = generator.asked(512)
    if asked is None:
        return {}
    classes = generator.dataset.classes
    knobs = {
        ASKED + column: _context_knob(column, values, classes) for column, values in asked.items()
    }
    return knobs | {"guidance": _slider("guidance", 1.0, 1.0, 5.0)}


def _context_knob(column: str, values: np.ndarray, classes: Sequence[str]) -> widgets.Widget:
    """A choice of classes or words, or a slider over the numbers of training images."""
    label, form = KNOBS.get(column, (column.replace("_", " "), ".3g"))
    if column == "class" and values.dtype.kind in "iu":
        return _choice(label, {name: name for name in classes})
    if values.dtype.kind not in "fiu":
        return _choice(label, {word: word for word in sorted(set(values.tolist()) - {""})})
    low, middle, high = np.nanpercentile(values.astype(float), [1, 50, 99]).tolist()
    return _slider(label, *_rounded(middle, low, high), form=form)


def _rounded(middle: float, low: float, high: float) -> tuple[float, float, float]:
    """Three numbers, rounded to about a hundredth of their range."""
    if not high > low:
        return middle, low, low + (abs(low) or 1.0)
    digits = 2 - math.floor(math.log10(high - low))
    low, middle, high = (round(value, digits) for value in (low, middle, high))
    return middle, low, high


def _choice(label: str, options: Mapping[str, Any], **value: Any) -> widgets.Dropdown:
    """A choice; `options` maps what is shown to the value."""
    return widgets.Dropdown(
        options=list(options.items()),
        description=label,
        style=LINED_UP,
        layout={"width": WIDTH, "max_width": "100%"},
        **value,
    )


def _slider(
    label: str, value: float, low: float, high: float, form: str = ".2f"
) -> widgets.IntSlider | widgets.FloatSlider:
    """A slider that answers when it is let go: of whole numbers if `value` is an int."""
    common = {
        "value": value,
        "min": low,
        "max": high,
        "description": label,
        "style": LINED_UP,
        "continuous_update": False,
        "layout": {"width": WIDTH, "max_width": "100%"},
    }
    if isinstance(value, int):
        return widgets.IntSlider(step=1, **common)
    step = 10.0 ** (math.floor(math.log10(high - low)) - 2)
    return widgets.FloatSlider(step=step, readout_format=form, **common)
