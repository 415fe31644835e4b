"""Images and labels: damaged, hostile, not meant as images, or odd and good."""

import gzip
import io
import os
import struct
import zipfile
import zlib

import numpy as np

from bad_input.make import SIZE, Case, N, noise, payload

HERE = "data.path=images/a.npy"
NPZ = "data.path=images/a.npz"
GOOD = noise(N, SIZE, SIZE)


def unchanged(folder):
    """The good images alone."""


def alone(array):
    """One array as images/a.npy."""

    def make(folder):
        np.save(folder / "images/a.npy", array)

    return make


def among(name, content):
    """A file of these bytes, or an array, among the good ones."""

    def make(folder):
        path = folder / "images" / name
        path.parent.mkdir(exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            np.save(path, content)

    return make


def instead(name, content):
    """A file in place of the good ones."""

    def make(folder):
        empty(folder)
        among(name, content)(folder)

    return make


def empty(folder):
    for path in (folder / "images").iterdir():
        path.unlink()


def both(*makers):
    """All of these makers, one after the other."""

    def make(folder):
        for maker in makers:
            maker(folder)

    return make


def saved(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def header(shape, descr="<f4"):
    """The head of a .npy file, without what it promises."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": descr, "fortran_order": False, "shape": shape}
    )
    return file.getvalue()


def spoilt(value, at=(3, 5, 6)):
    images = GOOD.astype(float)
    images[at] = value
    return images


def objects(entries):
    array = np.empty(len(entries), object)
    array[:] = entries
    return array


def archive(members):
    """The bytes of a .npz with members of any name."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return file.getvalue()


def bomb(folder):
    """A .npz of 4 MB that unpacks to 4 GiB of zeros, under a head that promises as many."""
    head = header((2**12, 512, 512))
    pack = zlib.compressobj(wbits=-15)
    first, piece = (
        pack.compress(part) + pack.flush(zlib.Z_FULL_FLUSH) for part in (head, bytes(2**20))
    )
    body = first + piece * 2**12 + pack.flush()
    size = len(head) + 2**32 - 2**10
    # method, date, checksum, sizes
    known = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 33, 0, len(body), size, 10, 0)
    local = b"PK\3\4" + known + b"images.npy" + body
    entry = b"PK\1\2" + b"\x14\0" + known + struct.pack("<HHHII", 0, 0, 0, 0, 0) + b"images.npy"
    end = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(entry), len(local), 0)
    (folder / "images/a.npz").write_bytes(local + entry + end)


def png(width, height, pixels=bytes(1000)):
    """A PNG of a size, whether or not its pixels are as many."""

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(pixels))
        + chunk(b"IEND", b"")
    )


def picture(image):
    """A whole PNG of the image's bytes."""
    return png(*image.shape, b"".join(b"\0" + row.astype(np.uint8).tobytes() for row in image))


def pictures_with(content):
    """Good pictures and a bad one in place of the good arrays."""
    return both(
        empty,
        *(among(f"{i}.png", picture(image)) for i, image in enumerate(BYTES[:9])),
        among("bad.png", content),
    )


def idx(images, magic=b"\0\0\x08\x03"):
    return magic + struct.pack(">3I", *images.shape) + images.astype(np.uint8).tobytes()


def labels(array):
    """The good images as one array, and these labels."""

    def make(folder):
        np.save(folder / "labels.npy", array)

    return both(alone(GOOD), make)


def as_float32(images):
    """A check that the data stage holds these images, in any order, to the last bit."""

    def holds(folder):
        found = np.load(folder / "outputs/it/data/images.npy")[:, 0]
        wanted = (image.astype(np.float32) for image in images)
        return sorted(x.tobytes() for x in found) == sorted(x.tobytes() for x in wanted)

    return holds


def class_folders(folder):
    empty(folder)
    for name in ("no", "sphere"):
        among(f"{name}/notes.txt", b"no image")(folder)


LABELLED = f"{HERE} data.labels=labels.npy"
TRAIN = "train-images-idx3-ubyte"
BYTES = (GOOD * 20).clip(0, 255)
COUNTS = (GOOD * 3000).clip(0, 65535).astype(np.uint16)

CASES = {
    # where there is nothing to read
    "folder missing": Case(
        unchanged, ("nowhere", "No such file", "expected"), overrides="data.path=nowhere"
    ),
    "folder empty": Case(
        empty,
        ("images", "no npy, npz, fits, hdf5, picture, tiff or MNIST file", "expected images saved"),
    ),
    "path with a null byte": Case(
        unchanged,
        ("a", "embedded null byte", "expected a file"),
        overrides='data.path="\\"a\\0b\\""',
    ),
    "other files only": Case(
        instead("a.root", b"root"),
        ("images", "no npy, npz, fits, hdf5, picture, tiff or MNIST file", "np.save"),
    ),
    "one file of another kind": Case(
        among("a.root", b"root"),
        ("a.root", "expected a folder"),
        overrides="data.path=images/a.root",
    ),
    "image closed to us": Case(
        lambda f: (f / "images/003.npy").chmod(0),
        ("003.npy", "Permission denied", "expected a readable file"),
    ),
    "folder closed to us": Case(
        lambda f: (f / "images").chmod(0), ("images", "Permission denied", "expected a readable")
    ),
    "link to itself": Case(
        lambda f: (f / "images/loop.npy").symlink_to(f / "images/loop.npy"),
        ("loop.npy", "Too many levels", "expected"),
    ),
    "folder linked into itself": Case(
        lambda f: (f / "images/again").symlink_to(f / "images"), ("again", "remove the link")
    ),
    "pipe": Case(lambda f: os.mkfifo(f / "images/pipe.npy"), ("pipe.npy", "expected a file")),
    "folder of the name of a file": Case(
        lambda f: (empty(f), (f / "images/x.npy").mkdir()),
        ("images", "no npy, npz, fits, hdf5, picture, tiff or MNIST file"),
        overrides="data.path=images/x.npy",
    ),
    # arrays that are damaged
    "file empty": Case(among("bad.npy", b""), ("bad.npy", "NumPy's format", "np.save")),
    "text called npy": Case(
        among("bad.npy", b"hello world, this is text"), ("bad.npy", "magic", "np.save")
    ),
    "truncated": Case(
        among("bad.npy", saved(GOOD[0])[:-100]), ("bad.npy", "promises", "save it again")
    ),
    "ten gigabytes promised": Case(
        among("bad.npy", header((20, 16, 8388608))),
        ("bad.npy", "promises 10737418240 bytes", "save it again"),
    ),
    "sizes below zero": Case(
        among("bad.npy", header((-1, 16, 16)) + bytes(4000)),
        ("bad.npy", "shape (-1, 16, 16)", "np.save"),
    ),
    "code in the header": Case(
        among("bad.npy", header((16, 16)).replace(b"'<f4'", b"open('executed','w')")),
        ("bad.npy", "NumPy's format"),
    ),
    "records": Case(
        alone(np.zeros((N, 4, 4), [("a", "f4")])),
        ("a.npy", "type", "expected images of real numbers"),
        overrides=HERE,
    ),
    # arrays that are no images
    "no image in it": Case(
        alone(GOOD[:0]), ("a.npy", "empty array of shape (0, 16, 16)", "expected"), overrides=HERE
    ),
    "one image": Case(
        alone(GOOD[0]),
        ("a.npy", "found 1 image", "training needs 2", "expected a folder"),
        overrides=HERE,
    ),
    "too few images": Case(
        alone(GOOD[:5]), ("a.npy", "found 5", "at least 2 of each"), overrides=HERE
    ),
    "number": Case(alone(np.float64(3)), ("a.npy", "shape ()", "expected"), overrides=HERE),
    "five axes": Case(
        alone(GOOD[:, None, None]), ("a.npy", "(32, 1, 1, 16, 16)", "expected"), overrides=HERE
    ),
    "not square": Case(alone(GOOD[:, :, :9]), ("a.npy", "not square", "crop them"), overrides=HERE),
    "complex": Case(
        alone(GOOD * 1j), ("a.npy", "complex", "expected images of real numbers"), overrides=HERE
    ),
    "mixed shapes": Case(
        among("bad.npy", noise(8, 8)), ("bad.npy", "000.npy", "(1, 8, 8)", "expected one shape")
    ),
    "nan": Case(
        alone(spoilt(np.nan)),
        ("a.npy, image 3", "1 of 256 pixels", "mask or drop it"),
        overrides=HERE,
    ),
    "infinite": Case(
        alone(spoilt(-np.inf)), ("a.npy, image 3", "infinite", "mask or drop it"), overrides=HERE
    ),
    "beyond single precision": Case(
        alone(spoilt(1e300)),
        ("a.npy, image 3", "beyond single precision", "mask or drop it"),
        overrides=HERE,
    ),
    "constant": Case(
        alone(spoilt(2, at=3)), ("a.npy, image 3", "constant", "drop it"), overrides=HERE
    ),
    # pickles
    "many images as objects": Case(
        alone(objects(list(GOOD))),
        ("a.npy", "32 entries", "save many images as one array"),
        overrides=HERE,
    ),
    "objects with code": Case(
        among("bad.npy", header((1,), "|O") + payload()),
        ("bad.npy", "a pickle that holds", "np.save"),
    ),
    "pickle with code called npy": Case(
        among("bad.npy", payload()), ("bad.npy", "NumPy's format", "np.save")
    ),
    # archives
    "npz damaged": Case(
        among("a.npz", archive({"images.npy": saved(GOOD)})[:4000]),
        ("a.npz", "cannot be read", "np.savez"),
        overrides=NPZ,
    ),
    "npz of two sets of images": Case(
        among("a.npz", archive({"a.npy": saved(GOOD), "b.npy": saved(GOOD)})),
        ("a.npz", "`images`", "a (32, 16, 16)"),
        overrides=NPZ,
    ),
    "npz with code": Case(
        among("a.npz", archive({"images.npy": header((1, 2, 2), "|O") + payload()})),
        ("a.npz", "a pickle that holds", "np.save"),
        overrides=NPZ,
    ),
    "npz that unpacks to gigabytes": Case(bomb, ("a.npz", "4.0 GiB", "np.save"), overrides=NPZ),
    # pictures and MNIST's files
    "png damaged": Case(
        pictures_with(picture(BYTES[9])[:150]),
        ("bad.png", "cannot be read as a picture", "save it again"),
    ),
    "png of ten gigabytes": Case(
        instead("bad.png", png(100_000, 100_000)), ("bad.png", "pixels", "crop or shrink it")
    ),
    "text called png": Case(
        instead("bad.png", b"hello world"),
        ("bad.png", "cannot be read as a picture", "save it again"),
    ),
    "pictures beside arrays": Case(among("a.png", png(16, 16)), ("images", "keep one kind there")),
    "idx truncated": Case(
        instead(TRAIN, idx(BYTES)[:-5]), (TRAIN, "promises 8192 bytes", "fetch it again")
    ),
    "idx of another magic": Case(
        instead(TRAIN, idx(BYTES, b"\x1f\x8b\x08\x03")),
        (TRAIN, "begins with 1f 8b", "fetch it again"),
    ),
    "idx not packed": Case(
        instead(f"{TRAIN}.gz", idx(BYTES)), (f"{TRAIN}.gz", "gzip", "fetch it again")
    ),
    # labels
    "labels missing": Case(alone(GOOD), ("labels.npy", "No such file"), overrides=LABELLED),
    "labels too many": Case(
        labels(np.arange(N + 1)),
        ("labels.npy", "(33,)", "expected one integer for each"),
        overrides=LABELLED,
    ),
    "labels in words": Case(
        labels(np.full(N, "no_sub")),
        ("labels.npy", "<U6", "expected one integer"),
        overrides=LABELLED,
    ),
    "labels as floats": Case(
        labels(np.zeros(N)), ("labels.npy", "float64", "expected one integer"), overrides=LABELLED
    ),
    "labels of two axes": Case(
        labels(np.zeros((N, 2), int)),
        ("labels.npy", "(32, 2)", "expected one integer"),
        overrides=LABELLED,
    ),
    "labels for a folder": Case(
        labels(np.zeros(N, int)),
        ("labels", "class sub-folders"),
        overrides="data.labels=labels.npy",
    ),
    "classes without images": Case(
        class_folders,
        ("images", "no npy, npz, fits, hdf5, picture, tiff or MNIST file", "expected images"),
    ),
    "class folder beside images": Case(
        among("no/a.npy", GOOD[0]), ("images", "different depths", "put all images")
    ),
    # odd and good
    "big-endian": Case(alone(GOOD.astype(">f4")), overrides=HERE, holds=as_float32(GOOD)),
    "sixteen bits": Case(alone(COUNTS), overrides=HERE, holds=as_float32(COUNTS)),
    "fortran order": Case(alone(np.asfortranarray(GOOD)), overrides=HERE, holds=as_float32(GOOD)),
    "path in Greek with a space": Case(
        lambda f: (f / "images").rename(f / "φακοί και άλλα"),
        overrides="data.path='φακοί και άλλα'",
        holds=as_float32(GOOD),
    ),
    "hidden files of a Mac": Case(among("._000.npy", b"Mac OS X"), holds=as_float32(GOOD)),
    "npz with strange members": Case(
        among(
            "a.npz",
            archive(
                {"../../escaped.npy": saved(noise(4)), "/etc/x": b"", "images.npy": saved(GOOD)}
            ),
        ),
        overrides=NPZ,
        holds=as_float32(GOOD),
    ),
    "labels below zero": Case(
        labels(np.arange(N) % 2 - 1),
        overrides=LABELLED,
        holds=lambda f: '"-1"' in (f / "outputs/it/data/dataset.json").read_text(),
    ),
    "idx packed": Case(
        instead(f"{TRAIN}.gz", gzip.compress(idx(BYTES))), holds=as_float32(np.floor(BYTES))
    ),
}
