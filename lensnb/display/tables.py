"""Tables of the notebooks and the report, in pandas; every number has its error."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

from lensnb.datasets.dataset import Dataset
from lensnb.display.style import name
from lensnb.evaluation import image_stats, morphology
from lensnb.evaluation.compare import times_told, z_told
from lensnb.evaluation.measures import label

Row = Mapping[str, Any]

# larger_is_better -> the arrow towards better values; ↔: the value of real images is best.
ARROWS = {True: "↑", False: "↓", None: "↔"}
# Key of a metric in metrics.json -> heading.
CARD = {
    "value": "value",
    "error": "standard error",
    "floor": "real-vs-real floor",
    "floor_error": "error of the floor",
    "z": "z",
    "ratio": "value / floor",
    "n": "images",
}
# Key of a method's costs in timing.json -> heading, format.
COSTS = {
    "model": ("model", "{}"),
    "nfe": ("network evaluations", "{:,}"),
    "parameters": ("parameters", "{:,}"),
    "images": ("images drawn", "{:,}"),
    "seconds_per_image": ("seconds an image", "{:.4f}"),
    "training_minutes": ("training minutes", "{:.1f}"),
    "training_images_seen": ("training images seen", "{:,}"),
}


def card(method: str, metrics: Mapping[str, Mapping[str, Any]]) -> Styler:
    """All measures of one method, one row each; `metrics` as in metrics.json."""
    table = pd.DataFrame(metrics).T[list(CARD)].astype(float)
    table = table.rename(index=label, columns=CARD)
    formats: dict[Any, Any] = dict.fromkeys(CARD.values(), "{:.3f}")
    formats |= {"z": _z, "value / floor": times_told, "images": "{:,.0f}"}
    return table.style.set_caption(name(method)).format(formats, na_rep="")


def comparison(rows: Sequence[Row]) -> Styler:
    """One row a measure, one column a method: value ± error (ratio to the floor).

    rows : the rows of table.json. The arrow of a measure points to where better values are; its
    unit and the real-vs-real floor have columns of their own. Bold is the best of a row, where one
    method is clearly best.
    """

    def entry(row: Row) -> str:
        times = times_told(row["ratio"])
        return measured(row["value"], row["error"]) + (f" ({times})" if times else "")

    def bold(column: pd.Series) -> list[str]:
        if column.name not in clear:
            return [""] * len(column)
        return ["font-weight: bold" if best else "" for best in clear[column.name]]

    clear = _by_measure(rows, lambda row: row["best"])
    table = _by_measure(rows, entry)
    first = {row["metric"]: row for row in reversed(rows)}
    of_measure = [first[metric] for metric in dict.fromkeys(row["metric"] for row in rows)]
    table["real vs real (floor)"] = [
        measured(row["floor"], row["floor_error"]) for row in of_measure
    ]
    table["unit"] = ["" if row["unit"] in (1, "1", None) else row["unit"] for row in of_measure]
    arrows = [ARROWS[row["larger_is_better"]] for row in of_measure]
    table.index = [f"{text} {arrow}" for text, arrow in zip(table.index, arrows, strict=True)]
    return table.style.apply(bold)


def plain(rows: Sequence[Row]) -> str:
    """The table of `comparison` as text for a terminal: value ± error (ratio), and z."""

    def entry(row: Row) -> str:
        times = times_told(row["ratio"])
        z = "" if row["z"] is None else f", z {z_told(row['z'], 1)}"
        return measured(row["value"], row["error"]) + (f" ({times}{z})" if times else z)

    return _by_measure(rows, entry).to_string()


def measured(value: float, error: float) -> str:
    """A value ± its error; an error that is only rounding, or unknown, is told as such.

    >>> measured(24.26, 2.03), measured(1.0, 8e-17)
    ('24.3 ± 2', '1 ± 0')
    """
    if not math.isfinite(value):
        return "not measured"
    if not math.isfinite(error):
        return f"{value:.3g} ± unknown"
    return f"{value:.3g} ± {error:.1g}" if error > 1e-9 * abs(value) else f"{value:.3g} ± 0"


def _z(value: float) -> str:
    return z_told(value, 1)


def over_seeds(rows: Sequence[Row]) -> Styler:
    """One row a measure, one column a method: mean ± spread over the training seeds.

    rows : the rows of `compare.over_seeds`.
    """

    def entry(row: Row) -> str:
        spread = "" if row["spread"] is None else f" ± {row['spread']:.1g}"
        return f"{row['mean']:.3g}{spread}"

    caption = f"mean ± spread over {rows[0]['seeds']} training seeds"
    return _by_measure(rows, entry).style.set_caption(caption)


def of_runs(rows: Sequence[Row]) -> pd.DataFrame:
    """One row a run and method, one column a measure: value, error and ratio.

    rows : the rows of `compare.compare_runs`.
    """
    columns = ["value", "error", "ratio"]
    return pd.DataFrame(rows).pivot(index=["run", "method"], columns="metric", values=columns)


def _by_measure(rows: Sequence[Row], entry: Callable[[Row], Any]) -> pd.DataFrame:
    """A table of `entry(row)`: one row a measure and one column a method, in the order of rows."""
    cells: dict[str, dict[str, Any]] = {}
    for row in rows:
        cells.setdefault(row["method"], {})[row["metric"]] = entry(row)
    measures = list(dict.fromkeys(row["metric"] for row in rows))
    table = pd.DataFrame(cells, index=measures)
    return table.rename(index=label, columns=name)


def costs(costs: Mapping[str, Mapping[str, Any]]) -> Styler:
    """What the training and an image of each method cost, one row a method; as in timing.json."""
    table = pd.DataFrame(list(costs.values()), index=[name(method) for method in costs])
    if "model" in table:
        table["model"] = table["model"].map(name)
    headings = {key: COSTS[key] for key in table if key in COSTS}
    table = table.rename(columns={key: heading for key, (heading, _) in headings.items()})
    return table.style.format(dict(headings.values()))


MOST_LISTED = 16  # names that a line lists in full
FIRST = 3  # of more names
NOISELESS = 1e-5  # of the peak; a smaller scatter of the sky is rounding


def pixel_values(dataset: Dataset, most: int = 500) -> pd.DataFrame:
    """One row a band: smallest, median, largest pixel, noise of the sky, and peak over noise.

    Measured on at most `most` training images, to four digits whatever their unit. Images without
    noise have no peak over noise.
    """
    images = dataset.images[dataset.train[:most]]
    rows = []
    for c in range(images.shape[1]):
        band = images[:, c : c + 1]
        noise = float(np.median(image_stats.noise_level(band)))
        peak = float(np.median(band.max(axis=(1, 2, 3)) - np.median(band)))
        rows.append(
            {
                "smallest": float(band.min()),
                "median": float(np.median(band)),
                "largest": float(band.max()),
                "noise of the sky": noise,
                "median peak / noise": peak / noise if noise > NOISELESS * peak else np.nan,
            }
        )
    rows = [{name: float(f"{value:.4g}") for name, value in row.items()} for row in rows]
    return pd.DataFrame(rows, index=[f"band {c + 1}" for c in range(len(rows))])


def known(dataset: Dataset, names: Sequence[str] | None = None, most: int = 20) -> dict[str, str]:
    """What is known of the images: column of the truth table -> one line of text.

    names : the columns; if not given, the first `most` columns that vary.
    """
    found: dict[str, str] = {}
    for key in names or dataset.truth:
        values = np.asarray(dataset.truth.get(key, ()))
        line = _of_numbers(values) if values.dtype.kind in "fiu" else _of_words(values)
        if line and len(found) < most:
            found[key] = line
    return found


def _of_numbers(values: np.ndarray) -> str:
    finite = values[np.isfinite(values)]
    if not len(finite) or finite.min() == finite.max():
        return ""
    low, middle, high = np.percentile(finite, [5, 50, 95])
    wide = 1e-3 < max(abs(low), abs(high)) < 1e4
    form = "{:6.2f}" if wide else "{:6.3g}"
    parts = (form.format(value) for value in (low, middle, high))
    text = "5 % {}   median {}   95 % {}".format(*parts)
    missing = len(values) - len(finite)
    return text + (f"   missing in {missing}" if missing else "")


def _of_words(values: np.ndarray) -> str:
    words, counts = np.unique(values.astype(str), return_counts=True)
    if len(words) < 2:
        return ""
    named = ["missing" if word in ("", "nan") else word for word in words]
    return counted(named, counts)


def counted(names: Sequence[str], counts: Iterable[int]) -> str:
    """Names with how often each occurs; of more than MOST_LISTED their number and the first few.

    >>> counted(["cdm", "no_sub"], [30, 70])
    'cdm (30), no_sub (70)'
    >>> counted([f"{k}.png" for k in range(40)], [1] * 40)
    '40 different: 0.png (1), 1.png (1), 2.png (1) and 37 more'
    """
    are_many = len(names) > MOST_LISTED
    few = list(zip(names, counts, strict=True))[: FIRST if are_many else None]
    text = ", ".join(f"{name} ({n})" for name, n in few)
    return f"{len(names)} different: {text} and {len(names) - FIRST} more" if are_many else text


def captions(images: np.ndarray, pixel_scale: float | None = None) -> list[str]:
    """What is measured on each image (N, C, H, W), as N lines of text."""
    if not len(images):
        return []
    radius = morphology.ring_radius(images, pixel_scale).ravel()
    flux = image_stats.total_flux(images).ravel()
    ellipticity = morphology.ellipticity(images).ravel()
    noise = image_stats.noise_level(images).ravel()
    unit = '"' if pixel_scale else " pixels"
    return [
        f"ring {r:.2f}{unit}, flux {_short(f)}, ellipticity {e:.2f}, noise {n:.2f}"
        for r, f, e, n in zip(radius, flux, ellipticity, noise, strict=True)
    ]


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
