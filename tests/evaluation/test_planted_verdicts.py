"""A planted fault brings its own sentence first. The numbers are kept, see golden/make_verdicts."""

import gzip
import json
from pathlib import Path

import pytest

from lensnb.evaluation import compare

KEPT = Path(__file__).parents[1] / "golden" / "verdicts.json.gz"
OLDER = {"hot_pixel": "structure sits on the pixel grid"}  # before fixed_pixels was measured
TREES = json.loads(gzip.decompress(KEPT.read_bytes()))
OWN = {
    "opening": "arcs open to one side",
    "equal_angles": "lenses share one position angle",
    "off_centre": "off centre along x",
    "gradient": "the sky has a gradient from left to right",
    "sky": "too bright",
    "stripes": "the sky has stripes along its rows",
    "noise": "the noise is",
    "light_detail": "the fine detail of bright light",
    "checkerboard": "structure sits on the pixel grid",
    "hot_pixel": "one pixel is",
    "elliptical_psf": "the images are blurred",
    "mirrored": "halves of images mirror each other",
    "class_shares": "too many lenses without substructure",
    "ring": "too large",
    "copies": "of the images are copies of training images",
    "shifted_copies": "of the images are copies of training images",
    "turned_copies": "of the images are copies of training images",
    "noisy_copies": "of the images are copies of training images",
    "weak_vortex": "substructure is too weak in vortex lenses",
    "few_subhalos": "substructure is too weak in CDM lenses",
    "noise_left": "the images have nearly no noise",
    "correlated": "Einstein radius and axis ratio are correlated",
}


def told(key):
    tree = TREES[key]
    return compare.verdict(compare.table_of({"a": tree["metrics"]}, {}), {"a": tree})


@pytest.mark.parametrize("key", TREES)
def test_a_planted_fault_brings_its_own_sentence_first(key):
    text = told(key)
    assert len(text) <= 5 and "can be told from real images" in text[1]
    wrong = text[2].removeprefix("What is wrong with a: ")
    own = OWN if "fixed_pixels" in TREES[key]["metrics"] else OWN | OLDER
    assert wrong != text[2] and own[key.split()[0]] in wrong.split(";")[0], wrong
