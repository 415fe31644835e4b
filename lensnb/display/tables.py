"""Tables as the notebooks and the report show them: pandas Stylers, every number with its error."""

import pandas as pd

from lensnb.display import figures
from lensnb.evaluation import image_stats, morphology

CARD = ["value", "error", "floor", "floor_error", "z", "ratio", "n"]


def card(method, metrics):
    """All measures of one method; `metrics` as in metrics.json."""
    table = pd.DataFrame(metrics).T[CARD].astype(float).rename(index=figures.METRICS)
    return (
        table.round({"z": 1, "ratio": 1, "n": 0})
        .style.set_caption(figures.name(method))
        .format(precision=3, na_rep="")
    )


def comparison(rows):
    """One row a measure, one column a method: value ± error (ratio to the floor); bold the clear best of a row."""
    table = pd.DataFrame(rows)
    table["entry"] = [
        f"{row['value']:.3g} ± {row['error']:.1g}"
        + (f" ({row['ratio']:.1f})" if row["ratio"] else "")
        for row in rows
    ]
    table["measure"] = table["metric"].map(lambda m: figures.METRICS.get(m, m))
    table["method"] = table["method"].map(figures.name)
    entries, best = (
        table.pivot(index="measure", columns="method", values=key).loc[
            table["measure"].unique(), table["method"].unique()
        ]
        for key in ("entry", "best")
    )
    return (
        entries.rename_axis(None)
        .rename_axis(None, axis=1)
        .style.apply(lambda column: ["font-weight: bold" if b else "" for b in best[column.name]])
    )


def over_seeds(rows):
    """One row a measure, one column a method: mean ± spread over the training seeds; `rows` as of compare.over_seeds."""
    table = pd.DataFrame(rows)
    table["entry"] = [
        f"{row['mean']:.3g}" + (f" ± {row['spread']:.1g}" if row["spread"] is not None else "")
        for row in rows
    ]
    table["measure"] = table["metric"].map(lambda m: figures.METRICS.get(m, m))
    table["method"] = table["method"].map(figures.name)
    entries = table.pivot(index="measure", columns="method", values="entry").loc[
        table["measure"].unique(), table["method"].unique()
    ]
    return (
        entries.rename_axis(None)
        .rename_axis(None, axis=1)
        .style.set_caption(f"mean ± spread over {rows[0]['seeds']} training seeds")
    )


def costs(costs):
    """What each method took, in training and for an image."""
    table = pd.DataFrame(costs.values(), index=[figures.name(method) for method in costs])
    return table.rename(columns=lambda key: key.replace("_", " ")).style.format(
        {
            "seconds per image": "{:.4f}",
            "training minutes": "{:.1f}",
            "parameters": "{:,}",
            "training images seen": "{:,}",
        }
    )


def captions(images, pixel_scale=None):
    """What is measured on each image (N, C, H, W), as N lines of text."""
    measured = [
        measure(images).ravel()
        for measure in (
            lambda x: morphology.ring_radius(x, pixel_scale),
            image_stats.total_flux,
            morphology.ellipticity,
            image_stats.noise_level,
        )
    ]
    unit = '"' if pixel_scale else " pixels"
    return [
        f"ring {r:.2f}{unit}, flux {_short(f)}, ellipticity {e:.2f}, noise {n:.2f}"
        for r, f, e, n in zip(*measured, strict=True)
    ]


def _short(value):
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
