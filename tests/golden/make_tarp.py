"""Golden numbers of TARP from its authors' package; made once, by hand.

    python -m venv tarp && tarp/bin/pip install tarp==0.1.1 tqdm deprecation
    tarp/bin/python tests/golden/make_tarp.py

tarp 0.1.1 imports tqdm and deprecation without declaring them. Its curve is a histogram between the
least and the largest share, so the edges are stored, too.
"""

from pathlib import Path

import numpy as np
import tarp

N, DRAWS, PIXELS, BINS = 60, 25, 3, 12

rng = np.random.default_rng(5)
middle = rng.normal(size=(N, PIXELS))
truths = middle + rng.normal(size=(N, PIXELS))
draws = middle[:, None] + 0.7 * rng.normal(size=(N, DRAWS, PIXELS))  # too sure of themselves
references = rng.normal(size=(N, PIXELS))
coverage, credibility = tarp.get_tarp_coverage(
    draws.swapaxes(0, 1).copy(),
    truths.copy(),
    references=references.copy(),
    num_alpha_bins=BINS,
    norm=False,
)
np.savez_compressed(
    Path(__file__).with_name("tarp.npz"),
    draws=draws.astype(np.float32),
    truths=truths.astype(np.float32),
    references=references.astype(np.float32),
    coverage=coverage,
    credibility=credibility,
)
