"""Golden numbers of PQMass from its authors' package; made once, by hand.

    python -m venv pqm && pqm/bin/pip install pqm==0.6.3 torch
    pqm/bin/python tests/golden/make_pqm.py

The package draws its centres by numpy's global generator, so that the same seed gives them again.
"""

from pathlib import Path

import numpy as np
import pqm

N, PIXELS, CENTRES, TIMES = 120, 5, 12, 6

rng = np.random.default_rng(3)
x = rng.normal(size=(N, PIXELS)).astype(np.float32)
y = (1.3 * rng.normal(size=(N + 30, PIXELS)) + 0.2).astype(np.float32)
chi2, p, centres = [], [], []
for seed in range(TIMES):
    np.random.seed(seed)
    chi2.append(pqm.pqm_chi2(x, y, num_refs=CENTRES, x_frac=0.0))
    np.random.seed(seed)
    p.append(pqm.pqm_pvalue(x, y, num_refs=CENTRES, x_frac=0.0))
    np.random.seed(seed)  # what the package does with it: how many of each set, then which
    np.random.multinomial(CENTRES, [0.0, 1.0, 0.0])
    np.random.choice(len(x), 0, replace=False)
    centres.append(np.random.choice(len(y), CENTRES, replace=False))
np.savez_compressed(
    Path(__file__).with_name("pqm.npz"), x=x, y=y, centres=np.array(centres), chi2=chi2, p=p
)
