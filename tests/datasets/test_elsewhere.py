"""A command given in another folder, under another locale: the images that lie there."""

import os
import subprocess
import sys

import numpy as np
from images import noise

READ = """
import sys, lensnb
run = lensnb.open_run(run="here", data={"path": sys.argv[1], "size": 32, "holdout": 0.25})
dataset = lensnb.make_data(run)
"""


def test_a_relative_path_with_an_accent_under_the_c_locale(tmp_path):
    folder = tmp_path / "elsewhere" / "Bilder \u00fc #2"
    folder.mkdir(parents=True)
    want = noise(12, 32, 32).astype(np.float32)
    for i, image in enumerate(want):
        np.save(folder / f"{i:02}.npy", image)
    outputs = tmp_path / "out"
    environment = os.environ | {"LC_ALL": "C", "LENSNB_OUTPUTS": str(outputs)}
    environment |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment.pop("LENSNB_FROM", None)
    subprocess.run(
        [sys.executable, "-c", READ, folder.name],
        cwd=folder.parent,
        env=environment,
        check=True,
        capture_output=True,
    )
    got = np.load(outputs / "here" / "data" / "images.npy")
    np.testing.assert_array_equal(got[:, 0], want)
