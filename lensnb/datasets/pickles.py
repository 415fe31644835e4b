"""Pickled object arrays, in which nothing but numbers is built; DeepLense saves images so."""

import io
import math
import pickle
import pickletools
import re
from typing import Any

import numpy as np

from lensnb.errors import InputError


class _Noted:
    """A numpy object that a pickle asks for: noted, not built, because numpy trusts its input."""

    args: tuple[Any, ...] = ()
    state: Any = None

    def __init__(self, *args: Any) -> None:
        self.args = args

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Array(_Noted): ...


class _Dtype(_Noted): ...


class _Scalar(_Noted): ...


ADMITTED: dict[tuple[str, str], type[_Noted]] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.multiarray", "scalar"): _Scalar,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
}


class _Unpickler(pickle.Unpickler):
    """An unpickler that admits only the functions and classes in `ADMITTED`."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(io.BytesIO(data))
        self.file_name = name

    def find_class(self, module: str, name: str) -> type[_Noted]:
        admitted = ADMITTED.get((module.replace("numpy._core.", "numpy.core."), name))
        if admitted is None:
            found = f"{module}.{name}"[:80]
            raise InputError(
                f"{self.file_name}: a pickle that holds {found!r}, more than numpy arrays, and was "
                "not opened; save the image alone with np.save"
            )
        return admitted


def unpickle(data: bytes, name: str) -> list[Any]:
    """The entries of a pickled object array; of all objects in it, only numbers are built.

    name : of the file, in messages.
    """
    for code, number, _ in pickletools.genops(data):  # finds lengths that the data do not have
        if "PUT" in code.name and number is not None and number > len(data):
            # the unpickler would allocate that many entries
            raise ValueError("an index beyond its own length")
    entries = _built(_Unpickler(data, name).load())
    return [_built(entry) for entry in entries] if isinstance(entries, list) else []


def _built(piece: Any) -> Any:
    """A noted array as a numpy array, or as a flat list if it holds objects; a noted scalar built.

    Anything else is returned as it is.
    """
    if isinstance(piece, _Scalar):
        return np.frombuffer(piece.args[1], _dtype(piece.args[0]))[0]
    if not isinstance(piece, _Array):
        return piece
    _, shape, dtype, fortran, content = piece.state
    if isinstance(content, list):
        return content
    return np.frombuffer(content, _dtype(dtype)).reshape(shape, order="F" if fortran else "C")


def _dtype(noted: Any) -> np.dtype:
    code = noted.args[0]
    order = noted.state[1]
    if not re.fullmatch(r"[biufc]\d{1,2}", code):
        raise ValueError(f"an array of type {code[:20]!r}")
    return np.dtype(code).newbyteorder(order)


def image_and_mass(entries: list[Any], name: str) -> tuple[np.ndarray, float]:
    """DeepLense's [image, mass]: the first (H, W) or (1, H, W) array, and the first number or NaN.

    Raises InputError, under `name`, for entries without an image and for several images alone.
    """
    images = [entry for entry in entries if _is_image(entry)]
    numbers = [float(entry) for entry in entries if _is_number(entry)]
    if not images or len(images) == len(entries) > 1:
        raise InputError(
            f"{name}: an object array of {len(entries)} entries with {len(images)} images; "
            "expected [image, mass], or save many images as one array (N,H,W)"
        )
    return images[0], numbers[0] if numbers else math.nan


def _is_image(entry: Any) -> bool:
    if not isinstance(entry, np.ndarray):
        return False
    return entry.ndim == 2 or (entry.ndim == 3 and len(entry) == 1)


def _is_number(entry: Any) -> bool:
    return isinstance(entry, int | float | np.number) or getattr(entry, "shape", None) == ()
