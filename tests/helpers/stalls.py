"""What a GPU would wait for: reads of its tensors, and copies between it and the processor.

The meta device stands in for the GPU. Its tensors have a shape but no numbers, so whatever needs
their numbers cannot go unseen.
"""

from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import arg_tree_leaves

GPU = torch.device("meta")
aten = torch.ops.aten
READS = (aten._local_scalar_dense, aten.is_nonzero, aten.equal)
SIZED_BY_NUMBERS = (aten.nonzero, aten.masked_select, aten._unique2, aten.unique_dim)
INDEXING = (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_)


class OnGpu(torch.Generator):
    """A generator that says that it is on the GPU; the meta device has none of its own."""

    device = GPU

    def __new__(cls, device=None):
        return super().__new__(cls)


class Stalls(TorchDispatchMode):
    """Counts while it is entered, and makes up the numbers that are read from the meta device.

    waits : operations that read numbers from the GPU; copies : from the processor to it
    """

    def __init__(self, gpu=GPU):
        super().__init__()
        self.gpu = gpu
        self.waits = Counter()
        self.copies = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket
        tensors = [a for a in arg_tree_leaves(*args, **kwargs) if isinstance(a, torch.Tensor)]
        if self.reads(name, tensors, args, kwargs):
            self.waits[str(name)] += 1
            return made_up(name, args, kwargs) if self.gpu == GPU else func(*args, **kwargs)
        if self.brings(name, tensors, kwargs):
            self.copies[str(name)] += 1
        return func(*args, **kwargs)

    def is_there(self, tensor):
        """Whether a tensor is on the GPU."""
        return tensor.device.type == self.gpu.type

    def reads(self, name, tensors, args, kwargs):
        """Whether an operation needs numbers from the GPU."""
        if not any(map(self.is_there, tensors)):
            return False
        masks = args[1] if name in INDEXING else ()
        if any(mask is not None and mask.dtype == torch.bool for mask in masks):
            return True
        leaves = name is aten._to_copy and kwargs.get("device") not in (None, self.gpu)
        return leaves or name in READS or name in SIZED_BY_NUMBERS

    def brings(self, name, tensors, kwargs):
        """Whether an operation copies numbers to the GPU."""
        if not any(map(self.is_there, tensors)):
            return name is aten._to_copy and kwargs.get("device") == self.gpu
        # single numbers are arguments of a kernel, and no copies
        return name is aten.lift_fresh or any(t.dim() and not self.is_there(t) for t in tensors)


def made_up(name, args, kwargs):
    """Zeros in place of numbers that the meta device cannot give, of a size that it might have."""
    first = args[0]
    if name is aten._to_copy:
        return torch.zeros(first.shape, dtype=kwargs.get("dtype") or first.dtype)
    if name is aten._unique2:
        return first.new_empty(2), first, first
    if name is aten.nonzero:
        return first.new_empty((first.numel(), first.dim()), dtype=torch.long)
    return 0 if name in READS else first
