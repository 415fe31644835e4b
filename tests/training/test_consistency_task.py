"""A consistency model in a run: what it starts from, what it needs, what it draws."""

import pytest
import safetensors.torch
import torch
from small_training import recipe, start

from lensnb import pipeline
from lensnb.errors import InputError
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
