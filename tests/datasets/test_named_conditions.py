"""Conditions by the names of the truth table's columns: numbers, words, and missing values."""

from types import SimpleNamespace

import numpy as np
import pandas
import pytest
import torch
from astropy.table import MaskedColumn, Table
from images import noise, read, save_each

from lensnb import denoiser, io, kinds
from lensnb.datasets import conditions, file_source
from lensnb.errors import InputError
from lensnb.generator import Generator, untrained
from lensnb.recipes.recipe import validate

TOLD = ("z_lens", "mass", "band", "class")


@pytest.fixture
def dataset():
    """Eight images, of which the last two are held out; z_lens misses, mass is of huge numbers."""
    z = np.array([0.2, np.nan, 0.4, 0.6, 0.8, np.nan, 9.0, 0.5])
    return SimpleNamespace(
        images=np.zeros((8, 1, 16, 16), np.float32),
        labels=np.arange(8) % 2,
        classes=("spiral", "elliptical"),
        truth={
            "z_lens": z,
            "mass": 1e13 * np.arange(1.0, 9),
            "band": np.array(["r", "g", "", "g", "r", "i", "g", "g"]),
            "name": np.array([f"a{k}" for k in range(8)]),
            "empty": np.full(8, np.nan),
            "far": np.array([np.inf] * 8),
            "e1": np.linspace(-1, 1, 8),
        },
        train=np.arange(6),
        heldout=np.array([6, 7]),
        scaling=SimpleNamespace(low=-1.0, high=1.0, inverse=lambda x: x),
        sigma_data=0.5,
    )


def test_numbers_are_standardised_on_the_training_split_and_missing_ones_are_told(dataset):
    encoded = conditions.encode(TOLD, dataset, conditions.table(TOLD, dataset)).numpy()
    assert encoded.shape == (8, 2 + 1 + 3 + 2) and conditions.width(TOLD, dataset) == 8
    seen = np.array([0.2, 0.4, 0.6, 0.8])  # not the 9.0 and 0.5 of the held-out images
    expected = (np.nan_to_num(dataset.truth["z_lens"], nan=seen.mean()) - seen.mean()) / seen.std()
    assert np.abs(encoded[:, 0] - expected).max() < 1e-5  # 0 where it is missing
    assert encoded[:, 1].tolist() == [1, 0, 1, 1, 1, 0, 1, 1]
    mass = (np.arange(1, 9) - 3.5) / np.arange(1, 7).std()
    assert np.abs(encoded[:, 2] - mass).max() < 1e-6
    words = {"g": [1, 0, 0], "i": [0, 1, 0], "r": [0, 0, 1], "": [0, 0, 0]}
    assert encoded[:, 3:6].tolist() == [words[word] for word in dataset.truth["band"]]
    assert encoded[:, 6:].tolist() == [[1, 0], [0, 1]] * 4
    assert np.isfinite(encoded).all()  # a GAN would turn NaN into NaN images


def test_a_column_may_be_asked_for_by_name_and_the_others_are_of_training_images(dataset):
    rows = [3, 0, 4]
    found = conditions.completed(
        TOLD, dataset, {"class": "elliptical", "z_lens": [0.3, None]}, rows, first=1
    )
    assert found["class"].tolist() == [1, 1, 1]
    assert np.array_equal(found["z_lens"], [np.nan, 0.3, np.nan], equal_nan=True)
    assert found["mass"].tolist() == [4e13, 1e13, 5e13] and found["band"].tolist() == [
        "g",
        "r",
        "r",
    ]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"zlens": 1}, "the model is not told zlens; did you mean z_lens?"),
        ({"band": "u"}, "draw: unknown band u; "),
        ({"class": "lens"}, "draw: unknown class lens; "),
        ({"mass": np.nan}, "column mass holds something else than finite numbers, and no training"),
        ({"z_lens": "far"}, "column z_lens holds something else than finite numbers"),
        ({"z_lens": []}, "no value is given for z_lens"),
    ],
    ids=str,
)
def test_what_cannot_be_asked_for_is_one_sentence(given, sentence, dataset):
    with pytest.raises(InputError, match=sentence):
        conditions.completed(TOLD, dataset, given, [0, 1])


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        (("z_len",), "z_len is asked for, and the images come without it; did you mean z_lens?"),
        (("empty",), "no training image has a number in column empty"),
        (("far",), "column far holds infinite numbers"),
    ],
)
def test_a_column_that_tells_nothing_is_refused(told, sentence, dataset):
    with pytest.raises(InputError, match=sentence):
        conditions.width(told, dataset)


def test_identifiers_are_no_condition(dataset, monkeypatch):
    monkeypatch.setattr(conditions, "MOST_NAMES", 4)
    with pytest.raises(InputError, match="column name holds 8 different words for 8 images"):
        conditions.width(("name",), dataset)


def test_a_word_for_each_image_is_no_condition(dataset):
    dataset.truth["name"] = np.array([f"a{k}" for k in range(file_source.FEWEST)])
    with pytest.raises(InputError, match="20 different words for 20 images: they name images"):
        conditions.width(("name",), dataset)
    dataset.truth["name"][1] = "a0"
    assert conditions.width(("name",), dataset) == file_source.FEWEST - 1


def test_places_and_angles_are_known_by_their_names(dataset):
    assert conditions.directed(("e1", "mass", "z_lens"), dataset) == ["e1"]
    truth = dict.fromkeys(["lens_center_x", "ra_0", "theta_E", "max_z", "phi_gamma"], np.zeros(8))
    dataset.truth = truth
    assert conditions.directed(tuple(truth), dataset) == ["lens_center_x", "ra_0", "phi_gamma"]


def test_a_csv_is_written_and_read_with_its_gaps(dataset, tmp_path):
    rows = {name: column[:6] for name, column in conditions.table(TOLD, dataset).items()}
    io.write_table(tmp_path / "mine.csv", conditions.written(rows, dataset))
    again = conditions.read(tmp_path / "mine.csv", TOLD, dataset)
    assert np.array_equal(again["z_lens"], rows["z_lens"], equal_nan=True)
    for name in ("mass", "band", "class"):
        assert again[name].tolist() == rows[name].tolist()
    (tmp_path / "gap.csv").write_text("z_lens,mass,band,class\n,2e13, r ,1\n0.5,1e13,NA,spiral\n")
    gaps = conditions.read(tmp_path / "gap.csv", TOLD, dataset)
    assert np.array_equal(gaps["z_lens"], [np.nan, 0.5], equal_nan=True)
    assert gaps["band"].tolist() == ["r", ""] and gaps["class"].tolist() == [1, 0]


def recipe(context):
    return validate(
        {
            "device": "cpu",
            "data": {"size": 16},
            "model": {
                "width": 16,
                "patch": 4,
                "multipliers": [1, 2],
                "attention": [1],
                "grid": "cartesian",
                "context": context,
            },
            "gan": {"width": 8},
            "sample": {
                "methods": {
                    "diffusion": {"sampler": "ddim", "steps": 2},
                    "gan": {"model": "gan"},
                    "consistency": {"model": "consistency", "steps": 1},
                }
            },
        },
        "test",
    )


@pytest.mark.parametrize("kind", list(kinds.KINDS))
def test_every_kind_of_generator_draws_with_missing_conditions(kind, dataset):
    params = recipe(list(TOLD))
    torch.manual_seed(0)
    net = untrained(kind, params, dataset).eval()
    for weight in net.parameters():  # the last layer starts at zero
        torch.nn.init.normal_(weight, std=0.3)
    made = Generator(params, params.sample.methods[kind], dataset, net, "cpu")
    images = made.draw(4, seed=1, table={"z_lens": None, "band": ""})
    assert np.isfinite(images).all()
    other = made.draw(4, seed=1, table={"z_lens": 0.8, "band": "i"})
    assert np.abs(images - other).max() > 1e-4  # the network sees what is asked
    alone = made.draw(2, seed=1, first=2, table={"z_lens": 0.8, "band": "i"})
    assert np.abs(alone - other[2:]).max() < 1e-5


def test_a_model_that_is_told_nothing_refuses_to_be_asked(dataset):
    params = recipe("none")
    net = untrained("gan", params, dataset).eval()
    made = Generator(params, params.sample.methods["gan"], dataset, net, "cpu")
    with pytest.raises(InputError, match="z_lens cannot be asked for, because this model is told"):
        made.draw(2, table={"z_lens": 0.5})


def test_guidance_drops_the_whole_condition(dataset):
    encoded = conditions.encode(TOLD, dataset, conditions.table(TOLD, dataset))
    seen = []

    def denoise(x, sigma, context):
        seen.append(context)
        return x

    denoiser.guided(denoise, encoded, 2.0)(torch.zeros(8, 1, 4, 4), 1.0)
    assert torch.equal(seen[0][:8], encoded) and seen[0][8:].isnan().all()


@pytest.mark.parametrize(
    ("context", "sentence"),
    [
        ("z_lens", r"a list of columns, such as \[z_lens\]"),
        ([], "names no column; use none"),
        (["q", "q"], "names a column twice"),
    ],
    ids=str,
)
def test_a_recipe_names_columns_in_a_list(context, sentence):
    with pytest.raises(InputError, match=sentence):
        recipe(context)
    assert recipe(["q", "my column"]).model_dump(mode="json")["model"]["context"] == [
        "q",
        "my column",
    ]


# From a file to a drawing -------------------------------------------------------------------------

BANDS = ["r", "", "i", "r", "g, old", "i"] * 4
COUNTS = [3, 1, 5, 7, 2, None] * 4  # whole numbers, one of them missing


def write_csv(folder):
    rows = (
        f"{b and chr(34) + b + chr(34)}, {'' if k is None else k}"
        for b, k in zip(BANDS, COUNTS, strict=True)
    )
    (folder / "t.csv").write_text("band,visits\n" + "\n".join(rows) + "\n")


def write_fits(folder):
    table = Table({"band": MaskedColumn(BANDS, mask=[b == "" for b in BANDS])})
    table["visits"] = MaskedColumn([k or 0 for k in COUNTS], mask=[k is None for k in COUNTS])
    table.write(folder / "t.fits")


def write_parquet(folder):
    table = pandas.DataFrame({"band": [b or None for b in BANDS]})
    table["visits"] = pandas.array(COUNTS, "Int64")
    table["band"] = table["band"].astype("category")
    table.to_parquet(folder / "t.parquet")


def write_npz(folder):
    counts = [np.nan if k is None else k for k in COUNTS]
    np.savez(folder.with_suffix(".npz"), images=noise(24, 16, 16), band=BANDS, visits=counts)


TABLES = {"csv": write_csv, "fits": write_fits, "parquet": write_parquet, "npz": write_npz}


@pytest.mark.parametrize("form", TABLES)
def test_words_and_gaps_of_a_table_reach_the_network(form, src, out):
    table = None if form == "npz" else f"t.{form}"
    if table:
        save_each(src, noise(24, 16, 16))
    TABLES[form](src)
    path = src if table else src.with_suffix(".npz")
    dataset = read(path, out, size=16, table=table)
    told = conditions.columns(("band", "visits"), dataset)
    assert told["band"].names == ("g, old", "i", "r") and told["visits"].gaps
    rows = conditions.table(("band", "visits"), dataset)
    assert rows["band"].tolist() == BANDS
    want = [np.nan if k is None else k for k in COUNTS]
    np.testing.assert_array_equal(rows["visits"], want)
    params = recipe(["band", "visits"])
    torch.manual_seed(0)
    net = untrained("gan", params, dataset).eval()
    for weight in net.parameters():  # the last layer starts at zero
        torch.nn.init.normal_(weight, std=0.3)
    made = Generator(params, params.sample.methods["gan"], dataset, net, "cpu")
    red, other = (made.draw(2, seed=1, table={"band": b, "visits": 3}) for b in ("r", "i"))
    assert np.abs(red - other).max() > 1e-4


def test_a_column_of_words_alone_keeps_its_gaps(src, out):
    save_each(src, noise(24, 8, 8))
    np.savez(src.with_suffix(".npz"), images=noise(24, 8, 8), band=BANDS)
    dataset = read(src.with_suffix(".npz"), out)
    rows = conditions.table(("band",), dataset)
    assert rows["band"].tolist() == BANDS
    io.write_table(out / "context.csv", conditions.written(rows, dataset))
    assert conditions.read(out / "context.csv", ("band",), dataset)["band"].tolist() == BANDS
