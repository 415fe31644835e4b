"""Sliders. Over stored frames nothing is computed when they move, so those work without a kernel; two draw live.

Stored widgets are made of HTML, Stack, IntSlider, Play, Dropdown and links alone: what the report can show, too.
"""

import time
from functools import cache

import ipywidgets as widgets
import matplotlib.colors
import numpy as np

from lensnb.display import figures, html
from lensnb.errors import InputError
from lensnb.evaluation import image_stats

# knobs below each other start at one place
WIDE = {"description_width": "initial"}
LINED_UP = {"description_width": "11em"}
KNOBS = {"theta_E": "Einstein radius [arcsec]", "q": "axis ratio of the lens", "gamma": "shear"}
POINTS = 16  # of a curve in a frame
LARGEST = 800_000  # characters of a journey's pages; a megabyte with all that is around them


def scrub(sheets, captions, label="frame", zoom=2):
    """One slider with a play button over stored pictures: sheets (F, rows, columns, H, W) in [0, 1], a caption each."""
    slider, controls = _player(len(sheets), label)
    pages = _html(
        html.captioned(html.picture(sheet, text, zoom), text)
        for sheet, text in zip(sheets, captions, strict=True)
    )
    return _stored([controls, _stack(pages, (slider, "value"))])


def journey(trajectories, real, images=3, count=14):
    """How images come about, two methods side by side: the noisy state, the predicted image, its profile and spectrum.

    trajectories : method -> (columns of frames.csv, x, x0), as `lensnb.load_trajectory` gives them;
    real : images (N, C, H, W), whose means are dashed. Shows the first `images` of each method at `count`
    moments of its way; of fewer images, where a megabyte would be passed.
    """
    yardstick = _curves(np.asarray(real)).mean(axis=0)  # (2, POINTS)
    span = figures.limits(np.asarray(real))
    images = min(images, *(x.shape[1] for _, x, _ in trajectories.values()))
    pages = {
        method: [_moments(method, *way, image, count, yardstick, span) for image in range(images)]
        for method, way in trajectories.items()
    }
    while (
        images > 1
        and sum(len(p) for ways in pages.values() for way in ways[:images] for p in set(way))
        > LARGEST
    ):
        images -= 1
    slider, controls = _player(count, "share of the way")
    which = widgets.Dropdown(
        options=[(str(i + 1), i) for i in range(images)], description="image", style=WIDE
    )
    ways = [
        _stack(
            [_stack(_html(way), (slider, "value")) for way in pages[method][:images]],
            (which, "index"),
        )
        for method in trajectories
    ]
    sides = [
        _side(list(trajectories), ways, first, name)
        for first, name in ((0, "left"), (min(len(ways), 4) - 1, "right"))
    ]
    legend = widgets.HTML(
        "Below each pair: brightness from the centre to the edge of the image, and the logarithm of the power "
        "from its largest to its smallest structures; dashed, the mean of real images."
    )
    return _stored([controls, which, widgets.HBox(sides), legend])


def gallery(sets, captions, page=14, zoom=2):
    """Browse images with their physics: `sets` maps a name to images (N, C, H, W), `captions` to N lines of text."""
    span = figures.limits(np.asarray(next(iter(sets.values()))))
    pages = max(-(-len(images) // page) for images in sets.values())
    slider = widgets.IntSlider(0, 0, pages - 1, description="page", style=WIDE)
    shown = widgets.Dropdown(
        options=[(figures.name(k), i) for i, k in enumerate(sets)], description="images", style=WIDE
    )
    books = []
    for name, images in sets.items():
        grey = figures.stretch(np.asarray(images).mean(axis=1), *span)  # (N, H, W)
        cells = [
            html.captioned(
                html.picture(
                    tile[None, None], f"{figures.name(name)}, image {i + 1}: {text}", zoom
                ),
                text,
            )
            for i, (tile, text) in enumerate(zip(grey, captions[name], strict=True))
        ]
        sheets = _html(
            _fixed(cells[at : at + page], zoom * (grey.shape[-1] + 2))
            for at in range(0, len(cells), page)
        )
        books.append(_stack(sheets, (slider, "value")))
    return _stored([widgets.HBox([shown, slider]), _stack(books, (shown, "index"))])


def live(generators, seed=0, images=6, zoom=2):
    """Draw from trained models with a running kernel: `generators` maps a method to its `generate.Generator`.

    Knobs: method, steps, seed and, where the model is told what to draw, class, theta_E, q, shear and guidance. The line below
    says how many seconds it took.
    """
    span = figures.limits(next(iter(generators.values())).dataset.examples(256))
    quickest = min(
        generators, key=lambda m: (generators[m].nfe == 1, generators[m].nfe)
    )  # of those that take steps
    knobs = {
        "method": widgets.Dropdown(
            options=[(figures.name(m), m) for m in generators],
            value=quickest,
            description="method",
            style=LINED_UP,
        ),
        "steps": _slider("steps", min(10, generators[quickest].method.steps or 10), 1, 100),
        "seed": _slider("seed", seed, 0, 999),
    } | _told(next(iter(generators.values())))

    def drawn(method, steps, seed, guidance=1.0, **asked):
        generator = generators[method].variant(steps=steps, guidance=guidance)
        start = time.perf_counter()
        pictures = generator.draw(
            images, seed, table={k: np.array([v]) for k, v in asked.items()} or None
        )
        seconds = time.perf_counter() - start
        text = f"{figures.name(method)}: {images} images in {seconds:.2f} s, {generator.nfe} network evaluations each"
        return html.captioned(
            html.picture(figures.stretch(pictures.mean(axis=1), *span)[None], text, zoom), text
        )

    return _answering(knobs, drawn)


def lens(zoom=4, pixels=64):
    """Bend light by hand with a running kernel: the simulator's own knobs, without a trained model."""
    from lensnb.lensing import priors, simulate, truth_tables

    prior = priors.get_prior("broad", pixels)
    knobs = {
        "kind": widgets.Dropdown(
            options=[(name, i) for i, name in enumerate(priors.CLASSES)],
            description="substructure",
            style=LINED_UP,
        ),
        "theta_E": _slider(KNOBS["theta_E"], 1.2, 0.5, 1.8),
        "q": _slider(KNOBS["q"], 0.8, 0.4, 1.0),
        "gamma": _slider(KNOBS["gamma"], 0.05, 0.0, 0.2),
        "source_x": _slider("source to the right [arcsec]", 0.1, -0.6, 0.6),
        "source_radius": _slider("source radius [arcsec]", 0.2, 0.05, 0.5),
        "seed": _slider("seed", 0, 0, 999),
    }

    def drawn(kind, seed, **columns):
        truth = truth_tables.altered(
            truth_tables.draw_truth(1, prior, seed, start=kind),
            prior,
            x=0.0,
            y=0.0,
            source_y=0.05,
            **columns,
        )
        image = simulate.render(truth, prior).numpy()
        text = (
            f"{priors.CLASSES[kind]}: Einstein radius {columns['theta_E']:.2f} arcsec, axis ratio {columns['q']:.2f}, shear {columns['gamma']:.2f}; "
            f"{pixels * prior.pixel_scale:.1f} arcsec across"
        )
        return html.captioned(
            html.picture(figures.stretch(image[:1], *figures.limits(image)), text, zoom), text
        )

    return _answering(knobs, drawn)


def _answering(knobs, draw):
    """The knobs beside what `draw(**values)` says of them, drawn anew when one is let go; bad values give their sentence."""
    shown = widgets.HTML()

    def refresh(_=None):
        try:
            shown.value = draw(**{name: knob.value for name, knob in knobs.items()})
        except InputError as error:
            shown.value = html.captioned("", str(error))

    for knob in knobs.values():
        knob.observe(refresh, "value")
    refresh()
    return widgets.HBox([widgets.VBox(list(knobs.values())), shown])


def _told(generator):
    """The knobs of what a generator is told: none without a context."""
    asked = generator.asked(512)
    if asked is None:
        return {}
    names = [(name, i) for i, name in enumerate(generator.dataset.classes)]
    knobs = {"class": widgets.Dropdown(options=names, description="class", style=LINED_UP)}
    for name in [k for k in asked if k != "class"]:
        low, middle, high = np.percentile(asked[name], [1, 50, 99])
        knobs[name] = _slider(
            KNOBS.get(name, name),
            round(float(middle), 2),
            round(float(low), 2),
            round(float(high), 2),
        )
    return knobs | {"guidance": _slider("guidance", 1.0, 1.0, 5.0)}


def _slider(label, value, low, high):
    kind = widgets.IntSlider if isinstance(value, int) else widgets.FloatSlider
    step = {} if isinstance(value, int) else {"step": 0.01}
    return kind(
        value=value,
        min=low,
        max=high,
        description=label,
        style=LINED_UP,
        continuous_update=False,
        layout={"width": "30em"},
        **step,
    )


def _player(count, label):
    """A slider over 0..count-1, and the box of play button, slider and speed; all linked in the browser."""
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


def _stored(parts):
    """A box of stored widgets, without the marks of a missing kernel: they need none."""
    quiet = widgets.HTML(
        "<style>.lensnb-stored .jupyter-widgets-disconnected::before, .lensnb-stored.jupyter-widgets-disconnected::before "
        "{ display: none }</style>"
    )
    box = widgets.VBox([*parts, quiet])
    box.add_class("lensnb-stored")
    return box


def _html(texts):
    """One HTML a text; the same one for the same text, and one layout for all: models of their own would double the file."""
    texts = list(texts)
    first = widgets.HTML()
    made = {
        text: widgets.HTML(text, layout=first.layout, style=first.style)
        for text in dict.fromkeys(texts)
    }
    first.close()
    return [made[text] for text in texts]


def _stack(pages, chooser):
    stack = widgets.Stack(pages, selected_index=0)
    widgets.jslink(chooser, (stack, "selected_index"))
    return stack


def _fixed(cells, width):
    sized = (
        cell.replace(
            '<figure style="', f'<figure style="width:{width}px;line-height:1.3;font-size:11px;', 1
        )
        for cell in cells
    )
    return '<div style="max-width:1000px">' + "".join(sized) + "</div>"


def _curves(images):
    """Radial profile, asinh-stretched, and log power of images (N, C, H, W) at few points: (N, 2, POINTS)."""
    profile = np.arcsinh(image_stats.radial_profile(images))
    power = image_stats.log_power(images)
    return np.stack(
        [
            c[:, np.linspace(0, c.shape[1] - 1, POINTS).round().astype(int)]
            for c in (profile, power)
        ],
        axis=1,
    )


def _moments(method, table, x, x0, image, count, yardstick, span):
    """The pages of one image of a method: `count` of them, the same one again where the method has fewer steps."""
    key = next(k for k in table if k != "step")
    curves = _curves(x0[:, image])
    spans = [
        (min(*a, *b) - 0.2, max(*a, *b) + 0.2) for a, b in zip(curves[-1], yardstick, strict=True)
    ]
    said = {"sigma": "sigma {:.3g}", "angle_deg": "{:.0f}° through latent space"}.get(
        key, key + " {:.3g}"
    )

    def where(f):
        return f"{int(table['step'][f])} of {int(table['step'][-1])}, {said.format(table[key][f])}"

    page = cache(
        lambda f: _moment(
            method,
            where(f),
            x[f, image] if key == "sigma" else None,
            x0[f, image],
            curves[f],
            yardstick,
            spans,
            span,
        )
    )
    return [page(f) for f in np.linspace(0, len(x) - 1, count).round().astype(int).tolist()]


def _moment(method, where, x, x0, curves, yardstick, spans, span):
    """One frame as HTML: x, where it differs from x0, and the predicted x0 (C, H, W) above profile and spectrum."""
    text = f"{figures.name(method)}, step {where}"
    shade = matplotlib.colors.to_hex(figures.colour(method))
    zoom = max(1, 128 // x0.shape[-1])
    noisy = (
        ""
        if x is None
        else html.picture(
            (x.mean(axis=0) + 1.5)[None, None] / 3, f"{text}: noisy state", zoom, html.COARSE
        )
    )
    clean = html.picture(
        figures.stretch(x0.mean(axis=0), *span)[None, None], f"{text}: predicted image", zoom
    )
    lines = [
        html.curve(c, r, shade, f"{text}: {what}", s)
        for c, r, s, what in zip(
            curves, yardstick, spans, ("radial profile", "power spectrum"), strict=True
        )
    ]
    return html.captioned(f"{noisy}{clean}<br>{''.join(lines)}", text)


def _side(methods, ways, first, name):
    choice = widgets.Dropdown(
        options=[(figures.name(m), i) for i, m in enumerate(methods)],
        value=first,
        description=name,
        style=WIDE,
    )
    stack = widgets.Stack(ways, selected_index=first)
    widgets.jslink((choice, "index"), (stack, "selected_index"))
    return widgets.VBox([choice, stack], layout={"min_width": "300px"})
