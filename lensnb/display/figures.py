"""All figures on one page: `from lensnb.display import figures`.

Each function takes arrays or what the files of a run hold, and returns a matplotlib Figure in one
style, with one colour a method and labelled axes. `animation` and `save` write files.
"""

from lensnb.display.comparison import (
    over_seeds,
    quality_against_evaluations,
    quality_against_time,
    ratios,
    show_floor,
    z_values,
)
from lensnb.display.curves import growth, history, intensities, spectra, watched
from lensnb.display.images import (
    animation,
    filmstrip,
    gallery,
    noise_levels,
    progress,
    siblings,
    walk,
)
from lensnb.display.posteriors import Case, coverage, posterior, readings
from lensnb.display.stretch import arranged, limits, stretch
from lensnb.display.style import REAL, colour, colours, name, plain_ticks, save, styled

__all__ = [
    "REAL",
    "Case",
    "animation",
    "arranged",
    "colour",
    "colours",
    "coverage",
    "filmstrip",
    "gallery",
    "growth",
    "history",
    "intensities",
    "limits",
    "name",
    "noise_levels",
    "over_seeds",
    "plain_ticks",
    "posterior",
    "progress",
    "quality_against_evaluations",
    "quality_against_time",
    "ratios",
    "readings",
    "save",
    "show_floor",
    "siblings",
    "spectra",
    "stretch",
    "styled",
    "walk",
    "watched",
    "z_values",
]
