"""An exported folder draws the run's bits anywhere, and its program is the denoiser."""

import pickle
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import lensnb
from lensnb import generator, io, sharing
from lensnb.apps import cli
from lensnb.display import citation
from lensnb.errors import InputError
from lensnb.recipes.recipe import load_recipe
from lensnb.recipes.schema import Model
from lensnb.runs.run_folder import Run

TINY = (
    "run=mine seed=3 data.n=60 data.holdout=0.2 model.width=8 model.groups=4 gan.width=8 "
    "train.steps=2 gan.steps=2 train.watch_every=0 gan.watch_every=0 sample.n=3"
)

SHAPE = (1, 32, 32)  # of the tiny recipe's images


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with data and trained models, nothing else."""
    opened = lensnb.open_run(load_recipe("params/tiny.yaml", TINY))
    run = Run(opened.params, tmp_path_factory.mktemp("outputs"))
    lensnb.make_data(run)
    for model in ("diffusion", "gan"):
        lensnb.train_model(run, model)
    return run


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    """The exported folder, moved away; the run's images are gone to it."""
    place = tmp_path_factory.mktemp("elsewhere")
    sharing.export(run, place / "first")
    shutil.move(place / "first", place / "moved")
    return place / "moved"


@pytest.mark.parametrize("method", ["ddim", "ddpm", "gan"])
def test_it_draws_the_bits_of_the_run_without_the_run(run, folder, method, tmp_path, monkeypatch):
    expected = lensnb.load_generator(run, method).draw(3, seed=5)
    monkeypatch.setenv("LENSNB_OUTPUTS", str(tmp_path))  # where no run is
    assert np.array_equal(lensnb.load(folder, method).draw(3, seed=5), expected)


def test_loading_unpickles_nothing(folder, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("pickle")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    assert np.isfinite(lensnb.load(folder, "ddim").draw(1)).all()


def test_a_changed_file_is_refused_and_a_rewritten_card_is_not(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "README.md").write_text("my own words")
    lensnb.load(copy)
    (copy / "recipe.yaml").write_bytes((copy / "recipe.yaml").read_bytes() + b" ")
    with pytest.raises(InputError, match="recipe.yaml: not the published file.*copy the folder"):
        lensnb.load(copy)


def test_places_that_are_wrong_are_one_sentence(run, folder, tmp_path):
    with pytest.raises(InputError, match="there already; name a new folder"):
        sharing.export(run, folder)
    with pytest.raises(InputError, match="holds no exported model; lensnb export RUN"):
        lensnb.load(tmp_path)
    shutil.copytree(run.path / "data", tmp_path / "mine" / "data")
    with pytest.raises(InputError, match="models/diffusion: not there or not whole"):
        sharing.export(Run(run.params, tmp_path), tmp_path / "new")
    assert not list(tmp_path.glob("*new*"))


def test_the_command_writes_the_same(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LENSNB_OUTPUTS", str(run.outputs))
    with pytest.raises(SystemExit) as left:
        cli.main(["export", "mine", "--to", str(tmp_path / "out")])
    assert left.value.code == 0 and "model.safetensors" in capsys.readouterr().out
    there = load_file(run.path / "models/diffusion/model.safetensors")
    here = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(here[key], there[key]) for key in there | here)


def test_hugging_faces_mixin_pulls_and_pushes_this_layout(folder, tmp_path, monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")  # others bring it
    monkeypatch.setattr("socket.socket.connect", None)  # nothing is asked of a network

    class Mine(sharing.SharedDenoiser, huggingface_hub.PyTorchModelHubMixin):
        pass

    pulled = Mine.from_pretrained(folder)
    pulled.save_pretrained(tmp_path / "again")
    assert {"config.json", "model.safetensors", "README.md"} <= {
        path.name for path in (tmp_path / "again").iterdir()
    }
    again = Mine.from_pretrained(tmp_path / "again").eval()
    inner = lensnb.load(folder, "ddim").inner
    width = io.read_json(folder / "config.json")["context"]
    x, sigma = torch.randn(2, *SHAPE), torch.tensor([0.1, 5.0])
    context = torch.zeros(2, width) if width else None
    with torch.no_grad():
        assert torch.equal(again(x, sigma, context), inner.net(x, sigma, context))


def test_the_program_is_the_denoiser_at_other_inputs_and_sizes(folder):
    net = lensnb.load(folder, "ddim").inner.net
    program = torch.export.load(folder / "denoiser.pt2").module()
    width = io.read_json(folder / "config.json")["context"]
    for n in (1, 4, 7):
        sigma = torch.logspace(-2, 1.5, n)
        x = torch.randn(n, *SHAPE) * (1 + sigma.view(-1, 1, 1, 1))
        told = (torch.randn(n, width),) if width else ()
        with torch.no_grad():
            expected, found = net(x, sigma, *told), program(x, sigma, *told)
        assert (expected - found).abs().max() < 1e-5 * expected.abs().max()
    with torch.no_grad():
        other = program(x, 2 * sigma, *told)
    assert (other - found).abs().max() > 1e-3  # it reads the noise level


@pytest.mark.parametrize(
    "section", [{"network": "dit"}, {"grid": "polar", "fine": 16}, {"block": "shuffle"}]
)
def test_each_network_becomes_a_program(section):
    params = lensnb.Params(
        model=Model(width=32, groups=4, **section), diffusion={"prediction": "v"}
    )
    torch.manual_seed(0)
    denoise = generator.denoiser_of(params, 1, 0.5, context=2).eval()
    for weights in denoise.parameters():  # an untrained network predicts nothing
        torch.nn.init.normal_(weights, std=0.1)
    program = sharing.program_of(denoise, (1, 64, 64), 2).module()
    assert sharing.disagreement(denoise, program, (1, 64, 64), 2) < 1e-5


def test_a_model_of_own_images_is_built_again_as_it_was_trained(tmp_path):
    """`auto` means another network for images from files than for simulated lenses."""
    np.save(tmp_path / "mine.npy", np.random.default_rng(0).normal(size=(60, 48, 48)))
    given = f"data.path={tmp_path / 'mine.npy'} data.size=48 model.grid=auto model.fine=auto"
    recipe = load_recipe("params/tiny.yaml", f"{TINY} {given}")
    methods = {"ddim": recipe.sample.methods["ddim"]}
    sample = recipe.sample.model_copy(update={"methods": methods})
    run = Run(recipe.model_copy(update={"sample": sample}), tmp_path)
    lensnb.make_data(run)
    lensnb.train_model(run, "diffusion")
    folder = sharing.export(run, tmp_path / "out")
    drawn = lensnb.load_generator(run, "ddim").draw(2, seed=1)
    assert np.array_equal(lensnb.load(folder, "ddim").draw(2, seed=1), drawn)


def test_words_told_to_a_model_come_along(run, tmp_path):
    """A column of text is written as numbers, and read back as words."""
    dataset = lensnb.load_data(run)
    bands = np.array(["g", "r", "", "i"])[np.arange(len(dataset.images)) % 4]
    dataset.truth["band"] = bands
    run = Run(run.params.model_copy(deep=True), run.outputs)
    run.params.model.__dict__["context"] = ("band", "theta_E")
    sharing.write_notes(run, dataset, tmp_path)
    back = lensnb.pretrained.shipped_dataset(tmp_path)
    assert back.truth["band"].tolist() == bands[dataset.train].tolist()
    assert np.array_equal(back.truth["theta_E"], dataset.truth["theta_E"][dataset.train])


def test_the_cards_tell_where_it_comes_from(run, folder):
    card = (folder / "README.md").read_text()
    for words in ("lensnb.load(", "seed 3", "2 steps", "Not measured yet", "2006.11239", "2501."):
        assert words in card, words
    data = (folder / "DATA.md").read_text()
    assert "| trained on | 48 |" in data and "| held out | 12 |" in data


# What to cite -------------------------------------------------------------------------------------


def test_only_what_the_run_uses_is_cited():
    params = load_recipe("params/tiny.yaml").model_dump(mode="json")
    used = citation.papers(params)
    assert {"ho2020ddpm", "song2020ddim", "huang2025r3gan"} <= set(used)
    assert "lu2022dpmsolver" not in used and "peebles2022dit" not in used
    params["sample"]["methods"] = {"gan": params["sample"]["methods"]["gan"]}
    assert citation.papers(params) == ["huang2025r3gan"]


def test_every_sampler_and_gan_has_its_paper():
    from lensnb.networks import GAN_NETWORKS
    from lensnb.sampler import SAMPLERS

    assert set(citation.SAMPLERS) == set(SAMPLERS)
    assert set(citation.GANS) == set(GAN_NETWORKS)
    tables = (citation.SAMPLERS, citation.GANS, citation.PREDICTIONS, citation.SCHEDULES)
    keys = {
        key for table in (*tables, citation.NETWORKS) for found in table.values() for key in found
    }
    assert keys <= set(citation.PAPERS)


def test_the_paragraph_tells_error_floor_and_n():
    params = load_recipe("params/tiny.yaml").model_dump(mode="json")
    row = {"metric": "frechet_lensnet", "method": "ddim", "value": 12.345, "error": 0.678}
    row |= {"floor": 2.5, "floor_error": 0.4, "n": 256}
    told = {"lensnb": "0.3.0", "commit": "0123456789abcdef", "modified": True}
    made = citation.Citation(params, told, "60 images", [row])
    assert "lensnb 0.3.0 (commit 0123456789ab, modified)" in made.methods
    assert (
        "n = 256" in made.methods and "12.3 ± 0.68" in made.methods and "2.5 ± 0.4" in made.methods
    )
    assert made.bibtex.count("@") == 1 + len(citation.papers(params))
    assert made.bibtex.count("{") == made.bibtex.count("}")
