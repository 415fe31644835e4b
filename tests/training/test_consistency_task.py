"""A consistency model in a run: what it starts from, what it needs, what it draws."""

import numpy as np
import pytest
import safetensors.torch
import torch
from small_training import recipe, start

from lensnb import io, pipeline, pretrained, sharing
from lensnb.errors import InputError
from lensnb.evaluation.monitor import method_of
from lensnb.generator import Generator, untrained
from lensnb.kinds import trained_for
from lensnb.recipes.recipe import load_recipe, validate
from lensnb.runs import jobs
from lensnb.runs.run_folder import Run
from lensnb.training import loop
from lensnb.training.accelerator import make_accelerator

METHODS = {"one": {"model": "consistency", "steps": 1}, "two": {"model": "consistency", "steps": 2}}


def test_it_starts_from_the_weights_of_the_diffusion_model(dataset, tmp_path):
    p = recipe()
    with pytest.raises(InputError, match="starts from the weights of diffusion"):
        pipeline.train_generator("consistency", p, dataset, tmp_path)
    given = start("consistency", p, dataset, tmp_path)
    task = loop.task("consistency", p, dataset, make_accelerator("cpu"), given)
    expected = safetensors.torch.load_file(given)
    for net in (task.denoiser, task.model.module):
        assert all(torch.equal(net.state_dict()[key], value) for key, value in expected.items())
    wider = recipe(model={"width": 24})
    with pytest.raises(InputError, match="not the weights of this recipe's network"):
        loop.task("consistency", wider, dataset, make_accelerator("cpu"), given)


def test_both_levels_drop_the_same_activations(dataset, tmp_path):
    """With r at t the loss is 0, whatever is dropped."""
    p = recipe(model={"dropout": 0.5}, consistency={"huber": 0})
    given = start("consistency", p, dataset, tmp_path)
    task = loop.task("consistency", p, dataset, make_accelerator("cpu"), given)
    x0, noise = torch.randn(2, 8, 1, 32, 32)
    t, weight, context = torch.ones(8), torch.ones(8), torch.zeros(8, 2)
    ((same,),) = task._losses((x0, t, t, noise, weight, context), 3)
    assert 0 <= same.item() < 1e-6
    ((apart,),) = task._losses((x0, t, t / 2, noise, weight, context), 3)
    assert apart.item() > 1e-3


def test_a_run_trains_the_diffusion_model_first(tmp_path):
    p = validate({"run": "c", "sample": {"methods": METHODS}}, "test")
    run = Run(p, tmp_path)
    assert run.stages("02_train") == ["models/diffusion", "models/consistency"]
    assert trained_for(["gan", "consistency"]) == ["gan", "diffusion", "consistency"]
    assert run.reads("models/consistency") == ["data", "models/diffusion"]
    assert run.reads("samples/one") == ["data", "models/consistency"]
    assert jobs.waits_for(run, "models/consistency", spread=True) == [
        ("c", "01_data"),
        ("c", "models/diffusion"),
    ]
    assert "models/consistency" not in Run(load_recipe("params/quick.yaml")).stages("02_train")


@pytest.mark.parametrize(
    "method, said",
    [
        ({}, "needs `steps` from 1 to 2"),
        ({"steps": 3}, "needs `steps` from 1 to 2"),
        ({"steps": 1, "sampler": "ddim"}, "takes no `sampler`"),
        ({"steps": 1, "guidance": 2.0}, "leave out `guidance`"),
        ({"steps": 2, "sigma_mid": 100.0}, "sigma_mid 100.0 must be below sigma_max"),
    ],
)
def test_a_method_that_it_cannot_draw_is_refused(method, said):
    tree = {"sample": {"methods": {"mine": {"model": "consistency"} | method}}}
    with pytest.raises(InputError, match=said):
        validate(tree, "test")


def test_a_training_is_watched_also_where_no_method_draws_from_it():
    chosen = method_of(recipe(), "consistency")
    assert (chosen.model, chosen.steps) == ("consistency", 2)
    assert method_of(recipe(sample={"methods": METHODS}), "consistency").steps == 1


def test_an_exported_consistency_model_draws_its_bits_and_is_a_program(tmp_path):
    tree = (
        "run=mine data.n=60 data.holdout=0.2 model.width=8 model.groups=4 sample.n=3 "
        "train.steps=2 consistency.steps=2 train.watch_every=0 consistency.watch_every=0"
    )
    params = load_recipe("params/tiny.yaml", tree).model_dump()
    params["sample"]["methods"] = METHODS
    run = Run(validate(params, "test"), tmp_path)
    pipeline.make_data(run)
    for name in trained_for(["consistency"]):
        pipeline.train_model(run, name)
    expected = pipeline.load_generator(run, "two")
    folder = sharing.export(run, tmp_path / "out")
    loaded = pretrained.load(str(folder), "two")
    drawn = expected.draw(3, seed=5)
    assert np.array_equal(loaded.draw(3, seed=5), drawn)
    first = run.path / "models/diffusion/model.safetensors"
    assert io.sha256(folder / "model.safetensors") != io.sha256(first), "the tuned weights"
    program = torch.export.load(folder / "denoiser.pt2").module()
    net = loaded.inner.net
    width = io.read_json(folder / "config.json")["context"]
    told = (torch.zeros(3, width),) if width else ()
    x, sigma = 80 * torch.randn(3, 1, 32, 32), torch.full((3,), 80.0)
    with torch.no_grad():
        error = (program(x, sigma, *told) - net(x, sigma, *told)).abs().max()
    assert error < 1e-5


def test_a_network_that_changes_clean_images_is_refused():
    tree = {"diffusion": {"prediction": "x0"}, "sample": {"methods": METHODS}}
    with pytest.raises(InputError, match=r"diffusion.prediction x0 does not"):
        validate(tree, "test")


def test_one_step_is_one_evaluation_and_images_have_their_own_seeds(dataset, tmp_path):
    p = recipe(sample={"methods": METHODS})
    net = untrained("consistency", p, dataset)
    given = start("consistency", p, dataset, tmp_path)
    net.load_state_dict(safetensors.torch.load_file(given))
    net.eval()
    for evaluations, method in enumerate(p.sample.methods.values(), 1):
        calls = []
        handle = net.register_forward_hook(lambda *call, calls=calls: calls.append(1))
        generator = Generator(p, method, dataset, net, "cpu")
        drawn = generator.draw(5, seed=1, batch=5)
        handle.remove()
        assert len(calls) == generator.nfe == evaluations
        alone = generator.draw(1, seed=1, first=3)
        assert abs(alone[0] - drawn[3]).max() < 1e-4 * abs(drawn).max()
        table, x, x0 = generator.trajectory(2, seed=1)
        assert len(table["step"]) == len(x) == len(x0) == evaluations
    assert generator.variant(steps=1).nfe == 1 and generator.variant(steps=50).nfe == 2
    with pytest.raises(InputError, match="a consistency model has no denoiser"):
        generator.prior()
