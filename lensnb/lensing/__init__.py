"""Gravitational lenses: what is drawn, how it is imaged, and galaxies that are not lenses."""
