"""Learning rates, averages, micro-batches and fp16."""

from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch
from small_training import recipe, trained

from lensnb import io, pipeline
from lensnb.errors import InputError
from lensnb.recipes.schema import Train
from lensnb.training import diffusion_task, loop, optimise
from lensnb.training.accelerator import make_accelerator
from lensnb.training.average import Average


def test_the_rate_rises_stays_and_falls_to_zero():
    settings = recipe(train={"steps": 100, "warmup": 9, "cooldown": 0.5}).train
    share = [optimise.rate_factor(k, settings) for k in range(100)]
    assert abs(share[0] - 0.1) < 1e-12 and share[9:50] == [1.0] * 41
    assert (
        max(abs(s - (100 - k) / 51) for k, s in enumerate(share[50:], 50)) < 1e-12
        and share[-1] < 0.02
    )


def test_one_cycle_is_torchs_own():
    weight = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([weight], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.3, total_steps=200, pct_start=0.25)
    settings = recipe(train={"steps": 200, "shape": "onecycle", "warmup": 0.25}).train
    for k in range(200):
        assert (
            abs(0.3 * optimise.rate_factor(k, settings) - optimiser.param_groups[0]["lr"]) < 1e-12
        )
        optimiser.step()
        if k < 199:
            theirs.step()


def test_the_cosine_rate_rises_and_falls_to_zero():
    settings = recipe(train={"steps": 110, "shape": "cosine", "warmup": 10}).train
    share = [optimise.rate_factor(k, settings) for k in range(110)]
    assert np.abs(np.diff(share[:10]) - 1 / 11).max() < 1e-12 and share[10] == 1
    assert (
        abs(share[60] - 0.5) < 1e-12
        and share[-1] < 1e-3
        and min(np.diff(share[:11])) > 0 > max(np.diff(share[10:]))
    )


def test_linear_decay_is_a_trapezium_without_plateau():
    settings = recipe(train={"steps": 50, "warmup": 0, "cooldown": 1.0}).train
    share = [optimise.rate_factor(k, settings) for k in range(50)]
    assert np.abs(np.array(share) - (50 - np.arange(50)) / 51).max() < 1e-12


@pytest.mark.parametrize("shape", ["cosine", "onecycle"])
def test_a_training_may_be_all_warm_up(shape):
    settings = Train(steps=3, warmup=3, shape=shape)
    assert all(0 <= optimise.rate_factor(k, settings) <= 1 for k in range(4))


def test_the_average_is_the_recursion_written_out():
    net = torch.nn.BatchNorm1d(1)  # weights, buffers and a counter
    average = Average(net, 0.1)
    expected = None
    for n, value in enumerate([3.0, -1.0, 4.0, 1.0, -5.0]):
        net.weight.data.fill_(value)
        net.running_mean.fill_(-value)
        net.num_batches_tracked.fill_(n)
        average.update()
        expected = value if n == 0 else expected + (value - expected) / (1 + 0.1 * n)
    found = average.module
    assert abs(found.weight.item() - expected) < 1e-6
    assert abs(found.running_mean.item() + expected) < 1e-6
    assert found.num_batches_tracked.item() == 4
    resumed = Average(torch.nn.BatchNorm1d(1), 0.1)
    resumed.load_state_dict(average.state_dict())
    assert resumed.updates == 5 and torch.equal(resumed.module.weight, found.weight)


@pytest.mark.parametrize("pieces, processes, n", [(1, 1, 8), (2, 1, 8), (1, 3, 8), (2, 2, 3)])
def test_parts_are_the_batch_once_and_each_has_all_noise_levels(pieces, processes, n):
    rows = torch.arange(n)
    found = []
    for index in range(processes):
        on = SimpleNamespace(num_processes=processes, process_index=index)
        found += list(optimise.split_batch((rows, None), pieces, on))
    assert sorted(torch.cat([part for (part, _), _ in found]).tolist()) == rows.tolist() and all(
        nothing is None for (_, nothing), _ in found
    )
    assert abs(sum(share for _, share in found) - 1) < 1e-12
    assert all(
        part.float().diff().max() <= pieces * processes for (part, _), _ in found if len(part) > 1
    )
    assert len(found) == min(n, pieces * processes) and all(
        part[0] < pieces * processes for (part, _), _ in found
    )


@pytest.mark.parametrize(
    "name, changes, updates",
    [
        ("diffusion", {"train": {"accumulate": 2}, "model": {"norm": "batch"}}, 1),
        ("consistency", {"consistency": {"accumulate": 2}}, 1),
        ("gan", {"gan": {"kind": "published"}}, 2),  # of the discriminator and of the generator
    ],
)
def test_several_processes_exchange_one_message_an_update(
    name, changes, updates, dataset, monkeypatch
):
    """What a step reports comes out of the same message: here twice what went in."""
    sent = []

    def all_reduce(flat):
        sent.append(flat.clone())
        flat *= 2

    accelerator = make_accelerator("cpu")
    task = loop.task(name, recipe(**changes), dataset, accelerator)
    alone = {"process_index": 0, "num_processes": 1, "scaler": None, "device": accelerator.device}
    two = SimpleNamespace(**alone | {"num_processes": 2}, backward=lambda loss: loss.backward())
    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    for update in (
        getattr(task, n) for n in ("update", "update_d", "update_g") if hasattr(task, n)
    ):
        update.accelerator = two
    x = torch.randn(8, 1, 32, 32)
    losses = task.step(0, x, torch.eye(2)[torch.arange(8) % 2], torch.Generator().manual_seed(0))
    assert len(sent) == updates
    told = {n: v for n, v in losses.items() if torch.is_tensor(v)}
    assert {v.item() / 2 for v in told.values()} <= {v.item() for flat in sent for v in flat[-2:]}


def test_a_message_holds_every_tensor_once_whatever_its_memory_order(monkeypatch):
    maps = torch.randn(3, 4, 5, 2)
    last = maps.clone(memory_format=torch.channels_last)
    pairs = [(maps.clone(), last), (last.clone(), last), (torch.tensor(2.0), torch.tensor(0.0))]
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda flat: flat.mul_(3))
    optimise.sum_as_one(pairs)
    assert all(torch.equal(t, 3 * maps) for t, _ in pairs[:2]) and pairs[2][0].item() == 6
    assert pairs[1][0].stride() == last.stride()


def test_a_batch_in_pieces_is_the_same_update(dataset, tmp_path):
    """Accumulation saves memory and changes nothing: group norm knows no batch."""
    weights = []
    for pieces in (1, 3):
        p = recipe(train={"steps": 3, "accumulate": pieces}, model={"dropout": 0})
        (tmp_path / str(pieces)).mkdir()
        pipeline.train_generator("diffusion", p, dataset, tmp_path / str(pieces))
        weights.append(safetensors.torch.load_file(tmp_path / str(pieces) / "model.safetensors"))
    assert max((weights[0][k] - weights[1][k]).abs().max() for k in weights[0]) < 1e-4
    histories = [io.read_table(tmp_path / str(n) / "history.csv")["loss"] for n in (1, 3)]
    assert abs(histories[0] / histories[1] - 1).max() < 1e-4


def test_fp16_skips_what_overflows_counts_it_and_gives_up_where_all_does(
    dataset, tmp_path, monkeypatch
):
    """The scaler of torch on a CPU stands in for that of a GPU."""
    real = make_accelerator

    def scaled(*a):
        made = real("cpu")
        made.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
        return made

    monkeypatch.setattr(pipeline, "make_accelerator", scaled)
    plain = diffusion_task.denoiser.loss
    calls = []

    def overflow(*a, every):
        calls.append(1)
        return plain(*a) * (float("inf") if len(calls) % every == 0 else 1)

    monkeypatch.setattr(diffusion_task.denoiser, "loss", lambda *a: overflow(*a, every=5))
    folder = trained(tmp_path / "some", dataset, train={"steps": 30, "log_every": 10})
    table = io.read_table(folder / "history.csv")
    assert np.abs(table["skipped"] - 0.2).max() < 1e-12
    assert all(
        torch.isfinite(w).all()
        for w in safetensors.torch.load_file(folder / "model.safetensors").values()
    )
    monkeypatch.setattr(diffusion_task.denoiser, "loss", lambda *a: overflow(*a, every=1))
    with pytest.raises(
        InputError, match="fp16 skipped most updates before step 10; set train.precision"
    ):
        trained(tmp_path / "all", dataset, train={"steps": 30, "log_every": 10})
