"""TIFF files that are arrays and no pictures: several pages, deep colours, any number of samples.

Other TIFF files are pictures (`pictures`). Pages are images; samples of a pixel are bands. Where
pages may be bands, `data.axes` decides.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lensnb.datasets.archives import MOST_BYTES, MOST_TIMES
from lensnb.datasets.arrays import Peek, StackReader
from lensnb.datasets.readers import READERS, check_regular, library, reading
from lensnb.errors import InputError

SUFFIXES = (".tif", ".tiff")
BANDS = "SC"  # names of tifffile for an axis of samples or channels


class TiffReader(StackReader):
    """Reads stacks of pages, and pages of many or deep samples."""

    def peek(self, path: Path, name: str) -> Peek:
        """Shape and type of the pages in a file, off their heads."""
        with _opened(path, name) as tiff:
            series = tiff.series[0]
            self._note(series)
            promised = math.prod(series.shape) * series.dtype.itemsize
            if promised > max(MOST_BYTES, MOST_TIMES * path.stat().st_size):
                raise InputError(f"{name}: would unpack to {promised / 2**30:.1f} GiB, which no "
                                 "images do")  # fmt: skip
            return Peek(tuple(series.shape), series.dtype)

    def load(self, path: Path, name: str) -> tuple[np.ndarray, float]:
        """The pages of a file, in memory, and NaN."""
        with _opened(path, name) as tiff:
            self._note(tiff.series[0])
            return tiff.series[0].asarray(), math.nan

    def _note(self, series: Any) -> None:
        """Take the axes as the file names them, where they have one reading."""
        told = "".join("C" if axis in BANDS else axis for axis in series.axes)
        told = told.replace("Y", "H").replace("X", "W")
        pages = [axis for axis in told if axis not in "CHW"]
        is_free = getattr(self.data, "axes", None) is None
        if is_free and told.count("C") == 1 and len(pages) <= 1:
            self.fixed[len(told)] = told.replace(pages[0], "N") if pages else told


READERS.add("tiff", TiffReader())


def are_stacks(paths: Sequence[Path]) -> bool:
    """Whether these files are TIFF, and the first of them is more than a picture."""
    if not all(path.name.lower().endswith(SUFFIXES) for path in paths):
        return False
    try:
        with _opened(paths[0], str(paths[0])) as tiff:
            page = tiff.pages[0]
            pages = len(tiff.series[0].pages)
            deep_colour = page.samplesperpixel > 1 and page.bitspersample > 8
            return pages > 1 or deep_colour or page.samplesperpixel > 4 or page.bitspersample > 32
    except InputError:
        return False  # the reader of pictures says what is wrong


@contextlib.contextmanager
def _opened(path: Path, name: str) -> Iterator[Any]:
    tifffile = library("tifffile", "TIFF stacks are", name)
    with reading(name, "TIFF", "a whole TIFF file", path):
        check_regular(path, name)
        with tifffile.TiffFile(path) as tiff:
            yield tiff
