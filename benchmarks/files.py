"""Many image files, listed, read and searched for copies: python benchmarks/files.py 5000 20000

Each number of .npy files of 64 x 64 pixels (float32) is written to a temporary folder and handled
in a process of its own. Printed are seconds and the peak of memory that no file backs. 130,000
files take some minutes and 3 GB of disk. Listing includes one look into each file; the watch is
what every later stage does to see whether a file has changed.
"""

import argparse
import multiprocessing
import tempfile
import time
from pathlib import Path

import numpy as np
from simulate import MEGABYTE, measured

from lensnb.datasets import duplicates
from lensnb.datasets.dataset import split
from lensnb.datasets.file_source import find_source
from lensnb.datasets.sources import read_images
from lensnb.recipes.schema import Data
from lensnb.runs import artefact

SIZE = 64


def write_files(folder: Path, n: int) -> None:
    """Write n files of a ring each, with noise, in folders of 1,000."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    for i in range(n):
        if i % 1000 == 0:
            (folder / f"{i // 1000:04}").mkdir(parents=True)
        radius = rng.uniform(8, 20)
        ring = 10 * np.exp(-((np.hypot(x, y) - radius) ** 2) / 8)
        image = (ring + rng.normal(size=(SIZE, SIZE))).astype(np.float32)
        np.save(folder / f"{i // 1000:04}" / f"{i:06}.npy", image)


def report(top: Path, n: int) -> None:
    """Print what each part takes for the n files below `top`."""
    source = top / "files"
    params = Data(path=str(source), n=n)
    images = top / "images"
    images.mkdir()

    def search() -> None:
        found = np.load(images / "images.npy", mmap_mode="r")
        duplicates.exact(found)
        duplicates.near_pairs(found, *split(n, params.holdout, 0))

    parts = {
        "watch": lambda: artefact.fingerprint(source),
        "listing": lambda: find_source(params, top / "unpacked"),
        "listing and reading": lambda: read_images(params, 0, images),
        "copies": search,
    }
    for name, part in parts.items():
        seconds, cpu, peak = measured(part)
        print(f"{n:7} files  {name:20} {seconds:6.1f} s  {cpu:6.1f} CPU s  {peak:5.0f} MiB")


def main() -> None:
    """Measure each number of files that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("n", type=int, nargs="*", default=[5_000, 20_000])
    for n in parser.parse_args().n:
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            write_files(Path(folder) / "files", n)
            gigabytes = n * (SIZE * SIZE * 4 + 128) / MEGABYTE / 1024
            print(f"{n:7} files written, {gigabytes:.1f} GiB, {time.perf_counter() - began:.0f} s")
            child = multiprocessing.get_context("spawn").Process(
                target=report, args=(Path(folder), n)
            )
            child.start()
            child.join()


if __name__ == "__main__":
    main()
