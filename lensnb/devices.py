"""Where networks run: the device of a recipe, its precision, its memory, and the way back.

All of it is written for any device. What differs on CUDA is asked of the device in one place each.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from lensnb.errors import InputError, one_line

USABLE = 0.7  # share of the free memory that a batch may plan with
TRIED = (4, 8)  # images of the two trials that measure the memory of an image


def find_device(name: str = "auto") -> torch.device:
    """The torch device that a recipe asks for; "auto" is a GPU if there is one.

    Raises InputError for a device that this machine does not have.
    """
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    best = next(device for device, available in there.items() if available)
    if name != "auto" and not there[name]:
        raise InputError(f"device: {name} is asked for, and this machine offers {best}")
    return torch.device(best if name == "auto" else name)


def with_doubles(device: torch.device) -> torch.device:
    """The device, or the CPU in place of one that knows no float64 and lacks operations, as mps."""
    return device if device.type == "cuda" else torch.device("cpu")


# Precision ----------------------------------------------------------------------------------------


def has_bf16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16; a CPU does, if slowly."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" or torch.backends.mps.is_macos_or_newer(14, 0)


def find_precision(name: str, device: torch.device, key: str = "sample.precision") -> str:
    """fp32 or bf16: "auto" is bf16 on a CUDA device that has it.

    Raises InputError, which names the recipe's `key`, for bf16 on a device without it.
    """
    if name == "auto":
        return "bf16" if device.type == "cuda" and has_bf16(device) else "fp32"
    if name == "bf16" and not has_bf16(device):
        whose = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        raise InputError(f"{key}: {whose} has no bfloat16; set it to auto or fp32")
    return name


def in_precision(name: str, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """A context in which networks compute in fp32 or bf16; tensors outside of them stay float32."""
    if name == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def full_precision(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """A context in which float32 convolutions are not rounded to 10 bits, as CUDA does unasked."""
    if device.type != "cuda":
        return contextlib.nullcontext()
    flags: contextlib.AbstractContextManager[Any] = torch.backends.cudnn.flags(
        enabled=True, allow_tf32=False
    )
    return flags


# Networks -----------------------------------------------------------------------------------------


def placed(net: nn.Module, device: torch.device) -> nn.Module:
    """The network on a device, in evaluation mode, its weights laid out as the device likes them.

    On a CPU the layout stays, and with it the last bits of all results.
    """
    net = net.to(device).eval()
    if device.type == "cuda":
        net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net


class Compiled:
    """A network that torch.compile has made faster, for batches of one shape.

    Where compiling fails, one line says so, and the network itself is called from then on.
    """

    def __init__(self, net: Callable[..., torch.Tensor]) -> None:
        self.net = net
        self.fast: Callable[..., torch.Tensor] | None = None
        self.failed = False

    def __call__(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        if not self.failed:
            try:
                if self.fast is None:  # a compiled network has no truth value
                    self.fast = torch.compile(self.net, dynamic=False)
                return self.fast(*args, **kwargs)
            except Exception as error:  # a compiler may raise anything
                if is_out_of_memory(error):
                    raise
                self.failed = True
                print(f"not compiled, so slower: {one_line(error, 120)}", flush=True)
        return self.net(*args, **kwargs)


# Memory -------------------------------------------------------------------------------------------


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch could not get memory, on a GPU or on a CPU.

    oneDNN, which convolves on a CPU, says then that it could not create a primitive.
    """
    words = ("can't allocate memory", "could not create a primitive")
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )


def free_bytes(device: torch.device) -> int:
    """Bytes that are free on a CUDA device, with those that torch holds and does not use."""
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + held


def peak_bytes(run: Callable[[int], object], n: int, device: torch.device) -> int:
    """Bytes that run(n) takes on a CUDA device at most, beside what is there before."""
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run(n)
    return torch.cuda.max_memory_allocated(device) - before


def fitting_batch(run: Callable[[int], object], device: torch.device) -> int:
    """How many images run(n) can work on at once in the free memory of a CUDA device.

    Two small trials measure the memory of an image. Their difference leaves out what does not grow
    with n.
    """
    few, more = TRIED
    run(few)  # what is allocated once, such as workspaces, does not count
    image = (peak_bytes(run, more, device) - peak_bytes(run, few, device)) / (more - few)
    return max(1, int(USABLE * free_bytes(device) / max(image, 1)))


# The way back -------------------------------------------------------------------------------------


class Arriving:
    """A tensor on its way from a device to an array; `array` waits until it is there.

    From CUDA it travels beside the work that was asked for after it.
    """

    def __init__(self, x: torch.Tensor) -> None:
        self.arrived: Any = None
        if x.device.type == "cuda":
            self.there = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
            self.there.copy_(x, non_blocking=True)
            self.arrived = torch.cuda.Event()
            self.arrived.record(torch.cuda.current_stream(x.device))
        else:
            self.there = x.cpu()

    def array(self) -> np.ndarray:
        """The values, once they are there."""
        if self.arrived is not None:
            self.arrived.synchronize()
        array: np.ndarray = self.there.numpy()
        return array
