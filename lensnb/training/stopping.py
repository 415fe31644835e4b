"""Ctrl-C and SIGTERM wait until a training has saved its state."""

import signal
import threading
import time
from types import FrameType
from typing import Any, NoReturn

import torch

from lensnb.training.accelerator import is_distributed, is_main_process

AGREE_EVERY = 5  # steps; several processes agree on whether to stop
SAME_SIGNAL = 2.0  # seconds; the shell and the launcher may both pass on the same signal


class StopSignals:
    """While it is entered, Ctrl-C and SIGTERM are noted, and the loop asks for them.

    A second signal stops at once. Several processes all stop after the same step, whichever of them
    got the signal; otherwise the others would wait for it forever.
    """

    def __init__(self) -> None:
        self.number: int | None = None  # of the signal that came first
        self.time = 0.0  # when it came
        self.handlers: dict[int, Any] = {}  # the handlers from before
        self.asked: tuple[torch.Tensor, Any] | None = None  # on its way: see _exchange

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.handlers[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number is None:
            self.number = number
            self.time = time.monotonic()
        elif time.monotonic() - self.time > SAME_SIGNAL:
            raise KeyboardInterrupt

    def requested(self, done: int, device: torch.device | str, last: bool = False) -> int | None:
        """The number of the signal that asks to stop after `done` steps, or None.

        Several processes exchange it every AGREE_EVERY steps. On GPUs they read the answer only
        AGREE_EVERY steps later, when it has long been there, so that no GPU runs dry. After the
        last step they exchange in any case, and wait.
        """
        if not is_distributed():
            return self.number
        if done % AGREE_EVERY and not last:
            return None
        earlier = self.asked
        self.asked = self._exchange(torch.device(device))
        if self.asked[1] is None:
            return int(self.asked[0]) or None
        answer = self.asked if last else earlier
        if answer is None:
            return None
        answer[1].synchronize()
        return int(answer[0]) or None

    def _exchange(self, device: torch.device) -> tuple[torch.Tensor, Any]:
        """The largest number that any process has noted, on the CPU, and the event of its arrival.

        The event is None if the number is there already.
        """
        number = torch.full((), self.number or 0, device=device)
        torch.distributed.all_reduce(number, torch.distributed.ReduceOp.MAX)
        if device.type != "cuda":
            return number, None
        here = torch.empty((), dtype=number.dtype, pin_memory=True)
        here.copy_(number, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()
        return here, arrived

    def stop(self, number: int, done: int, steps: int) -> NoReturn:
        """Raise the exception that a signal stands for, once the first process has saved."""
        if is_distributed():
            torch.distributed.barrier()
        if is_main_process():
            print(f"stopped and saved after step {done} of {steps}; run again to go on", flush=True)
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
