"""Shapes on images: analytic maps, independent oracles, symmetries, the power to see a fault."""

import itertools

import numpy as np
import pytest
from scipy import ndimage, stats
from skimage import measure

from lensnb.evaluation import image_stats, morphology, scattering
from lensnb.evaluation.measures import MEASURES
from lensnb.evaluation.rows import Reference, fit
from lensnb.lensing.simulate import simulate

SIZE = 64
Y, X = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2


def ring(radius, x=0.0, y=0.0, width=0.8, tilt=lambda phi: 1):
    """A circle of Gaussian cross-section as one image (1, 1, H, W).

    `tilt` varies its brightness with the angle.
    """
    profile = np.exp(-((np.hypot(X - x, Y - y) - radius) ** 2) / (2 * width**2))
    return 100 * (profile * tilt(np.arctan2(Y - y, X - x)))[None, None]


def cosine(order, strength, angle=0.0):
    """A tilt of `ring`: 1 + strength cos(order (phi - angle))."""

    def tilt(phi):
        return 1 + strength * np.cos(order * (phi - angle))

    return tilt


def ellipse(q, angle, size=8.0):
    """A Gaussian of axis ratio q."""
    u = X * np.cos(angle) + Y * np.sin(angle)
    v = Y * np.cos(angle) - X * np.sin(angle)
    return 100 * np.exp(-(u**2 * q + v**2 / q) / (2 * size**2))[None, None]


def noise(n=1, size=SIZE, channels=1, seed=0):
    return np.random.default_rng(seed).normal(size=(n, channels, size, size))


@pytest.fixture(scope="module")
def lenses():
    """Reference images and others of the same kind, with what each of the others shows."""
    return simulate(150, seed=101)[0], simulate(600, seed=202)


# ---- what is bright


def test_smoothing_is_a_gaussian_of_one_pixel_and_keeps_a_constant():
    kernel = morphology._smoothing(SIZE)
    place = np.arange(SIZE)
    assert np.abs(kernel.sum(1) - 1).max() < 1e-12
    assert (
        np.abs(kernel[20] @ (place - 20.0) ** 2 - 1) < 1e-6
        and np.abs(kernel[20] @ place - 20) < 1e-9
    )


# ---- the ring


@pytest.mark.parametrize(
    "radius, x, y", [(8, 0, 0), (12, 2.3, -1.6), (15, -4, 5), (20.5, 0.5, 0.5)]
)
def test_ring_radius_is_that_of_a_thin_circle(radius, x, y):
    clean = ring(radius, x, y)
    wide = radius + 1.5 * 0.8**2 / radius  # root of the mean r^2 of a wide ring
    assert abs(morphology.ring_radius(clean)[0, 0] - wide) < 0.02
    assert abs(morphology.ring_radius(clean, 0.1)[0, 0] - wide / 10) < 0.002
    assert np.abs(morphology.ring_radius(clean + 5 * noise(20)) - radius).max() < 0.3


def test_ring_radius_is_that_of_half_a_circle():
    for start in (0.0, 0.7, 2.0):
        arc = ring(14, width=0.6, tilt=lambda phi, start=start: np.cos(phi - start) > 0)
        assert abs(morphology.ring_radius(arc)[0, 0] / 14 - 1) < 0.02


def test_ring_radius_solves_the_weighted_least_squares():
    image = (
        np.where(np.random.default_rng(3).random((SIZE, SIZE)) < 0.02, 80.0, 0)
        + ring(10, 3, 2)[0, 0]
    )
    flux = morphology.bright(image[None, None], morphology.RING_SHARE)[0].ravel()
    x = X.ravel()
    y = Y.ravel()
    root = np.sqrt(flux)
    design = np.stack([2 * x, 2 * y, np.ones_like(x)], axis=1)
    a, b, c = np.linalg.lstsq(design * root[:, None], (x**2 + y**2) * root, rcond=None)[0]
    assert (
        abs(morphology.ring_radius(image[None, None])[0, 0] / np.sqrt(c + a**2 + b**2) - 1) < 1e-3
    )


def test_ring_radius_of_what_is_no_ring():
    line, point = np.zeros((2, 1, 1, SIZE, SIZE))
    line[..., 20, 10:50] = point[..., 30, 30] = 100
    assert (morphology.ring_radius(noise(500)) == 0).mean() > 0.99  # nothing stands out: 0 by rule
    assert morphology.ring_radius(np.full((1, 1, SIZE, SIZE), 7.0))[0, 0] == 0
    assert (
        abs(morphology.ring_radius(ellipse(1, 0, 5))[0, 0] - 6.25) < 0.3
    )  # a blob: 1.25 of its width
    assert (
        abs(morphology.ring_radius(line)[0, 0] - 40 / np.sqrt(12)) < 1
        and morphology.ring_radius(point)[0, 0] < 3
    )
    straight = morphology.ring_radius(ring(100, y=100))[0, 0]
    assert abs(straight - SIZE / np.sqrt(2)) < 1e-9  # the limit


def test_ring_radius_of_lenses_follows_their_einstein_radius(lenses):
    images, truth = lenses[1]
    for shown in (images, images + 4 * noise(len(images))):
        error = morphology.ring_radius(shown, 0.1)[:, 0] - truth["theta_E"]
        assert (
            error.std() < 0.032 and abs(error.mean() - 0.045) < 0.01 and np.abs(error).max() < 0.2
        )  # arcsec


# ---- multipoles and ellipticity


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_a_cosine_on_a_ring_is_its_multipole_alone(order):
    for angle in (0.0, 0.4, 1.9):
        lens = ring(12, width=2, tilt=cosine(order, 0.6, angle))
        amplitudes = morphology.multipoles(lens)[0]
        expected = np.where(np.arange(1, 5) == order, 0.3, 0)
        assert np.abs(amplitudes - expected).max() < 0.005


def test_multipoles_see_through_noise_and_a_misplaced_lens():
    lens = ring(12, width=2, tilt=cosine(2, 0.6))
    assert (
        np.abs(morphology.multipoles(lens + 3 * noise(20)) - morphology.multipoles(lens)).max()
        < 0.02
    )
    # for d << r the flux at angle phi grows by (1 + 2 d/r cos phi - ...), the moment by d / 2r
    assert abs(morphology.multipoles(ring(12, 2.0))[0, 0] - 2 / 24) < 0.005
    assert morphology.multipoles(lens, orders=(2,)).shape == (1, 1)


def test_a_pixel_on_the_centre_has_no_direction():
    r2 = np.add.outer(np.arange(-20, 21) ** 2, np.arange(-20, 21) ** 2)
    assert morphology.multipoles(np.exp(-r2 / 8)[None, None], (1, 2, 3))[0].max() < 1e-9


@pytest.mark.parametrize("q, angle", [(1, 0), (0.8, 0), (0.6, 0.5), (0.4, 2.2)])
def test_ellipticity_is_that_of_the_second_moments(q, angle):
    value = morphology.ellipticity(ellipse(q, angle, 4))[0, 0]
    assert abs(value - (1 - q) / (1 + q)) < 0.005
    major, minor = measure.inertia_tensor_eigvals(ellipse(q, angle, 4)[0, 0])
    assert abs(value - (1 - np.sqrt(minor / major)) / (1 + np.sqrt(minor / major))) < 0.005
    assert np.abs(morphology.ellipticity(ellipse(q, angle, 4) + noise(20)) - value).max() < 0.03


# ---- excursion sets


def test_a_line_is_as_elliptic_as_can_be():
    lines = np.zeros((40, 1, 32, 32), np.float32)
    lines[:, 0, range(20), range(20)] = np.random.default_rng(0).uniform(
        0.005, 0.01, (40, 20)
    )  # some determinants are below zero by rounding; in any unit
    assert np.abs(morphology.ellipticity(lines) - 1).max() < 1e-6


def test_one_pixel_beside_the_centre_is_all_multipoles():
    faint = np.zeros((1, 1, 32, 32), np.float32)
    faint[0, 0, 16, 16] = 0.01
    assert np.abs(morphology.multipoles(faint) - 1).max() < 1e-12


def test_minkowski_is_that_of_scikit_image():
    images = ndimage.gaussian_filter(
        noise(6, 40), (0, 0, 1, 1)
    )  # reach the borders, with many holes
    levels = np.quantile(images, [0.1, 0.4, 0.6, 0.9])
    rows = morphology.minkowski(images, levels).reshape(6, 3, 4)
    for image, (area, perimeter, euler) in zip(images[:, 0], rows, strict=True):
        sets = [image > level for level in levels]
        assert area.tolist() == [s.sum() for s in sets]
        assert np.abs(perimeter - [measure.perimeter_crofton(s, 4) for s in sets]).max() < 1e-9
        assert euler.tolist() == [measure.euler_number(s, 2) for s in sets]


def test_minkowski_of_a_disc_and_a_ring():
    r = np.hypot(X, Y)
    disc = 1.0 * (r < 20)
    annulus = 1.0 * ((r < 20) & (r > 10))
    area, perimeter, euler = morphology.minkowski(np.stack([disc, annulus])[:, None], [0.5]).T
    assert euler.tolist() == [1, 0]
    assert np.abs(area / (np.pi * np.array([400, 300])) - 1).max() < 0.01
    assert np.abs(perimeter / (2 * np.pi * np.array([20, 30])) - 1).max() < 0.03


def test_minkowski_of_a_checkerboard_hangs_together_at_the_corners():
    board = np.indices((6, 6)).sum(0) % 2
    # 18 pixels in one piece around the 8 dark ones inside
    assert morphology.minkowski(board[None, None], [0.5])[0, [0, 2]].tolist() == [18, 1 - 8]


def test_a_pixel_on_a_level_is_not_above_it():
    image = np.zeros((1, 1, 8, 8))
    image[..., 2, 3] = 1
    image[..., 6, 6] = 2
    assert morphology.minkowski(image, [0, 1, 2])[0, :3].tolist() == [2, 1, 0]


@pytest.mark.parametrize("count", [255, 256, 300])
def test_any_number_of_levels_is_counted(count):
    image = np.zeros((1, 1, 8, 8))
    image[..., 2, 3] = count
    assert morphology.minkowski(image, np.arange(count))[0, :count].tolist() == [1] * count


def test_levels_are_exceeded_by_the_shares_of_the_reference():
    images = np.random.default_rng(0).exponential(size=(50, 1, 32, 32))
    levels = morphology.excursion_levels(images)
    above = [(images > level).mean() for level in levels]
    assert (np.diff(levels) > 0).all() and np.abs(np.array(above) - morphology.SHARES).max() < 1e-4
    assert morphology.excursion_levels(np.zeros((2, 1, 8, 8))).tolist() == [0]


# ---- peaks


def test_planted_peaks_are_counted_above_their_levels():
    image = noise(1, seed=4)
    sigma = image_stats.noise_level(image).item()
    level = image_stats.sky(image[0])[0].item()
    image = np.minimum(image, level + 2.9 * sigma)
    spots = {
        (0, 0): 40,
        (5, 20): 15,
        (5, 22): 8,
        (40, 40): 8,
        (63, 31): 4,
    }  # a corner, an edge, two close by
    for i, j in spots:  # no peak of the noise beside them
        image[0, 0, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2] = level
    for (i, j), height in spots.items():
        image[0, 0, i, j] = level + height * sigma
    image[0, 0, 20:22, 20] = level + 30 * sigma  # a plateau is no peak
    assert morphology.peak_counts(image, (3, 5, 10, 20)).tolist() == [[5, 4, 2, 1]]


def test_peaks_are_those_of_a_maximum_filter():
    images = noise(5, 48)
    around = np.ones((1, 1, 3, 3), bool)
    around[..., 1, 1] = False
    peaks = images > ndimage.maximum_filter(images, footprint=around, mode="constant", cval=-np.inf)
    level = image_stats.sky(images[:, 0])[0]
    sigma = image_stats.noise_level(images)[..., None]
    expected = [
        (peaks[:, 0] & (images[:, 0] > level + k * sigma)).sum((1, 2)) for k in (-9, 0, 1, 2)
    ]
    assert np.array_equal(morphology.peak_counts(images, (-9, 0, 1, 2)), np.transpose(expected))


# ---- scattering


@pytest.mark.parametrize("j, turn", [(1, 0), (1, 3), (2, 1)])
def test_wavelets_are_morlets(j, turn):
    n = np.fft.fftfreq(SIZE) * SIZE
    sigma = 0.8 * 2**j
    angle = np.pi * turn / 4
    y = n[:, None]
    x = n[None, :]
    envelope = np.exp(-(x**2 + y**2) / (2 * sigma**2)) / (2 * np.pi * sigma**2)
    wave = np.exp(1j * 0.75 * np.pi / 2**j * (x * np.cos(angle) + y * np.sin(angle)))
    expected = envelope * (wave - (envelope * wave).sum() / envelope.sum())  # without a mean
    assert (
        np.abs(np.fft.ifft2(scattering.wavelets(SIZE, 4)[j, turn].numpy()) - expected).max()
        < 1e-3 * np.abs(expected).max()
    )


def test_scattering_is_what_loops_over_all_pairs_find():
    image = (ring(12, width=2, tilt=cosine(1, 0.6)) + noise(1, seed=5))[0, 0]
    bank = scattering.wavelets(SIZE, 4).numpy().astype(float)

    def modulus(map_, j, turn):
        return np.abs(np.fft.ifft2(np.fft.fft2(map_) * bank[j, turn]))

    first = [[modulus(image, j, turn) for turn in range(4)] for j in range(4)]
    means = np.mean(first, axis=(1, 2, 3))
    expected = list(means)
    for j, k in itertools.combinations(range(4), 2):
        second = np.array([[modulus(first[j][n], k, m).mean() for m in range(4)] for n in range(4)])
        pairs = {0: [], 1: [], 2: []}  # 0, 45 or 135, 90 degrees
        for n, m in np.ndindex(4, 4):
            pairs[{0: 0, 1: 1, 2: 2, 3: 1}[abs(n - m)]].append(second[n, m])
        expected += [np.mean(pairs[angle]) / means[j] for angle in range(3)]
    assert np.abs(scattering.scattering(image[None, None])[0] - np.log10(expected)).max() < 1e-3


def test_scattering_of_white_noise_is_its_closed_form():
    bank = scattering.wavelets(SIZE, 4).numpy().astype(float)
    rms = np.sqrt((bank**2).mean((2, 3)))  # of the filtered noise, (J, L)
    # coarse wavelets are complex Gaussian noise: a mean modulus of sqrt(pi) / 2 of the rms
    measured = scattering.scattering(3 * noise(200)).mean(0)[1:4]
    assert np.abs(measured - np.log10(3 * rms.mean(1)[1:] * np.sqrt(np.pi) / 2)).max() < 0.015


def test_scattering_is_that_of_the_light_under_a_bright_sky():
    images = noise(3)
    assert np.abs(scattering.scattering(images + 1e6) - scattering.scattering(images)).max() < 1e-4


def test_scattering_of_a_plane_wave_is_its_filter():
    for k in (6, 12, 24):  # periods in the image, along x
        seen = scattering.scattering(np.cos(2 * np.pi * k * X / SIZE)[None, None])[0, :4]
        heights = scattering.wavelets(SIZE, 4)[:, :, 0, k].numpy()
        behind = scattering.wavelets(SIZE, 4)[:, :, 0, -k].numpy()
        phase = 2 * np.pi * 2 * k * X[0] / SIZE  # |p e^(ikx) + m e^(-ikx)| over x
        moduli = (
            np.abs(heights[..., None] + behind[..., None] * np.exp(1j * phase)).mean((1, 2)) / 2
        )
        assert np.abs(10**seen - moduli).max() < 1e-4


# ---- all of them

SHAPES = (
    "noise_level",
    "light_detail",
    "total_flux",
    "ring_radius",
    "ellipticity",
    "multipoles",
    "peak_counts",
    "minkowski",
    "scattering",
)
LEVELS = [-0.5, 1, 5, 20]  # for minkowski, which no reference fixes here


def rows(name, images):
    if name == "minkowski":
        return morphology.minkowski(images, LEVELS)
    return fit(MEASURES[name].rows, Reference(images))(images)


@pytest.mark.parametrize("name", SHAPES)
def test_flips_turns_and_the_company_change_nothing(name, lenses):
    for images in (
        lenses[0][:40],
        np.pad(lenses[0][:3], ((0, 0), (0, 0), (0, 1), (0, 1)))[..., 12:-12, 12:-12],
    ):
        expected = rows(name, images)
        assert expected.shape[0] == len(images) and expected.ndim == 2
        assert np.ptp(expected, axis=0).max() > 0
        for turned in (
            images[..., ::-1],
            images.swapaxes(2, 3),
            np.rot90(images, axes=(2, 3)),
            images[..., ::-1, ::-1],
        ):
            assert np.abs(rows(name, turned.copy()) - expected).max() < 2e-3
    assert np.abs(rows(name, lenses[0][33:34])[0] - rows(name, lenses[0][:40])[33]).max() < 1e-5


@pytest.mark.parametrize("name", SHAPES)
def test_channels_are_averaged(name):
    image = ring(12, width=2) + noise(3, channels=3)
    assert np.abs(rows(name, image) - rows(name, image.mean(1, keepdims=True))).max() < 1e-5


@pytest.mark.parametrize("name", SHAPES)
def test_every_image_gives_finite_numbers(name):
    for size in (8, 27, 28, SIZE):
        flat = np.stack(
            [
                np.zeros((1, size, size)),
                np.full((1, size, size), 3.7),
                np.full((1, size, size), -1e6),
            ]
        )
        step = np.where(np.arange(size) < size // 2, 0.0, 1.0) * np.ones((1, 1, size, 1))
        for images in (flat, step, noise(3, size)):
            assert np.isfinite(rows(name, images)).all()
        if name not in ("minkowski", "scattering"):
            assert (rows(name, flat) == 0).all()


def test_an_offset_changes_none_and_a_factor_what_has_a_unit(lenses):
    images = lenses[0][:20].astype(float)
    scaled = 3 * images + 50
    factors = {"noise_level": 3, "light_detail": 3, "total_flux": 3}
    for name in SHAPES:
        before = rows(name, images)
        after = rows(name, scaled)
        if name == "minkowski":
            after = morphology.minkowski(scaled, 3 * np.array(LEVELS) + 50)
        if name == "scattering":
            before[:, :4] += np.log10(3)
        assert np.allclose(after, before * factors.get(name, 1), rtol=1e-5, atol=1e-5), name


# ---- distances


def test_wasserstein_columns_is_that_of_scipy():
    rng = np.random.default_rng(0)
    for n, m in ((50, 50), (40, 90), (7, 3)):
        a = rng.normal(0.3, 2, (n, 3))
        b = rng.gamma(2, size=(m, 3))
        columns = zip(a.T, b.T, strict=True)
        expected = np.mean([stats.wasserstein_distance(x, y) / y.std() for x, y in columns])
        assert abs(morphology.wasserstein_columns(a, b) - expected) < 1e-12
    assert morphology.wasserstein_columns(b, b) == 0


def test_mean_vector_is_the_mahalanobis_distance():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(300, 4)) + 0.5
    b = rng.normal(size=(400, 4)) @ rng.normal(size=(4, 4)) * [1, 10, 100, 1e4]
    inverse = np.linalg.inv(np.cov(b, rowvar=False))
    gap = a.mean(0) - b.mean(0)
    assert abs(morphology.mean_vector(a, b, ridge=0) / np.sqrt(gap @ inverse @ gap / 4) - 1) < 0.01
    shifted = b + b.std(0)[0] * np.eye(4)[0]
    assert morphology.mean_vector(b, b) == 0 and morphology.mean_vector(shifted, b) > 0.4
    assert (
        abs(morphology.mean_vector(shifted[:, :1], b[:, :1]) - 1) < 0.01
    )  # one standard deviation


def test_distances_bear_columns_that_do_not_vary_and_few_rows():
    rng = np.random.default_rng(0)
    for constant in (0.0, 0.1, 1e8):
        b = np.column_stack([rng.normal(size=30), np.full(30, constant)])
        for distance in (morphology.mean_vector, morphology.wasserstein_columns):
            assert distance(b, b) == 0
            assert 0.5 < distance(b + [0, 2], b) < 2  # in its own unit
    few = rng.normal(size=(2, 5, 27))
    assert 0 < morphology.mean_vector(*few) < 100


# ---- power: what must be seen, and what not


def faulty(kind, images, truth):
    """Real images (n, 1, H, W) with a fault planted."""
    rng = np.random.default_rng(7)
    if kind == "blurred":
        return ndimage.gaussian_filter(images, (0, 0, 0.5, 0.5))
    if kind == "noisier":  # 1.2 times, sky and photons
        variance = 1 + images.clip(0) / truth["exposure"][: len(images), None, None, None]
        return images + np.sqrt((1.2**2 - 1) * variance) * rng.normal(size=images.shape)
    if kind == "random phases":
        random = np.fft.fft2(rng.normal(size=images.shape))
        random[..., 0, 0] = 1  # the mean stays
        return np.fft.ifft2(np.abs(np.fft.fft2(images)) * random / np.abs(random)).real
    if kind == "halves mixed":
        return np.concatenate([images[..., :32], np.roll(images, 1, axis=0)[..., 32:]], axis=-1)
    if kind == "misplaced":
        return np.roll(images, 5, axis=-1)
    return {"fresh": 1, "brighter": 1.1}[kind] * images


SEEN = {
    "fresh": {},
    "blurred": {"noise_level": 100, "minkowski": 100, "scattering": 50, "peak_counts": 30},
    "noisier": {"noise_level": 50, "minkowski": 50, "scattering": 20},
    "random phases": {
        "ring_radius": 30,
        "ellipticity": 10,
        "multipoles": 15,
        "peak_counts": 50,
        "minkowski": 300,
        "scattering": 100,
        "total_flux": 15,
    },
    "halves mixed": {"multipoles": 6, "scattering": 20, "minkowski": 6},
    "brighter": {"noise_level": 30, "minkowski": 30, "scattering": 15},
    "misplaced": {"multipoles": 10},
}
BLIND = {
    "fresh": SHAPES,
    "blurred": ("total_flux", "ring_radius", "multipoles"),
    "noisier": ("total_flux", "ring_radius", "multipoles", "ellipticity"),
    "halves mixed": ("noise_level",),
    "brighter": ("ring_radius", "multipoles", "ellipticity", "peak_counts"),
    "misplaced": (
        "noise_level",
        "total_flux",
        "ring_radius",
        "ellipticity",
        "peak_counts",
        "minkowski",
        "scattering",
    ),
}


@pytest.fixture(scope="module")
def rulers(lenses):
    """name -> (rows, distance to the reference, its mean and scatter for real images)."""
    reference, (others, _) = lenses
    ready = {}
    n = len(reference)
    rng = np.random.default_rng(0)
    fixed = Reference(reference)
    for name in SHAPES:
        measure_ = fit(MEASURES[name].rows, fixed)
        distance = MEASURES[name].distance
        real = measure_(reference)
        other = measure_(others[n:])
        floor = [distance(other[rng.permutation(len(other))[:n]], real) for _ in range(40)]
        ready[name] = measure_, lambda a, d=distance, b=real: d(a, b), np.mean(floor), np.std(floor)
        assert MEASURES[name].unit == "standard deviations of real images"
    return ready


@pytest.mark.parametrize("kind", SEEN)
def test_faults_are_seen_by_whom_they_should_be(kind, lenses, rulers):
    reference, (others, truth) = lenses
    images = faulty(kind, others[: len(reference)], truth)
    for name in {*SEEN[kind], *BLIND.get(kind, ())}:
        measure_, distance, floor, scatter = rulers[name]
        sigmas = (distance(measure_(images)) - floor) / scatter
        if name in SEEN[kind]:
            assert sigmas > SEEN[kind][name], (name, sigmas)
        else:
            assert sigmas < 4, (name, sigmas)
