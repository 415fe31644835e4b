"""Images that nobody here made, as they lie and in other containers: the same to the bit."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from astropy.table import Table
from containers import CONTAINERS
from images import read, refusal, save_each

REAL = Path(__file__).parents[3] / "shared/data"
CLASSES = ("axion", "cdm", "no_sub")

pytestmark = pytest.mark.skipif(
    not REAL.is_dir(), reason=f"no real images beside the project ({REAL})"
)


def arrays(name, folder):
    """The arrays of one class of DeepLenseSim, with a column of text beside them."""
    with np.load(REAL / "deeplensesim" / name) as found:
        images, mass = found["images"], found["axion_mass_ev"].astype(float)
    text = np.array([f"{folder} \u03b8{i % 3}" for i in range(len(images))])
    return {"images": images, "axion_mass_ev": mass, "field": text}


def as_npz(folder, columns):
    np.savez(folder / "a.npz", **columns)


def as_fits(folder, columns):
    table = Table(columns)
    table["field"] = np.char.encode(columns["field"], "ascii", "replace")  # FITS knows no other
    table.write(folder / "a.fits")


def as_hdf5(folder, columns):
    with h5py.File(folder / "a.h5", "w") as file:
        for key, column in columns.items():
            kind = h5py.string_dtype() if key == "field" else column.dtype
            file.create_dataset(key, data=column.astype(object) if key == "field" else column,
                                dtype=kind)  # fmt: skip


def as_hdf5_of_bytes(folder, columns):
    with h5py.File(folder / "a.h5", "w") as file:
        for key, column in columns.items():
            file[key] = np.char.encode(column, "utf-8") if key == "field" else column


def same_dataset(one, other):
    np.testing.assert_array_equal(one.images, other.images)
    np.testing.assert_array_equal(one.labels, other.labels)
    np.testing.assert_array_equal(one.heldout, other.heldout)
    np.testing.assert_array_equal(one.truth["axion_mass_ev"], other.truth["axion_mass_ev"])
    assert one.classes == other.classes and one.scaling == other.scaling


@pytest.mark.parametrize("model", ["model_I", "model_II", "model_III"])
def test_deeplensesim_out_of_every_container(model, src, out):
    sets = {cls: arrays(f"{model}_{cls}.npz", cls) for cls in CLASSES}
    writers = {"npz": as_npz, "fits": as_fits, "hdf5": as_hdf5, "bytes": as_hdf5_of_bytes}
    as_it_lies = src / "as it lies"
    for cls, columns in sets.items():
        (as_it_lies / cls).mkdir(parents=True)
        (as_it_lies / cls / "a.npz").symlink_to(REAL / "deeplensesim" / f"{model}_{cls}.npz")
        for kind, write in writers.items():
            (src / kind / cls).mkdir(parents=True)
            write(src / kind / cls, columns)
    want = read(as_it_lies, out, size=64)
    assert want.classes == CLASSES and np.unique(want.labels).tolist() == [0, 1, 2]
    if model != "model_I":  # which is resized
        pixels = np.concatenate([columns["images"] for columns in sets.values()])
        np.testing.assert_array_equal(want.images[:, 0], pixels)
    text = np.concatenate([columns["field"] for columns in sets.values()])
    for kind in writers:
        got = read(src / kind, src / "out" / kind, size=64)
        same_dataset(got, want)
        known = np.char.replace(text, "\u03b8", "?") if kind == "fits" else text
        np.testing.assert_array_equal(got.truth["field"], known)


def test_deeplense_out_of_every_container(src, out):
    found = [np.load(file) for file in sorted((REAL / "deeplense").glob("*.npy"))]
    message = refusal(REAL / "deeplense", out)
    assert "found 3, of which holdout 0.25 leaves 2 for training and 1 held out" in message
    want = np.concatenate([np.stack([np.rot90(x, k) for x in found]) for k in range(4)])
    save_each(src / "npy", want)
    first = read(src / "npy", out, size=64)
    np.testing.assert_array_equal(first.images[:, 0], want.astype(np.float32))
    for kind, (write, knobs) in CONTAINERS.items():
        (src / kind).mkdir()
        write(src / kind, want)
        path = next((src / kind).iterdir()) if kind in ("fits.gz", "tiff") else src / kind
        got = read(path, src / "out" / kind, size=64, **knobs)
        np.testing.assert_array_equal(got.images, first.images, err_msg=kind)
        np.testing.assert_array_equal(got.heldout, first.heldout, err_msg=kind)


def test_paltas_with_its_table_out_of_every_container(src, out):
    files = sorted((REAL / "paltas").glob("*.npy"))
    want = np.stack([np.load(file) for file in files])
    got = read(REAL / "paltas", out, size=64, table="metadata.csv")
    np.testing.assert_array_equal(got.images[:, 0], want.astype(np.float32))
    theta = got.truth["main_deflector_parameters_theta_E"]
    assert np.isfinite(theta).all() and "in the order of the files" in got.source
    for kind in ("fits", "hdf5", "tiff"):
        (src / kind).mkdir()
        CONTAINERS[kind][0](src / kind, want)
        path = next((src / kind).iterdir()) if kind == "tiff" else src / kind
        np.testing.assert_array_equal(read(path, out, size=64).images, got.images)
