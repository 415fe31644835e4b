"""The figure of docs/generators.md: quality against evaluations, parameters and images seen.

    python benchmarks/generators.py

It draws docs/generators.csv, whose rows are those of the page's table of published systems.
"""

import matplotlib.pyplot as plt

from lensnb import io
from lensnb.display.style import styled

COSTS = {
    "evaluations": "evaluations for an image",
    "parameters": "parameters",
    "images": "training images seen",
}


@styled
def figure(rows):
    """One panel a cost; the floor is 1."""
    sheet, axes = plt.subplots(1, len(COSTS), figsize=(9.5, 3.4), sharey=True)
    for axis, (column, label) in zip(axes, COSTS.items(), strict=True):
        for i, name in enumerate(rows["name"]):
            axis.errorbar(
                float(rows[column][i]),
                float(rows["floors"][i]),
                float(rows["error"][i]),
                fmt="osD^vP*"[i],
                label=name,
            )
        axis.axhline(1, color="black", linewidth=0.8, linestyle=":")
        axis.set(xscale="log", yscale="log", xlabel=label)
    axes[0].set_ylabel("Frechet distance (LensNet) [floors]")
    sheet.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return sheet


def main() -> None:
    """Draw the figure."""
    docs = io.home() / "docs"
    figure(io.read_table(docs / "generators.csv")).savefig(docs / "generators.png", dpi=110)


if __name__ == "__main__":
    main()
