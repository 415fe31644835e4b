"""The running average of a network in training; its weights are the ones that are kept."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

Pairs = tuple[list[torch.Tensor], list[torch.Tensor]]  # of the average, of the network


class Average(nn.Module):
    """An exponential moving average of a network over the last `share` of the updates so far.

    The decay grows with the number of updates n: average += (new - average) / (1 + share n).
    Weights and buffers are averaged; buffers of whole numbers, which are counters, are copied.

    module : the averaged network, a copy of `net` at first
    """

    def __init__(self, net: nn.Module, share: float) -> None:
        super().__init__()
        self.module = copy.deepcopy(net)
        self.share = share
        self.updates = 0
        pairs = list(zip(_tensors(self.module), _tensors(net), strict=True))
        self._numbers = _unzipped([pair for pair in pairs if pair[0].is_floating_point()])
        self._counters = _unzipped([pair for pair in pairs if not pair[0].is_floating_point()])

    @torch.no_grad()
    def update(self) -> None:
        """Take in the network as it is now, in a few kernels for all tensors together."""
        if self.updates == 0:
            _copy(*self._numbers)
        else:
            self._approach(*self._numbers)
        _copy(*self._counters)
        self.updates += 1

    def _approach(self, average: list[torch.Tensor], new: list[torch.Tensor]) -> None:
        # in single precision, which the weights have
        span = 1 + np.float32(self.share) * np.float32(self.updates)
        change = torch._foreach_sub(new, average)
        torch._foreach_div_(change, float(span))
        torch._foreach_add_(average, change)

    def get_extra_state(self) -> int:
        """The number of updates, which the checkpoint keeps beside the averaged network."""
        return self.updates

    def set_extra_state(self, state: Any) -> None:
        """Take the number of updates back from a checkpoint."""
        self.updates = int(state)


def _tensors(net: nn.Module) -> list[torch.Tensor]:
    """All weights and buffers."""
    return [*net.parameters(), *net.buffers()]


def _unzipped(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> Pairs:
    return [average for average, _ in pairs], [new for _, new in pairs]


def _copy(average: list[torch.Tensor], new: list[torch.Tensor]) -> None:
    if average:
        torch._foreach_copy_(average, new)
