"""MNIST: IDX files against an independent writer, and downloads from a loopback server."""

import contextlib
import gzip
import hashlib
import http.server
import json
import struct
import sys
import threading
import tracemalloc

import numpy as np
import pytest
from images import noise, read, refusal, save_each

from lensnb.datasets import mnist
from lensnb.datasets.dataset import load_dataset, prepare_dataset
from lensnb.errors import InputError
from lensnb.recipes.recipe import Params, validate
from lensnb.recipes.schema import Data


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """No test reaches the network, a proxy or the user's cache."""
    discard_port = "http://127.0.0.1:9/"  # nobody listens there
    monkeypatch.setattr(mnist, "MIRRORS", (discard_port,))
    monkeypatch.setenv("LENSNB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("LENSNB_MNIST_URL", raising=False)


def idx(array, code=8):
    """The bytes of an IDX file, by its published definition."""
    return (
        struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
        + array.astype("u1").tobytes()
    )


def digits(n=20, side=28, seed=1):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, side, side)), np.arange(n) % 10


def write(folder, split="train", mark="-", end="", seed=1, **replaced):
    """MNIST's two files with 20 images; bytes given as images=... or labels=... replace them."""
    images, labels = digits(seed=seed)
    contents = {"images": idx(images), "labels": idx(labels)} | replaced
    for role, content in contents.items():
        path = folder / f"{split}-{role}{mark}idx{mnist.AXES[role]}-ubyte{end}"
        path.write_bytes(gzip.compress(content) if end else content)
    return images, labels


# IDX files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize("mark", ["-", "."])
def test_a_folder_of_idx_files(mark, end, src, out):
    images, labels = write(src, mark=mark, end=end)
    got = read(src, out, size=28)
    assert got.images.shape == (20, 1, 28, 28) and got.images.dtype == np.float32
    np.testing.assert_array_equal(got.images[:, 0], images)
    assert got.labels.tolist() == labels.tolist() and got.classes == tuple("0123456789")
    assert got.source == f"20 images of {src}, its train files"
    assert not (out / ".npz").exists()


def test_pieces_make_up_the_whole(src, out, monkeypatch):
    monkeypatch.setattr(mnist, "CHUNK", 77)
    images, _ = write(src, end=".gz")
    np.testing.assert_array_equal(read(src, out, size=28).images[:, 0], images)


def test_the_train_files_are_read_alone_and_those_of_t10k_if_there_are_no_others(src, out):
    other, _ = write(src, split="t10k", seed=2)
    got = read(src, out, size=28)
    np.testing.assert_array_equal(got.images[:, 0], other)
    assert got.source.endswith("its t10k files")
    images, _ = write(src, end=".gz")
    got = read(src, out, size=28)
    np.testing.assert_array_equal(got.images[:, 0], images)
    assert got.source.endswith("its train files alone (t10k left unread)")


def test_without_labels(src, out):
    write(src)
    (src / "train-labels-idx1-ubyte").unlink()
    write(src, split="t10k")  # its labels belong to other images
    got = read(src, out, size=28)
    assert got.labels is None and got.source.endswith("without labels")


def test_a_subset_keeps_each_image_with_its_label(src, out):
    images, labels = digits(60)
    write(src, images=idx(images), labels=idx(labels))
    got = read(src, out, size=28, n=20)
    index = [int(np.flatnonzero((images == image[0]).all(axis=(1, 2)))[0]) for image in got.images]
    assert (
        index == sorted(set(index)) != list(range(20))
        and got.labels.tolist() == labels[index].tolist()
    )
    assert got.source.startswith("20 of 60 images")


IMAGES = idx(digits()[0])
BAD = {
    "nothing": (b"", "begins with nothing"),
    "text": (b"hello world", "begins with 68 65 6c 6c"),
    "little endian": (IMAGES[3::-1] + IMAGES[4:], "begins with 03 08 00 00"),
    "floats": (idx(digits()[0], code=0x0D), "type 0x0d; expected unsigned bytes"),
    "one dimension": (idx(digits()[1]), "has 1 dimensions; expected 3"),
    "half a head": (IMAGES[:9], "cannot be read as IDX"),
    "truncated": (IMAGES[:-5], "promises 15680 bytes for shape (20, 28, 28) and 15675 follow"),
    "no pixels": (IMAGES[:16], "promises 15680 bytes"),
    "too long": (IMAGES + b"\1", "promises 15680 bytes for shape (20, 28, 28) and more follow"),
    "no image": (idx(np.zeros((0, 28, 28))), "promises 0 bytes"),
    "absurd": (b"\0\0\x08\x03" + b"\xff" * 12 + bytes(1000), f"promises {(2**32 - 1) ** 3} bytes"),
    "8 GB": (
        b"\0\0\x08\x03" + struct.pack(">3I", 2**13, 2**10, 2**10) + bytes(1000),
        "promises 8589934592 bytes",
    ),
    "oblong": (idx(noise(20, 28, 27)), "not square"),
}


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("end", ["", ".gz"])
def test_damaged_images_are_refused_by_name_in_little_memory(what, end, src, out):
    content, expected = BAD[what]
    write(src, end=end, images=content)
    tracemalloc.start()
    message = refusal(src, out)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert f"{src}/train-images-idx3-ubyte{end}: " in message and expected in message
    assert peak < 20e6 and not (out / ".npz").exists()


@pytest.mark.parametrize(
    "labels, expected",
    [
        (idx(np.arange(19)), "19 labels for the 20 images"),
        (idx(np.arange(21)), "21 labels for the 20 images"),
        (idx(np.zeros((20, 1))), "has 2 dimensions; expected 1"),
        (idx(np.arange(20))[:-1], "and 19 follow"),
    ],
    ids=["too few", "too many", "two dimensions", "truncated"],
)
def test_labels_that_do_not_fit(labels, expected, src, out):
    write(src, labels=labels)
    message = refusal(src, out)
    assert f"{src}/train-labels-idx1-ubyte: " in message and expected in message


def damaged(packed, at):
    return packed[:at] + bytes([packed[at] ^ 1]) + packed[at + 1 :]


@pytest.mark.parametrize(
    "what, expected",
    [
        ("plain", "Not a gzipped file"),
        ("truncated", "ended before"),
        ("checksum", "CRC check failed"),
        ("body", "cannot be read"),
    ],
)
def test_damaged_gzip(what, expected, src, out):
    write(src, end=".gz")
    path = src / "train-images-idx3-ubyte.gz"
    packed = path.read_bytes()
    path.write_bytes(
        {
            "plain": IMAGES,
            "truncated": packed[:-2000],
            "checksum": damaged(packed, len(packed) - 8),
            "body": damaged(packed, 12),
        }[what]
    )
    message = refusal(src, out)
    assert f"{path}: " in message and expected in message


@pytest.mark.parametrize("other", ["a.npy", "deep/a.npy", "a.png"])
def test_idx_files_beside_other_images(other, src, out):
    write(src)
    save_each((src / other).parent, noise(1, 8, 8), ["a.npy"])
    (src / other).parent.joinpath("a.npy").rename(src / other)
    message = refusal(src, out)
    assert (
        "train-images-idx3-ubyte" in message
        and other.split("/")[-1] in message
        and "keep one kind" in message
    )


def test_labels_of_ones_own_are_refused(src, out):
    write(src)
    assert "data.labels" in refusal(src, out, labels="labels.npy")


# Download -----------------------------------------------------------------------------------------


class Server:
    """A loopback server: path -> body; `asked` are the paths that were asked for."""

    def __init__(self, bodies):
        self.bodies = bodies
        self.asked = []
        self.promise = lambda body: len(body)
        answer = self.answer

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                answer(self)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/mnist/"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def answer(self, request):
        self.asked.append(request.path)
        body = self.bodies.get(request.path.removeprefix("/mnist/"))
        if body is None:
            return request.send_error(404)
        request.send_response(200)
        if self.promise:
            request.send_header("Content-Length", self.promise(body))
        request.end_headers()
        request.wfile.write(body)

    def close(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def published(monkeypatch):
    """Small files in the place of MNIST's, with their hashes: name -> bytes."""
    images, labels = digits()
    bodies = {
        "train-images-idx3-ubyte.gz": gzip.compress(idx(images)),
        "train-labels-idx1-ubyte.gz": gzip.compress(idx(labels)),
    }
    for name, body in bodies.items():
        monkeypatch.setitem(mnist.SHA256, name, hashlib.sha256(body).hexdigest())
    return bodies


@pytest.fixture
def server(published, monkeypatch):
    server = Server(dict(published))
    monkeypatch.setattr(mnist, "MIRRORS", (server.url,))
    yield server
    with contextlib.suppress(OSError):
        server.close()


def fetch(out, **knobs):
    prepare_dataset(
        Data(download="mnist", **{"size": 28, "scaling": "range", "holdout": 0.25} | knobs), 0, out
    )
    return load_dataset(out)


def kept(tmp_path):
    return sorted(p.name for p in (tmp_path / "cache").rglob("*"))


def is_the_published(got):
    images, labels = digits()
    return (
        np.array_equal(got.images[:, 0], images)
        and np.array_equal(got.labels, labels)
        and "MNIST" in got.source
    )


def is_digits(got, capsys):
    """Whether these are scikit-learn's digits, and the note and the one printed line say so."""
    lines = capsys.readouterr().out.splitlines()
    return (
        len(got.images) == 1797
        and mnist.STAND_IN in got.source
        and len(lines) == 1
        and mnist.STAND_IN in lines[0]
    )


def test_a_download_is_checked_kept_and_used_without_the_server(
    server, out, tmp_path, published, capsys
):
    got = fetch(out)
    assert is_the_published(got) and got.classes == tuple("0123456789")
    assert got.source == "20 images of MNIST, its train files, checked by sha256"
    assert server.asked == ["/mnist/" + name for name in published]
    assert kept(tmp_path) == sorted(published)
    assert all((tmp_path / "cache" / name).read_bytes() == body for name, body in published.items())
    server.close()
    assert is_the_published(fetch(out)) and capsys.readouterr().out == ""


def test_a_wrong_file_is_refused_with_both_hashes_and_not_kept(server, out, tmp_path, published):
    name = "train-labels-idx1-ubyte.gz"
    server.bodies[name] = wrong = gzip.compress(idx(np.arange(20)))
    with pytest.raises(InputError) as caught:
        fetch(out)
    for part in (
        name,
        hashlib.sha256(wrong).hexdigest(),
        hashlib.sha256(published[name]).hexdigest(),
    ):
        assert part in str(caught.value)
    assert kept(tmp_path) == ["train-images-idx3-ubyte.gz"]  # the right one
    assert not (out / "images.npy").exists() and not (out / ".npz").exists()


def test_the_published_hashes_refuse_what_is_not_mnist(out, tmp_path, monkeypatch):
    """Without the `published` fixture: the code holds the hashes of the real files."""
    server = Server({name: gzip.compress(b"not MNIST") for name in mnist.SHA256})
    monkeypatch.setattr(mnist, "MIRRORS", (server.url,))
    with pytest.raises(
        InputError,
        match="expected 440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    ):
        fetch(out)
    server.close()
    assert kept(tmp_path) == []


def test_a_damaged_file_in_the_cache_is_fetched_again_and_never_used(
    server, out, tmp_path, published, capsys
):
    fetch(out)
    bad = tmp_path / "cache" / "train-images-idx3-ubyte.gz"
    bad.write_bytes(gzip.compress(idx(digits(seed=3)[0])))
    assert is_the_published(fetch(out)) and bad.read_bytes() == published[bad.name]
    bad.write_bytes(b"damaged")
    server.close()
    assert is_digits(fetch(out), capsys) and not bad.exists()


@pytest.mark.parametrize("keep", [0, 1, 50])
def test_a_broken_connection_leaves_nothing(keep, server, out, tmp_path, published, capsys):
    for name in published:
        server.bodies[name] = published[name][:keep]
    server.promise = lambda body: 10000
    assert is_digits(fetch(out), capsys) and kept(tmp_path) == []


def test_a_truncated_body_of_no_stated_length_is_refused(server, out, tmp_path, published):
    server.bodies["train-images-idx3-ubyte.gz"] = published["train-images-idx3-ubyte.gz"][:-7]
    server.promise = None
    with pytest.raises(InputError, match="found sha256"):
        fetch(out)
    assert kept(tmp_path) == []


def test_a_body_without_end_is_cut_off(server, out, tmp_path, published, monkeypatch):
    monkeypatch.setattr(mnist, "LARGEST", 1000)
    server.bodies["train-images-idx3-ubyte.gz"] = long = published[
        "train-images-idx3-ubyte.gz"
    ] + bytes(10**6)
    with pytest.raises(InputError, match=f"found sha256 {hashlib.sha256(long[:1000]).hexdigest()}"):
        fetch(out)
    assert kept(tmp_path) == []


def test_the_next_mirror_is_asked(server, out, monkeypatch, capsys):
    empty = Server({})
    monkeypatch.setattr(mnist, "MIRRORS", ("http://127.0.0.1:9/", empty.url, server.url))
    assert is_the_published(fetch(out)) and capsys.readouterr().out == ""
    empty.close()
    assert len(empty.asked) == len(server.asked) == 2


def test_the_address_in_the_environment_is_asked_alone(server, out, monkeypatch, capsys):
    other = Server(dict(server.bodies))
    monkeypatch.setenv("LENSNB_MNIST_URL", other.url.rstrip("/"))
    assert is_the_published(fetch(out))
    other.close()
    assert len(other.asked) == 2 and server.asked == []
    monkeypatch.setenv("LENSNB_MNIST_URL", "my mirror")
    monkeypatch.setenv("LENSNB_CACHE", str(out))
    with pytest.raises(InputError, match="LENSNB_MNIST_URL: found 'my mirror'"):
        fetch(out)


def test_a_server_that_never_answers_is_left(out, monkeypatch, capsys):
    release = threading.Event()
    waited_to_the_end = []

    def wait(request):
        if not release.wait(600):
            waited_to_the_end.append(request.path)

    server = Server({})
    server.server.RequestHandlerClass.do_GET = wait
    monkeypatch.setattr(mnist, "MIRRORS", (server.url,))
    monkeypatch.setattr(mnist, "TIMEOUT", 0.2)
    assert is_digits(fetch(out), capsys) and not waited_to_the_end
    release.set()
    server.close()


def test_digits_stand_in_without_a_network(out, tmp_path, capsys):
    """Oracle: the bilinear interpolation of scipy, pixel by pixel."""
    from scipy.ndimage import zoom
    from sklearn.datasets import load_digits

    got = fetch(out)
    assert is_digits(got, capsys) and kept(tmp_path) == []
    want = load_digits()
    assert got.images.shape == (1797, 1, 28, 28) and got.classes == tuple("0123456789")
    np.testing.assert_array_equal(got.labels, want.target)
    for image, small in zip(got.images[::100, 0], want.images[::100], strict=True):
        np.testing.assert_allclose(
            image, zoom(small, 3.5, order=1, mode="nearest", grid_mode=True), rtol=0, atol=1e-5
        )
    assert got.images.min() == 0 and 12 < got.images.max() <= 16
    assert (
        json.loads((out / "dataset.json").read_text())["source"]
        == f"1797 images of {mnist.STAND_IN}"
    )


def test_without_scikit_learn_a_sentence_says_so(out, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(InputError, match="pip install scikit-learn"):
        fetch(out)


def test_without_pooch_a_sentence_says_so_unless_the_files_are_cached(
    server, out, tmp_path, monkeypatch
):
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "pooch", None)
        with pytest.raises(InputError, match="pip install pooch"):
            fetch(out)
    fetch(out)
    monkeypatch.setitem(sys.modules, "pooch", None)
    assert is_the_published(fetch(out))


def test_pooch_reports_nothing_of_its_own(server, out, capfd):
    fetch(out)
    assert capfd.readouterr() == ("", "")


def test_a_cache_that_cannot_be_written(server, out, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LENSNB_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match="LENSNB_CACHE"):
        fetch(out)


def test_the_cache_lies_in_the_project_unless_told_otherwise(
    server, out, tmp_path, published, monkeypatch
):
    monkeypatch.delenv("LENSNB_CACHE")
    monkeypatch.setattr(mnist.io, "home", lambda: tmp_path)
    fetch(out)
    assert sorted(p.name for p in (tmp_path / ".cache/mnist").iterdir()) == sorted(published)


@pytest.mark.parametrize("other", [{"path": "images"}, {"labels": "labels.npy"}])
def test_a_download_excludes_a_source_of_ones_own(other):
    with pytest.raises(
        InputError, match="data: download mnist brings its own .*; leave out path and labels"
    ):
        validate({"data": {"download": "mnist"} | other}, "mine.yaml")
    assert validate({"data": {"download": "mnist"}}, "mine.yaml").data.download == "mnist"
    assert Params().data.download is None
