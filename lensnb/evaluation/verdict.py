"""The verdict in words: can a method be told from real images, what is wrong, what is it good for.

All measures of all methods are read together. With so many numbers some exceed any fixed bound by
chance, so the bound is corrected (Holm 1979, Scand. J. Stat. 6, 65): the chance that it finds any
fault in clean images is ALPHA. Only what passes is told.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lensnb.evaluation.measure import label
from lensnb.evaluation.verdict_rules import ALARM, NOISELESS, RULES, Rule
from lensnb.sampler import method_name

Row = dict[str, Any]
Trees = Mapping[str, Mapping[str, Any]]  # method -> its metrics.json

ALPHA = 0.05  # chance of any false alarm among all measures of all methods
FAULTS = 3  # faults that one sentence names


# ---- how far is too far


def side(row: Mapping[str, Any]) -> float:
    """Sign that makes larger worse: +1 or -1. For two-sided metrics, the sign of value - floor."""
    if row["larger_is_better"] is None:
        return math.copysign(1, row["value"] - row["floor"])
    return -1 if row["larger_is_better"] else 1


def badness(row: Mapping[str, Any]) -> float:
    """z of a row, counted so that positive is worse than the real-vs-real floor."""
    z = row["z"] if row["z"] is not None else math.copysign(math.inf, row["value"] - row["floor"])
    return side(row) * z


def chance_of(row: Mapping[str, Any]) -> float:
    """p-value of a row: how often real images are so bad. Two-sided where too good is wrong, too.

    `badness` of a two-sided row is the size of its z, because its sign is that of value - floor.
    """
    sides = 2 if row["larger_is_better"] is None else 1
    return min(sides * 0.5 * math.erfc(badness(row) / math.sqrt(2)), 1.0)


def alarms_by_chance(rows: Sequence[Mapping[str, Any]]) -> float:
    """How many of these rows exceed ALARM on average if all images are real."""
    one_sided = 0.5 * math.erfc(ALARM / math.sqrt(2))
    return sum(one_sided * (2 if row["larger_is_better"] is None else 1) for row in rows)


def alarming(rows: Sequence[Row]) -> list[Row]:
    """The rows that differ from real images after Holm's correction, the strongest first."""
    ranked = sorted(rows, key=lambda row: (chance_of(row), -badness(row)))
    for passed, row in enumerate(ranked):
        if chance_of(row) > ALPHA / (len(ranked) - passed):
            return ranked[:passed]
    return ranked


# ---- words


def verdict(rows: Sequence[Row], trees: Trees | None = None) -> list[str]:
    """One sentence on chance, then at most four on each method.

    rows : of `compare.table`; trees : method -> metrics.json, for directions, amounts and copies.
    Without them, or in files of earlier versions, the faults have a name but no amount.
    """
    bad = alarming(rows)
    count = f"{alarms_by_chance(rows):.1f}"
    found = [
        f"{len(rows)} numbers are read together: chance alone lifts {count} of them above z = "
        f"{ALARM}, so the bound is corrected (Holm), and a fault is told only beyond it."
    ]
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in bad if row["method"] == method]
        found += _of_method(method, own, rows, (trees or {}).get(method, {}))
    return found


def _of_method(
    method: str, bad: Sequence[Row], rows: Sequence[Row], tree: Mapping[str, Any]
) -> list[str]:
    name = method_name(method)
    n = max(row["n"] for row in rows if row["method"] == method)
    told = faults(bad, tree.get("metrics", {}))
    copied = _copies(name, tree.get("memorisation"))
    repeats = bool(copied) or any(row["metric"] == "copies" for row in bad)
    if not bad:
        found = [f"{name} cannot be told from real images with {n} images on each side."]
    else:
        worst = bad[0]
        found = [
            f"{name} can be told from real images: {len(bad)} measures lie beyond the bound, "
            f"farthest: {label(worst['metric'])} ({_key(worst)}).",
            f"What is wrong with {name}: {'; '.join(told[:FAULTS])}.",
        ]
    return [*found, *copied, _use(name, bool(bad), repeats, n)]


def faults(bad: Sequence[Row], metrics: Mapping[str, Any]) -> list[str]:
    """What is wrong, each with the key that shows it: the explaining first, by their strength.

    bad : the alarming rows of one method, strongest first; metrics : key -> tree with `parts`.
    What a fault explains is left out. What no rule names is told by the measure's label.
    """
    rules = {row["metric"]: _rule(row, metrics) for row in bad}
    explained: set[str] = set()
    for row in sorted(bad, key=lambda row: _place(rules[row["metric"]])):
        rule = rules[row["metric"]]
        if rule and row["metric"] not in explained:
            explained |= set(rule.explains) - {rule.key}
    left = [row for row in bad if row["metric"] not in explained]
    told = {row["metric"]: rule for row in left if (rule := rules[row["metric"]])}
    led = {key for rule in told.values() for key in rule.leads}
    named = sorted(
        (row for row in left if row["metric"] in told),
        key=lambda row: (_vagueness(told[row["metric"]]), row["metric"] in led),
    )
    return [f"{_words(row, rules[row['metric']], metrics)} ({_key(row)})" for row in named or left]


def _vagueness(rule: Rule) -> int:
    """0 for a rule that names a fault, 2 for a general one that has no direction either."""
    return rule.general + (rule.general and not rule.column)


def _place(rule: Rule | None) -> int:
    """The place of a rule in the order of explanation."""
    return len(RULES) if rule is None else RULES.index(rule)


def _rule(row: Row, metrics: Mapping[str, Any]) -> Rule | None:
    """The rule of the column that deviates most, or of one that goes first; None if none does."""
    quiet = noiseless(metrics)
    rules = (r for r in RULES if r.key == row["metric"] and r.noiseless in (None, quiet))
    z = {rule: _z(_part(rule, metrics), rule) for rule in rules}
    known = [rule for rule in z if not rule.column or z[rule] >= rule.least]
    return max(known, key=lambda rule: (rule.first and z[rule] > ALARM, z[rule]), default=None)


def noiseless(metrics: Mapping[str, Any]) -> str:
    """Which images have nearly no noise: "generated", "real", "both" or "" for neither."""
    noise, flux = (
        (metrics.get(key, {}).get("parts") or {}).get(key) for key in ("noise_level", "total_flux")
    )
    if not noise or not flux:
        return ""
    quiet = [
        whose
        for whose in ("generated", "real")
        if abs(noise[whose]["value"]) < NOISELESS * flux[whose]["value"]
    ]
    return "both" if len(quiet) == 2 else "".join(quiet)


def _part(rule: Rule, metrics: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The part of a rule's column, if metrics.json has it."""
    parts = metrics.get(rule.by or rule.key, {}).get("parts") or {}
    found: Mapping[str, Any] | None = parts.get(rule.column)
    return found


def _z(part: Mapping[str, Any] | None, rule: Rule) -> float:
    """How clearly a part follows a rule: the size of its z, infinite where nothing scatters.

    It is 0 where there is no part, and on a side for which the rule has no words.
    """
    if not part:
        return 0.0
    more = part["generated"]["value"] > part["real"]["value"]
    if not (rule.more if more else rule.less):
        return 0.0
    return math.inf if part["z"] is None else abs(part["z"])


def _percent(share: float) -> str:
    """How much more or less, as a share of the real value, in words that can be read."""
    if share > 100:
        return "far"
    if share >= 3:
        return f"{1 + share:.0f} times"
    return _in_percent(share)


def _in_percent(share: float) -> str:
    """A share with two digits or more: never 1e+02 %."""
    return f"{100 * share:{'.2g' if share < 0.1 else '.0f'}} %"


def _words(row: Row, rule: Rule | None, metrics: Mapping[str, Any]) -> str:
    """A rule's words with its amounts, or the measure's label."""
    if rule is None:
        return f"{label(row['metric'])} differs"
    part = _part(rule, metrics)
    if part is None:
        return rule.more
    made, real = (part[whose]["value"] for whose in ("generated", "real"))
    unit = "" if part["unit"] in ("1", "image unit", "share") else f" {part['unit']}"
    text = rule.more if made > real else rule.less
    percent = _percent(abs(made / real - 1) if real and real * made >= 0 else math.inf)
    amounts = {"gap": f"{abs(made - real):.2g}{unit}", "percent": percent}
    amounts["share"] = _in_percent(made)
    return text.format(**amounts, made=f"{made:.2g}", real=f"{real:.2g}")


def _key(row: Row) -> str:
    z = badness(row)
    return f"{row['metric']}, z {'> 100' if z > 100 else f'= {z:.1f}'}"


def _copies(name: str, found: Mapping[str, Any] | None) -> list[str]:
    """A sentence on the training images that a method repeats, or nothing."""
    if not found or found["share"] - found["floor"] <= ALARM * found["error"]:
        return []
    images = ", ".join(str(pair[1]) for pair in found["pairs"][:3])
    return [
        f"{name} repeats training images: {100 * found['share']:.0f} % of its images are copies "
        f"(real ones: {100 * found['floor']:.0f} %), closest to the training images {images} "
        "(memorisation)."
    ]


def _use(name: str, bad: bool, repeats: bool, n: int) -> str:
    """What a method may be used for."""
    if repeats:
        return f"{name} must not stand for new lenses: what it draws is partly in the training set."
    if bad:
        return (
            f"{name} may serve for training and tests of code that these faults do not touch; "
            "not for measuring what they name."
        )
    return f"{name} may stand for real images, for what {n} images can tell."
