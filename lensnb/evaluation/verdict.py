"""The verdict in words: can a method be told from real images, what is wrong, what is it good for.

All measures of all methods are read together. With so many numbers some exceed any fixed bound by
chance, so the bound is corrected (Holm 1979, Scand. J. Stat. 6, 65): the chance that it finds any
fault in clean images is ALPHA. Only what passes is told.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lensnb.evaluation.measure import label
from lensnb.sampler import method_name

Row = dict[str, Any]
Trees = Mapping[str, Mapping[str, Any]]  # method -> its metrics.json

ALPHA = 0.05  # chance of any false alarm among all measures of all methods
ALARM = 3  # the bound of a single z
FAULTS = 3  # faults that one sentence names
CLEAR = 2  # z of a column above which its direction is told


@dataclass(frozen=True)
class Rule:
    """What a measure that alarms is called.

    key : of metrics.json; column : of its `parts`, or "" where the measure has no columns
    more, less : the words where generated images have more or less of it; {gap} is the difference
        of the means, {percent} the same in percent, {made} and {real} the means, {share} the first
        in percent
    explains : keys whose alarms follow from this one, so that they are not told
    first : told before other columns of its key, once its z is beyond ALARM
    leads : keys that it may move, too, so that they are told after it
    general : sees much and names little, so that it is told after all others
    """

    key: str
    column: str
    more: str
    less: str
    explains: tuple[str, ...] = ()
    first: bool = False
    leads: tuple[str, ...] = ()
    general: bool = False


OF_PIXELS = ("intensity", "minkowski", "peak_counts", "scattering", "total_flux")
OF_SCALES = ("spectrum", "spectrum_2d", "scattering", "minkowski", "peak_counts", "intensity")
OF_PLACE = ("mean_image", "mean_image_largest", "profile", "spectrum_2d")
OF_READINGS = ("readings", "readings_pairs")
# Columns of `readings_pairs` in words.
READ = {"theta_E": "Einstein radius", "q": "axis ratio", "gamma": "shear"}
READ |= {"source_radius": "source size", "snr": "brightness"}


def _both(key: str, column: str, words: str, explains: tuple[str, ...] = (), **how: Any) -> Rule:
    return Rule(key, column, words, words, explains, **how)


# The order of explanation. A rule above comes before one below where both explain an alarm: copies,
# then the sky, place and direction, ring radius, the pixel grid, the noise, shapes and lens
# parameters, and at last the general measures.
RULES = (
    Rule("copies", "copies", "{share} of the images are copies of training images", ""),
    Rule("sky_level", "sky_level", "the sky is {gap} too bright", "the sky is {gap} too dark",
         (*OF_PIXELS, *OF_PLACE)),
    _both("sky_gradient", "x", "the sky has a gradient from left to right", OF_PLACE),
    _both("sky_gradient", "y", "the sky has a gradient from top to bottom", OF_PLACE),
    Rule("sky_stripes", "rows", "the sky has stripes along its rows",
         "neighbouring rows of the sky are too alike", OF_SCALES),
    Rule("sky_stripes", "columns", "the sky has stripes along its columns",
         "neighbouring columns of the sky are too alike", OF_SCALES),
    _both("mirror", "light", "halves of images mirror each other"),
    Rule("mirror", "detail", "halves of images mirror each other, down to the noise",
         "images have too little mirror symmetry"),
    *(_both("frechet_oriented", f"{name}_{i}", words, ("handedness", *OF_PLACE))
      for name, words in (("source_offset", "arcs open to one side"),
                          ("ellipticity", "lenses share one position angle"),
                          ("shear", "the shear has one direction"),
                          ("source_ellipticity", "sources share one position angle"))
      for i in (1, 2)),
    *(_both("frechet_oriented", f"centre_{i}", f"the rings are off centre along {axis}",
            ("handedness", *OF_PLACE)) for i, axis in ((1, "x"), (2, "y"))),
    # arcs on one side move the centre of the light, too
    *(_both("handedness", f"m1_{wave}", "arcs open to one side", OF_PLACE, first=True)
      for wave in ("cos", "sin")),
    *(_both("handedness", f"m2_{wave}", "lenses share one position angle", OF_PLACE)
      for wave in ("cos", "sin")),
    *(_both("handedness", f"centre_{axis}", f"the rings are {{gap}} off centre along {axis}",
            OF_PLACE) for axis in "xy"),
    Rule("ring_radius", "ring_radius", "rings are {percent} too large",
         "rings are {percent} too small",
         (*OF_PLACE, "spectrum", *OF_READINGS, "readings_each", "total_flux",
          "intensity", "scattering", "minkowski", "peak_counts"),
         leads=("sky_level",)),  # light of larger rings reaches the border
    _both("mean_image_largest", "", "structure sits on the pixel grid",
          ("mean_image", "noise_level", "mirror", *OF_SCALES)),
    Rule("noise_level", "noise_level", "the noise is {percent} too strong",
         "the noise is {percent} too weak, or the images are blurred",
         (*OF_SCALES, "mean_image", "lens_fit", "lens_fit_by_class")),
    *(Rule("lens_fit_by_class", name, f"{words} that no smooth lens explains is too strong",
           f"substructure is too weak in {words.split(' in ')[1]}", ("lens_fit",))
      for name, words in (("no_sub", "structure in lenses without substructure"),
                          ("cdm", "structure in CDM lenses"),
                          ("vortex", "structure in vortex lenses"))),
    *(Rule("class_shares", name, f"too many {words} ({{made}} instead of {{real}})",
           f"too few {words} ({{made}} instead of {{real}})",
           ("frechet_lensnet_by_class", "readings_each", "recall", *OF_READINGS))
      for name, words in (("no_sub", "lenses without substructure"), ("cdm", "CDM lenses"),
                          ("vortex", "vortex lenses"))),
    Rule("total_flux", "total_flux", "images are {percent} too bright",
         "images are {percent} too faint", ("intensity", "profile")),
    Rule("readings_each", "theta_E", "Einstein radii are {gap} too large",
         "Einstein radii are {gap} too small", OF_READINGS),
    Rule("readings_each", "q", "lenses are too round", "lenses are too flat", OF_READINGS),
    Rule("readings_each", "gamma", "shear is too strong", "shear is too weak", OF_READINGS),
    Rule("readings_each", "source_radius", "sources are {gap} too large",
         "sources are {gap} too small", OF_READINGS),
    Rule("readings_each", "snr", "lenses are too bright for their noise",
         "lenses are too faint for their noise", OF_READINGS),
    *(_both("readings_pairs", f"{one} * {other}", f"{READ[one]} and {READ[other]} are correlated")
      for one, other in itertools.combinations(READ, 2)),
    Rule("ellipticity", "ellipticity", "the light is too flat", "the light is too round"),
    Rule("spectrum", "high", "small scales are {gap} too strong",
         "small scales are {gap} too weak: images are blurred", OF_SCALES),
    Rule("spectrum", "middle", "middle scales are {gap} too strong",
         "middle scales are {gap} too weak: the light is blurred", OF_SCALES),
    Rule("spectrum", "low", "large scales are {gap} too strong",
         "large scales are {gap} too weak", OF_SCALES),
    _both("mean_image", "", "the light lies in other places", general=True),
    _both("spectrum_2d", "", "the power depends on direction", general=True),
    _both("recall", "", "parts of the real variety are missing", general=True),
    _both("lens_fit", "", "a smooth lens fits as it does not fit real images", general=True),
    _both("lenses_found", "", "images are found to be lenses more or less often than real ones",
          general=True),
)  # fmt: skip


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
            f"{name} can be told from real images, most clearly by {label(worst['metric'])} "
            f"({_key(worst)}; {len(bad)} measures beyond the bound).",
            f"What is wrong with {name}: {'; '.join(told[:FAULTS])}.",
        ]
    return [*found, *copied, _use(name, bool(bad), repeats, n)]


def faults(bad: Sequence[Row], metrics: Mapping[str, Any]) -> list[str]:
    """What is wrong, each with the key that shows it: the explaining first, by their strength.

    bad : the alarming rows of one method, strongest first; metrics : key -> tree with `parts`.
    What a fault explains is left out. What no rule names is told by the measure's label.
    """
    order = {rule.key: i for i, rule in reversed(list(enumerate(RULES)))}
    rules = {row["metric"]: _rule(row, metrics.get(row["metric"], {})) for row in bad}
    explained: set[str] = set()
    for row in sorted(bad, key=lambda row: order.get(row["metric"], len(RULES))):
        rule = rules[row["metric"]]
        if rule and row["metric"] not in explained:
            explained |= set(rule.explains) - {rule.key}
    left = [row for row in bad if row["metric"] not in explained]
    told = {row["metric"]: rule for row in left if (rule := rules[row["metric"]])}
    led = {key for rule in told.values() for key in rule.leads}
    named = sorted(
        (row for row in left if row["metric"] in told),
        key=lambda row: (told[row["metric"]].general, row["metric"] in led),
    )
    return [
        f"{_words(row, rules[row['metric']], metrics.get(row['metric'], {}))} ({_key(row)})"
        for row in named or left
    ]


def _rule(row: Row, tree: Mapping[str, Any]) -> Rule | None:
    """The rule of the column that deviates most, or of one that goes first; None if none does."""
    own = [rule for rule in RULES if rule.key == row["metric"]]
    parts = tree.get("parts") or {}
    known = [rule for rule in own if not rule.column or _z(parts.get(rule.column)) >= CLEAR]

    def place(rule: Rule) -> tuple[bool, float]:
        z = _z(parts.get(rule.column))
        return rule.first and z > ALARM, z

    return max(known, key=place, default=None)


def _z(part: Mapping[str, Any] | None) -> float:
    """Size of the z of a part: infinite where nothing scatters, 0 where there is no part."""
    if not part:
        return 0.0
    return math.inf if part["z"] is None else abs(part["z"])


def _words(row: Row, rule: Rule | None, tree: Mapping[str, Any]) -> str:
    """A rule's words with its amounts, or the measure's label."""
    if rule is None:
        return f"{label(row['metric'])} differs"
    if not rule.column:
        return rule.more
    part = tree["parts"][rule.column]
    made, real = (part[whose]["value"] for whose in ("generated", "real"))
    unit = "" if part["unit"] in ("1", "image unit", "share") else f" {part['unit']}"
    text = rule.more if made > real else rule.less
    percent = f"{100 * abs(made / real - 1):.2g} %" if real else "much"
    amounts = {"gap": f"{abs(made - real):.2g}{unit}", "percent": percent}
    amounts["share"] = f"{100 * made:.2g} %"
    return text.format(**amounts, made=f"{made:.2g}", real=f"{real:.2g}")


def _key(row: Row) -> str:
    z = badness(row)
    return f"{row['metric']}, z = {'> 100' if z > 100 else f'{z:.1f}'}"


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
