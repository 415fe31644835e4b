"""Figures: names, colours, stretch, labels and files."""

import io

import numpy as np
import pytest
from PIL import Image

from lensnb.display import figures


def test_the_usual_methods_have_colours_of_their_own():
    known = [figures.colour(m) for m in ("real", "ddpm", "ddim", "dpm", "gan")]
    assert len({str(c) for c in known}) == 5 and figures.colour("mine") == figures.colour("mine")
    assert str(figures.colour("mine")) not in {str(c) for c in known}


def test_a_method_has_one_name_and_its_name_has_its_colour():
    names = [figures.name(m) for m in ("ddpm", "ddim", "dpm", "gan", "mine")]
    assert names == ["DDPM", "DDIM", "DPM-Solver++", "GAN", "mine"]
    assert figures.colour("DPM-Solver++") == figures.colour("dpm")
    assert figures.colour("diffusion") == figures.colour("ddpm") != figures.colour("gan")


@pytest.mark.parametrize("shift", [0, -1000, 5e4])
def test_the_ticks_of_a_colour_bar_are_few_and_round(shift):
    images = shift + np.random.default_rng(0).gamma(1, 5, size=(8, 1, 16, 16))
    bar = figures.gallery({"real": images}, columns=8).axes[-1]
    ticks = bar.get_yticks()
    assert 3 <= len(ticks) <= 8 and (np.diff(ticks) > 0).all()
    texts = [f"{abs(tick - shift):.10g}".strip("0.") or "0" for tick in ticks]
    assert set(texts) <= {"0", "1", "2", "5"}, ticks


def test_the_dots_of_a_comparison_do_not_overlap_whatever_the_number_of_methods():
    rows = [
        {"metric": metric, "method": f"m{i}", "ratio": 2.0, "error": 0.1, "floor": 1.0}
        for metric in ("spectrum", "profile")
        for i in range(9)
    ]
    axis = figures.ratios(rows).axes[0]
    places = sorted(line.get_ydata()[0] for line in axis.lines if line.get_marker() == "o")
    assert len(places) == 18 and places[8] < 0.5 < places[9]
    assert [text.get_text() for text in axis.get_yticklabels()] == [
        "power spectrum",
        "radial profile",
    ]


def test_stretch_maps_its_span_to_the_unit_interval():
    assert np.abs(figures.stretch([-5, 0, 10, 99], 0, 10) - [0, 0, 1, 1]).max() < 1e-12
    assert (np.diff(figures.stretch(np.linspace(0, 10, 50), 0, 10)) > 0).all()


def test_the_colour_bar_of_a_gallery_belongs_to_its_stretch():
    images = np.random.default_rng(0).gamma(1, 5, size=(8, 1, 16, 16))
    figure = figures.gallery({"real": images}, pixel_scale=0.1)
    bar = figure.axes[-1]
    norm = bar._colorbar.mappable.norm
    span = figures.limits(images)
    values = np.linspace(*span, 30)
    assert np.abs(norm(values) - figures.stretch(values, *span)).max() < 1e-12
    assert np.abs(norm.inverse(norm(values)) - values).max() < 1e-9 and bar.get_ylabel()
    assert any(text.get_text() == '1"' for text in figure.axes[0].texts)


def test_images_of_one_brightness_are_drawn_too():
    low, high = figures.limits(np.full((2, 1, 8, 8), -3.0))
    assert low == -3 and high > low and figures.limits(np.zeros((2, 1, 8, 8)))[1] > 0
    assert len(figures.gallery({"generated": np.full((2, 1, 8, 8), 7.0)}, columns=2).axes) == 3
    assert figures.intensities({"real": np.full((2, 1, 8, 8), 7.0)}).axes


@pytest.mark.parametrize("shift", [-1000, 0, 1000])
def test_every_pixel_is_in_the_histogram_wherever_the_images_lie(shift):
    rng = np.random.default_rng(1)
    real = rng.exponential(size=(4, 1, 32, 32)).astype(np.float32)
    bright = real.copy()
    bright[:, :, 0, 0] = 50
    bright[:, :, 0, 1] = -50
    figure = figures.intensities({"real": real + shift, "bright": bright + shift})
    steps = {patch.get_label(): patch.get_data() for patch in figure.axes[0].patches}
    shares = {name: values * np.diff(edges) for name, (values, edges, _) in steps.items()}
    assert all(share.sum() == pytest.approx(1) for share in shares.values())
    assert (shares["real"] > 0).sum() > 40
    beyond = shares["bright"][[0, -1]] - shares["real"][[0, -1]]
    assert beyond == pytest.approx(4 / real.size, abs=2 / real.size)


def test_no_legend_lies_over_the_data():
    images = np.random.default_rng(0).gamma(1, 5, size=(4, 1, 16, 16))
    figure = figures.intensities({"real": images, "gan": images})
    figure.savefig(io.BytesIO())  # lays it out
    assert figure.axes[0].get_legend() is None
    assert figure.legends[0].get_window_extent().x0 >= figure.axes[0].bbox.x1


def test_the_angles_of_a_walk_are_round():
    angles = np.linspace(0, 360, 40)
    figure = figures.walk({"angle_deg": angles}, np.zeros((40, 1, 1, 8, 8)), images=1)
    titles = [axis.get_title() for axis in figure.axes]
    assert titles[0] == "0°" and titles[1] == "≈ 50°" and titles[-1] == "360°"


def test_a_gallery_in_colour_has_no_bar():
    images = np.random.default_rng(0).random((2, 3, 16, 16))
    assert len(figures.gallery({"real": images}, columns=2).axes) == 2


def test_figures_have_labelled_axes_with_units_and_save_as_vector_and_raster(tmp_path):
    curve = {
        "frequency": [1, 2],
        "log_power": [1, 0],
        "log_power_error": [0.1, 0.1],
        "radius": [1, 2],
        "profile": [3, 2],
        "profile_error": [0.1, 0.1],
    }
    for scale, unit in ((0.1, "arcsec"), (None, "pixel")):
        figure = figures.spectra(
            {"ddim": {"pixel_scale": scale, "generated": curve, "real": curve}}
        )
        assert all(unit in axis.get_xlabel() and axis.get_ylabel() for axis in figure.axes)
    figures.save(figure, tmp_path, "spectra")
    assert (tmp_path / "spectra.pdf").read_bytes()[:4] == b"%PDF"
    assert Image.open(tmp_path / "spectra.png").info["dpi"][0] > 299
