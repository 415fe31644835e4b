"""Figures, tables, pictures as HTML, and sliders. Nothing here knows a run."""
