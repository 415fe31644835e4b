"""Reading a user's own column off images: a regressor that learns it from real training images.

LensNet reads theta_E, q, gamma and its three classes. Any other column is regressed on LensNet's
features and on the brightness of each band. Ridge regression reads numbers, logistic regression
reads words. Whether it can is tested on held-out images.
"""

import warnings
from typing import Any, NamedTuple

import numpy as np

from lensnb.evaluation import uncertainty

LEAST_SKILL = 0.2  # of real held-out images; below it, nothing is said of generated ones
LEAST_KNOWN = 20  # training images whose value is known
STRENGTHS = np.logspace(-1, 4, 11)  # of the ridge; leave-one-out picks one
EVEN = 0.1  # scikit-learn's C, as for `usefulness`


class Reading(NamedTuple):
    """What a regressor says of one column.

    skill : share of the variance that it explains in held-out images, or of the errors of always
        naming the most frequent word that it avoids; None where too little is known
    found : "generated" and "real" -> bias, scatter and correlation, or the share of right words;
        empty where the skill is below LEAST_SKILL
    """

    skill: float | None
    found: dict[str, Any]

    @property
    def why(self) -> str:
        """Why nothing is said, or ""."""
        if self.found:
            return ""
        if self.skill is None:
            return "too few images have a known value"
        return f"no regressor reads it off real images (skill {self.skill:.2f})"


def read(rows: dict[str, np.ndarray], told: dict[str, np.ndarray], is_number: bool) -> Reading:
    """How well one column is read off generated and real images.

    rows : "train", "real" and "generated" -> features (N, d); told : the same -> values (N,), NaN
    or "" where they are missing
    """
    known = {whose: _known(values, is_number) for whose, values in told.items()}
    train = known["train"]
    if train.sum() < LEAST_KNOWN or min(known[w].sum() for w in ("real", "generated")) < 2:
        return Reading(None, {})
    if len(np.unique(told["train"][train])) < 2:
        return Reading(0.0, {})
    fit = _ridge if is_number else _logistic
    predict = fit(rows["train"][train], told["train"][train])
    read_off = {w: predict(rows[w][known[w]]) for w in ("real", "generated")}
    values = {w: told[w][known[w]] for w in ("real", "generated")}
    skill = (_explained if is_number else _avoided)(read_off["real"], values["real"])
    if skill < LEAST_SKILL:
        return Reading(skill, {})
    told_of = _numbers if is_number else _words
    return Reading(skill, {w: told_of(read_off[w], values[w]) for w in ("generated", "real")})


def _known(values: np.ndarray, is_number: bool) -> np.ndarray:
    return np.isfinite(values) if is_number else np.asarray(values).astype(str) != ""


def _ridge(rows: np.ndarray, values: np.ndarray) -> Any:
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    middle = values.mean()
    unit = values.std() or 1.0  # masses of 1e13 would lose their digits
    model = make_pipeline(StandardScaler(), RidgeCV(STRENGTHS)).fit(rows, (values - middle) / unit)
    return lambda others: model.predict(others) * unit + middle


def _logistic(rows: np.ndarray, values: np.ndarray) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=EVEN, max_iter=200))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(rows, values).predict


def _explained(read_off: np.ndarray, values: np.ndarray) -> float:
    """1 - the mean squared error over the variance; 0 where the values do not vary."""
    variance = values.var()
    return float(1 - np.mean((read_off - values) ** 2) / variance) if variance > 0 else 0.0


def _avoided(read_off: np.ndarray, values: np.ndarray) -> float:
    _, counts = np.unique(values, return_counts=True)
    errors = 1 - counts.max() / len(values)
    return float(1 - np.mean(read_off != values) / errors) if errors > 0 else 0.0


def _numbers(read_off: np.ndarray, values: np.ndarray) -> dict[str, Any]:
    varied = min(read_off.std(), values.std()) > 0
    found = uncertainty.bias_and_scatter(read_off - values)
    if varied:
        found["correlation"] = float(np.corrcoef(read_off, values)[0, 1])
    return found


def _words(read_off: np.ndarray, values: np.ndarray) -> dict[str, Any]:
    return uncertainty.share(read_off == values)
