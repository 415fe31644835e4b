"""The lens-model fit class by class: a signed step in chi2 that substructure cannot drown.

Strong substructure scatters log10 chi2 by 0.3, noise alone by 0.01. Pooled over the classes, only
the first counts. Within the class without substructure the fit weighs the noise to 2 %.
"""

from typing import Any

import numpy as np

from lensnb.evaluation import uncertainty
from lensnb.evaluation.parts import part
from lensnb.lensing.priors import CLASSES

CLIP = 3  # deviations of real images of the class; beyond are mostly images of another class
Tree = dict[str, Any]


def typical(values: np.ndarray) -> tuple[float, float]:
    """Median and scaled median absolute deviation of numbers (n,), the latter never 0."""
    middle = float(np.median(values))
    spread = 1.4826 * float(np.median(np.abs(values - middle)))
    return middle, spread or float(values.std()) or 1.0


def _clipped(values: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Deviations of numbers from real ones, at most CLIP."""
    middle, spread = typical(real)
    return ((values - middle) / spread).clip(-CLIP, CLIP)


def distance(a: np.ndarray, b: np.ndarray, of_a: np.ndarray, of_b: np.ndarray) -> float:
    """Root mean square over classes of the step of a (n, 1) from b (m, 1), of classes (n,), (m,).

    In deviations of b within the class; classes with fewer than two rows on a side do not count.
    """
    steps = [
        _clipped(a[of_a == c], b[of_b == c]).mean() - _clipped(b[of_b == c], b[of_b == c]).mean()
        for c in range(len(CLASSES))
        if min((of_a == c).sum(), (of_b == c).sum()) > 1
    ]
    return float(np.sqrt(np.mean(np.square(steps)))) if steps else 0.0


def parts(made: np.ndarray, real: np.ndarray, of_made: np.ndarray, of_real: np.ndarray) -> Tree:
    """Class -> `parts.part` of log10 chi2 made (n,) and real (m,), of classes (n,), (m,).

    The values are medians, with errors; z is that of the means of clipped deviations.
    """
    found = {}
    for c, name in enumerate(CLASSES):
        sides = made[of_made == c], real[of_real == c]
        if min(map(len, sides)) < 2:
            continue
        found[name] = part("dex", *(_clipped(x, sides[1]) for x in sides))
        for whose, x in zip(("generated", "real"), sides, strict=True):
            middle, spread = typical(x)
            error = 1.2533 * spread / len(x) ** 0.5  # of the median of a Gaussian
            found[name][whose] = {"value": middle, "error": error}
    return found


def measured(
    log_chi2: tuple[np.ndarray, np.ndarray, np.ndarray],
    classes: tuple[np.ndarray, np.ndarray, np.ndarray],
    unit: str,
    **how: Any,
) -> Tree:
    """The tree of metrics.json for log10 chi2 of generated, reference and other images (n, 1).

    classes : of these images, those further on do not count; how : options of
        `uncertainty.measure`
    """
    labels = [part[: len(rows)] for part, rows in zip(classes, log_chi2, strict=True)]
    found = uncertainty.measure(distance, *log_chi2, unit, labels=labels, **how)
    made, *real = (rows[:, 0] for rows in log_chi2)
    of_real = np.concatenate(labels[1:])
    return found | {"parts": parts(made, np.concatenate(real), labels[0], of_real)}
