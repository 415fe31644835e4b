"""The simulator against lenstronomy, real DeepLenseSim files and lens theory."""

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from lensnb.errors import InputError
from lensnb.lensing import deflection, priors, simulate, truth_tables

GOLDEN = Path(__file__).parents[1] / "golden" / "lenstronomy.npz"
REAL = Path(__file__).parents[3] / "shared/data/deeplensesim"
PRESETS = [name for name in priors.PRIORS if name.startswith("deeplensesim")]
ROMAN = {"deeplensesim-1": "I", "deeplensesim-2": "II", "deeplensesim-3": "III"}


def bare(name):
    """The prior of that name, without noise and without a prescribed signal-to-noise."""
    return replace(priors.PRIORS[name], snr=None, background=0.0)


def rows(truth, choice):
    return {name: column[choice] for name, column in truth.items()}


def no_points(n):
    return {name: np.zeros((n, 0)) for name in ("x", "y", "theta_E")}


# ---- oracle 1: lenstronomy on identical parameters


def golden(name):
    with np.load(GOLDEN) as file:
        keys = [key for key in file.files if key.startswith(name + ".")]
        return {key[len(name) + 1 :]: np.atleast_1d(file[key]) for key in keys}


def ours(name, truth, x, y, mass):
    """Our images of lenstronomy's parameters; DeepLenseSim's are for a source at z = 2.5."""
    prior = bare(name)
    scale = priors.DEEPLENSE_SCALE if name in PRESETS[1:] else 1.0
    truth = truth | {
        "theta_E_smooth": truth["theta_E_smooth"] * scale,
        "gamma": truth["gamma"] * scale,
    }
    points = {"x": x, "y": y, "theta_E": truth_tables.einstein_radius(mass, prior)}
    return simulate.clean_images(truth, points, prior).numpy()


@pytest.mark.parametrize("name", PRESETS)
def test_deeplensesim_images_equal_lenstronomys(name):
    truth = golden(name)
    images = truth.pop("images")
    points = truth.pop("points")
    images_ours = ours(name, truth, *points)
    if name == "deeplensesim-1":
        images_ours = images_ours[:, ::3, ::3]  # as the golden file keeps it
    error = np.abs(images_ours - images).max((1, 2)) / images.max((1, 2))
    assert list(truth["class"]) == [0, 1, 2] and error.max() < 1e-5


def test_broad_images_equal_lenstronomys():
    truth = golden("broad")
    images = truth.pop("images")
    x, y, mass = truth.pop("points")
    mass = mass * (truth["class"] == 1)[:, None]  # the vortex is our closed form
    error = np.abs(ours("broad", truth, x, y, mass) - images) / images.max((1, 2), keepdims=True)
    assert list(truth["class"]) == [0, 0, 1, 1, 2, 2, 2]
    assert error[:4].max() < 1e-5  # no substructure, 25 subhalos
    assert error[4:6].max() < 1e-4  # lenstronomy's 4,000 points on the line
    assert error[6].max() < 1.6e-2 and np.sqrt((error[6] ** 2).mean()) < 2.6e-4  # DeepLense's 100


def test_deflections_equal_lenstronomys():
    truth = golden("deflection")
    x, y = torch.tensor(truth.pop("at"))[:, None]  # float64
    smooth = truth.pop("smooth")
    points = truth.pop("points")
    bare_lens = truth | {"vortex_mass": np.zeros(1)}
    prior = priors.PRIORS["broad"]
    alpha = deflection.deflection(bare_lens, no_points(1), prior, x, y)[:, 0, 0]
    assert np.abs(alpha.numpy() - smooth).max() < 4e-7
    # 100 points with both ends stand for a line longer by one spacing in all
    longer = truth | {"vortex_half_length": truth["vortex_half_length"] * 100 / 99}
    line = deflection.deflection(longer, no_points(1), prior, x, y)[:, 0, 0] - alpha
    away = distance_from_line(truth, x[0].numpy(), y[0].numpy()) > 0.1
    error = np.abs(line.numpy() - points)[:, away]
    assert away.sum() > 150 and error.max() < 1e-4


def distance_from_line(truth, x, y):
    x = x - truth["x"]
    y = y - truth["y"]
    angle = truth["vortex_angle"]
    along = np.abs(x * np.cos(angle) + y * np.sin(angle)) - truth["vortex_half_length"]
    return np.hypot(np.maximum(along, 0), y * np.cos(angle) - x * np.sin(angle))


# ---- oracle 2: files that DeepLenseSim wrote


def real(name, label):
    path = REAL / f"model_{ROMAN[name]}_{label}.npz"
    if not path.exists():
        pytest.skip(f"no DeepLenseSim output in {REAL.name}/: {path.name} is absent")
    with np.load(path) as file:
        return {key: file[key] for key in file.files}


def smooth_twins(name, source_xy):
    """Noise-free images without substructure for those source positions, (n, H, W)."""
    truth = rows(truth_tables.draw_truth(3 * len(source_xy), name), np.s_[::3])
    truth["source_x"], truth["source_y"] = source_xy.T.astype(float)
    return simulate.render(truth, bare(name))[:, 0].numpy()


@pytest.mark.parametrize("name", PRESETS[1:])
def test_each_pixel_of_real_images_without_substructure(name):
    files = real(name, "no_sub")
    error = np.abs(smooth_twins(name, files["source_xy"]) - files["images"]).max((1, 2))
    assert (error / files["images"].max((1, 2))).max() < 1e-5


def image_statistics(images, twins):
    """Statistics of flux, shape and substructure: name -> one number for each image."""
    axis = np.arange(images.shape[-1]) - (images.shape[-1] - 1) / 2
    r = np.hypot(*np.meshgrid(axis, axis))
    total = images.sum((1, 2))
    angle = np.arctan2(*np.meshgrid(axis, axis)[::-1])
    quadrupole = np.abs((images * np.exp(2j * angle)).sum((1, 2))) / total
    bright = twins > 0.3 * twins.max((1, 2), keepdims=True)
    exposure = (images * bright).sum((1, 2)) / (twins * bright).sum((1, 2))
    difference = images / exposure[:, None, None] - twins
    residual = np.sqrt((difference**2).mean((1, 2))) / twins.max((1, 2))
    radius = (images * r).sum((1, 2)) / total
    return {
        "flux": total,
        "peak": images.max((1, 2)),
        "ring radius": radius,
        "quadrupole": quadrupole,
        "substructure residual": residual,
    }


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("label", priors.CLASSES)
def test_distributions_of_real_images(name, label):
    """Two-sample Kolmogorov-Smirnov; 45 tests, so p < 1e-4 happens by chance once in 200 runs."""
    files = real(name, "axion" if label == "vortex" else label)
    count = 3 * (150 if name != "deeplensesim-1" else 40)
    images, truth = simulate.simulate(count, name, seed=5)
    chosen = truth["class"] == priors.CLASSES.index(label)
    images = images[chosen, 0]
    sources = np.stack([truth["source_x"], truth["source_y"]], 1)[chosen]
    mine = image_statistics(images, smooth_twins(name, sources))
    theirs = image_statistics(
        files["images"].astype(np.float32), smooth_twins(name, files["source_xy"])
    )
    # without substructure or noise the residual is rounding alone
    skip = {"substructure residual"} if (label == "no_sub" and name != "deeplensesim-1") else set()
    p = {key: stats.ks_2samp(mine[key], theirs[key]).pvalue for key in mine.keys() - skip}
    assert min(p.values()) > 1e-4, p


def test_noise_of_real_photon_counts():
    """The exposure is read off the ring; then the sky off the corners, and the ring's variance."""
    files = real("deeplensesim-1", "no_sub")
    twins = smooth_twins("deeplensesim-1", files["source_xy"])
    images, truth = simulate.simulate(60, "deeplensesim-1")
    none = truth["class"] == 0
    sources = np.stack([truth["source_x"], truth["source_y"]], 1)[none]
    theirs = counting_noise(files["images"].astype(float), twins)
    mine = counting_noise(images[none, 0].astype(float), smooth_twins("deeplensesim-1", sources))
    for found in (theirs, mine):
        assert found["exposure"].min() > 990 and found["exposure"].max() < 3200
        assert found["sky"].mean() == pytest.approx(1, abs=0.035)  # 18,000 pixels: 1.1 %
        assert found["ring"].mean() == pytest.approx(1, abs=0.035)


def counting_noise(images, twins):
    bright = twins > 0.3 * twins.max((1, 2), keepdims=True)
    exposure = (images * bright).sum((1, 2)) / (twins * bright).sum((1, 2))
    t = exposure[:, None, None]
    # twice the photons' variance: once added to the image, once counted
    z2 = (images - t * twins) ** 2 / (t**2 * 1e-4 + 2 * t * twins)
    corners = images[:, :30, :30].mean((1, 2))
    sky = 0.01 * exposure / math.sqrt(2 * math.pi)  # mean of a Gaussian cut at 0
    return {
        "exposure": exposure,
        "sky": corners / sky,
        "ring": np.array([one[where].mean() for one, where in zip(z2, bright, strict=True)]),
    }


# ---- physics


@pytest.mark.parametrize("name", ["broad", "deeplensesim-1", "deeplensesim-2"])
def test_theta_E_holds_mean_convergence_one(name):
    """Gauss: the mean of div(alpha) / 2 within the ellipse, from the flux through its rim."""
    prior = priors.PRIORS[name]
    truth = truth_tables.draw_truth(30, name, seed=2)
    points = truth_tables.draw_points(truth, prior)
    means = np.array(
        [mean_convergence(rows(truth, [i]), rows(points, [i]), prior) for i in range(30)]
    )
    for label in range(3):
        assert np.abs(means[truth["class"] == label] - 1).max() < 2e-3


def mean_convergence(truth, points, prior, steps=20_000):
    t = 2 * np.pi * (np.arange(steps) + 0.5) / steps
    theta, q, phi = (truth[name][0] for name in ("theta_E", "q", "phi"))
    rim = theta * np.exp(1j * phi) * (np.cos(t) / np.sqrt(q) + 1j * np.sin(t) * np.sqrt(q))
    normal = theta * np.exp(1j * phi) * (np.cos(t) * np.sqrt(q) + 1j * np.sin(t) / np.sqrt(q))
    x, y = torch.tensor(np.stack([rim.real + truth["x"][0], rim.imag + truth["y"][0]]))[:, None]
    ax, ay = deflection.deflection(truth, points, prior, x, y)[:, 0, 0].numpy()
    return (ax * normal.real + ay * normal.imag).mean() * 2 * np.pi / (2 * np.pi * theta**2)


def test_line_is_the_limit_of_many_points():
    s = (2 * np.arange(20_000) + 1) / 20_000 - 1
    x, y = np.random.default_rng(0).uniform(-3, 3, (2, 50))
    for half_length in (0.03, 0.7, 2.5):
        line = [torch.tensor(v, dtype=torch.float64) for v in (0.1, -0.2, 0.8, half_length, 0.3)]
        found = deflection.line_deflection(*line, torch.tensor(x), torch.tensor(y))
        z = (x - 0.1) + 1j * (y + 0.2)
        z_s = s * half_length * np.exp(0.8j)
        expected = (0.09 / np.conj(z - z_s[:, None])).mean(0)
        assert np.abs(found[0].numpy() + 1j * found[1].numpy() - expected).max() < 1e-5


def test_signal_to_noise_is_what_the_truth_says():
    prior = priors.PRIORS["broad"]
    truth = truth_tables.draw_truth(60, seed=3)
    clean = simulate.clean_images(truth, truth_tables.draw_points(truth, prior), prior)
    noise = (simulate.render(truth)[:, 0] - clean).numpy()
    peak = clean.amax((1, 2), keepdim=True)
    bright = (clean > 0.3 * peak).numpy()
    signal = np.array([one[where].mean() for one, where in zip(clean.numpy(), bright, strict=True)])
    # half of the ring's variance is the sky's (1), half the photons'
    np.testing.assert_allclose(signal / math.sqrt(2), truth["snr"], rtol=1e-5)
    np.testing.assert_allclose(signal / truth["exposure"], 1, rtol=1e-5)
    assert (noise[bright] ** 2).mean() == pytest.approx(2, rel=0.05)  # 13,000 pixels: 1.3 %
    assert noise.mean() == pytest.approx(0, abs=0.01)


def test_sky_has_unit_variance_in_the_corners():
    images, _ = simulate.simulate(60, seed=4)
    corners = np.stack(
        [images[..., :8, :8], images[..., :8, -8:], images[..., -8:, :8], images[..., -8:, -8:]]
    )
    assert corners.var() == pytest.approx(1, rel=0.05)  # 15,360 pixels: 1.1 %
    assert corners.mean() == pytest.approx(0, abs=0.05)


def test_psf_is_a_gaussian_filter_then_pixel_average():
    fine = np.random.default_rng(0).random((48, 48))
    blurred = ndimage.gaussian_filter(fine, 2.9, mode="nearest", truncate=5)
    expected = blurred.reshape(12, 4, 12, 4).mean((1, 3))
    matrix = simulate.psf_matrix(12, 4, 2.9, 5.0).double().numpy()
    np.testing.assert_allclose(matrix @ fine @ matrix.T, expected, atol=1e-6)


def test_size_keeps_the_field_of_view():
    prior = bare("broad")
    half = priors.get_prior(bare("broad"), 32)
    assert half.size == 32 and half.pixel_scale == pytest.approx(0.2)
    truth = truth_tables.draw_truth(9, prior)
    small = simulate.render(truth, replace(half, oversample=8))
    full = simulate.render(truth, prior)
    summed = torch.nn.functional.avg_pool2d(full, 2) * 4  # the same rays, flux a pixel
    assert (small - summed).abs().max() < 1e-5 * summed.max()
    assert simulate.simulate(2, size=16)[0].shape == (2, 1, 16, 16)


def test_deeplensesim_1_counts_photons():
    images = simulate.render(truth_tables.draw_truth(2, "deeplensesim-1"), "deeplensesim-1")
    assert (images == images.round()).all() and images.min() >= 0


# ---- reproducible, whatever the chunks


@pytest.mark.parametrize("name", priors.PRIORS)
def test_images_do_not_depend_on_the_batch(name):
    images, truth = simulate.simulate(9, name, seed=8)
    again, truth_again = simulate.simulate(7, name, seed=8, batch=2)
    for column in truth:
        np.testing.assert_array_equal(truth[column][:7], truth_again[column])
    np.testing.assert_allclose(again, images[:7], rtol=1e-5, atol=1e-4)
    order = np.array([5, 0, 4])
    np.testing.assert_allclose(
        simulate.render(rows(truth, order), name), images[order], rtol=1e-5, atol=1e-4
    )


def test_same_seed_same_bits_other_seed_other_images():
    first, truth = simulate.simulate(6, seed=9)
    second, _ = simulate.simulate(6, seed=9)
    other, other_truth = simulate.simulate(6, seed=10)
    assert (first == second).all() and (first != other).mean() > 0.99
    assert not set(truth["theta_E"]) & set(other_truth["theta_E"])


def test_images_alone_are_those_of_simulate():
    images = simulate.simulate_images(3, seed=2, size=16)
    assert images.shape == (3, 1, 16, 16) and images.dtype == np.float32
    np.testing.assert_array_equal(images, simulate.simulate(3, seed=2, size=16)[0])
    other = simulate.simulate_images(2, prior="deeplensesim-2")
    np.testing.assert_array_equal(other, simulate.simulate(2, "deeplensesim-2")[0])


def test_memory_map_is_filled(tmp_path):
    out = np.lib.format.open_memmap(tmp_path / "images.npy", "w+", np.float32, (5, 1, 16, 16))
    images, _ = simulate.simulate(5, size=16, batch=2, out=out)
    assert images is out
    np.testing.assert_allclose(
        np.load(tmp_path / "images.npy"), simulate.simulate(5, size=16)[0], rtol=1e-5, atol=1e-4
    )


# ---- edges


@pytest.mark.parametrize("q", [1.0, 1 - 1e-8, 1 - 1e-7, 1 - 1e-5])
def test_round_lens_under_a_source_on_its_centre_on_a_ray(q):
    truth = truth_tables.draw_truth(6)
    ray = 0.1 / 4 / 2
    truth |= {name: np.full(6, ray) for name in ("x", "y", "source_x", "source_y")}
    truth |= {name: np.full(6, q) for name in ("q", "source_q")} | {"vortex_angle": np.zeros(6)}
    prior = priors.PRIORS["broad"]
    points = truth_tables.draw_points(truth, prior)
    points["x"][:, 0] = points["y"][:, 0] = 3 * ray  # a subhalo exactly on a ray
    images = simulate.clean_images(truth, points, prior)
    assert torch.isfinite(images).all() and (images.amax((1, 2)) > 10).all()


def test_round_lens_is_round():
    truth = rows(truth_tables.draw_truth(1), [0]) | {
        name: np.zeros(1) for name in ("x", "y", "source_x", "source_y", "gamma")
    }
    truth |= {"q": np.ones(1), "source_q": np.ones(1)}
    image = simulate.clean_images(truth, no_points(1), bare("broad"))[0]
    assert torch.allclose(image, image.T, atol=1e-4 * image.max())
    assert torch.allclose(image, image.flip(0), atol=1e-4 * image.max())


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"n": 0}, "n is 0, expected a whole number of at least 1"),
        ({"n": 2.5}, "n is 2.5"),
        ({"n": 3, "size": 7}, "size is 7, expected a whole number of at least 8"),
        ({"n": 3, "seed": -1}, "seed is -1"),
        ({"n": 3, "batch": 0}, "batch is 0"),
        ({"n": 3, "prior": "braod"}, r"no prior 'braod'; did you mean broad\?"),
        ({"n": 3, "prior": 7}, "prior is 7, expected one of broad"),
        (
            {"n": 3, "out": np.zeros((3, 1, 8, 8))},
            r"out is float64 \(3, 1, 8, 8\), expected float32",
        ),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        simulate.simulate(**arguments)


def test_importing_needs_torch_and_numpy_alone():
    code = "import sys, lensnb.lensing.simulate; print({'caustics', 'astropy'} & set(sys.modules))"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
