"""A reader from outside the package: one class, registered by name, and nothing else changed."""

import math

import numpy as np
import pytest
from images import noise, read, refusal, save_each

from lensnb.datasets.readers import READERS, check_regular, reading
from lensnb.errors import InputError


class RawReader:
    """Reads stacks of 8 x 8 pixels in double precision, one after the other, without a header."""

    suffixes = (".raw",)

    def survey(self, named):
        return [len(self.open_images(*file)[0]) for file in named], (1, 8, 8)

    def open_images(self, path, name):
        with reading(name, "raw images", "stacks of 8 x 8 pixels"):
            check_regular(path, name)
            return np.fromfile(path).reshape(-1, 1, 8, 8), math.nan


@pytest.fixture
def raw():
    """The reader is registered in a test and removed after it."""
    READERS.add("raw", RawReader())
    yield
    del READERS["raw"]


def write_raw(folder, n=20):
    want = noise(n, 8, 8)
    folder.mkdir(parents=True, exist_ok=True)
    want[: n // 2].tofile(folder / "a.raw")
    want[n // 2 :].tofile(folder / "b.RAW")
    return want.astype(np.float32)


def test_a_folder_of_files_for_a_new_reader(raw, src, out):
    want = write_raw(src)
    got = read(src, out)
    np.testing.assert_array_equal(got.images[:, 0], want)
    assert got.source == f"20 images of {src}" and got.labels is None


def test_class_folders_splits_and_a_choice_work_for_it_too(raw, src, out):
    want = {name: write_raw(src / "train" / name) for name in ("no", "sphere")}
    write_raw(src / "test" / "no")
    got = read(src, out, n=30)
    assert got.classes == ("no_sub", "cdm") and np.bincount(got.labels).tolist() == [15, 15]
    assert "30 of 40 images" in got.source and "test left unread" in got.source
    for label, images in enumerate(want.values()):
        for image in got.images[got.labels == label, 0]:
            assert (images == image).all(axis=(1, 2)).any()


def test_one_file_of_many_images_may_be_named_itself(raw, src, out):
    want = write_raw(src)
    np.save(src / "labels.npy", np.arange(10) % 2)
    got = read(src / "a.raw", out, labels=str(src / "labels.npy"))
    np.testing.assert_array_equal(got.images[:, 0], want[:10])
    assert got.labels.tolist() == [0, 1] * 5


def test_messages_name_the_new_format(raw, src, out):
    assert "no npy, npz, fits, hdf5, picture, tiff, raw or MNIST file" in refusal(src, out)
    assert ".gif, .raw" in refusal(src, out)
    (src / "notes.txt").write_text("no image")
    assert "a folder of npy, npz, fits, hdf5, picture, tiff, raw or MNIST files" in refusal(
        src / "notes.txt", out
    )
    write_raw(src)
    save_each(src, noise(2, 8, 8))
    message = refusal(src, out)
    assert "holds npy files such as 000.npy and raw files such as a.raw; keep one kind" in message


def test_damaged_files_are_refused_by_name(raw, src, out):
    write_raw(src)
    (src / "c.raw").write_bytes(b"1" * 100)
    message = refusal(src, out)
    assert message.startswith(f"{src / 'c.raw'}: cannot be read as raw images (")
    assert "expected stacks of 8 x 8 pixels" in message


def test_without_the_reader_such_files_are_unknown(src, out):
    write_raw(src)
    assert (
        "raw" not in READERS
        and "no npy, npz, fits, hdf5, picture, tiff or MNIST file" in refusal(src, out)
    )
    assert "expected a folder of npy, npz, fits, hdf5, picture, tiff or MNIST files" in refusal(
        src / "a.raw", out
    )


def test_a_single_image_is_refused_with_what_is_expected(src, out):
    np.save(src / "a.npy", noise(8, 8))
    message = refusal(src / "a.npy", out)
    assert "found 1 image" in message and "or one file of many images" in message


def test_reading_keeps_the_error_of_a_full_disk():
    with pytest.raises(OSError, match="No space left"), reading("a.raw"):
        raise OSError(28, "No space left on device")
    with pytest.raises(InputError, match="a.raw: Permission denied"), reading("a.raw"):
        raise OSError(13, "Permission denied")
