"""Metrics of rows, and what every one of them refuses, for the tests of metrics and of their uncertainty."""

import numpy as np
import pytest

from lensnb import metrics


def single(name):
    """One of the four numbers of `metrics.neighbours` as a metric of its own."""

    def metric(a, b, k=5):
        return float(metrics.neighbours(a, b, k)[list(metrics.NEIGHBOURS).index(name)])

    metric.__name__ = name
    return metric


precision, recall, density, coverage = NEIGHBOURS = [
    single(name) for name in ("precision", "recall", "density", "coverage")
]


def assert_refuses_incomparable_sets(metric):
    """metric(a, b) raises ValueError unless both sets are finite rows of the same columns."""
    a = np.arange(60.0).reshape(20, 3)
    for bad in (a[:, :2], a[:0], a[:, 0], a[None]):
        for first, second in ((a, bad), (bad, a)):
            with pytest.raises(ValueError, match="rows or more with the same columns, got shapes"):
                metric(first, second)
    for value in (np.nan, np.inf):
        bad = np.where(a == 5, value, a)
        for first, second in ((a, bad), (bad, a)):
            with pytest.raises(ValueError, match="finite"):
                metric(first, second)
    found = metric(a, a)
    assert np.isfinite(np.array(list(found.values()) if isinstance(found, dict) else found)).all()
