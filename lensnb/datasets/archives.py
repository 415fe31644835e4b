"""Archives in NumPy's format (.npz), unpacked to .npy files."""

import os
import shutil
import zipfile
from pathlib import Path

from lensnb.datasets.arrays import read_header
from lensnb.datasets.readers import reading
from lensnb.errors import InputError

# an archive may unpack to this many bytes, or to this many times its own size; images need less
MOST_BYTES = 2**30
MOST_TIMES = 200


def unpack(path: Path, folder: Path) -> dict[str, Path]:
    """Write the useful members of a .npz as .npy files into a new `folder`: role -> path.

    Roles are "images" (N, ...), "labels" where the archive has a `y` or `labels` of any shape, and
    the name of every column (N,) of real numbers. Raises InputError for a damaged archive and for
    one without exactly one set of images.
    """
    with reading(path), zipfile.ZipFile(path) as archive:
        _check_size(path, archive)
        roles = _roles(path, archive)
        folder.mkdir()
        unpacked = {}
        for i, (key, role) in enumerate(roles.items()):
            unpacked[role] = folder / f"{i}.npy"  # never a name from the archive
            with archive.open(f"{key}.npy") as packed, open(unpacked[role], "wb") as file:
                shutil.copyfileobj(packed, file)
        return unpacked


def _check_size(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse an archive that unpacks to far more than images would."""
    size = sum(member.file_size for member in archive.infolist())
    packed = os.path.getsize(path)
    if size > max(MOST_BYTES, MOST_TIMES * packed):
        raise InputError(
            f"{path}: would unpack to {size / 2**30:.1f} GiB, {size // packed} times its size, "
            "which no images do; save them with np.save"
        )


def _roles(path: Path, archive: zipfile.ZipFile) -> dict[str, str]:
    """Which members are read, and as what: key -> role."""
    shapes = {}
    kinds = {}
    for member in archive.namelist():
        if member.endswith(".npy"):
            with archive.open(member) as file:
                shape, _, dtype = read_header(file)
            shapes[member[:-4]] = shape
            kinds[member[:-4]] = dtype.kind
    images = _image_key(path, shapes)
    roles: dict[str, str] = {key: "labels" for key in ("y", "labels") if key in shapes}
    roles[images] = "images"
    for key in shapes:
        is_column = shapes[key] == shapes[images][:1] and kinds[key] in "fiub"
        if key not in roles and is_column:
            roles[key] = key
    return roles


def _image_key(path: Path, shapes: dict[str, tuple[int, ...]]) -> str:
    if "images" in shapes:
        return "images"
    stacks = [key for key, shape in shapes.items() if len(shape) in (3, 4)]
    if len(stacks) == 1:
        return stacks[0]
    listed = ", ".join(f"{key} {shape}" for key, shape in shapes.items()) or "nothing"
    raise InputError(
        f"{path}: expected images under the key `images`, or a single 3-D or 4-D array; "
        f"found {listed}"
    )
