"""The same images written into each container, as other programs write them."""

import h5py
import numpy as np
import tifffile
from astropy.io import fits
from astropy.table import Table


def write_fits(folder, images):
    for i, image in enumerate(images):
        fits.PrimaryHDU(image).writeto(folder / f"{i:03}.fits")


def write_packed_fits(folder, images):
    """Lossless: whole numbers by Rice, floats by gzip without quantisation."""
    for i, image in enumerate(images):
        hdu = fits.CompImageHDU(image, compression_type="GZIP_1", quantize_level=0)
        fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(folder / f"{i:03}.fits.fz")


def write_gz(folder, images):
    fits.PrimaryHDU(images).writeto(folder / "cube.fits.gz")


def write_cutouts(folder, images):
    table = Table({"stamp": images, "z": np.arange(len(images)) / 7})
    table.write(folder / "stamps.fits")


def write_extensions(folder, images):
    hdus = [fits.ImageHDU(image, name=f"CUT{i}") for i, image in enumerate(images)]
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(folder / "all.fits")


def write_hdf5(folder, images):
    with h5py.File(folder / "a.h5", "w") as file:
        file["sky/cutouts"] = images
        file["sky/z"] = np.arange(len(images)) / 7


def write_npz(folder, images):
    for first, last in ((0, 5), (5, len(images))):
        rows = slice(first, last)
        np.savez(folder / f"{first:03}.npz", stamps=images[rows], z=np.arange(first, last) / 7)


def write_tiff(folder, images):
    tifffile.imwrite(folder / "stack.tif", images, photometric="minisblack")


CONTAINERS = {
    "fits": (write_fits, {}),
    "packed fits": (write_packed_fits, {}),
    "fits.gz": (write_gz, {}),
    "fits table": (write_cutouts, {}),
    "fits extensions": (write_extensions, {"hdu": "all"}),
    "hdf5": (write_hdf5, {}),
    "npz": (write_npz, {}),
    "tiff": (write_tiff, {}),
}
