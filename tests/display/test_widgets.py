"""Widgets: what they show, that they are linked in the browser, and that they stay small."""

import base64
import io
import json
import re
import threading
import time
import types

import ipywidgets
import numpy as np
import pytest
from ipywidgets.widgets.widget import _instances
from PIL import Image

from lensnb.display import answering, figures, html, stills, tables, widgets, widgets_journey
from lensnb.errors import InputError
from lensnb.evaluation import image_stats, morphology
from lensnb.kinds import KINDS


@pytest.fixture(autouse=True)
def _fresh():
    ipywidgets.Widget.close_all()


@pytest.fixture(scope="module")
def trajectories():
    """Frames of pure noise, which packs worst, for four methods."""
    rng = np.random.default_rng(0)

    def made(key, n):
        return (
            {"step": np.arange(1.0, n + 1), key: np.geomspace(80, 0.01, n)},
            rng.normal(size=(n, 4, 1, 64, 64)).astype(np.float32),
            rng.gamma(1, 5, size=(n, 4, 1, 64, 64)).astype(np.float32),
        )

    return {
        "ddpm": made("sigma", 40),
        "ddim": made("sigma", 40),
        "dpm": made("sigma", 11),
        "gan": made("angle_deg", 40),
    }


@pytest.fixture(scope="module")
def real():
    return np.random.default_rng(1).gamma(1, 5, size=(20, 1, 64, 64)).astype(np.float32)


def pixels(page, which=0):
    """The palette indices of a picture in a page's HTML, origin below."""
    data = re.findall(r'base64,([^"]+)', page)[which]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))[::-1]


def links(box):
    """All links that exist, as (source, trait of the source, target)."""
    return [
        (w.source[0], w.source[1], w.target[0])
        for w in _instances.values()
        if type(w).__name__ == "Link"
    ]


def stored():
    """The characters of all widgets as a notebook stores them."""
    return len(json.dumps(ipywidgets.Widget.get_manager_state()))


def test_a_journey_of_four_methods_stays_below_a_megabyte(trajectories, real):
    box = widgets.journey(trajectories, real)
    assert stored() < 1_000_000 and len(box.children[1].options) >= 2


def test_a_gallery_of_five_times_forty_two_images_stays_below_a_megabyte(real):
    sets = dict.fromkeys(
        ("real", "ddpm", "ddim", "dpm", "gan"), np.concatenate([real, real, real[:2]])
    )
    widgets.gallery(
        sets, {name: ["ring 1.2, flux 1e4, ellipticity 0.1, noise 1.0"] * 42 for name in sets}
    )
    assert stored() < 1_000_000


def test_everything_that_moves_is_linked_in_the_browser(trajectories, real):
    box = widgets.journey(trajectories, real, images=2)
    play, slider, pause = box.children[0].children
    which = box.children[1]
    left, right = box.children[2].children
    found = links(box)
    assert (play, "value", slider) in found and (pause, "value", play) in found
    ways = left.children[1].children
    assert right.children[1].children == ways and len(ways) == 4  # one model, two views
    for side in (left, right):
        assert (side.children[0], "index", side.children[1]) in found
    for way in ways:
        assert (which, "index", way) in found and len(way.children) == 2
        assert all(
            (slider, "value", stack) in found and len(stack.children) == slider.max + 1
            for stack in way.children
        )
    assert [side.children[0].value for side in (left, right)] == [0, 3]
    assert [side.children[1].selected_index for side in (left, right)] == [0, 3]


def test_a_frame_shows_the_image_and_the_moment_that_it_names(trajectories, real):
    box = widgets.journey(trajectories, real, images=2, count=5)
    ways = box.children[2].children[0].children[1].children
    table, x, x0 = trajectories["ddim"]
    # DDIM, the second image, the third of five moments: 19 or 20 of 0..39
    page = ways[1].children[1].children[2].value
    moment = int(re.search(r"DDIM, step (\d+) of 40", page)[1]) - 1
    assert moment in (19, 20) and f"sigma {table['sigma'][moment]:.3g}" in page
    noisy = ((x[moment, 1, 0] + 1.5) / 3).clip(0, 1) * (html.COARSE - 1)
    assert np.abs(pixels(page)[1:65, 1:65] - noisy).max() <= 0.5 + 1e-4
    clean = figures.stretch(x0[moment, 1, 0], *figures.limits(real)) * (html.FINE - 1)
    assert np.abs(pixels(page, 1)[1:65, 1:65] - clean).max() <= 0.5 + 1e-4
    gan = ways[3].children[0].children[0].value
    assert gan.count("<img") == 1 and "through latent space" in gan


def test_a_method_with_fewer_steps_waits_for_the_others(trajectories, real):
    box = widgets.journey(trajectories, real, images=1, count=30)
    ways = box.children[2].children[0].children[1].children
    pages = [page.value for page in ways[2].children[0].children]
    steps = [int(re.search(r"step (\d+) of 11", page)[1]) for page in pages]
    assert steps[0] == 1 and steps[-1] == 11
    assert set(steps) == set(range(1, 12)) and steps == sorted(steps)


def test_the_curves_of_a_frame_are_its_profile_and_spectrum(trajectories, real):
    x0 = trajectories["ddpm"][2][-1, :1]
    curves = widgets_journey._curves(x0)[0]
    places = np.linspace(0, 31, widgets_journey.POINTS).round().astype(int)
    assert np.abs(curves[0] - np.arcsinh(image_stats.radial_profile(x0)[0][places])).max() < 1e-12
    svg = html.curve([0, 1, 2], [2, 1, 0], "#ff0000", "a < b", (0, 2), size=(101, 51))
    assert re.findall(r'points="([^"]+)"', svg) == ["1,0 50,25 100,50", "1,50 50,25 100,0"]
    assert 'aria-label="a &lt; b"' in svg


def test_every_picture_and_knob_is_labelled(trajectories, real):
    widgets.journey(trajectories, real, images=1)
    widgets.gallery({"real": real}, {"real": [f"caption {i}" for i in range(20)]})
    widgets.lens(pixels=16)
    for widget in list(_instances.values()):
        if isinstance(widget, (ipywidgets.IntSlider, ipywidgets.FloatSlider, ipywidgets.Dropdown)):
            assert widget.description
        if isinstance(widget, ipywidgets.HTML):
            assert "http" not in widget.value and "<script" not in widget.value
            assert widget.value.count("<img") == len(re.findall(r'<img alt="[^"]+', widget.value))
            assert widget.value.count("<svg") == len(
                re.findall(r'<svg role="img" aria-label="[^"]+', widget.value)
            )


def test_a_gallery_shows_every_image_beside_its_own_caption(real):
    box = widgets.gallery({"real": real}, {"real": [f"number {i}" for i in range(20)]}, page=7)
    pages = [page.value for page in box.children[1].children[0].children]
    assert len(pages) == 2 + 1 == box.children[0].children[1].max + 1
    cells = [f for page in pages for f in re.findall(r"<figure.*?</figure>", page)]
    captions = [re.search(r"<figcaption>(.*?)<", cell)[1] for cell in cells]
    assert captions == [f"number {i}" for i in range(20)]
    shown = figures.stretch(real[13, 0], *figures.limits(real)) * (html.FINE - 1)
    assert np.abs(pixels(cells[13])[1:65, 1:65] - shown).max() <= 0.5 + 1e-4


def test_a_lens_answers_its_knobs():
    box = widgets.lens(pixels=32)
    knobs = {k.description: k for k in box.knobs.values()}
    shown = box.shown
    before = shown.value
    knobs["Einstein radius [arcsec]"].value = 1.7
    box.settle()
    assert shown.value != before and "Einstein radius 1.70 arcsec" in shown.value

    def radius(page):
        weights = pixels(page).astype(float) ** 2
        return float(np.average(np.hypot(*np.indices((34, 34)) - 16.5), weights=weights))

    # The ring has grown from 1.2 to 1.7 arcsec.
    assert radius(shown.value) > 1.2 * radius(before)


class Echo:
    """A generator whose images show the class and the Einstein radius that it is told."""

    class dataset:
        classes = ("01", "02")  # by their numbers they would be 1 and 2
        examples = staticmethod(lambda n: np.random.default_rng(0).random((n, 1, 8, 8)))

    nfe = 10
    steps = 10
    guidance = 1.0
    method = types.SimpleNamespace(steps=10)
    kind = KINDS["diffusion"]

    def asked(self, n, seed=0, first=0, table=None):
        return {"class": np.arange(n) % 2, "theta_E": np.linspace(1, 2, n)}

    def variant(self, steps, guidance):
        made = Echo()
        made.steps = made.nfe = steps
        made.guidance = guidance
        return made

    def draw(self, n, seed=0, table=None):
        named = self.dataset.classes.index(table["class"][0])
        return np.full((n, 1, 8, 8), named * 0.5 + (table["theta_E"][0] - 1) * 0.25)


def test_a_live_draw_hands_its_knobs_to_the_model():
    box = widgets.live({"ddim": Echo()}, images=2)
    knobs = {k.description: k for k in box.knobs.values()}
    shown = box.shown
    assert list(knobs) == [
        "method",
        "steps",
        "seed",
        "class",
        "Einstein radius [arcsec]",
        "guidance",
    ]
    assert "10 evaluations each" in shown.value
    assert re.search(r"DDIM, seed 0: 2 images in \d+\.\d\d s", shown.value)
    knobs["steps"].value = 25
    box.settle()
    assert "25 evaluations each" in shown.value
    dark = pixels(shown.value)[1:9, 1:9].mean()
    knobs["class"].value = "02"
    box.settle()
    assert pixels(shown.value)[1:9, 1:9].mean() > dark


def test_a_refusal_stands_where_the_picture_would():
    class Refusing(Echo):
        def variant(self, steps, guidance):
            return self

        def draw(self, n, seed=0, table=None):
            raise InputError("sampler: no such steps")

    box = widgets.live({"ddim": Refusing()})
    assert "sampler: no such steps" in box.shown.value
    # Without a picture there is no still picture either.
    assert "image/png" not in box._repr_mimebundle_()[0]


def test_the_knobs_of_a_sampler_are_grey_where_there_is_none():
    class OnePass(Echo):
        nfe = 1
        method = types.SimpleNamespace(steps=None)
        kind = KINDS["gan"]

    box = widgets.live({"gan": OnePass(), "ddim": Echo()})
    assert box.knobs["method"].value == "ddim" and not box.knobs["steps"].disabled
    box.knobs["method"].value = "gan"
    assert box.knobs["steps"].disabled and box.knobs["guidance"].disabled
    box.knobs["method"].value = "ddim"
    assert not box.knobs["steps"].disabled
    box.settle()


def test_of_a_consistency_model_the_slider_offers_one_and_two_steps():
    class Tuned(Echo):
        nfe = 2
        method = types.SimpleNamespace(steps=2)
        kind = KINDS["consistency"]

    box = widgets.live({"two": Tuned(), "ddim": Echo()})
    steps, guidance = box.knobs["steps"], box.knobs["guidance"]
    assert box.knobs["method"].value == "two"
    assert (steps.min, steps.value, steps.max) == (1, 2, 2) and not steps.disabled
    assert guidance.disabled
    box.knobs["method"].value = "ddim"
    assert (steps.value, steps.max) == (10, 100) and not guidance.disabled
    steps.value = 25
    box.knobs["method"].value = "two"
    box.settle()
    assert (steps.value, steps.max) == (2, 2) and "2 evaluations each" in box.shown.value


def test_of_many_requests_only_the_last_one_is_drawn_after_the_one_at_work():
    asked = []
    working = threading.Event()
    go_on = threading.Event()

    def draw(number):
        asked.append(number)
        if number:
            working.set()
            assert go_on.wait(60)
        return answering.Drawn(np.zeros((1, 1, 8, 8)), f"number {number}")

    knob = ipywidgets.IntSlider(0, 0, 99)
    box = answering.Answering({"number": knob}, draw, zoom=1)
    knob.value = 1
    assert working.wait(60)
    for number in range(2, 20):
        knob.value = number
    go_on.set()
    box.settle()
    assert asked == [0, 1, 19] and "number 19" in box.shown.value and box.alt == "number 19"


def test_a_long_drawing_is_announced_and_an_unforeseen_error_is_told():
    seen = []

    def draw(number):
        if number == 1:
            while not box.status.value:
                time.sleep(0.01)
            seen.append(box.status.value)
        if number == 2:
            raise ValueError("no such number")
        return answering.Drawn(np.zeros((1, 1, 8, 8)), "drawn")

    knob = ipywidgets.IntSlider(0, 0, 9)
    box = answering.Answering({"number": knob}, draw, zoom=1)
    knob.value = 1
    box.settle()
    assert seen == ["drawing ..."] and box.status.value == ""
    knob.value = 2
    box.settle()
    assert "ValueError: no such number" in box.shown.value


def test_a_lens_shows_its_critical_curve_where_its_ring_is():
    box = widgets.lens(pixels=64)
    box.knobs["q"].value = 1.0
    box.knobs["gamma"].value = 0.0
    box.knobs["curves"].value = True
    box.settle()
    lines = re.findall(r'<polyline points="([^"]+)" stroke="(#\w+)"', box.shown.value)
    assert {colour for _, colour in lines} == {"#00e5ff", "#5dff3b"}
    critical = np.array([p.split(",") for p in lines[0][0].split()], float)
    # 66 units are 64 pixels and a gap on each side; the ring has 1.2 arcsec, 0.1 arcsec a pixel
    radius = np.hypot(*(critical - 33).T)
    assert np.abs(radius - 12).max() < 0.05
    box.knobs["curves"].value = False
    box.settle()
    assert "<polyline" not in box.shown.value


def test_each_widget_has_a_still_picture_beside_its_view(trajectories, real):
    sets = {"real": real, "ddpm": real}
    texts = {name: [f"caption {i}" for i in range(20)] for name in sets}
    shown = {
        "journey": widgets.journey(trajectories, real, images=1, count=3),
        "gallery": widgets.gallery(sets, texts),
        "scrub": widgets.scrub(real[:9, None], [f"caption {i}" for i in range(9)]),
        "lens": widgets.lens(pixels=16),
        "live": widgets.live({"ddim": Echo()}, images=2),
    }
    for box in shown.values():
        data, told = box._repr_mimebundle_()
        assert set(data) == {
            "text/plain",
            "application/vnd.jupyter.widget-view+json",
            "image/png",
        }
        image = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
        assert image.width > 200 and len(image.convert("RGB").getcolors(1 << 20)) > 8
        assert told["image/png"]["alt"] and len(data["image/png"]) < 300_000


def test_a_still_picture_shows_the_images_that_it_is_given():
    squares = [np.full((8, 8), shade) for shade in (0.0, 1.0)]
    image = Image.open(io.BytesIO(stills.sheet([squares]))).convert("L")
    grey = np.asarray(image)[: image.height // 2]
    left, right = grey[:, : image.width // 2], grey[:, image.width // 2 :]
    assert left.min() < 5 and np.percentile(right, 10) > 200  # black, and pale yellow on white


def test_captions_say_what_is_measured(real):
    first = tables.captions(real[:2], pixel_scale=0.1)[0]
    radius = morphology.ring_radius(real[:1], 0.1)[0, 0]
    flux = image_stats.total_flux(real[:1])[0, 0]
    assert first.startswith(f'ring {radius:.2f}", flux {flux:,.0f}, ')
    assert "pixels" in tables.captions(real[:1])[0]
