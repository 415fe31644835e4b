"""Images and deflections by lenstronomy, the oracle of tests/lensing/test_simulate.py.

lenstronomy requires packages whose licence forbids commercial use. So it is never a dependency,
and is installed apart:

    python3 -m venv ../oracle && ../oracle/bin/pip install lenstronomy
    ../oracle/bin/python tests/golden/make_lenstronomy.py

The DeepLenseSim sets use lenstronomy's own magnitudes and redshift convention, as the public
generator does. Nothing here imports lensnb.
"""

from importlib.metadata import version
from pathlib import Path

import numpy as np
from astropy import constants, units
from astropy.cosmology import FlatLambdaCDM
from lenstronomy.Data.imaging_data import ImageData
from lenstronomy.Data.psf import PSF
from lenstronomy.ImSim.image_model import ImageModel
from lenstronomy.LensModel.lens_model import LensModel
from lenstronomy.LightModel.light_model import LightModel
from lenstronomy.SimulationAPI.sim_api import SimAPI
from lenstronomy.Util import util

COSMOLOGY = FlatLambdaCDM(H0=70, Om0=0.3)
FINE_LINE = 4000  # points that stand for a continuous line
MOST = 100  # points stored for a row; a continuous line is stored as its parameters alone


def einstein_radius(mass, d_lens, d_source, d_between):
    length = 4 * constants.G * mass * constants.M_sun / constants.c**2
    theta = np.sqrt(length * d_between / (d_lens * d_source))
    return theta.to_value(units.dimensionless_unscaled) * units.rad.to(units.arcsec)


def angular_radius(mass):
    d = COSMOLOGY.angular_diameter_distance
    return einstein_radius(mass, d(0.5), d(1.0), d(0.5, 1.0))


def luminosity_radius(mass):
    """DeepLenseSim's own Einstein radius, down to its 206265 arcsec in a radian."""
    d = COSMOLOGY.luminosity_distance
    return einstein_radius(mass, d(0.5), d(1.0), d(1.0) - d(0.5)) * 206265 / units.rad.to("arcsec")


def ellipticity(q, phi):
    e = (1 - q) / (1 + q)
    return {"e1": e * np.cos(2 * phi), "e2": e * np.sin(2 * phi)}


def line(row, count, ends):
    """`count` equal points along a row's line: x, y, mass.

    With `ends` the first and last point are the line's ends; otherwise the points are the
    mid-points of equal parts.
    """
    s = np.linspace(-1, 1, count) if ends else (2 * np.arange(count) + 1) / count - 1
    s = s * row["vortex_half_length"]
    return np.stack(
        [
            row["x"] + s * np.cos(row["vortex_angle"]),
            row["y"] + s * np.sin(row["vortex_angle"]),
            np.full(count, row["vortex_mass"] / count),
        ]
    )


def subhalos(rng, row, count, lightest):
    r = rng.uniform(0.25, 2, count)
    angle = rng.uniform(0, 2 * np.pi, count)
    mass = rng.uniform(lightest**0.1, 1e10**0.1, count) ** 10
    return np.stack([row["x"] + r * np.cos(angle), row["y"] + r * np.sin(angle), mass])


def lens_models(row, points, radius):
    """The names and keywords of a row's lens and its points (3, K)."""
    smooth = [
        {
            "theta_E": row["theta_E_smooth"],
            **ellipticity(row["q"], row["phi"]),
            "center_x": row["x"],
            "center_y": row["y"],
        },
        {
            "gamma1": row["gamma"] * np.cos(2 * row["phi_gamma"]),
            "gamma2": row["gamma"] * np.sin(2 * row["phi_gamma"]),
            "ra_0": row["x"],
            "dec_0": row["y"],
        },
    ]
    dark = [{"theta_E": radius(m), "center_x": x, "center_y": y} for x, y, m in points.T]
    return ["SIE", "SHEAR"] + ["POINT_MASS"] * len(dark), smooth + dark


def source(row, **brightness):
    return [
        {
            **brightness,
            "R_sersic": row["source_radius"],
            "n_sersic": row["source_n"],
            **ellipticity(row["source_q"], row["source_phi"]),
            "center_x": row["source_x"],
            "center_y": row["source_y"],
        }
    ]


def direct_image(row, points, radius, size, scale, fwhm, truncation, fold, amplitude):
    names, lens = lens_models(row, points, radius)
    _, _, ra, dec, _, _, matrix, _ = util.make_grid_with_coordtransform(
        num_pix=size, delta_pix=scale, subgrid_res=1, inverse=False
    )
    data = ImageData(
        image_data=np.zeros((size, size)),
        ra_at_xy_0=ra,
        dec_at_xy_0=dec,
        transform_pix2angle=matrix,
        background_rms=1.0,
        exposure_time=1.0,
    )
    psf = PSF("GAUSSIAN", fwhm=fwhm, pixel_size=scale, truncation=truncation)
    model = ImageModel(
        data,
        psf,
        LensModel(names),
        LightModel(["SERSIC_ELLIPSE"]),
        kwargs_numerics={"supersampling_factor": fold, "supersampling_convolution": fold > 1},
    )
    return model.image(lens, source(row, amp=amplitude))


def magnitude_image(row, points, scale, fwhm, zero_point):
    """Sets 2 and 3: magnitudes, and deflections restated from a source at 2.5 to one at 1.0."""
    names, lens = lens_models(row, points, luminosity_radius)
    model = {
        "lens_model_list": names,
        "lens_redshift_list": [0.5] * len(names),
        "source_light_model_list": ["SERSIC_ELLIPSE"],
        "source_redshift_list": [1.0],
        "cosmo": COSMOLOGY,
        "z_source_convention": 2.5,
        "z_source": 1.0,
    }
    band = {
        "pixel_scale": scale,
        "seeing": fwhm,
        "psf_type": "GAUSSIAN",
        "read_noise": 4.2,
        "magnitude_zero_point": zero_point,
        "exposure_time": 566.0,
        "sky_brightness": 22.3,
        "num_exposures": 4,
        "ccd_gain": 3.1,
        "data_count_unit": "e-",
    }
    sim = SimAPI(64, band, model)
    _, light, _ = sim.magnitude2amplitude(None, source(row, magnitude=20))
    image = sim.image_model_class({"point_source_supersampling_factor": 1}).image(lens, light, None)
    return image + image


def broad_row(rng, label):
    return {
        "class": label,
        "theta_E_smooth": rng.uniform(0.8, 1.4),
        "q": rng.uniform(0.65, 0.98),
        "phi": rng.uniform(0, np.pi),
        "x": rng.uniform(-0.05, 0.05),
        "y": rng.uniform(-0.05, 0.05),
        "gamma": 0.07 * rng.uniform() ** 0.5,
        "phi_gamma": rng.uniform(0, np.pi),
        "source_x": rng.uniform(-0.25, 0.25),
        "source_y": rng.uniform(-0.25, 0.25),
        "source_radius": rng.uniform(0.12, 0.35),
        "source_n": rng.uniform(0.7, 2),
        "source_q": rng.uniform(0.5, 0.95),
        "source_phi": rng.uniform(0, np.pi),
        "vortex_mass": rng.uniform(2e10, 6e10) * (label == 2),
        "vortex_half_length": 0.5 * 5 ** rng.uniform() * (label == 2),
        "vortex_angle": rng.uniform(0, np.pi) * (label == 2),
    }


def preset_row(rng, label):
    q = 0.9 / 1.1
    phi = 0.0
    e = np.hypot(0.1, 0.1)
    x, y = rng.uniform(-0.35, 0.35, 2)
    return {
        "class": label,
        "theta_E_smooth": luminosity_radius(1e12),
        "q": q,
        "phi": phi,
        "x": 0.0,
        "y": 0.0,
        "gamma": 0.05,
        "phi_gamma": 0.0,
        "source_x": x,
        "source_y": y,
        "source_radius": 0.25,
        "source_n": 1.0,
        "source_q": (1 - e) / (1 + e),
        "source_phi": 3 * np.pi / 8,
        "vortex_mass": 3e10 * (label == 2),
        "vortex_half_length": 0.03 * 100 ** rng.uniform() * (label == 2),
        "vortex_angle": rng.uniform(0, 2 * np.pi) * (label == 2),
    }


def nothing():
    return np.zeros((3, 0))


def broad_points(rng, row):
    if row["class"] == 1:
        return subhalos(rng, row, 25, 1e7)
    if row["class"] == 2:
        return line(row, FINE_LINE, ends=False)
    return nothing()


def broad(rng):
    """Two of each class; and last the second vortex again, as DeepLense's 100 points."""
    rows = [broad_row(rng, label) for label in (0, 0, 1, 1, 2, 2)]
    dark = [broad_points(rng, row) for row in rows]
    rows.append(rows[-1])
    dark.append(line(rows[-1], 100, ends=True))
    images = [
        direct_image(row, points, angular_radius, 64, 0.1, 0.17, 5, 4, 1.0)
        for row, points in zip(rows, dark, strict=True)
    ]
    return rows, dark, images


def preset(rng, image):
    rows = [preset_row(rng, label) for label in (0, 1, 2)]
    dark = [nothing(), subhalos(rng, rows[1], 25, 1e6), line(rows[2], 100, ends=True)]
    return rows, dark, [image(row, points) for row, points in zip(rows, dark, strict=True)]


def padded(dark):
    out = np.zeros((3, len(dark), MOST))
    for i, points in enumerate(dark):
        if points.shape[1] <= MOST:
            out[:, i, : points.shape[1]] = points
    return out


def deflections(rng):
    """Deflection of one smooth lens and of 100 points on a line, at scattered places."""
    row = broad_row(rng, 2)
    x, y = rng.uniform(-3, 3, (2, 200))
    names, lens = lens_models(row, line(row, 100, ends=True), angular_radius)
    smooth = LensModel(names[:2]).alpha(x, y, lens[:2])
    points = LensModel(names[2:]).alpha(x, y, lens[2:])
    return {f"deflection.{name}": value for name, value in row.items()} | {
        "deflection.at": np.stack([x, y]),
        "deflection.smooth": np.stack(smooth),
        "deflection.points": np.stack(points),
    }


def image_of_set_1(row, points):
    image = direct_image(row, points, luminosity_radius, 150, 0.05, 0.087, 3, 1, 20.0)
    return image[::3, ::3]  # every third pixel keeps the file small


def image_of_set_2(row, points):
    return magnitude_image(row, points, 0.101, 0.16, 24.0)


def image_of_set_3(row, points):
    return magnitude_image(row, points, 0.08, 0.08, 25.96)


def main():
    rng = np.random.default_rng(1)
    sets = {
        "broad": broad(rng),
        "deeplensesim-1": preset(rng, image_of_set_1),  # without counting photons
        "deeplensesim-2": preset(rng, image_of_set_2),
        "deeplensesim-3": preset(rng, image_of_set_3),
    }
    arrays = {"lenstronomy_version": np.array(version("lenstronomy"))} | deflections(rng)
    for name, (rows, dark, images) in sets.items():
        arrays |= {f"{name}.{key}": np.array([row[key] for row in rows]) for key in rows[0]}
        arrays[f"{name}.points"] = padded(dark)  # x, y [arcsec], mass [solar]
        arrays[f"{name}.images"] = np.array(images, np.float32)
    np.savez_compressed(Path(__file__).with_name("lenstronomy.npz"), **arrays)


if __name__ == "__main__":
    main()
