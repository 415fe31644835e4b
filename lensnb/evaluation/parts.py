"""What a measure says column by column: means of generated and of real images, and a signed z.

A distance says how far two sets of images are apart. Its columns say in which direction, in units
that an astronomer knows. A measure with named columns (`Measure.columns`) stores this under
`parts` of its tree in metrics.json:

    {column: {"unit": str,
              "generated": {"value": float, "error": float},
              "real": {"value": float, "error": float},
              "z": float | None}}

z is positive where the mean of the generated images is larger. It is None where neither side
scatters and they differ. `real` is the mean of all real rows that are given. The measures with
parts and their columns:

    sky_level           sky_level [image unit]
    sky_gradient        x, y: rise across the field [sky noise]
    sky_stripes         rows, columns: variance over that of white noise [1]
    noise_level         noise_level [image unit]
    light_detail        light_detail [image unit]
    total_flux          total_flux [image unit * pixel]
    ring_radius         ring_radius [pixels, or arcsec if the scale is known]
    ellipticity         ellipticity [1]
    handedness          m1_cos, m1_sin (light to the right, to higher rows), m2_cos, m2_sin
                        (along x, along the diagonal) [1]; centre_x, centre_y of the ring
                        [pixels or arcsec]
    mirror              light, detail: best mirror correlation [1]
    spectrum            low, middle, high frequencies [dex]
    spectrum_2d         corner: finest checkerboard over its mirror image [dex]
    frechet_oriented    lensnet.ORIENTED: along x and y, or cos 2 phi and sin 2 phi, of the source's
                        offset, the centre, and the ellipticities of lens, shear and source
    readings_each       theta_E, q, gamma, source_radius, snr, as LensNet reads them
    readings_pairs      "q * gamma" and so on: products of two standardised readings [1]
    class_shares        no_sub, cdm, vortex, as LensNet reads them [share]
    lens_fit_by_class   no_sub, cdm, vortex: log10 of the reduced chi2 [dex]
    fixed_pixels        pixel, or grid if many pixels stand out: contrast of the one that stands
                        out most [sky noise]
    copies              copies [share]
"""

import math
from typing import Any

import numpy as np

from lensnb.evaluation import uncertainty
from lensnb.evaluation.measure import Measure

Tree = dict[str, Any]


def part(unit: str, made: np.ndarray, real: np.ndarray) -> Tree:
    """The part of one column: made (n,) and real (m,) numbers, see the module.

    z is Welch's t, as rare as the same z of a normal variable (Welch 1947,
    doi:10.1093/biomet/34.1-2.28).
    """
    sides = [_mean(made), _mean(real)]
    squares = [side["error"] ** 2 for side in sides]
    gap = sides[0]["value"] - sides[1]["value"]
    scatter = math.sqrt(sum(squares))
    z: float | None = None if gap else 0.0
    if scatter > 1e-12 * abs(gap):
        weight = sum(s**2 / (len(x) - 1) for s, x in zip(squares, (made, real), strict=True))
        z = uncertainty.normal(gap / scatter, max(int(scatter**4 / weight), 1))
    return {"unit": unit, "generated": sides[0], "real": sides[1], "z": z}


def _mean(values: np.ndarray) -> dict[str, float]:
    error = values.std(ddof=1) / len(values) ** 0.5
    return {"value": float(values.mean()), "error": float(error)}


def parts(
    measure: Measure, made: np.ndarray, real: np.ndarray, pixel_scale: float | None = None
) -> Tree:
    """The parts of a measure for generated rows (n, d) and real rows (m, d): column -> `part`.

    Pixels become arcsec if the pixel scale is known.
    """
    a, b = (np.asarray(measure.of_columns(rows), float) for rows in (made, real))
    found = {}
    for i, (name, unit) in enumerate(measure.columns.items()):
        scaled = unit == "pixels" and pixel_scale
        factor = pixel_scale if scaled else 1.0
        found[name] = part("arcsec" if scaled else unit, factor * a[:, i], factor * b[:, i])
    return found
