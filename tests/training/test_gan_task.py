"""The GAN's task: who is updated when."""

import torch
from small_training import recipe

from lensnb.training import loop
from lensnb.training.accelerator import make_accelerator


def test_the_gans_two_updates_touch_their_own_network_only(dataset):
    task = loop.task("gan", recipe(gan={"critic_updates": 2}), dataset, make_accelerator("cpu"))

    def weights(net):
        return torch.cat([p.detach().flatten() for p in net.parameters()])

    x = torch.randn(8, 1, 32, 32)
    generator = torch.Generator().manual_seed(0)
    updates = []
    for name in ("adam_d", "adam_g"):
        optimiser = getattr(task, name)
        original = optimiser.step

        def spy(*a, original=original, name=name, **k):
            before = weights(task.generator), weights(task.discriminator)
            original(*a, **k)
            updates.append(
                (
                    name,
                    not torch.equal(before[0], weights(task.generator)),
                    not torch.equal(before[1], weights(task.discriminator)),
                )
            )

        optimiser.step = spy
    task.step(0, x, torch.eye(2)[torch.arange(8) % 2], generator)
    assert updates == [("adam_d", False, True)] * 2 + [("adam_g", True, False)]
