"""What is kept of real images: read again as it was, never when anything else would come out."""

import numpy as np
import pytest

from lensnb.evaluation import kept_rows, measures, real_rows, uncertainty
from lensnb.evaluation.judge import Judge
from lensnb.evaluation.kept_rows import Kept
from lensnb.evaluation.morphology import wasserstein_columns
from lensnb.evaluation.strangers import Given, lay_out
from lensnb.lensing.simulate import simulate

SETTINGS = {"seed": 0, "device": "cpu", "n": 12, "fit": 0, "bootstrap": 10, "floors": 4}
REAL = simulate(36, "broad", seed=4)[0]


def judge(folder, real=REAL, **settings):
    """A judge of these real images, which keeps what it measures in `folder`."""
    given = Given("real", real, None)
    laid = lay_out({"made": given}, given, None, SETTINGS | settings)
    return Judge(laid.params, laid.dataset, laid.chosen, Kept(folder))


def nothing_but_nothing(makers, *rest):
    """Stands for `all_rows` where no rows may be asked for."""
    assert not makers
    return {}


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    made = judge(folder)
    return folder, made, made.measured(REAL[:12])


def test_the_next_judge_measures_nothing_again_and_finds_the_same_bits(first, monkeypatch):
    folder, before, found = first
    with monkeypatch.context() as patch:
        patch.setattr(real_rows, "all_rows", nothing_but_nothing)
        again = judge(folder)
    for side in ("real", "others"):
        ours, theirs = getattr(before, side), getattr(again, side)
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[k], theirs[k]) for k in ours)
        assert all(ours[k].dtype == theirs[k].dtype for k in ours)
    monkeypatch.setattr(uncertainty, "floor_values", None)  # floors are read, too
    assert again.measured(REAL[:12]) == found


@pytest.mark.parametrize(
    "change",
    [
        {"real": REAL[::-1].copy()},
        {"real": np.where(np.arange(36)[:, None, None, None] == 30, REAL + 1e-3, REAL)},
        {"seed": 1},
        {"floors": 5},
    ],
    ids=["order", "one other image", "seed", "floors"],
)
def test_other_images_or_settings_have_another_folder(first, change):
    _, before, _ = first
    real = change.pop("real", REAL)
    given = Given("real", real, None)
    laid = lay_out({"made": given}, given, None, SETTINGS | change)
    sets = real[:12], laid.dataset.part(laid.chosen[1])
    other = Kept(before.kept.folder).of(sets, laid.params, "cpu")
    assert other.opened != before.kept.opened
    again = Kept(before.kept.folder).of(
        (REAL[:12], before.dataset.part(before.other)), _params(), "cpu"
    )
    assert again.opened == before.kept.opened


def _params():
    given = Given("real", REAL, None)
    return lay_out({"made": given}, given, None, SETTINGS).params


def test_other_code_has_another_folder(first, monkeypatch):
    _, before, _ = first
    monkeypatch.setattr(kept_rows, "of_code", lambda: "another version")
    sets = REAL[:12], before.dataset.part(before.other)
    assert Kept(before.kept.folder).of(sets, _params(), "cpu").opened != before.kept.opened


def test_the_digest_of_the_code_covers_measures_and_weights(monkeypatch):
    parts = []
    monkeypatch.setattr(kept_rows, "digest_of", lambda *given: parts.extend(given) or "")
    kept_rows.of_code.__wrapped__()
    names = {part.decode() for part in parts if len(part) < 40}
    assert names >= {"measures.py", "lensnet.py", "metrics.py", "lensnet.json", "finder.json"}


@pytest.mark.parametrize("damage", ["cut", "flip", "pickle"])
def test_a_damaged_file_is_not_read_and_a_line_says_so(tmp_path, damage, capsys):
    kept = Kept(tmp_path, tmp_path / "set")
    kept.write("a", np.arange(500.0))
    path = tmp_path / "set" / "a.npz"
    whole = path.read_bytes()
    middle = len(whole) // 2
    if damage == "cut":
        path.write_bytes(whole[:middle])
    elif damage == "flip":
        path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    else:
        with path.open("wb") as file:
            np.savez(file, array=np.array([{}], dtype=object))
    assert kept.read("a") is None and "measured anew" in capsys.readouterr().out
    assert kept.once("a", lambda: np.arange(500.0))[-1] == 499 and path.read_bytes() == whole


def test_a_measure_of_another_package_is_never_kept(first):
    _, before, _ = first

    def brightest(images):
        return images.max(axis=(1, 2, 3))[:, None]

    own = measures.Measure(brightest, wasserstein_columns, "1", "physics", "brightest")
    assert not real_rows.is_ours(own)
    assert all(map(real_rows.is_ours, before.measures.values()))


def test_few_sets_are_kept_and_no_folder_keeps_nothing(tmp_path):
    for i in range(kept_rows.FOLDERS + 2):
        kept = Kept(tmp_path, tmp_path / f"{i}")
        kept.write("a", np.arange(3))
        assert kept.read("a").tolist() == [0, 1, 2]
    assert len(list(tmp_path.iterdir())) == kept_rows.FOLDERS and kept.opened.is_dir()
    kept_rows.NOTHING.write("a", np.arange(3))
    assert kept_rows.NOTHING.read("a") is None
