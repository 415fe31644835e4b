import io
import math
import pickle
import pickletools
import re

import numpy as np

from lensnb.errors import InputError


class _Piece:
    """What a pickle asks numpy to build, noted and not built: numpy's own builders trust their input."""

    args = ()
    state = None

    def __init__(self, *args):
        self.args = args

    def __setstate__(self, state):
        self.state = state


class _Array(_Piece): ...


class _Dtype(_Piece): ...


class _Scalar(_Piece): ...


ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.multiarray", "scalar"): _Scalar,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        piece = ADMITTED.get((module.replace("numpy._core.", "numpy.core."), name))
        if piece is None:
            found = f"{module}.{name}"[:80]
            raise InputError(
                f"{self.file_name}: a pickle that holds {found!r}, more than numpy arrays, and was not "
                "opened; save the image alone with np.save"
            )
        return piece


def unpickle(data, name):
    """The entries of a pickled object array, in which nothing but numbers was built."""
    for code, number, _ in pickletools.genops(data):  # finds lengths that the data do not have
        if "PUT" in code.name and number is not None and number > len(data):
            raise ValueError(
                "an index beyond its own length"
            )  # would be allocated by the unpickler
    unpickler = _Unpickler(io.BytesIO(data))
    unpickler.file_name = name
    entries = _value(unpickler.load())
    return [_value(e) for e in entries] if isinstance(entries, list) else []


def _value(piece):
    """A noted array as a numpy array, or as a flat list if it holds objects; a noted scalar as number."""
    if isinstance(piece, _Scalar):
        return np.frombuffer(piece.args[1], _dtype(piece.args[0]))[0]
    if not isinstance(piece, _Array):
        return piece
    _, shape, dtype, fortran, content = piece.state
    if isinstance(content, list):
        return content
    return np.frombuffer(content, _dtype(dtype)).reshape(shape, order="F" if fortran else "C")


def _dtype(piece):
    code = piece.args[0]
    order = piece.state[1]
    if not re.fullmatch(r"[biufc]\d{1,2}", code):
        raise ValueError(f"an array of type {code[:20]!r}")
    return np.dtype(code).newbyteorder(order)


def image_and_mass(entries, name):
    """DeepLense's [image, mass]: the first 2-D or (1, H, W) array, and the first number beside it."""
    arrays = [
        e
        for e in entries
        if isinstance(e, np.ndarray) and (e.ndim == 2 or e.ndim == 3 and len(e) == 1)
    ]
    numbers = [
        float(e)
        for e in entries
        if isinstance(e, int | float | np.number) or getattr(e, "shape", None) == ()
    ]
    if not arrays or len(arrays) == len(entries) > 1:
        raise InputError(
            f"{name}: an object array of {len(entries)} entries with {len(arrays)} images; expected "
            "[image, mass], or save many images as one array (N,H,W)"
        )
    return arrays[0], numbers[0] if numbers else math.nan
