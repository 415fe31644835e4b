"""lensnb: train, sample and honestly compare generators of gravitational-lens images.

The names below are what the notebooks use; each module's own docstring says what else it offers.
"""

from lensnb.errors import InputError
from lensnb.pipeline import (
    compare_methods,
    draw_samples,
    evaluate_method,
    load_data,
    load_generator,
    load_samples,
    load_trajectory,
    load_watched,
    make_data,
    open_run,
    progress,
    train_model,
)
from lensnb.pretrained import load
from lensnb.recipes.recipe import Params, load_recipe

__all__ = [
    "InputError",
    "Params",
    "compare_methods",
    "draw_samples",
    "evaluate_method",
    "load",
    "load_data",
    "load_generator",
    "load_recipe",
    "load_samples",
    "load_trajectory",
    "load_watched",
    "make_data",
    "open_run",
    "progress",
    "train_model",
]
