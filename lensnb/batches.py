"""Drawing many images: how many at a time, compiled or not, and what happens if memory runs out."""

import math
from collections.abc import Iterator
from typing import Any

import torch

from lensnb import devices
from lensnb.errors import InputError

AT_A_TIME = 64  # images, where nothing else is known; another number changes last bits on a CPU
MOST_AT_A_TIME = 1024  # images on CUDA: more at a time are no faster
# Evaluations of one image from which compiling, which takes half a minute or so, pays on CUDA.
LONG = 500_000


class Batches:
    """Images of many seeds and contexts, some at a time.

    drawer : with images(seeds, context), trial(seeds, context), nfe, net and compiled, such as
    generator.Drawer
    """

    def __init__(self, drawer: Any, device: str | torch.device) -> None:
        self.drawer = drawer
        self.device = torch.device(device)

    def fitting(self, seeds: list[int], context: torch.Tensor | None) -> int:
        """How many images of these seeds and contexts (N, K) to draw at a time.

        AT_A_TIME; on CUDA as many as fit into the free memory, at most MOST_AT_A_TIME, in batches
        of one size.
        """
        n = len(seeds)
        if self.device.type != "cuda" or n <= AT_A_TIME:
            return AT_A_TIME

        def trial(count: int) -> None:
            self.drawer.trial(seeds[:count], None if context is None else context[:count])

        fits = devices.fitting_batch(trial, self.device)
        return math.ceil(n / math.ceil(n / min(fits, MOST_AT_A_TIME)))

    def compile(self, wish: str | bool, n: int) -> None:
        """Have the network compiled to draw n images.

        wish : true, false, or auto: on CUDA, if the images are many enough
        """
        pays = self.device.type == "cuda" and n * self.drawer.nfe >= LONG
        if (pays if wish == "auto" else wish) and self.drawer.compiled is None:
            self.drawer.compiled = devices.Compiled(self.drawer.net)

    def drawn(
        self, seeds: list[int], context: torch.Tensor | None, batch: int
    ) -> Iterator[torch.Tensor]:
        """Images (B, C, H, W) in model units on the device, at most `batch` at a time.

        A batch that does not fit is halved, with one line. Raises InputError if not even one image
        fits.
        """
        batch = min(batch, len(seeds))
        at = 0
        while at < len(seeds):
            some = slice(at, at + batch)
            x = self._attempt(seeds[some], None if context is None else context[some], batch)
            if x is None:
                if batch == 1:
                    raise InputError(
                        f"out of memory with one image at a time on {self.device}; end what else "
                        "uses it, or set device: cpu"
                    )
                print(f"out of memory: {batch} images at a time, now {batch // 2}", flush=True)
                batch //= 2
                continue
            at += len(x)
            yield x

    def _attempt(
        self, seeds: list[int], context: torch.Tensor | None, batch: int
    ) -> torch.Tensor | None:
        """Images of these seeds (B, C, H, W), or None if there is too little memory.

        A compiled network always sees `batch` images: the last one is drawn again and again.
        """
        n = len(seeds)
        if self.drawer.compiled is not None and n < batch:
            seeds = [*seeds, *seeds[-1:] * (batch - n)]
            if context is not None:
                context = torch.cat([context, context[-1:].expand(batch - n, -1)])
        try:
            images: torch.Tensor = self.drawer.images(seeds, context)[:n]
            return images
        except RuntimeError as error:
            if not devices.is_out_of_memory(error):
                raise
        # Only here, when the error is gone, is the memory that it kept free.
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return None
