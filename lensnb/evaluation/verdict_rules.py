"""What the verdict calls a fault: one table of words, and which fault explains which alarms."""

import itertools
from dataclasses import dataclass
from typing import Any

ALARM = 3  # the bound of a single z
# Noise over total flux below which images have nearly none: 1e-4 in lenses of the broad prior,
# 1e-7 if they are blurred by two pixels, 1e-9 and less in simulated images without noise.
NOISELESS = 1e-8


@dataclass(frozen=True)
class Rule:
    """What a measure that alarms is called.

    key : of metrics.json; column : of its `parts`, or "" where the measure has no columns
    more, less : the words where generated images have more or less of it; {gap} is the difference
        of the means, {percent} the same in percent, {made} and {real} the means, {share} the first
        in percent. Without one of the two the rule holds only on the other side
    explains : keys whose alarms follow from this one, so that they are not told
    first : told before other columns of its key, once its z is beyond ALARM
    leads : keys that it may move, too, so that they are told after it
    by : key whose parts hold the column, if it is another one
    least : z of its column from which on it holds
    general : sees much and names little, so that it is told after all others
    noiseless : which images must have nearly no noise for the rule, and which must have some:
        "generated", "real" or "both"; None: whatever they have
    """

    key: str
    column: str
    more: str
    less: str
    explains: tuple[str, ...] = ()
    first: bool = False
    leads: tuple[str, ...] = ()
    by: str = ""
    least: float = 2
    general: bool = False
    noiseless: str | None = None


OF_PIXELS = ("intensity", "minkowski", "peak_counts", "scattering", "total_flux")
OF_SCALES = ("spectrum", "spectrum_2d", "scattering", "minkowski", "peak_counts", "intensity")
OF_PLACE = ("mean_image", "mean_image_largest", "profile", "spectrum_2d")
OF_SKY = ("sky_level", "sky_gradient", "sky_stripes")
OF_DETAIL = ("noise_level", "light_detail")
OF_READINGS = ("readings", "readings_pairs")
# what images without noise move, because LensNet and the lens fit know images with noise
OF_NOISE = (
    "light_detail",
    *(*OF_SKY, *OF_SCALES, *OF_PLACE, "mirror", "lens_fit", "lens_fit_by_class", "recall"),
    *(*OF_READINGS, "readings_each", "class_shares", "frechet_lensnet_by_class"),
)
# Columns of `readings_pairs` in words.
READ = {"theta_E": "Einstein radius", "q": "axis ratio", "gamma": "shear"}
READ |= {"source_radius": "source size", "snr": "brightness"}


CLASSES_TOLD = (
    ("no_sub", "lenses without substructure", ""),
    ("cdm", "CDM lenses", ", or their substructure is too weak"),
    ("vortex", "vortex lenses", ", or their substructure is too weak"),
)


def _both(key: str, column: str, words: str, explains: tuple[str, ...] = (), **how: Any) -> Rule:
    return Rule(key, column, words, words, explains, **how)


# The order of explanation. A rule above comes before one below where both explain an alarm: copies,
# then the sky, place and direction, ring radius, the pixel grid, the noise, shapes and lens
# parameters, and at last the general measures.
RULES = (
    Rule("copies", "copies", "{share} of the images are copies of training images", "",
         # shifted, turned and noisy copies move these, too
         leads=("frechet_oriented", "handedness", "noise_level", "light_detail", "sky_stripes")),
    # without noise these measures see something else
    Rule("noise_level", "noise_level", "", "the images have nearly no noise",
         OF_NOISE,
         first=True, noiseless="generated"),
    Rule("noise_level", "noise_level", "the images have noise, and real ones nearly none", "",
         OF_NOISE,
         first=True, noiseless="real"),
    Rule("noise_level", "noise_level",
         "the finest detail is {percent} too strong, in images with nearly no noise",
         "the finest detail is {percent} too weak, in images with nearly no noise",
         (*OF_SKY, *OF_SCALES), first=True, noiseless="both"),
    *(_both(key, column, "the light at the border differs, in images with nearly no noise",
            OF_SKY, first=True, noiseless="both")
      for key, column in (("sky_level", "sky_level"), ("sky_gradient", "x"), ("sky_gradient", "y"),
                          ("sky_stripes", "rows"), ("sky_stripes", "columns"))),
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
         (*OF_PLACE, "spectrum", *OF_READINGS, "readings_each", "total_flux", "light_detail",
          "intensity", "scattering", "minkowski", "peak_counts"),
         leads=("sky_level",)),  # light of larger rings reaches the border
    Rule("fixed_pixels", "pixel", "one pixel is {gap} too bright, the same one in all images",
         "one pixel is {gap} too dark, the same one in all images",
         ("mean_image_largest", "mean_image")),
    _both("fixed_pixels", "grid", "structure sits on the pixel grid",
          ("mean_image", "mean_image_largest", *OF_DETAIL, "mirror", *OF_SCALES)),
    _both("mean_image_largest", "", "structure sits on the pixel grid",
          ("mean_image", *OF_DETAIL, "mirror", *OF_SCALES)),
    # a checkerboard too weak for the mean image; blur lowers this column
    Rule("spectrum_2d", "corner", "structure sits on the pixel grid", "",
         ("mean_image", "mean_image_largest", *OF_DETAIL, "mirror", *OF_SCALES), least=4),
    Rule("light_detail", "light_detail", "the fine detail of bright light is {percent} too strong",
         "", (*OF_SCALES, "lens_fit", "lens_fit_by_class")),
    # a blur weakens it, too
    Rule("light_detail", "light_detail", "",
         "the fine detail of bright light is {percent} too weak",
         (*OF_SCALES, "lens_fit", "lens_fit_by_class"), general=True),
    Rule("noise_level", "noise_level", "the noise is {percent} too strong", "",
         (*OF_SCALES, "mean_image", "lens_fit", "lens_fit_by_class")),
    Rule("noise_level", "noise_level", "",
         "the noise is {percent} too weak, or the images are blurred",
         (*OF_SCALES, "mean_image", "lens_fit", "lens_fit_by_class"),
         leads=("sky_stripes",)),  # a blur makes neighbouring rows or columns of the sky alike
    *(Rule("lens_fit_by_class", name, f"{words} that no smooth lens explains is too strong",
           f"substructure is too weak in {words.split(' in ')[1]}",
           ("lens_fit", "class_shares", "frechet_lensnet_by_class", "readings_each", "recall",
            *OF_READINGS))
      for name, words in (("no_sub", "structure in lenses without substructure"),
                          ("cdm", "structure in CDM lenses"),
                          ("vortex", "structure in vortex lenses"))),
    # a lens whose substructure is too weak is read as one without; the lens fit tells which it is
    *(Rule("class_shares", name, "", f"substructure is too weak in {words}",
           ("frechet_lensnet_by_class", "readings_each", "recall", *OF_READINGS),
           first=True, by="lens_fit_by_class", least=4)
      for name, words in (("cdm", "CDM lenses"), ("vortex", "vortex lenses"))),
    *(Rule("class_shares", name, f"too many {words} ({{made}} instead of {{real}})",
           f"too few {words}{weak} ({{made}} instead of {{real}})",
           ("frechet_lensnet_by_class", "readings_each", "recall", *OF_READINGS))
      for name, words, weak in CLASSES_TOLD),
    # the features see it in fewer images than the numbers that tell what it is
    *(Rule("frechet_lensnet_by_class", name, "", f"substructure is too weak in {words}",
           ("recall", "frechet_lensnet"), first=True, by="lens_fit_by_class", least=4, general=True)
      for name, words in (("cdm", "CDM lenses"), ("vortex", "vortex lenses"))),
    *(Rule("frechet_lensnet_by_class", name, f"too many {words} ({{made}} instead of {{real}})",
           f"too few {words}{weak} ({{made}} instead of {{real}})",
           ("recall", "frechet_lensnet"), by="class_shares", least=4, general=True)
      for name, words, weak in CLASSES_TOLD),
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
