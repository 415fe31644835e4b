"""Two pictures of the docs: generators.png, quality against cost, and reference.png, a gallery.

    python benchmarks/generators.py

generators.png shows docs/generators.csv, whose rows are those of the page's table of published
systems. reference.png has images of each method of the reference below real lenses: a minute.
"""

import matplotlib.pyplot as plt

import lensnb
from lensnb import io, sampler
from lensnb.display import figures
from lensnb.display.style import styled

COSTS = {  # column: label, unit, ticks
    "evaluations": ("evaluations for an image", 1, [1, 10, 100]),
    "parameters": ("parameters [millions]", 1e6, [1, 3, 10, 30]),
    "images": ("training images seen [thousands]", 1e3, [50, 100, 200, 400]),
}
MARKS = "osD^vP*"


@styled
def figure(rows):
    """One panel a cost; the floor is 1."""
    sheet, axes = plt.subplots(1, len(COSTS), figsize=(9.5, 3.8), sharey=True, layout="constrained")
    for axis, (column, (label, unit, ticks)) in zip(axes, COSTS.items(), strict=True):
        for mark, name, cost, floors, error in zip(
            MARKS, rows["name"], rows[column], rows["floors"], rows["error"], strict=True
        ):
            axis.errorbar(float(cost) / unit, float(floors), float(error), fmt=mark, label=name)
        axis.axhline(1, color="black", linewidth=0.8, linestyle=":")
        axis.set(xscale="log", yscale="log", xlabel=label, xlim=(ticks[0] / 1.4, ticks[-1] * 1.4))
        axis.set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
        axis.set_yticks([1, 3, 10, 30], ["1", "3", "10", "30"])
        axis.minorticks_off()
    axes[0].set_ylabel("Frechet distance (LensNet) [floors]")
    sheet.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
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
