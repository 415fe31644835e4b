"""lensnb: train, sample and honestly compare generators of gravitational-lens images.

The names below are what the notebooks use; each module's own docstring says what else it offers.
"""

from lensnb.chain import (compare_methods, draw_samples, evaluate_method, load_data, load_generator, load_samples,
                          load_trajectory, load_watched, make_data, open_run, progress, train_model)
from lensnb.errors import InputError
from lensnb.params import Params
from lensnb.params import load as load_recipe
from lensnb.reference import load

__all__ = ["InputError", "Params", "compare_methods", "draw_samples", "evaluate_method", "load", "load_data", "load_generator",
           "load_recipe", "load_samples", "load_trajectory", "load_watched", "make_data", "open_run", "progress", "train_model"]
