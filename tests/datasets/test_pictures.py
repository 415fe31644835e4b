"""Photographs in every mode and format, against numpy and scikit-image."""

import os
import struct
import sys
import tracemalloc
import zlib

import numpy as np
import pytest
from images import noise, read, refusal, save_each
from PIL import EpsImagePlugin, Image
from skimage import data as photographs
from skimage.transform import downscale_local_mean, resize_local_mean

from lensnb.datasets import pictures

# 300 to 1411 pixels, most of them oblong
COLOUR = ("astronaut", "chelsea", "coffee", "rocket", "retina")
GREY = ("camera", "coins", "text")
MIXED = ("camera", *COLOUR, "coins", "text")


def planes(array):
    """(C, H, W) of (H, W) or (H, W, C)."""
    return np.moveaxis(np.atleast_3d(array), 2, 0).astype(float)


def centre(array):
    """The central square of (..., H, W), one pixel to the left and top where there is a choice."""
    h, w = array.shape[-2:]
    side = min(h, w)
    return array[
        ..., (h - side) // 2 : (h - side) // 2 + side, (w - side) // 2 : (w - side) // 2 + side
    ]


def worst(got, want):
    assert got.shape == want.shape
    return np.abs(got.astype(float) - want).max()


def cuttings(name="chelsea", n=8, height=96, width=121):
    """n overlapping cuttings (H, W, 3) of a photograph."""
    photo = getattr(photographs, name)()
    return [photo[10 * i : 10 * i + height, 12 * i : 12 * i + width] for i in range(n)]


def save(folder, arrays, name="{:03}.png", **options):
    folder.mkdir(parents=True, exist_ok=True)
    for i, array in enumerate(arrays):
        Image.fromarray(np.ascontiguousarray(array)).save(folder / name.format(i), **options)


# Sizes, channels and classes ----------------------------------------------------------------------


def test_photographs_are_cropped_to_a_square_and_averaged(src, out):
    """To 1e-4 of the 255 units of 8 bits; oracle: scikit-image's mean over the area of a pixel."""
    photos = [getattr(photographs, name)() for name in COLOUR]
    save(src, photos)
    got = read(src, out, size=32, holdout=0.4)
    assert got.images.shape == (5, 3, 32, 32) and got.images.dtype == np.float32
    for image, photo in zip(got.images, photos, strict=True):
        want = resize_local_mean(
            centre(planes(photo)), (32, 32), channel_axis=0, preserve_range=True
        )
        assert worst(image, want) < 1e-4 and np.ptp(want) > 100
    assert worst(got.images[0], downscale_local_mean(planes(photos[0]), (1, 16, 16))) < 1e-4
    assert got.labels is None and got.pixel_scale is None
    assert got.source == f"5 images of {src}, brought from different sizes to 32 x 32 pixels"


@pytest.mark.parametrize("channels", [None, 1, 3])
def test_grey_beside_colour(channels, src, out):
    photos = [getattr(photographs, name)() for name in MIXED]
    save(src, photos)
    got = read(src, out, size=16, channels=channels).images
    assert got.shape == (8, channels or 3, 16, 16)
    for image, photo in zip(got, photos, strict=True):
        want = resize_local_mean(
            centre(planes(photo)), (16, 16), channel_axis=0, preserve_range=True
        )
        want = (
            want.mean(axis=0, keepdims=True)
            if channels == 1
            else np.repeat(want, 3 // len(want), axis=0)
        )
        assert worst(image, want) < 1e-4
    grey = got[[0, 6, 7]]  # of the files that are grey
    assert (grey == grey[:, :1]).all()


def test_grey_alone_has_one_channel(src, out):
    save(src, [getattr(photographs, name)() for name in (*GREY, "moon")])
    assert read(src, out, size=16, holdout=0.5).images.shape == (4, 1, 16, 16)


def test_enlarging_and_the_odd_pixel_of_the_crop(src, out):
    small = [c[:7, :10] for c in cuttings()]
    save(src, small)
    got = np.array(read(src, out, size=8).images)
    save(src, [c[:, 1:8] for c in small])  # (10 - 7) // 2 = 1
    np.testing.assert_array_equal(read(src, out, size=8).images, got)


def test_classes_and_splits_from_folders(src, out):
    for name, part in {
        "train/cat": slice(0, 5),
        "train/dog": slice(5, 12),
        "test/cat": slice(12, 14),
    }.items():
        save(src / name, cuttings(n=14, height=40, width=40)[part])
    got = read(src, out, size=40)
    assert got.classes == ("cat", "dog") and got.labels.tolist() == [0] * 5 + [1] * 7
    assert got.source == f"12 images of {src}, its train folder alone (test left unread)"
    np.testing.assert_array_equal(
        got.images, [planes(c) for c in cuttings(n=14, height=40, width=40)[:12]]
    )


def test_suffixes_in_any_case_and_nothing_else(src, out):
    arrays = cuttings(n=7, height=32, width=32)
    for array, name in zip(
        arrays, ["a.PNG", "b.Bmp", "c.TIF", "d.tiff", "e.png", "f.WEBP", "g.bmp"], strict=True
    ):
        Image.fromarray(array).save(src / name, **({"lossless": True} if "WEBP" in name else {}))
    (src / "notes.txt").write_text("no image")
    (src / ".hidden.png").write_text("no image")
    np.testing.assert_array_equal(read(src, out, size=32).images, [planes(a) for a in arrays])


def test_pixel_scale_holds_for_pictures_of_one_size_alone(src, out):
    save(src, cuttings())
    assert read(src, out, size=24, pixel_scale=0.05).pixel_scale == pytest.approx(0.2)
    save(src, cuttings(n=1, height=90))
    message = refusal(src, out, pixel_scale=0.05)
    assert "data.pixel_scale" in message and str(src) in message
    assert read(src, out).pixel_scale is None


def test_a_choice_of_pictures_keeps_their_classes(src, out):
    arrays = cuttings(n=24, height=32, width=32, name="astronaut")
    save(src / "a", arrays[:12])
    save(src / "b", arrays[12:])
    got = read(src, out, size=32, n=20)
    index = [
        next(i for i, a in enumerate(arrays) if np.array_equal(planes(a), image))
        for image in got.images
    ]
    assert (
        index == sorted(set(index))
        and len(index) == 20
        and got.labels.tolist() == [int(i >= 12) for i in index]
    )


def test_memory_stays_constant(src, out):
    """Ten pictures of 16 MB each in double precision: one at a time is held, with its copies."""
    save(
        src,
        [np.roll(photographs.retina()[:820, :820], 50 * i, axis=0) for i in range(10)],
        compress_level=1,
    )
    tracemalloc.start()
    read(src, out, size=64)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 16e6 < peak < 60e6


# Modes --------------------------------------------------------------------------------------------


def grey(c):
    return c.mean(axis=2).round().astype(np.uint8)


def ramp(c):
    """An alpha channel that falls from 255 to 0 along the rows."""
    return np.tile(np.linspace(255, 0, c.shape[1]).astype(np.uint8), (len(c), 1))


def indexed(c):
    """A palette picture of 16 colours, and the colours."""
    image = Image.fromarray(c).quantize(16)
    return image, np.array(image.getpalette()[:48]).reshape(16, 3)


def cmyk(c):
    return Image.merge(
        "CMYK",
        [Image.fromarray(255 - c[..., i]) for i in range(3)] + [Image.new("L", c.shape[1::-1])],
    )


def palette_with_a_hole(c):
    """A palette picture whose colour 3 is transparent, options for its file, expected values."""
    image, colours = indexed(c)
    colours[3] = 0
    return image, {"transparency": 3}, colours[np.asarray(image)]


def in_every_mode(c):
    """A cutting (H, W, 3) uint8 in each mode and format.

    Mode and format -> (picture, options for its file, expected values).
    """
    g = grey(c)
    light = Image.fromarray(g)
    black_and_white = Image.fromarray(g > 120)
    faded_grey = np.dstack([g, ramp(c)])
    faded = np.dstack([c, ramp(c)])
    on_black = c * (ramp(c) / 255)[..., None]
    palette, colours = indexed(c)
    deep = g * np.uint16(257)
    hole = int(g[40, 60])
    with_hole = np.where(g == hole, 0, g)
    return {
        "L.png": (light, {}, g),
        "1.png": (black_and_white, {}, 255 * (g > 120)),
        "1.tif": (black_and_white, {}, 255 * (g > 120)),
        "LA.png": (Image.fromarray(faded_grey), {}, g * (ramp(c) / 255)),
        "I;16.png": (Image.fromarray(deep), {}, g * 257.0),
        "I;16.tif": (Image.fromarray(deep), {}, g * 257.0),
        "I;16B.tif": (Image.fromarray(deep.astype(">u2")), {}, g * 257.0),
        "I.tif": (Image.fromarray(g.astype(np.int32) * -70000), {}, g * -70000.0),
        "F.tif": (Image.fromarray(g / np.float32(7)), {}, g / np.float32(7)),
        "RGB.png": (Image.fromarray(c), {}, c),
        "RGB.webp": (Image.fromarray(c), {"lossless": True}, c),
        "RGBA.png": (Image.fromarray(faded), {}, on_black),
        "RGBA.webp": (Image.fromarray(faded), {"lossless": True, "exact": True}, on_black),
        "P.png": (palette, {}, colours[np.asarray(palette)]),
        "P.gif": (palette, {}, colours[np.asarray(palette)]),
        "P with a hole.png": palette_with_a_hole(c),
        "L with a hole.png": (light, {"transparency": hole}, with_hole),
        "L.gif": (light, {"optimize": False}, g),
        "P of greys.gif": (light, {"optimize": True}, np.dstack([g] * 3)),
        "CMYK.tif": (cmyk(c), {}, c),
    }


@pytest.mark.parametrize("mode", in_every_mode(cuttings(n=1)[0]))
def test_every_mode_becomes_one_or_three_channels(mode, src, out):
    wants = []
    for i, cutting in enumerate(cuttings()):
        image, options, want = in_every_mode(cutting)[mode]
        image.save(src / f"{i} {mode}", **options)
        wants.append(centre(planes(want)))
    got = read(src, out, size=96).images
    assert got.shape == (8, 1 if mode[0] in "L1IF" else 3, 96, 96)
    # Pillow rounds the product of value and opacity to whole numbers
    blended = mode.startswith(("LA", "RGBA"))
    assert worst(got, np.array(wants)) <= (1.01 if blended else 0)


def test_jpeg_is_the_photograph_to_its_quality(src, out):
    arrays = cuttings(height=96, width=96)
    save(src, arrays, "{:03}.jpg", quality=95, subsampling=0)
    got = read(src, out, size=96).images
    assert 0 < np.abs(got - [planes(a) for a in arrays]).mean() < 3
    np.testing.assert_array_equal(got[2], planes(np.asarray(Image.open(src / "002.jpg"))))
    save(src, [grey(a) for a in arrays], "{:03}.jpg")
    assert read(src, out, size=96).images.shape == (8, 1, 96, 96)


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_the_first_frame_of_an_animation(kind, src, out):
    arrays = [grey(c) for c in cuttings(height=48, width=48)]
    options = {"save_all": True} | ({"lossless": True} if kind == "webp" else {})
    for i, array in enumerate(arrays):
        frames = [Image.fromarray(255 - array), Image.fromarray(array // 2)]
        Image.fromarray(array).save(src / f"{i}.{kind}", append_images=frames, **options)
    assert Image.open(src / f"0.{kind}").n_frames == 3
    got = read(src, out, size=48, channels=1).images
    np.testing.assert_array_equal(got[:, 0], arrays)


def as_stored(upright):
    """How an upright picture lies in a file: EXIF orientation -> array (CIPA DC-008, tag 274)."""
    return {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }


@pytest.mark.parametrize("kind", ["png", "webp", "tif"])
def test_orientation_as_exif_tells(kind, src, out):
    # an odd difference of sides: turned after cropping, it would be off by one
    upright = cuttings(height=32, width=43)[0]
    for orientation, stored in as_stored(upright).items():
        exif = Image.Exif()
        exif[274] = orientation
        options = {"lossless": True} if kind == "webp" else {}
        Image.fromarray(np.ascontiguousarray(stored)).save(
            src / f"{orientation}.{kind}", exif=exif, **options
        )
    got = read(src, out, size=32).images
    np.testing.assert_array_equal(got, [centre(planes(upright))] * 8)
    assert not np.array_equal(got[0], got[0][:, ::-1])


# Refusals -----------------------------------------------------------------------------------------


def chunk(kind, content):
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def png_head(width, height):
    """A PNG that claims a size and holds next to nothing."""
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


def with_a_flipped_bit(content):
    at = content.index(b"IDAT") + 200
    return content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :]


def test_a_damaged_picture_is_refused_by_name(src, out):
    save(src, cuttings(), "{:03}.jpg")
    save(src, cuttings(n=1), "whole.png")
    jpeg = (src / "000.jpg").read_bytes()
    png = (src / "whole.png").read_bytes()
    gif = b"GIF89a" + struct.pack("<HHBBB", 32, 32, 0, 0, 0)
    bad = {
        "a.jpg": jpeg[: len(jpeg) // 2],
        "b.jpg": jpeg[:30],
        "empty.jpeg": b"",
        "a.gif": gif,
        "a.png": png[: len(png) // 2],
        "b.png": with_a_flipped_bit(png),
        "text.png": b"hello world, this is text",
        "array.png": b"\x93NUMPY\x01\x00",
    }
    for name, content in bad.items():
        (src / name).write_bytes(content)
        message = refusal(src, out)
        assert (
            message.startswith(f"{src / name}: cannot be read as a picture (")
            and "save it again" in message
        )
        assert not (out / "dataset.json").exists()
        (src / name).unlink()
    assert len(read(src, out).images) == 9  # the control: without them the folder is read


@pytest.mark.parametrize("side", [5800, 9000, 12000, 65535])
def test_too_many_pixels_are_refused_by_the_head(side, src, out):
    """Below, between and above the two limits at which Pillow itself warns and refuses."""
    save(src, cuttings())
    (src / "bomb.png").write_bytes(png_head(side, side))
    tracemalloc.start()
    message = refusal(src, out)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert f"{src / 'bomb.png'}: more than {pictures.LARGEST} pixels" in message and peak < 20e6


def test_the_largest_picture_is_not_too_large(src, out, monkeypatch):
    save(src, cuttings())
    monkeypatch.setattr(pictures, "LARGEST", 96 * 121)
    assert len(read(src, out).images) == 8
    monkeypatch.setattr(pictures, "LARGEST", 96 * 121 - 1)
    assert "more than 11615 pixels" in refusal(src, out)


def test_no_decoder_that_starts_a_program(src, out, monkeypatch):
    """EPS is read by Ghostscript, whatever the file is called."""
    started = []
    blank = Image.new("RGB", (32, 32)).im
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *a, **k: started.append(1) or blank)
    save(src, cuttings())
    Image.fromarray(cuttings()[0]).save(src / "evil.png", "EPS")
    Image.open(src / "evil.png").load()
    assert started == [1]  # the control: Pillow would start it
    assert "evil.png: cannot be read as a picture" in refusal(src, out)
    assert started == [1]


def test_a_pipe_is_not_waited_for(src, out):
    save(src, cuttings())
    os.mkfifo(src / "pipe.png")
    assert "pipe.png: expected a file" in refusal(src, out)


def test_arrays_beside_pictures(src, out):
    save(src, cuttings())
    save_each(src / "arrays", noise(3, 8, 8))
    message = refusal(src, out)
    assert (
        "holds npy files such as 000.npy and picture files such as 000.png; keep one kind there"
        in message
    )


def test_deep_beside_shallow(src, out):
    save(src, [grey(c) for c in cuttings()])
    save(src, [grey(cuttings()[0]) * np.uint16(257)], "deep.png")
    message = refusal(src, out)
    assert f"{src / 'deep.png'}: more than 8 bits" in message and str(src / "000.png") in message


def test_pixels_that_are_no_numbers_and_constant_pictures(src, out):
    arrays = [grey(c) / np.float32(7) for c in cuttings(height=32, width=32)]
    arrays[3][5, 6] = np.nan
    save(src, arrays, "{:03}.tif")
    assert "003.tif: 1 of 1024 pixels are NaN" in refusal(src, out)
    save(src, [np.full((32, 40), 9, np.float32)], "003.tif")
    assert "003.tif: constant image, every pixel is 9; drop it" in refusal(src, out)


def test_too_few_labels_and_single_pictures(src, out):
    save(src, cuttings(n=3))
    assert "at least 2 of each" in refusal(src, out)
    assert "class sub-folders" in refusal(src, out, labels="labels.npy")
    assert "expected a folder of npy, npz, fits, hdf5, picture, tiff or MNIST files" in refusal(
        src / "000.png", out
    )


def test_without_pillow_a_sentence_says_so(src, out, monkeypatch):
    save(src, cuttings())
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert "pip install pillow" in refusal(src, out)
