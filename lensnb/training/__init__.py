"""Training: one loop, a task for each kind of generator, batches, devices, estimates."""
