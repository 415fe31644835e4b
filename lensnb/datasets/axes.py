"""Which axis of an array is what: images N, bands C, rows H, columns W.

A shape with one reading is read. A shape with two readings is refused, and the message names both
and the key `data.axes`, which decides.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lensnb.errors import InputError

SHAPES = "(H,W), (N,H,W), (N,C,H,W) or (N,H,W,C)"
MOST_BANDS = 16  # an axis longer than this is read as bands only where data.axes says so
WORDS = {"N": "images", "C": "bands"}

Shape = tuple[int, ...]


def decide(shapes: Sequence[Shape], name: str, data: Any = None) -> str:
    """The axes, such as "NHW" or "HWC", of arrays of these shapes, all with as many axes.

    shapes : of all files of a folder, or of the one file; name : in messages; data : the data
    section of a recipe, of which `axes`, `bands` and `crop` count.

    A file (3,H,W) in a folder of such files is one image of three bands. Raises InputError for a
    shape that is no image, and for one with two readings.
    """
    axes = getattr(data, "axes", None)
    ndim = len(shapes[0])
    if ndim == 2:
        return "HW"
    if axes is not None:
        if len(axes) != ndim:
            raise InputError(
                f"{name}: has shape {shapes[0]}, and data.axes {axes} names {len(axes)}"
            )
        return axes
    if ndim not in (3, 4):
        raise InputError(f"{name}: found shape {shapes[0]}; expected {SHAPES}")
    found = (_of_three if ndim == 3 else _of_four)(shapes, data)
    if not found:
        raise _not_square(shapes[0], name)
    if len(found) > 1:
        raise InputError(f"{name}: shape {shapes[0]} has two readings, {_both(shapes[0], found)}")
    return found[0]


def _both(shape: Shape, found: Sequence[str]) -> str:
    told = [f"{_words(shape, axes)} (data.axes={axes})" for axes in found]
    return f"{' and '.join(told)}; set data.axes to the one that you mean"


def _words(shape: Shape, axes: str) -> str:
    """An array in words, such as "100 images of 3 bands"."""
    length = {axis: shape[axes.index(axis)] if axis in axes else 1 for axis in "NC"}
    images = f"{length['N']} image{'s' * (length['N'] != 1)}"
    return f"{images} of {length['C']} band{'s' * (length['C'] != 1)}"


def _not_square(shape: Shape, name: str) -> InputError:
    last = "is N the last axis? then set data.axes=HWN; else " if len(shape) == 3 else ""
    return InputError(
        f"{name}: found shape {shape}, images that are not square; {last}crop them: "
        "data.crop=centre takes the central square of each"
    )


def _of_three(shapes: Sequence[Shape], data: Any) -> list[str]:
    """Readings of arrays with three axes; one is read, none is refused, two are named."""
    bands = getattr(data, "bands", None) is not None
    leading = all(s[1] == s[2] for s in shapes)
    trailing = all(s[0] == s[1] for s in shapes)
    if not leading and not trailing:
        if getattr(data, "crop", None) is None:
            return []
        trailing = all(s[2] <= MOST_BANDS < min(s[:2]) for s in shapes)
        leading = not trailing
    last = {s[2] for s in shapes}
    first = {s[0] for s in shapes}
    if leading and trailing:  # a cube
        return ["NHW", "HWN"]
    if trailing:
        few = max(last) <= MOST_BANDS
        is_colour = last <= {1, 3} or (bands and few)
        if is_colour:
            return ["HWC"]
        return ["HWN", "HWC"] if few else []
    lengths_differ = len(first) > 1 or first == {1} or max(first) > MOST_BANDS
    if lengths_differ or (len(shapes) == 1 and not bands):
        return ["NHW"]
    return ["CHW"] if bands or first == {3} else ["CHW", "NHW"]


def _of_four(shapes: Sequence[Shape], data: Any) -> list[str]:
    """Readings of arrays with four axes, the first of which counts the images."""
    found = []
    if all(s[2] == s[3] for s in shapes):
        found.append("NCHW")
    if all(s[1] == s[2] for s in shapes):
        found.append("NHWC")
    if not found and getattr(data, "crop", None) is not None:
        if all(s[1] <= MOST_BANDS < min(s[2:]) for s in shapes):
            found.append("NCHW")
        if all(s[3] <= MOST_BANDS < min(s[1:3]) for s in shapes):
            found.append("NHWC")
    if found == ["NCHW"] and shapes[0][1] > MOST_BANDS:
        return ["NCHW", "CNHW"]
    return found


def arrange(array: np.ndarray, axes: str) -> np.ndarray:
    """A view (N, C, H, W) of an array with these axes."""
    missing = [axis for axis in "NC" if axis not in axes]
    order = [axes.index(axis) for axis in "NCHW" if axis in axes]
    array = np.transpose(array, order)
    return np.expand_dims(array, tuple("NCHW".index(axis) for axis in missing))


def shape_of(shape: Shape, axes: str) -> Shape:
    """The shape (N, C, H, W) that `arrange` gives an array of this shape."""
    return tuple(shape[axes.index(axis)] if axis in axes else 1 for axis in "NCHW")
