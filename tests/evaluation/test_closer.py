"""Which of two sets is closer: the error of the paired difference, Holm, and the words."""

import numpy as np

from lensnb.evaluation.closer import _holm, closer


def row(method, metric, value, error=0.1, larger=False):
    more = {"floor": 1.0, "z": 0.0, "ratio": value, "larger_is_better": larger}
    return {"method": method, "metric": metric, "value": value, "error": error} | more


def test_holm_is_that_of_the_textbook():
    p = [0.01, 0.04, 0.03, 0.005]  # 0.005 < 0.05/4, 0.01 < 0.05/3, 0.03 > 0.05/2
    assert _holm(p) == [True, False, False, True]
    assert _holm([0.03, 0.03]) == [False, False] and _holm([]) == []


def test_the_scatter_that_both_share_cancels():
    shared = np.random.default_rng(0).normal(size=400)
    own = np.random.default_rng(1).normal(size=400)
    deviations = {"A": {"kid": shared}, "B": {"kid": shared + 0.1 * own}}
    rows = [row("A", "kid", 2.0, 1.0), row("B", "kid", 2.6, 1.0)]
    found = closer(rows, deviations, "A", "B").rows[0]
    assert abs(found["error"] - 0.1 * own.std(ddof=1)) < 1e-12
    assert abs(found["behind"] - 0.6) < 1e-12 and found["clear"]
    apart = closer(rows, {}, "A", "B").rows[0]
    assert abs(apart["error"] - 2**0.5) < 1e-12 and not apart["clear"]


def test_each_answer_has_its_words():
    a = [row("A", "kid", 2.0), row("A", "recall", 0.9, larger=True)]

    def told(kid, recall):
        b = [row("B", "kid", kid), row("B", "recall", recall, larger=True)]
        return closer([*a, *b], {}, "A", "B").sentence

    assert told(4.0, 0.9).startswith("A is closer to real images than B: so say 1 (")
    assert told(2.0, 1.9).startswith("B is closer to real images than A: so say 1 (recall")
    assert told(2.01, 0.9).startswith("A and B cannot be told apart")
    assert told(4.0, 1.9).startswith("It depends on what matters")
