"""Damaged and hostile files: `prepare_dataset` refuses them in words and never executes them."""

import io
import os
import pickle
import struct
import subprocess
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from images import deeplense_object, noise, read, refusal, save_each

from lensnb.datasets import arrays
from lensnb.errors import InputError


def object_header(n):
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {"descr": "|O", "fortran_order": False, "shape": (n,)}
    )
    return head.getvalue()


def header(shape, descr="<f8"):
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {"descr": descr, "fortran_order": False, "shape": shape}
    )
    return head.getvalue()


def truncated():
    file = io.BytesIO()
    np.save(file, noise(20, 8, 8))
    return file.getvalue()[:-100]


BAD_BYTES = {
    "text": (b"hello world, this is text", "magic"),
    "empty file": (b"", "NumPy's format"),
    "half a header": (b"\x93NUMPY\x01\x00\x76\x00{'descr'", "NumPy's format"),
    "truncated": (truncated(), "promises"),
    "10 GB header": (header((20, 8, 8388608)), "promises 10737418240 bytes"),
    "absurd header": (header((2**62, 2**62, 2**62)), "promises"),
    "negative header": (header((-20, 8, 8)), "shape (-20, 8, 8)"),
    "no image": (header((0, 8, 8)), "shape (0, 8, 8)"),
    "code in the header": (header((20, 8, 8)).replace(b"'<f8'", b"exit()"), "NumPy's format"),
    "records": (header((20, 8, 8), [("a", "<f8")]) + bytes(20 * 512), "type"),
    "bare pickle": (pickle.dumps([1, 2]), "magic"),
    "truncated pickle": (
        object_header(2) + pickle.dumps(np.array([noise(8, 8), 1.0, "x"], object))[:300],
        "NumPy's format",
    ),
}


@pytest.mark.parametrize("what", BAD_BYTES)
@pytest.mark.parametrize("where", ["alone", "in a folder", "in an npz"])
def test_damaged_files_are_refused_by_name_in_little_memory(what, where, src, out):
    content, expected = BAD_BYTES[what]
    save_each(src, noise(10, 8, 8))
    bad = src / "bad.npy"
    bad.write_bytes(content)
    if where == "in an npz":
        with zipfile.ZipFile(src / "bad.npz", "w") as archive:
            archive.writestr("images.npy", content)
        bad = src / "bad.npz"
    tracemalloc.start()
    message = refusal(src if where == "in a folder" else bad, out)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(bad) in message and expected in message
    assert peak < 20e6


ARRAYS = {
    "0-d": (np.float64(3), "()"),
    "1-d": (noise(20), "(20,)"),
    "5-d": (noise(20, 1, 1, 8, 8), "(20, 1, 1, 8, 8)"),
    "complex": (noise(20, 8, 8) * 1j, "complex"),
    "text": (np.full((20, 8, 8), "a"), "<U1"),
    "not square": (noise(20, 8, 9), "not square"),
    "not square colour": (noise(20, 8, 9, 3), "not square"),
    "20 bands": (noise(5, 20, 8, 8), "data.axes=CNHW"),
    "too few": (noise(5, 8, 8), "at least 2 of each"),
    "one": (noise(8, 8), "found 1 image, where training needs 2 and the evaluation 2 more"),
    "dates": (np.zeros((20, 8, 8), "M8[s]"), "datetime"),
}


@pytest.mark.parametrize("what", ARRAYS)
def test_arrays_that_are_no_images(what, src, out):
    array, expected = ARRAYS[what]
    np.save(src / "a.npy", array)
    message = refusal(src / "a.npy", out)
    assert str(src / "a.npy") in message and expected in message


def test_symbolic_links_in_circles(src, out):
    save_each(src / "a", noise(10, 8, 8))
    (src / "a" / "again").symlink_to(src)
    assert "remove the link" in refusal(src, out)
    (src / "a" / "again").unlink()
    (src / "a" / "self.npy").symlink_to(src / "a" / "self.npy")
    assert "self.npy: Too many levels of symbolic links" in refusal(src, out)
    (src / "loop").symlink_to(src / "loop")
    assert "loop: Too many levels" in refusal(src / "loop", out)


def test_forbidden_file(src, out, monkeypatch):
    save_each(src, noise(10, 8, 8))

    def guarded(path, *args, **kwargs):
        if Path(path).name == "004.npy":
            raise PermissionError(13, "Permission denied", str(path))
        return open(path, *args, **kwargs)

    monkeypatch.setattr(arrays, "open", guarded, raising=False)  # root may read anything
    assert "004.npy: Permission denied" in refusal(src, out)


def test_forbidden_folder(src, out, monkeypatch):
    save_each(src / "closed", noise(10, 8, 8))
    plain = os.scandir

    def guarded(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return plain(path)

    monkeypatch.setattr(os, "scandir", guarded)
    assert "Permission denied" in refusal(src, out)


@pytest.mark.parametrize(
    "arrays", [{}, {"a": noise(12, 8, 8), "b": noise(12, 8, 8)}, {"a": noise(12)}]
)
def test_npz_without_one_set_of_images(arrays, src, out):
    np.savez(src / "a.npz", **arrays)
    message = refusal(src / "a.npz", out)
    assert "a.npz" in message and ("key `images`" in message or "NumPy's format" in message)


def test_damaged_npz(src, out):
    np.savez_compressed(src / "a.npz", images=noise(12, 8, 8))
    whole = (src / "a.npz").read_bytes()
    (src / "b.npz").write_bytes(whole[: len(whole) // 2])
    (src / "c.npz").write_bytes(whole[:2000] + bytes(500) + whole[2500:])
    for name in "bc":
        assert f"{name}.npz: cannot be read" in refusal(src / f"{name}.npz", out)
        assert not (out / ".npz").exists()


def test_npz_members_cannot_write_elsewhere(src, out):
    member = io.BytesIO()
    np.save(member, noise(12, 8, 8))
    with zipfile.ZipFile(src / "a.npz", "w") as archive:
        archive.writestr("../../escaped.npy", member.getvalue())
    assert len(read(src / "a.npz", out).images) == 12
    assert not list(src.parent.rglob("escaped.npy"))


@given(st.binary(max_size=200), st.integers(0, 400))
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_bytes_are_read_or_refused_in_words(tmp_path, junk, at):
    """Noise spliced into a plain array, an object array and an archive: InputError or an image."""
    plain = io.BytesIO()
    pair = io.BytesIO()
    packed = io.BytesIO()
    np.save(plain, noise(8, 8))
    twin = np.empty(2, object)
    twin[:] = [noise(8, 8), 1.0]
    np.save(pair, twin)
    np.savez(packed, images=noise(4, 8, 8))
    for name, file in {"a.npy": plain, "b.npy": pair, "c.npz": packed}.items():
        whole = file.getvalue()
        (tmp_path / name).write_bytes(whole[:at] + junk + whole[at + len(junk) :])
        try:
            with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
                read(tmp_path / name, tmp_path / "out")
        except InputError as refused:
            assert name in str(refused) and "\n" not in str(refused)


# Pickles ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mass", [float, np.float64, np.float32, np.array], ids=lambda m: m.__name__
)
def test_object_arrays_of_image_and_mass(mass, src, out):
    want = noise(8, 8, 8)
    masses = np.geomspace(1e-24, 1e-22, 8).astype(np.float32)
    for i in range(8):
        image = [want[i], want[i][None], np.asfortranarray(want[i]), want[i].astype(">f8")][i % 4]
        deeplense_object(src / f"{i}.npy", image, mass(masses[i]))
    got = read(src, out)
    np.testing.assert_array_equal(got.images[:, 0], want.astype(np.float32))
    np.testing.assert_array_equal(got.truth["mass"], masses.astype(float))


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("package", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_pickles_of_old_and_new_numpy(protocol, package, src, out):
    want = noise(8, 8, 8)
    for i, image in enumerate(want):
        pair = np.empty(2, object)
        pair[:] = [image, np.float64(i)]
        body = pickle.dumps(pair, protocol)
        if protocol == 3:  # the name stands as text without its length
            body = body.replace(b"numpy._core.multiarray", package.encode())
        (src / f"{i}.npy").write_bytes(object_header(2) + body)
    got = read(src, out)
    np.testing.assert_array_equal(got.images[:, 0], want.astype(np.float32))
    assert got.truth["mass"].tolist() == list(range(8))


def test_mass_missing_in_some_files_is_nan(src, out):
    for i, image in enumerate(noise(8, 8, 8)):
        deeplense_object(src / f"{i}.npy", image, "unknown" if i == 3 else 1.5)
    mass = read(src, out).truth["mass"]
    assert np.flatnonzero(np.isnan(mass)).tolist() == [3] and mass[0] == 1.5


def test_an_object_array_of_many_images_is_not_read_as_one(src, out):
    many = np.empty(20, object)
    many[:] = list(noise(20, 8, 8))
    np.save(src / "a.npy", many)
    assert "20 entries with 20 images" in refusal(src / "a.npy", out)


# Pickles with more than numbers -------------------------------------------------------------------


class Payload:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def payloads(target):
    command = f"touch {target}"
    return {
        "os.system": Payload(os.system, command),
        "eval": Payload(eval, f"open({str(target)!r}, 'w')"),
        "Popen": Payload(subprocess.Popen, ["touch", str(target)]),
        "Path": Path(target),
        "getattr": Payload(getattr, Payload(os.system, command), "x"),
        "tensor": torch.zeros(2),
    }


@pytest.mark.parametrize("what", ["os.system", "eval", "Popen", "Path", "getattr", "tensor"])
@pytest.mark.parametrize("where", ["alone", "in a folder"])
def test_a_pickle_with_code_is_not_opened(what, where, src, out, tmp_path):
    target = tmp_path / "created"
    save_each(src, noise(10, 8, 8))
    deeplense_object(src / "evil.npy", noise(8, 8), payloads(target)[what])
    message = refusal(src if where == "in a folder" else src / "evil.npy", out)
    assert f"{src / 'evil.npy'}: a pickle that holds" in message
    assert "more than numpy arrays, and was not opened" in message
    assert not target.exists()


@pytest.mark.parametrize("what", ["os.system", "eval", "Popen"])
def test_the_payloads_do_work(what, tmp_path):
    """The control of the test above: numpy's own unpickling creates the file."""
    target = tmp_path / "created"
    deeplense_object(tmp_path / "evil.npy", noise(8, 8), payloads(target)[what])
    result = np.load(tmp_path / "evil.npy", allow_pickle=True)[1]
    if what == "Popen":
        result.wait()
    assert target.exists()


def short(text):
    return pickle.SHORT_BINUNICODE + bytes([len(text)]) + text.encode()


def hostile_dtype_flags():
    """An object dtype whose flags deny objects: numpy's builder would take bytes for pointers."""
    dtype = (
        b"cnumpy\ndtype\n"
        + pickle.MARK
        + short("O8")
        + pickle.NEWFALSE
        + pickle.NEWTRUE
        + pickle.TUPLE
        + pickle.REDUCE
        + pickle.MARK
        + b"K\x03"
        + short("|")
        + b"NNN"
        + b"K\x08K\x08K\x00"
        + b"tb"
    )
    return (
        b"\x80\x04cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR"
        b"(K\x01K\x01\x85" + dtype + b"\x89C\x08" + struct.pack("<Q", 0x4141414141414141) + b"tb."
    )


PICKLES = {
    "flags": hostile_dtype_flags(),
    "memo": b"\x80\x04Nr" + struct.pack("<I", 2**24) + b"0N.",  # an index that takes 256 MB
    "length": b"\x80\x04\x8e" + struct.pack("<Q", 2**28) + b"abc.",  # 256 MB of bytes, it says
    "frame": b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b"N.",
    "array": (
        b"\x80\x04cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nJ\xff\xff\xff\x7f\x85C\x01btR."
    ),
    "extension": b"\x80\x04\x82\x01.",
    "persistent": b"\x80\x04Pabc\n.",
    "nothing": b"\x80\x04N.",
    "depth": b"\x80\x04" + b"(" * 100000 + b"t" * 100000 + b".",
    "stack": b"\x80\x04tttt.",
    "module": b"\x80\x04cos\nsystem\n.",
    "submodule": b"\x80\x04cnumpy\nload\n.",
}


@pytest.mark.parametrize("what", PICKLES)
def test_hand_made_pickles_are_refused_in_little_memory(what, src, out):
    (src / "a.npy").write_bytes(object_header(1) + PICKLES[what])
    tracemalloc.start()
    message = refusal(src / "a.npy", out)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(src / "a.npy") in message
    assert peak < 30e6
