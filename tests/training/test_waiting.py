"""Between two lines of progress no step waits for a GPU, whatever is trained."""

from collections import Counter

import pytest
import torch
from accelerate import Accelerator
from small_training import POLAR, recipe
from stalls import GPU, OnGpu, Stalls

from lensnb.kinds import KINDS
from lensnb.training import loader, loop
from lensnb.training.accelerator import make_accelerator

STEPS = 2
KEYS = {"steps": STEPS, "log_every": STEPS, "checkpoint_every": STEPS}
TASKS = [
    ("diffusion", {"model": POLAR}),
    ("diffusion", {"train": {"accumulate": 3}, "diffusion": {"schedule": "edm"}}),
    ("diffusion", {"model": {"network": "dit"}, "diffusion": {"schedule": "flow"}}),
    ("diffusion", {"model": {"block": "context", "norm": "batch"}, "train": {"hold": "disk"}}),
    ("gan", {"gan": {"penalty_every": 2}}),
    ("consistency", {"consistency": {"accumulate": 3}}),
    ("gan", {"gan": {"kind": "published", "critic_updates": 2, "flips": "mirror"}}),
]


@pytest.mark.parametrize("name, changes", TASKS, ids=str)
def test_a_step_neither_waits_for_a_gpu_nor_copies_to_it(
    name, changes, dataset, tmp_path, monkeypatch
):
    section = KINDS[name].section
    p = recipe(**changes | {section: KEYS | changes.get(section, {})})
    settings = getattr(p, section)
    accelerator = make_accelerator("cpu")
    monkeypatch.setattr(loader, "WORKERS", 0)
    monkeypatch.setattr(Accelerator, "device", GPU)
    monkeypatch.setattr(torch, "Generator", OnGpu)
    task = loop.task(name, p, dataset, accelerator)
    batches = loader.batches_of(dataset, torch.zeros(40, 2), settings, p.seed, GPU)
    with Stalls():  # some copies are made once a training
        loop.one_step(task, batches, 0, p.seed, GPU)
    with Stalls() as found:
        loop.fit(task, batches, settings, p.seed, tmp_path, GPU)
    assert found.waits.total() == 1, "the line of progress reads all losses at once"
    # images that are read from disk come in one copy a step
    assert found.copies.total() == (STEPS if settings.hold == "disk" else 0)


def test_fp16_waits_no_more(dataset):
    """The scaler of torch on a CPU stands in for that of a GPU."""
    accelerator = make_accelerator("cpu")
    accelerator.scaler = torch.amp.GradScaler("cpu")
    params = recipe()  # torch's own optimisers scale on the device; beside Muon the scaler waits
    adamw = {
        name: getattr(params, name).model_copy(update={"optimiser": "adamw"})
        for name in ("train", "consistency")
    }
    params = params.model_copy(update=adamw)
    for name in KINDS:
        task = loop.task(name, params, dataset, accelerator)
        batches = loader.Batches(torch.randn(36, 1, 32, 32), torch.zeros(36, 2), 8, "square", 0)
        with Stalls(torch.device("cpu")) as found:
            losses = [loop.one_step(task, batches, k, 0, "cpu") for k in range(2)]
        assert found.waits == Counter() and all("skipped" in row for row in losses)
