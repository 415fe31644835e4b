"""The run folder: what is there, what made it, what is current, and what waits for what."""
