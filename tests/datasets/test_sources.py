"""The user's files, read by `prepare_dataset`: every source in every layout, and its refusals."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
from images import deeplense_object, noise, read, refusal, save_each

from lensnb.datasets import pixels

REAL = Path(__file__).parents[3] / "shared/data"
needs_real = pytest.mark.skipif(
    not REAL.is_dir(), reason=f"no real images beside the project ({REAL})"
)


def in_every_layout(grey, colour):
    """Images (N, 1, H, W) and (N, 3, H, W) as they may lie in a file: name -> (array, images)."""
    return {
        "N,H,W": (grey[:, 0], grey),
        "N,1,H,W": (grey, grey),
        "N,H,W,1": (np.moveaxis(grey, 1, 3), grey),
        "N,3,H,W": (colour, colour),
        "N,H,W,3": (np.moveaxis(colour, 1, 3), colour),
        "fortran order": (np.asfortranarray(colour), colour),
    }


LAYOUTS = in_every_layout(noise(12, 1, 8, 8), noise(12, 3, 8, 8))


@pytest.mark.parametrize("kind", LAYOUTS)
def test_single_array_in_any_layout(kind, src, out):
    array, want = LAYOUTS[kind]
    np.save(src / "a.npy", array)
    got = read(src / "a.npy", out)
    assert got.images.shape == want.shape and got.images.dtype == np.float32
    np.testing.assert_array_equal(got.images, want.astype(np.float32))
    assert isinstance(got.images, np.memmap)
    assert got.labels is None and got.classes == () and got.truth == {} and got.pixel_scale is None


@pytest.mark.parametrize("kind", ["H,W", "1,H,W", "H,W,3", "several N,H,W"])
def test_folder_in_any_layout(kind, src, out):
    want = noise(12, 3 if kind == "H,W,3" else 1, 8, 8)
    files = {
        "H,W": list(want[:, 0]),
        "1,H,W": list(want),
        "H,W,3": list(np.moveaxis(want, 1, 3)),
        "several N,H,W": [want[:5, 0], want[5:6, 0], want[6:, 0]],
    }[kind]
    save_each(src, files)
    (src / "notes.txt").write_text("not an image")
    (src / ".hidden.npy").write_text("not an image")
    np.testing.assert_array_equal(read(src, out).images, want.astype(np.float32))


@pytest.mark.parametrize(
    "dtype", ["<f8", ">f8", "<f4", ">f4", "<f2", ">i2", "<i8", "u1", ">u4", "?", "longdouble"]
)
def test_dtype_and_byte_order_do_not_matter(dtype, src, out):
    whole = np.random.default_rng(2).integers(0, 2 if dtype == "?" else 100, (10, 8, 8))
    np.save(src / "a.npy", whole.astype(dtype))
    np.testing.assert_array_equal(read(src / "a.npy", out).images[:, 0], whole)


@pytest.mark.parametrize("key", ["images", "x"])
@pytest.mark.parametrize("label_key", ["labels", "y"])
@pytest.mark.parametrize("pack", [np.savez, np.savez_compressed])
def test_npz(key, label_key, pack, src, out):
    want = noise(12, 8, 8)
    labels = np.arange(12) % 3 * 10
    mass = noise(12)
    pack(
        src / "a.npz",
        **{key: want, label_key: labels, "mass_ev": mass, "pairs": noise(12, 2), "note": "text"},
    )
    got = read(src / "a.npz", out)
    np.testing.assert_array_equal(got.images[:, 0], want.astype(np.float32))
    np.testing.assert_array_equal(np.array(got.classes, int)[got.labels], labels)
    assert got.classes == ("0", "10", "20") and got.labels.dtype == np.int64
    assert list(got.truth) == ["mass_ev"]
    np.testing.assert_array_equal(got.truth["mass_ev"], mass)
    assert not (out / ".npz").exists()


def test_labels_from_their_own_file(src, out):
    np.save(src / "a.npy", noise(12, 8, 8))
    np.save(src / "b.npy", np.array([7, 5] * 6, ">i2"))
    got = read(src / "a.npy", out, labels=str(src / "b.npy"))
    assert got.classes == ("5", "7") and got.labels.tolist() == [1, 0] * 6


@pytest.mark.parametrize("prefix", ["", "train"])
def test_class_folders_of_deeplense(prefix, src, out):
    want = noise(12, 8, 8)
    for k, name in enumerate(["no", "sphere", "vort"]):
        save_each(src / prefix / name, want[4 * k : 4 * k + 4])
    got = read(src, out)
    assert got.classes == ("no_sub", "cdm", "vortex")
    assert got.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    np.testing.assert_array_equal(got.images[:, 0], want.astype(np.float32))


def test_other_class_names_are_kept_and_train_is_read_alone(src, out):
    want = noise(20, 8, 8)
    save_each(src / "train/axion", want[:6])
    save_each(src / "train/cdm", want[6:12])
    save_each(src / "val/axion", want[12:])
    got = read(src, out)
    assert got.classes == ("axion", "cdm") and len(got.images) == 12
    assert "train folder alone" in got.source and "val" in got.source
    np.testing.assert_array_equal(got.images[:, 0], want[:12].astype(np.float32))


def test_one_subfolder_is_no_class(src, out):
    save_each(src / "images", noise(8, 8, 8))
    assert read(src, out).labels is None


def test_links_to_folders_are_followed(src, out, tmp_path):
    save_each(tmp_path / "far", noise(8, 8, 8))
    (src / "near").symlink_to(tmp_path / "far")
    assert len(read(src, out).images) == 8


def test_channels(src, out):
    want = noise(10, 3, 8, 8)
    np.save(src / "rgb.npy", want)
    np.save(src / "grey.npy", want[:, 0])
    grey = read(src / "rgb.npy", out, channels=1).images
    np.testing.assert_allclose(grey, want.mean(axis=1, keepdims=True), rtol=0, atol=1e-6)
    rgb = read(src / "grey.npy", out, channels=3).images
    np.testing.assert_array_equal(rgb, np.stack([want[:, 0]] * 3, 1).astype(np.float32))


def test_at_most_n_are_read_at_random_by_seed_in_proportion(src, out):
    want = noise(200, 8, 8)
    np.savez(src / "a.npz", images=want, labels=np.array([0] * 150 + [1] * 50))
    got = read(src / "a.npz", out, n=40)
    kept = [
        int(np.flatnonzero((want.astype(np.float32) == image[0]).all(axis=(1, 2)))[0])
        for image in got.images
    ]
    assert len(set(kept)) == 40 and kept == sorted(kept)
    assert np.bincount(got.labels).tolist() == [30, 10]
    assert [int(i >= 150) for i in kept] == got.labels.tolist()
    assert kept[:30] != list(range(30))
    same = read(src / "a.npz", out, n=40).images
    np.testing.assert_array_equal(same, got.images)
    assert not np.array_equal(read(src / "a.npz", out, n=40, seed=1).images, same)
    assert "40 of 200" in got.source


def test_a_choice_among_stacks_and_single_images_keeps_each_with_its_mass(src, out):
    want = noise(60, 8, 8)
    save_each(src, [want[:7], want[7:20], *want[20:30]])
    for i in range(30, 60):
        deeplense_object(src / f"{i:03}.npy", want[i], float(i))
    got = read(src, out, n=33)
    index = [
        int(np.flatnonzero((want.astype(np.float32) == image[0]).all(axis=(1, 2)))[0])
        for image in got.images
    ]
    assert len(set(index)) == 33 and index == sorted(index) and min(index) < 20
    np.testing.assert_array_equal(got.truth["mass"], [i if i >= 30 else np.nan for i in index])


# Real images --------------------------------------------------------------------------------------


@needs_real
def test_real_folder_pixel_by_pixel(out):
    files = sorted((REAL / "paltas").glob("*.npy"))
    got = read(REAL / "paltas", out, size=64)
    np.testing.assert_array_equal(
        got.images[:, 0], np.stack([np.load(f) for f in files]).astype(np.float32)
    )


@needs_real
def test_three_real_images_are_too_few(out):
    assert "2 of each" in refusal(REAL / "deeplense", out, size=64)


@needs_real
def test_real_deeplense_in_class_folders(src, out):
    for name, file in {"no": "nosub", "sphere": "cdm", "axion": "axion"}.items():
        image = np.load(REAL / f"deeplense/{file}.npy")
        save_each(src / name, [image, image.T, image[::-1], image[:, ::-1]])
    got = read(src, out, size=64, scaling="minmax")
    assert got.classes == ("axion", "no_sub", "cdm")
    image = np.load(REAL / "deeplense/cdm.npy")
    np.testing.assert_allclose(got.images[got.labels == 2][1, 0], image.T, rtol=0, atol=2e-7)


@needs_real
@pytest.mark.parametrize(
    "name", ["model_I_axion", "model_II_axion", "model_II_cdm", "model_III_no_sub"]
)
def test_real_npz(name, out):
    plain = np.load(REAL / f"deeplensesim/{name}.npz")
    got = read(REAL / f"deeplensesim/{name}.npz", out, size=64)
    images = plain["images"].astype(float)
    np.testing.assert_array_equal(got.truth["axion_mass_ev"], plain["axion_mass_ev"])
    if images.shape[1:] == (64, 64):
        np.testing.assert_array_equal(got.images[:, 0], images)
    else:  # photon counts: the mean count a pixel stays
        np.testing.assert_allclose(
            got.images.astype(float).mean(axis=(1, 2, 3)), images.mean(axis=(1, 2)), rtol=1e-6
        )


# Resizing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("old, new", [(150, 64), (128, 64), (101, 64), (65, 64), (9, 8)])
def test_shrinking_is_the_exact_area_mean(old, new):
    """Oracle: repeat each pixel `new` times and average blocks of `old`, exact for any ratio."""
    x = noise(2, 1, old, old)
    want = x[:, 0]
    for axis in (1, 2):
        shape = [*want.shape[:axis], new, old, *want.shape[axis + 1 :]]
        want = np.repeat(want, new, axis).reshape(shape).mean(axis=axis + 1)
    got = pixels.resize(x, new)
    np.testing.assert_allclose(got[:, 0], want, rtol=0, atol=1e-10)
    np.testing.assert_allclose(got.mean(axis=(1, 2, 3)), x.mean(axis=(1, 2, 3)), rtol=1e-12)


@pytest.mark.parametrize("old, new", [(8, 64), (28, 64), (60, 64), (63, 64)])
def test_enlarging_keeps_the_mean_within_a_hundredth_of_the_peak_and_a_plane_exactly(old, new):
    y, x = np.mgrid[:old, :old] - (old - 1) / 2
    ring = np.exp(-((np.hypot(x, y) - old / 4) ** 2) / (old / 10) ** 2)[None, None]
    got = pixels.resize(ring, new)
    assert got.shape == (1, 1, new, new)
    assert abs(got.mean() - ring.mean()) < 0.01 * ring.max()
    plane = pixels.resize((2 * x + 3 * y)[None, None], new)[0, 0]
    cut = math.ceil(new / old)  # beyond the outermost old centres the edge is repeated
    v, u = (np.mgrid[:new, :new] - (new - 1) / 2) * old / new
    inner = (slice(cut, -cut),) * 2
    np.testing.assert_allclose(plane[inner], (2 * u + 3 * v)[inner], rtol=0, atol=1e-10)


# Refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
def test_pixels_that_are_no_numbers(value, src, out):
    images = noise(20, 8, 8)
    images[13, :2, 3] = value
    np.save(src / "a.npy", images)
    message = refusal(src / "a.npy", out)
    assert "a.npy, image 13: 2 of 64 pixels" in message
    (src / "each").mkdir()
    save_each(src / "each", images)
    assert f"{src / 'each' / '013.npy'}: 2 of 64 pixels" in refusal(src / "each", out)


def test_bad_pixels_are_counted_before_averaging(src, out):
    images = noise(20, 3, 16, 16)
    images[3, 1, 5, 6] = np.nan
    np.save(src / "a.npy", images)
    assert "image 3: 1 of 768 pixels" in refusal(src / "a.npy", out, channels=1)


@pytest.mark.parametrize("scaling", ["linear", "minmax", "asinh"])
def test_constant_images(scaling, src, out):
    images = noise(20, 8, 8)
    images[4] = 0.25
    np.save(src / "a.npy", images)
    message = refusal(src / "a.npy", out, scaling=scaling)
    assert "a.npy, image 4: constant image, every pixel is 0.25" in message


def test_an_image_that_becomes_constant(src, out):
    images = noise(20, 16, 16)
    images[4] = np.indices((16, 16)).sum(axis=0) % 2  # a chessboard averages to grey
    np.save(src / "a.npy", images)
    assert "image 4: constant" in refusal(src / "a.npy", out)
    images = noise(20, 8, 8)
    images[7] = 1e8 + np.arange(64).reshape(8, 8) / 64  # differs in double precision alone
    np.save(src / "a.npy", images)
    assert "image 7: constant" in refusal(src / "a.npy", out)


def test_paths(src, out, tmp_path):
    assert "nowhere: No such file" in refusal(src / "nowhere", out)
    assert "no npy, npz, fits, hdf5, picture, tiff or MNIST file" in refusal(src, out)
    (src / "readme.txt").write_text("x")
    assert "no npy, npz, fits, hdf5, picture, tiff or MNIST file" in refusal(src, out)
    assert "expected a folder of npy, npz, fits, hdf5, picture, tiff or MNIST files" in refusal(
        src / "readme.txt", out
    )
    assert "embedded null" in refusal(f"{src}/a\0b", out)
    os.mkfifo(src / "pipe.npy")  # opening it would wait for ever
    assert "pipe.npy: expected a file" in refusal(src / "pipe.npy", out)


def test_mixed_shapes_name_both(src, out):
    save_each(src, [*noise(9, 8, 8), noise(16, 16)])
    message = refusal(src, out)
    assert all(part in message for part in ("000.npy", "009.npy", "(1, 8, 8)", "(1, 16, 16)"))


@pytest.mark.parametrize(
    "labels, expected",
    [
        (np.arange(11), "(11,)"),
        (np.zeros((12, 1), int), "(12, 1)"),
        (np.zeros(12), "float64"),
        (np.full(12, "a"), "<U1"),
        (np.array([1, None], object), "image"),
    ],
)
def test_bad_labels(labels, expected, src, out):
    np.save(src / "a.npy", noise(12, 8, 8))
    np.save(src / "b.npy", labels)
    message = refusal(src / "a.npy", out, labels=str(src / "b.npy"))
    assert str(src / "b.npy") in message and expected in message
    if labels.dtype != object:
        np.savez(src / "c.npz", images=noise(12, 8, 8), y=labels)
        assert "c.npz, labels" in refusal(src / "c.npz", out)


def test_labels_that_cannot_be(src, out):
    save_each(src, noise(12, 8, 8))
    assert "class sub-folders" in refusal(src, out, labels="labels.npy")
    assert "nolabels.npy: No such file" in refusal(
        src / "000.npy", out, labels=str(src / "nolabels.npy")
    )


def test_class_folders_mixed_with_files(src, out):
    save_each(src / "no", noise(6, 8, 8))
    save_each(src / "sphere", noise(6, 8, 8))
    save_each(src, noise(1, 8, 8))
    message = refusal(src, out)
    assert "000.npy" in message and "no/000.npy" in message and "different depths" in message


def test_a_name_for_each_image_is_no_class(src, out):
    """A list of identifiers would become twenty classes of one image."""
    for i, image in enumerate(noise(20, 8, 8)):
        save_each(src / f"object{i}", [image])
    got = read(src, out)
    assert got.labels is None and got.classes == ()
    assert "its 20 folders taken for no classes as each holds one" in got.source
    save_each(src / "object3", [noise(8, 8, seed=5)], ["more.npy"])
    assert len(read(src, out).classes) == 20
    flat = src.parent / "flat"
    save_each(flat, noise(20, 8, 8))
    (flat / "truth.csv").write_text("class,z\n" + "".join(f"a{i},{i}\n" for i in range(20)))
    got = read(flat, out, table="truth.csv")
    assert got.labels is None and got.truth["class"].tolist() == [f"a{i}" for i in range(20)]
    assert "its column class taken for no class as each image has its own" in got.source
    np.save(src / "a.npy", noise(20, 8, 8))
    np.save(src / "b.npy", np.arange(20))
    told = refusal(src / "a.npy", out, labels=str(src / "b.npy"))
    assert "each of the 20 images has a label of its own" in told


def test_what_was_done_to_the_size_is_said_with_the_old_size(src, out):
    save_each(src, noise(12, 24, 24))
    assert ", brought from 24 x 24 to 8 x 8 pixels" in read(src, out).source
    assert "brought" not in read(src, out, size=24).source
    cut = read(src, out, crop=16).source
    assert cut.endswith("cut to the central 16 pixels, brought from 16 x 16 to 8 x 8 pixels")
