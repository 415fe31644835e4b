"""Figures and widgets of images with one, two, three and five bands."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
from astropy.visualization import make_lupton_rgb
from PIL import Image

from lensnb.display import figures, html, tables, widgets
from lensnb.display.stretch import SOFTENING, picture, stretch

RNG = np.random.default_rng(0)
BANDS = (1, 2, 3, 5)


def images(n, channels, size=12):
    return RNG.random((n, channels, size, size)).astype(np.float32) ** 4


def test_three_bands_have_the_colours_of_lupton():
    """astropy's stretch is ours for the Q at which its slope is 1 / asinh(1 / softening)."""
    low, high = 0.1, 0.7
    rgb = images(1, 3, 32)[0]
    q = 10 * np.sinh(0.1 / np.arcsinh(1 / SOFTENING) ** -1)
    theirs = make_lupton_rgb(
        *rgb.astype(float), minimum=low, stretch=q * SOFTENING * (high - low), Q=q
    )
    ours = picture(rgb, low, high)
    assert np.abs(255 * ours - theirs).max() <= 1.01  # theirs are whole numbers, rounded down
    grey = np.repeat(rgb[:1], 3, axis=0)
    for c in range(3):  # equal bands are grey, with the brightness of one band alone
        assert np.abs(picture(grey, low, high)[..., c] - stretch(grey[0], low, high)).max() < 1e-12


def test_other_bands_stand_side_by_side():
    five = images(2, 5)
    shown = picture(five, 0.0, 1.0)
    assert shown.shape == (2, 12, 5 * 12 + 4)
    for c in range(5):
        at = 13 * c
        assert np.array_equal(shown[..., at : at + 12], stretch(five[:, c], 0.0, 1.0))
    assert (shown[..., 12::13] == 1).all()


@pytest.mark.parametrize("channels", BANDS)
def test_every_figure_shows_every_band(channels, tmp_path):
    x = images(8, channels)
    frames = np.stack([x, x, x])
    table = {"step": [0, 1, 2], "sigma": [3.0, 2.0, 1.0]}
    turn = {"step": [0, 1, 2], "angle_deg": [0.0, 90.0, 180.0]}
    shown = [
        figures.gallery({"real": x, "made": x}, pixel_scale=0.1),
        figures.progress([1, 2, 3], frames),
        figures.walk(turn, frames),
        figures.filmstrip(table, frames, frames),
        figures.noise_levels([3.0, 2.0, 1.0], frames[:, 0]),
    ]
    wide = 12 if channels in (1, 3) else 13 * channels - 1
    for figure in shown:
        pictures = [i.get_array() for axis in figure.axes for i in axis.get_images()]
        assert pictures and all(p.shape[:2] == (12, wide) for p in pictures)
        assert all(p.ndim == (3 if channels == 3 else 2) for p in pictures)
        plt.close(figure)
    figures.animation(frames, tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as film:
        assert film.n_frames >= 1 and film.size[1] % 12 == 0


@pytest.mark.parametrize("channels", BANDS)
def test_every_widget_shows_every_band(channels):
    x = images(4, channels)
    frames = np.stack([x, x])
    table = {"step": np.array([0, 1]), "sigma": np.array([2.0, 1.0])}
    widgets.journey({"ddim": (table, frames, frames)}, x, count=2)
    widgets.gallery({"real": x}, {"real": ["a"] * 4})
    png = Image.open(io.BytesIO(html.png(picture(x, 0, 1)[None]))).convert("RGB")
    assert png.size[1] == 14
    spread = np.ptp(np.asarray(png)[1:13, 1:13].astype(int), axis=2).max()
    if channels == 3:  # red stays red
        red = np.zeros((1, 3, 4, 4))
        red[:, 0] = 1
        pixels = np.asarray(
            Image.open(io.BytesIO(html.png(picture(red, 0, 1)[None]))).convert("RGB")
        )
        assert (pixels[2, 2] == [255, 0, 0]).all() and spread > 20


def test_a_class_without_images_is_left_out_and_many_classes_are_counted():
    x = images(2, 1)
    none = x[:0]
    assert tables.captions(none) == []
    sets = {"none": none, "some": x}
    assert len(figures.gallery(sets, columns=2).axes) == 2 + 1  # two images and a colour bar
    box = widgets.gallery(sets, {"none": [], "some": ["a", "b"]})
    assert "none" not in box.alt and "some" in box.alt
    many = {f"class {k}": x for k in range(30)}
    figure = figures.gallery(many, columns=2)
    assert len(figure.axes) == 2 * 24 + 1
    assert [text.get_text() for text in figure.texts] == [
        "the first 24 are shown, 6 more are there"
    ]
    plt.close("all")


def test_a_still_picture_of_colours_beyond_the_range_warns_of_nothing(caplog):
    bright = 2 * images(4, 3)
    sheets = np.stack([bright, bright]).transpose(0, 1, 3, 4, 2)[:, None]
    assert widgets.scrub(sheets, ["a", "b"]).still() and not caplog.records
    plt.close("all")
