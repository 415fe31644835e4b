"""Training: one loop, and one task for each kind of generator.

Importing this package registers the tasks: each task module enters its class in `kinds.KINDS`.
"""

from lensnb.training import consistency_task, diffusion_task, gan_task

__all__ = ["consistency_task", "diffusion_task", "gan_task"]
