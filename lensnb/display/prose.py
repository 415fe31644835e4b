"""What the notebooks say of the images at hand, as Markdown text.

A simulator is explained where the images are simulated, and nowhere else.
"""

from typing import Any

import numpy as np

from lensnb.datasets import conditions
from lensnb.datasets.dataset import Dataset
from lensnb.display import tables
from lensnb.lensing import priors
from lensnb.recipes.recipe import Params

LENSING = r"""
A massive galaxy, the lens, bends the light of a smaller galaxy far behind it, the source. A ray
that arrives at the angle $\theta$ left the source at

$$\beta = \theta - \alpha(\theta),$$

and the image at $\theta$ is as bright as the source at $\beta$: positions change, surface
brightness does not. The deflection $\alpha$ has three parts here: a singular isothermal
ellipsoid with Einstein radius $\theta_E$ and axis ratio $q$, an external shear, and **dark
substructure**. Substructure is what one would like to learn about. The class of an image says
which kind it has:

* **no_sub**: none;
* **cdm**: about {cdm_count} point masses, a crude stand-in for the subhalos of cold dark matter
  (their mass function is $m^{{{cdm_slope}}}$; the physical one, $m^{{-1.9}}$, would not show in
  so few pixels);
* **vortex**: one line of mass through the centre, as a condensate of very light axions might
  make it.
"""

BROAD = """
The mass of the substructure is taken from the smooth lens, so that the size of the ring does
not give the class away. Its share of the mass within the ring is 4.5 % (cdm) and 6.4 % (vortex)
in the median; nineteen of twenty lie below 9 and 13 %. That is much for cold dark matter. The
noise of a pixel does not depend on its neighbours. The sky's standard deviation, 1, is the unit
of the pixels.
"""

SIBLINGS = """
Any kind of substructure may sit in the same lens. The next figure shows one lens with each kind
and without noise, and beside it how it differs from the lens without substructure. Look along
the ring: the light moves most near a dark mass. It moves a little everywhere else, because the
smooth lens is lighter by the mass of the substructure.
"""


def about(params: Params, dataset: Dataset) -> str:
    """What the images are: the simulator and its prior, or what was read."""
    if params.data.simulated:
        return _about_simulated(params)
    return _about_read(dataset)


def _about_simulated(params: Params) -> str:
    prior = priors.get_prior(params.data.prior, params.data.size)
    rows = {
        "camera": f"{prior.size} x {prior.size} pixels of {prior.pixel_scale:.3g} arcsec, "
        f"Gaussian PSF of {prior.psf_fwhm:g} arcsec (full width at half maximum)",
        "lens": f"at redshift {prior.z_lens:g}; Einstein radius {_span(prior.theta_E)} arcsec, "
        f"axis ratio {_span(prior.q)}, shear {_span(prior.gamma)}; its own light is left out",
        "source": f"at redshift {prior.z_source:g}; a Sersic ellipse of radius "
        f"{_span(prior.source_radius)} arcsec and index {_span(prior.source_n)}, up to "
        f"{prior.source_offset:g} arcsec off the axis",
        "sky": f"standard deviation {prior.background:g} a pixel",
    }
    if prior.snr:
        rows["`snr`"] = (
            f"{_span(prior.snr)}: mean brightness of the ring (pixels above 30 % of the peak) over "
            "its noise, in equal parts of sky and photons"
        )
    text = LENSING.format(cdm_count=prior.cdm_count, cdm_slope=prior.cdm_slope)
    more = BROAD if params.data.prior == "broad" else ""
    head = f"\nThe prior `{params.data.prior}` draws:\n\n| | |\n|---|---|\n"
    return text + more + head + "\n".join(f"| {key} | {value} |" for key, value in rows.items())


def _span(bounds: tuple[float, float]) -> str:
    low, high = bounds
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"


def _about_read(dataset: Dataset) -> str:
    channels, height, width = dataset.images.shape[1:]
    scale = dataset.pixel_scale
    told = (
        f"{scale:.3g} arcsec a pixel, {scale * width:.3g} arcsec wide"
        if scale
        else ("the pixel scale is not known (`data.pixel_scale`), so that lengths are in pixels")
    )
    shown = (
        ""
        if channels == 1
        else (
            "\nThree bands are shown as one colour picture: the first is red, the second green, "
            "the third blue; the stretch acts on their mean (Lupton et al. 2004).\n"
            if channels == 3
            else f"\nThe {channels} bands of an image stand side by side, the first on the left.\n"
        )
    )
    classes = _class_counts(dataset) or "no labels: all images count as one kind"
    bands = "1 band" if channels == 1 else f"{channels} bands"
    return (
        f"These images were read, not simulated: {dataset.source}. lensnb knows of them what the "
        "files say, and no more. Nothing here assumes that they show lenses, except LensNet and "
        "the finder, two networks that judge later.\n\n"
        "| | |\n|---|---|\n"
        f"| images | {height} x {width} pixels, {bands}; {told} |\n"
        "| pixel values | in the unit of the files |\n"
        f"| classes | {classes} |\n"
        f"| columns of the truth table | {len(dataset.truth) or 'none'} |\n"
        f"{_noiseless(dataset)}{shown}"
    )


def _noiseless(dataset: Dataset) -> str:
    if tables.pixel_values(dataset)["median peak / noise"].notna().any():
        return ""
    return (
        "| noise | none: the sky is smooth to rounding, so that any noise in a generated image "
        "counts against it |\n"
    )


def _class_counts(dataset: Dataset) -> str:
    if dataset.labels is None:
        return ""
    counts = np.bincount(dataset.labels, minlength=len(dataset.classes))
    return tables.counted(dataset.classes, counts)


def told(params: Params, dataset: Dataset) -> str:
    """One line: what the networks are told of each image."""
    columns = conditions.columns(params.model.context, dataset)
    if not columns:
        return "The networks are told nothing of an image (model.context)."
    return f"The networks are told of each image: {', '.join(map(_of_column, columns.values()))}."


def _of_column(column: Any) -> str:
    if isinstance(column, conditions.Names):
        return f"{column.name} (one of {len(column.names)})"
    gaps = "; missing in some" if column.gaps else ""
    return f"{column.name} ({column.mean:.3g} ± {column.std:.3g}{gaps})"
