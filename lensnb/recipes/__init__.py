"""Recipes: their sections, how they are read, and which runs a command means."""
