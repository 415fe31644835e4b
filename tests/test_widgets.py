"""Figures and sliders: right content, bounded size."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from lensnb import plots, widgets


@pytest.fixture(scope="module")
def frames():
    rng = np.random.default_rng(0)
    table = {"step": np.arange(1.0, 41), "sigma": np.geomspace(80, 0.01, 40)}
    return table, rng.normal(size=(40, 4, 1, 64, 64)), rng.gamma(1, 5, size=(40, 4, 1, 64, 64))


def test_a_slider_is_linked_in_the_browser_and_stays_below_a_megabyte(frames):
    box = widgets.scrub(*frames)
    (play, slider), stack = box.children[0].children, box.children[1]
    assert len(stack.children) == 40 and slider.max == play.max == 39
    assert sum(len(frame.value) for frame in stack.children) < 1_000_000
    assert all('alt="step' in frame.value and "http" not in frame.value for frame in stack.children)
    assert "sigma 0.01" in stack.children[-1].value and "step 40 of 40" in stack.children[-1].value


def test_a_frame_holds_the_pixels_it_shows(frames):
    table, x, x0 = frames
    html = widgets.scrub(table, x, x0, images=1).children[1].children[7].value
    picture = Image.open(io.BytesIO(base64.b64decode(re.search(r"base64,([^\"]+)", html)[1])))
    shown = np.asarray(picture)
    assert shown.shape == (132, 66)
    noisy = ((x[7, 0, 0] + 1.5) / 3).clip(0, 1) * 63
    assert np.abs(shown[1:65, 1:65][::-1] - noisy).max() <= 0.5     # origin below, as in the figures


def test_the_usual_methods_have_colours_of_their_own():
    known = [plots.colour(m) for m in ("real", "ddpm", "ddim", "gan")]
    assert len({str(c) for c in known}) == 4 and plots.colour("mine") == plots.colour("mine")
    assert str(plots.colour("mine")) not in {str(c) for c in known}


def test_stretch_maps_its_span_to_the_unit_interval():
    assert np.abs(plots.stretch([-5, 0, 10, 99], 0, 10) - [0, 0, 1, 1]).max() < 1e-12
    assert (np.diff(plots.stretch(np.linspace(0, 10, 50), 0, 10)) > 0).all()


def test_figures_have_labelled_axes_with_units_and_save_as_vector_and_raster(tmp_path):
    curve = {"frequency": [1, 2], "log_power": [1, 0], "log_power_error": [0.1, 0.1], "radius": [1, 2],
             "profile": [3, 2], "profile_error": [0.1, 0.1]}
    for scale, unit in ((0.1, "arcsec"), (None, "pixel")):
        figure = plots.spectra({"ddim": {"pixel_scale": scale, "generated": curve, "real": curve}})
        assert all(unit in axis.get_xlabel() and axis.get_ylabel() for axis in figure.axes)
    plots.save(figure, tmp_path, "spectra")
    assert (tmp_path / "spectra.pdf").read_bytes()[:4] == b"%PDF"
    assert Image.open(tmp_path / "spectra.png").info["dpi"][0] > 299
