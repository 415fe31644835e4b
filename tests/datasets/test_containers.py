"""The same images out of every container; shapes with two readings; splits, copies and tables."""

import hashlib
import json
import os
import struct
import zlib

import numpy as np
import pytest
import tifffile
from astropy.io import fits
from astropy.table import Table
from containers import CONTAINERS, write_fits
from images import noise, read, refusal, save_each

from lensnb import io
from lensnb.apps import cli
from lensnb.datasets import duplicates
from lensnb.recipes.recipe import load_recipe
from lensnb.recipes.schema import Data
from lensnb.runs import artefact


def single(x):
    return x.astype(np.float32)


# Containers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CONTAINERS)
def test_the_same_images_to_the_bit_out_of_any_container(kind, src, out):
    write, knobs = CONTAINERS[kind]
    want = noise(16, 8, 8)
    write(src, want)
    path = next(src.iterdir()) if kind in ("fits.gz", "tiff") else src
    got = read(path, out, **knobs)
    np.testing.assert_array_equal(got.images[:, 0], single(want))
    if kind in ("fits table", "hdf5", "npz"):
        np.testing.assert_array_equal(got.truth["z"], np.arange(16) / 7)


def test_extensions_become_bands_and_two_readings_are_refused(src, out):
    want = noise(12, 3, 8, 8)
    for i, bands in enumerate(want):
        hdus = [fits.ImageHDU(band, name=name) for band, name in zip(bands, "GRI", strict=True)]
        fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(src / f"{i:03}.fits")
    message = refusal(src, out)
    assert "several extensions" in message and "12 are bad" in message and "data.hdu" in message
    got = read(src, out, hdu=("I", "G"))
    np.testing.assert_array_equal(got.images, single(want[:, [2, 0]]))
    np.testing.assert_array_equal(read(src, out, hdu=2).images[:, 0], single(want[:, 1]))
    assert "known are 0 PRIMARY, 1 G" in refusal(src, out, hdu="Z")


def test_scaled_integers_masks_and_scales_of_fits(src, out):
    want = np.random.default_rng(0).integers(0, 60000, (12, 8, 8)).astype(np.uint16)
    for i, image in enumerate(want):  # unsigned: BZERO 32768
        hdu = fits.PrimaryHDU(image)
        hdu.header.update({"CTYPE1": "RA---TAN", "CD1_1": -0.05 / 3600, "CD2_2": 0.05 / 3600})
        bad = fits.ImageHDU((np.arange(64).reshape(8, 8) == 9).astype(np.uint8), name="MASK")
        fits.HDUList([hdu, bad]).writeto(src / f"{i:03}.fits")
    assert "1 of 64 pixels are NaN" in refusal(src, out)
    got = read(src, out, fill=0)
    masked = want.copy()
    masked[:, 1, 1] = 0
    np.testing.assert_array_equal(got.images[:, 0], masked)
    assert got.pixel_scale == pytest.approx(0.05) and "masked pixels set to 0" in got.source


def test_a_cut_off_fits_file_promises_too_much(src, out):
    write_fits(src, noise(12, 64, 64))
    whole = (src / "003.fits").read_bytes()
    (src / "003.fits").write_bytes(whole[:5760])
    assert "003.fits: its header promises" in refusal(src, out)


def png16(image):
    """A PNG of 16 bits a channel out of (H, W, 3), by the format's own rules."""
    height, width, _ = image.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in image)

    def chunk(kind, content):
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + body


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_sixteen_bits_a_channel_are_read_in_full(kind, src, out):
    want = np.random.default_rng(1).integers(0, 2**16, (12, 8, 8, 3)).astype(np.uint16)
    for i, image in enumerate(want):
        if kind == "png":
            (src / f"{i:03}.png").write_bytes(png16(image))
        else:
            tifffile.imwrite(src / f"{i:03}.tif", image, photometric="rgb")
    got = read(src, out).images
    np.testing.assert_array_equal(got, np.moveaxis(want, 3, 1))


# Shapes -------------------------------------------------------------------------------------------


def test_a_file_of_three_filters_is_one_image(src, out):
    want = noise(20, 3, 8, 8)
    save_each(src, want)
    got = read(src, out)
    np.testing.assert_array_equal(got.images, single(want))
    assert "each file one image of 3 bands" in got.source
    np.testing.assert_array_equal(read(src, out, bands=(2, 0)).images, single(want[:, [2, 0]]))
    assert len(read(src, out, axes="NHW").images) == 60


@pytest.mark.parametrize("bands", [2, 5])
def test_two_readings_are_refused_and_both_named(bands, src, out):
    want = noise(20, bands, 8, 8)
    save_each(src, want)
    message = refusal(src, out)
    for part in (f"1 image of {bands} bands (data.axes=CHW)", "data.axes=NHW", "two readings"):
        assert part in message
    np.testing.assert_array_equal(read(src, out, axes="CHW").images, single(want))


@pytest.mark.parametrize("bands", [1, 2, 3, 5])
def test_any_number_of_bands_in_one_array(bands, src, out):
    want = noise(20, bands, 8, 8)
    np.save(src / "first.npy", want)
    np.save(src / "last.npy", np.moveaxis(want, 1, 3))
    for name in ("first", "last"):
        np.testing.assert_array_equal(read(src / f"{name}.npy", out).images, single(want))
    if bands > 1:
        assert f"names band {bands}" in refusal(src / "first.npy", out, bands=(bands,))


def test_images_on_the_last_axis(src, out):
    want = noise(20, 8, 8)
    np.save(src / "a.npy", np.moveaxis(want, 0, 2))
    assert "data.axes=HWN" in refusal(src / "a.npy", out)
    np.testing.assert_array_equal(read(src / "a.npy", out, axes="HWN").images[:, 0], single(want))
    np.save(src / "cube.npy", noise(8, 8, 8))
    assert "two readings" in refusal(src / "cube.npy", out)
    assert len(read(src / "cube.npy", out, axes="NHW").images) == 8


def test_crop_and_resize_make_one_size(src, out):
    shapes = [(12, 16), (10, 9), (8, 8), (20, 13)] * 3
    want = [noise(*shape, seed=i) for i, shape in enumerate(shapes)]
    save_each(src, want)
    assert "not square" in refusal(src, out) and "12 are bad" in refusal(src, out)
    got = read(src, out, crop=8, resize=False)
    for image, whole in zip(got.images, want, strict=True):
        top, left = ((n - 8) // 2 for n in whole.shape)
        np.testing.assert_array_equal(image[0], single(whole[top : top + 8, left : left + 8]))
    assert "cut to the central 8 pixels" in got.source
    assert "3 are bad" in refusal(src, out, crop=9)  # three images have 8 pixels
    assert read(src, out, crop="centre", resize=True).images.shape == (12, 1, 8, 8)
    assert "data.resize" in refusal(src, out, crop="centre")
    assert "forbids to resample" in refusal(src, out, crop=9, resize=False)


def test_a_border_of_nan_goes_with_the_crop(src, out):
    want = np.pad(noise(13, 8, 8), ((0, 0), (2, 2), (2, 2)), constant_values=np.nan)
    np.save(src / "a.npy", want)
    assert "13 are bad" in refusal(src / "a.npy", out)
    np.testing.assert_array_equal(
        read(src / "a.npy", out, crop=8).images[:, 0], single(want[:, 2:-2, 2:-2])
    )


# Splits, copies, groups ---------------------------------------------------------------------------


@pytest.mark.parametrize("names", [("Train", "Test"), ("training", "validation"), ("TRAIN", "val")])
@pytest.mark.parametrize("where", ["{split}/{cls}", "{cls}/{split}", "set/{split}/{cls}"])
def test_splits_in_any_spelling(names, where, src, out):
    want = noise(24, 8, 8)
    for k, (split, cls) in enumerate((s, c) for s in names for c in ("a", "b")):
        save_each(src / where.format(split=split, cls=cls), want[6 * k : 6 * k + 6])
    got = read(src, out)
    assert got.classes == ("a", "b") and len(got.images) == 12
    np.testing.assert_array_equal(got.images[:, 0], single(want[:12]))
    assert f"{names[1]} left unread" in got.source


def test_splits_that_say_too_little(src, out):
    save_each(src / "train", noise(8, 8, 8))
    save_each(src / "more", noise(8, 8, 8))
    assert "train name parts of a split, and more" in refusal(src, out)
    (src / "more").rename(src / "val")
    (src / "train").rename(src / "test")
    assert "no folder of training images" in refusal(src, out)


def sides(got, rows):
    """Which of two sides each of these images is on."""
    return np.isin(rows, got.heldout)


@pytest.mark.parametrize("seed", range(3))
def test_copies_near_and_exact_stay_on_one_side(seed, src, out):
    want = noise(60, 8, 8)
    want[40:50] = want[:10]  # to the bit
    want[50:60] = np.rot90(want[10:20], axes=(1, 2)) * 1.001
    np.save(src / "a.npy", want)
    got = read(src / "a.npy", out, seed=seed)
    np.testing.assert_array_equal(sides(got, np.arange(20)), sides(got, np.arange(40, 60)))
    assert sorted([*got.train, *got.heldout]) == list(range(60)) and len(got.heldout) >= 8
    assert "10 copies of others" in got.source and len(np.unique(sides(got, range(20)))) == 2


def test_a_near_copy_is_found_among_many_that_look_like_it_when_small():
    """At 8 x 8 pixels all of these are the same; the search compares every one at full size."""
    rough = np.kron(noise(1, 1, 8, 8), np.ones((2, 2)))
    fine = np.kron(noise(90, 1, 8, 8, seed=2), [[1, -1], [-1, 1]])
    images = (rough + fine).astype(np.float32)
    images[80:85] = np.rot90(images[:5], axes=(2, 3)) * 1.001
    images[85:90] = images[5:10, :, :, ::-1] + 0.001
    train, heldout = np.arange(10, 90), np.arange(10)
    found = duplicates.near_pairs(images, train, heldout)
    assert found == [(i, 80 + i) for i in range(10)]


def test_groups_never_straddle_the_split(src, out):
    want = noise(60, 8, 8)
    groups = np.arange(60) // 4
    np.savez(src / "a.npz", images=want, object_id=groups)
    got = read(src / "a.npz", out, group="object_id")
    assert not set(groups[got.train]) & set(groups[got.heldout]) and len(got.heldout) >= 12
    assert "15 groups" in got.source
    assert "did you mean object_id" in refusal(src / "a.npz", out, group="objectid")


# Tables -------------------------------------------------------------------------------------------

HEAD = "file; z_lens ;kind\n\n"


def csv_rows(order):
    return HEAD + "".join(f"  {i:03}.npy ; {i / 8:g} ;  {'ab'[i % 2]} \n" for i in order)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-8"])
def test_a_table_of_another_program_finds_its_images(encoding, src, out):
    save_each(src, noise(20, 8, 8))
    text = csv_rows(reversed(range(20))).replace(".5", ",5").replace("\n", "\r\n")
    (src / "t.csv").write_bytes(text.encode(encoding))
    got = read(src, out, table="t.csv")
    np.testing.assert_array_equal(got.truth["z_lens"], np.arange(20) / 8)
    assert "by its column file" in got.source


def test_tables_of_other_formats_and_classes(src, out):
    save_each(src / "i", noise(20, 8, 8))
    kinds = np.array(["arc", "ring"] * 10)
    table = Table({"name": [f"{i:03}" for i in range(20)][::-1], "z": np.arange(20.0)[::-1]})
    table["class"] = kinds[::-1]
    table.write(src / "t.fits")
    got = read(src / "i", out, table=str(src / "t.fits"))
    np.testing.assert_array_equal(got.truth["z"], np.arange(20))
    assert [got.classes[k] for k in got.labels] == kinds.tolist()
    pytest.importorskip("pyarrow", reason="no pyarrow here: Parquet is not tried")
    table.to_pandas().to_parquet(src / "t.parquet")
    again = read(src / "i", out, table=str(src / "t.parquet"))
    np.testing.assert_array_equal(again.truth["z"], np.arange(20))


def test_tables_that_do_not_fit(src, out):
    save_each(src, noise(20, 8, 8))
    (src / "t.csv").write_text(csv_rows(range(17)))
    assert "names no row for 3 of 20 files" in refusal(src, out, table="t.csv")
    (src / "t.csv").write_text("z\n" + "1\n" * 19)
    assert "19 rows for 20 images" in refusal(src, out, table="t.csv")
    (src / "t.csv").write_text("z,y\n1,2\n3\n")
    assert "row 2 has 1 cells" in refusal(src, out, table="t.csv")


# What is no data ----------------------------------------------------------------------------------


def test_all_bad_files_are_counted_and_the_first_named(src, out):
    save_each(src, noise(20, 8, 8))
    for i in range(6):
        (src / f"{i:03}.npy").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    message = refusal(src, out)
    assert "6 are bad" in message and "000.npy: a pointer of Git LFS" in message
    assert all(f"00{i}.npy" in message for i in range(5))


@pytest.mark.parametrize(
    "head, told", [(b"<!DOCTYPE html>", "a web page"), (b"PK\3\4", "an archive (zip)")]
)
def test_what_lies_there_instead_of_the_data(head, told, src, out):
    save_each(src, noise(20, 8, 8))
    (src / "a.npy").write_bytes(head + bytes(200))
    assert f"a.npy: {told}" in refusal(src, out)
    (src / "a.npy").unlink()
    (src / "a.npy").symlink_to(src / "nowhere")
    assert "the link leads nowhere" in refusal(src, out)


def test_folders_of_other_systems(src, out):
    want = noise(20, 8, 8)
    for i, image in enumerate(want):  # unpacked from an archive of Windows
        np.save(src / f"{'no' if i < 10 else 'sphere'}\\{i:03}.npy", image)
    (src / "__MACOSX").mkdir()
    (src / "__MACOSX" / "000.npy").write_bytes(b"x")
    (src / "._000.npy").write_bytes(b"x")
    got = read(src, out)
    assert got.classes == ("no_sub", "cdm") and got.labels.tolist() == [0] * 10 + [1] * 10


def test_what_is_watched_is_what_is_read(src, tmp_path):
    save_each(tmp_path / "far", noise(4, 8, 8))
    (src / "near").symlink_to(tmp_path / "far")
    (src / "near" / "again").symlink_to(src)  # a circle ends
    before = artefact.fingerprint(src)
    assert before == artefact.fingerprint(src)
    state = (tmp_path / "far" / "000.npy").stat()
    found = [[f"near/{i:03}.npy", state.st_size, 10**9 * i] for i in range(4)]
    for i, file in enumerate(sorted((tmp_path / "far").iterdir())):
        os.utime(file, (i, i))
    digest = hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16]
    assert artefact.fingerprint(src) == digest  # as runs of earlier versions have it
    os.utime(tmp_path / "far" / "002.npy", (9, 9))
    assert artefact.fingerprint(src) != digest
    np.save(tmp_path / "far" / "new.npy", noise(8, 8))
    assert artefact.fingerprint(src) not in (before, digest)
    save_each(tmp_path / "other", noise(3, 8, 8))
    (src / "near").unlink()
    (src / "near").symlink_to(tmp_path / "other")  # the link leads elsewhere
    states = [path.stat() for path in sorted((tmp_path / "other").iterdir())]
    found = [[f"near/{i:03}.npy", s.st_size, s.st_mtime_ns] for i, s in enumerate(states)]
    digest = hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16]
    assert artefact.fingerprint(src) == digest


def test_keys_that_are_not_given_change_no_digest():
    from lensnb.runs.run_folder import Run

    found = Run(load_recipe("params/tiny.yaml")).recipe("data")["data"]
    younger = {"axes", "bands", "crop", "resize", "fill", "hdu", "key", "table", "group"}
    assert not younger & set(found) and younger <= set(Data.model_fields)
    given = Run(load_recipe("params/tiny.yaml", "data.path=here data.crop=centre")).recipe("data")
    assert given["data"]["crop"] == "centre"


def test_a_path_with_a_hash_is_taken_whole():
    found = load_recipe("params/tiny.yaml", "'data.path=/sky/images #2'")
    assert found.data.path == "/sky/images #2"
    changes = cli._overrides(["data.path=/sky/images #2", "seed=3 data.n=40"])  # of --set
    found = load_recipe("params/tiny.yaml", changes)
    assert (found.data.path, found.seed, found.data.n) == ("/sky/images #2", 3, 40)


def test_of_two_folders_of_one_name_the_one_where_the_command_stands(tmp_path, monkeypatch):
    for name in ("here", "project"):
        (tmp_path / name / "imgs").mkdir(parents=True)
    (tmp_path / "project" / "other").mkdir()
    monkeypatch.chdir(tmp_path / "project")  # notebooks work there
    monkeypatch.setenv("LENSNB_FROM", str(tmp_path / "here"))
    assert io.locate("imgs") == tmp_path / "here" / "imgs"
    assert io.locate("other").resolve() == tmp_path / "project" / "other"


def test_of_several_sets_in_each_archive_the_recipe_names_one(src, out):
    want = noise(40, 8, 8)
    for i in range(2):
        rows = slice(20 * i, 20 * i + 20)
        np.savez(src / f"{i}.npz", clean=want[rows], noisy=-want[rows], z=np.arange(20.0))
    message = refusal(src, out)
    assert "clean (20, 8, 8), noisy (20, 8, 8)" in message and "data.key names the one" in message
    np.testing.assert_array_equal(read(src, out, key="noisy").images[:, 0], -single(want))
    assert "no array nosy of data.key; did you mean noisy?" in refusal(src, out, key="nosy")
