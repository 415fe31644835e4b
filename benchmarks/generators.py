"""Two pictures of the docs: generators.png, quality against cost, and reference.png, a gallery.

    python benchmarks/generators.py

generators.png shows docs/generators.csv, whose rows are those of the first table of
docs/generators.md. reference.png has images of each method of the reference below real lenses: a
minute.
"""

import itertools

import matplotlib.pyplot as plt
from matplotlib.lines import Line2D

import lensnb
from lensnb import io, sampler
from lensnb.display import figures
from lensnb.display.style import has_colour, styled

COSTS = {  # column: label, unit, ticks
    "evaluations": ("evaluations for an image", 1, [1, 10, 100, 1000]),
    "parameters": ("parameters [millions]", 1e6, [0.7, 1, 2, 3]),
    "minutes": ("training [minutes of one core]", 1, [2, 5, 10, 20, 40]),
}
MARKS = "osD^v*"


@styled
def figure(rows):
    """One panel a cost; a mark is a recipe, a colour a way of drawing; the floor is 1."""
    sheet, axes = plt.subplots(1, len(COSTS), figsize=(9.5, 4.2), sharey=True, layout="constrained")
    marks = dict(zip(dict.fromkeys(rows["recipe"]), itertools.cycle(MARKS)))
    ways = dict.fromkeys(rows["way"])
    known = [way for way in ways if has_colour(way)]
    others = figures.colours([way for way in ways if way not in known], known)
    shades = {way: others.get(way) or figures.colour(way) for way in ways}
    points = list(zip(rows["recipe"], rows["way"], rows["floors"], rows["error"], strict=True))
    for axis, (column, (label, unit, ticks)) in zip(axes, COSTS.items(), strict=True):
        for (recipe, way, floors, error), cost in zip(points, rows[column], strict=True):
            style = {"fmt": marks[recipe], "color": shades[way], "ms": 5}
            axis.errorbar(float(cost) / unit, float(floors), float(error), **style)
        axis.axhline(1, color="black", linewidth=0.8, linestyle=":")
        axis.set(xscale="log", yscale="log", xlabel=label, xlim=(ticks[0] / 1.7, ticks[-1] * 1.7))
        axis.set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
        axis.set_yticks([1, 3, 10, 30], ["1", "3", "10", "30"])
        axis.minorticks_off()
    axes[0].set_ylabel("Frechet distance (LensNet) [floors]")
    keys = [
        Line2D([], [], ls="", marker="o", color=shade, label=way) for way, shade in shades.items()
    ]
    keys += [
        Line2D([], [], ls="", marker=mark, color="black", mfc="none", label=recipe)
        for recipe, mark in marks.items()
    ]
    sheet.legend(handles=keys, loc="outside lower center", ncols=6)
    return sheet


def gallery(n=8):
    """Real lenses, and n images of each method of the reference."""
    rows = {"real": lensnb.simulate(n, seed=20261127)}
    for method in lensnb.load("reference").params.sample.methods:
        rows[sampler.method_name(method)] = lensnb.load("reference", method).draw(n, seed=1)
    return figures.gallery(rows, pixel_scale=0.1)


def main() -> None:
    """Draw both."""
    docs = io.home() / "docs"
    gallery().savefig(docs / "reference.png", dpi=110, bbox_inches="tight")
    figure(io.read_table(docs / "generators.csv")).savefig(docs / "generators.png", dpi=110)


if __name__ == "__main__":
    main()
