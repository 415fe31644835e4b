"""Tables: headings in plain words, one name a method and a measure, bold where one is best."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

from lensnb.display import tables


def row(method, metric, value, ratio=None, best=False):
    return {
        "method": method,
        "metric": metric,
        "value": value,
        "error": 0.1,
        "floor": 1.0,
        "floor_error": 0.2,
        "z": -0.5,
        "ratio": ratio,
        "n": 1744,
        "unit": "dex" if metric == "mine" else "1",
        "larger_is_better": None if metric == "mine" else False,
        "best": best,
    }


def cells(styler):
    """The texts of a table, row by row."""
    lines = re.findall(r"<tr>(.*?)</tr>", styler.to_html(), re.DOTALL)
    return [re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", line) for line in lines]


def test_a_comparison_names_methods_and_measures_and_marks_the_best():
    rows = [
        row("dpm", "frechet_lensnet", 2.0, ratio=2.0, best=True),
        row("dpm", "mine", 0.5),
        row("gan", "frechet_lensnet", 3.0, ratio=3.0),
        row("gan", "mine", 0.25),
    ]
    table = tables.comparison(rows)
    assert cells(table) == [
        ["&nbsp;", "DPM-Solver++", "GAN", "real vs real (floor)", "unit"],
        ["Frechet distance (LensNet) ↓", "2 ± 0.1 (2.0)", "3 ± 0.1 (3.0)", "1 ± 0.2", ""],
        ["mine ↔", "0.5 ± 0.1", "0.25 ± 0.1", "1 ± 0.2", "dex"],
    ]
    assert re.findall(r"#T_\w+?_(row\d_col\d)\s*\{\s*font-weight: bold", table.to_html()) == [
        "row0_col0"
    ]


def test_no_entry_of_a_table_is_infinite_or_pretends_to_digits():
    wild = row("gan", "spectrum", 500.0, ratio=500502749.3)
    exact = row("dpm", "spectrum", 1.0, ratio=1.0) | {"error": 8e-17}
    lost = row("dpm", "mine", float("inf"))
    table = cells(tables.comparison([wild, exact, lost]))
    assert table[1][1:3] == ["500 ± 0.1 (> 1,000)", "1 ± 0 (1.0)"] and table[2][2] == "not measured"
    card = cells(tables.card("gan", {"spectrum": wild | {"z": float("inf")}}))
    assert "> 100" in card[1] and "> 1,000" in card[1]


def test_a_card_has_a_heading_for_every_number():
    found = {"spectrum": row("dpm", "spectrum", 0.25, ratio=2.0), "mine": row("dpm", "mine", 1)}
    headings, first, second = cells(tables.card("dpm", found))
    assert headings[1:] == list(tables.CARD.values())
    assert first == ["power spectrum", "0.250", "0.100", "1.000", "0.200", "-0.5", "2.0", "1,744"]
    assert second[0] == "mine" and second[-2] == ""


def test_costs_are_told_in_words():
    cost = {"model": "gan", "nfe": 1, "parameters": 1020841, "seconds_per_image": 0.00231}
    assert cells(tables.costs({"gan": cost})) == [
        ["&nbsp;", "model", "network evaluations", "parameters", "seconds an image"],
        ["GAN", "GAN", "1", "1,020,841", "0.0023"],
    ]


@pytest.mark.parametrize("unit", [1.0, 1e-17])
def test_pixel_values_keep_their_digits_in_any_unit_and_say_where_there_is_no_noise(unit):
    ring = np.zeros((4, 1, 32, 32), np.float32)
    ring[:, :, 8:12, 8:12] = 5
    noise = np.random.default_rng(0).normal(0, 0.1, ring.shape)
    values, smooth = (
        tables.pixel_values(SimpleNamespace(images=unit * x, train=np.arange(4)))
        for x in (ring + noise, ring)
    )
    assert values["noise of the sky"].item() == pytest.approx(0.1 * unit, rel=0.1)
    assert 40 < values["median peak / noise"].item() < 60
    assert np.isnan(smooth["median peak / noise"].item())


def test_words_that_name_images_are_counted_and_not_listed():
    truth = {
        "file": np.array([f"{k:02}.npy" for k in range(40)]),
        "band": np.array(["r", "", *["g"] * 38]),
        "one": np.array(["x"] * 40),
    }
    found = tables.known(SimpleNamespace(truth=truth))
    assert found == {
        "file": "40 different: 00.npy (1), 01.npy (1), 02.npy (1) and 37 more",
        "band": "missing (1), g (38), r (1)",
    }
