import numpy as np


def derived_seed(*keys):
    """An independent 63-bit seed for a tuple of whole numbers, such as (seed, purpose, step)."""
    return int(np.random.SeedSequence(keys).generate_state(1, np.uint64)[0] >> 1)
