"""Training: one loop, and one task for each kind of generator.

Importing this package registers the tasks: each task module enters its class in `kinds.KINDS`.
"""

from lensnb.training import diffusion_task, gan_task

__all__ = ["diffusion_task", "gan_task"]
