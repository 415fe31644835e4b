"""The figure of docs/generators.md: quality against evaluations, parameters and images seen.

    python benchmarks/generators.py

It draws docs/generators.csv, whose rows are those of the page's table of published systems.
"""

import matplotlib.pyplot as plt

from lensnb import io
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


def main() -> None:
    """Draw the figure."""
    docs = io.home() / "docs"
    figure(io.read_table(docs / "generators.csv")).savefig(docs / "generators.png", dpi=110)


if __name__ == "__main__":
    main()
