"""Files of a run: what several processes may do at once."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from lensnb import io
from lensnb.errors import InputError


def test_many_make_a_folder_at_once(tmp_path):
    """Jobs of one run begin at the same time, and each tries whether it can write."""
    folder = tmp_path / "outputs" / "run"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: io.make_folder(folder), range(2000)))
    assert list(folder.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file"):
        io.make_folder(tmp_path / "file" / "run")
