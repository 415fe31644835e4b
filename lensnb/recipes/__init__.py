"""Recipes: every knob with its bounds, how a recipe is read, and which runs a command means."""
