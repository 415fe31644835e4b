"""torch.compile in a training: when it pays, what happens where it fails, and what is kept of it.

Compiling takes a minute or more on a GPU. Its result is kept beside the checkpoint, so that a
training which is resumed on another machine does not pay again. Compiled code is code: torch runs
what it finds. So the file is signed with a key that lies outside of the run folder, as Jupyter
signs notebooks, and a file without this signature is not loaded.
"""

import hashlib
import hmac
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lensnb import io
from lensnb.errors import one_line
from lensnb.recipes.schema import Optimiser
from lensnb.training.accelerator import is_main_process, process_index

# Updates from which on compiling pays on a GPU. On an H100 it took 76 s for a U-Net of 8 million
# parameters and saved 24 ms of the kernels of an update.
PAYS_FROM = 3000
BACKEND = "inductor"
# All networks are channels last. Left to its own guess, inductor gives that up for a whole network
# as soon as one convolution halves the channels, as in any U-Net.
CHANNELS_LAST = {"force_layout_optimization": True}
DIGEST = hashlib.sha256().digest_size


class Compiler:
    """Compiles the functions of a task, each at its first call, unless the recipe says no.

    on : whether functions are compiled; graphs : whether CUDA graphs replay what is compiled
    """

    def __init__(self, settings: Optimiser, device: torch.device) -> None:
        asked = settings.compile
        pays = device.type == "cuda" and settings.steps >= PAYS_FROM
        self.on = pays if asked == "auto" else bool(asked)
        self.graphs = asked == "graphs" and device.type == "cuda"

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, which runs compiled while `on`. Each shape is compiled for itself."""
        fast: list[Callable[..., Any]] = []

        def call(*args: Any, **kwargs: Any) -> Any:
            if not self.on:
                return function(*args, **kwargs)
            if not fast:
                options: dict[str, Any] = CHANNELS_LAST | {"triton.cudagraphs": self.graphs}
                fast.append(
                    torch.compile(function, dynamic=False, backend=BACKEND, options=options)
                )
            return fast[0](*args, **kwargs)

        return call

    def give_up(self, reason: str) -> None:
        """Run everything uncompiled from now on, and say so in one line."""
        self.on = False
        if is_main_process():
            print(f"torch.compile failed ({reason}); the training goes on without it", flush=True)

    # What is kept ---------------------------------------------------------------------------------

    def restore(self, folder: Path) -> None:
        """Take back what an earlier process compiled and signed with this user's key."""
        path = kept_file(folder)
        if not self.on or not path.is_file():
            return
        try:
            content = path.read_bytes()
            code = content[DIGEST:]
            if not hmac.compare_digest(content[:DIGEST], _signature(code)):
                raise ValueError("it is not signed with your key")
            torch.compiler.load_cache_artifacts(code)
        except Exception as error:  # torch raises many kinds for files of other versions
            print(f"{path.name} is not used ({one_line(error, 120)}); compiling again", flush=True)

    def keep(self, folder: Path) -> None:
        """Keep what this process has compiled in `folder`, if it can be."""
        if not self.on or not folder.is_dir():
            return
        try:
            made = torch.compiler.save_cache_artifacts()
            if made is not None:
                with io.atomic(kept_file(folder), "wb") as file:
                    file.write(_signature(made[0]) + made[0])
        except Exception as error:  # nothing depends on this file
            print(f"compiled code is not kept ({one_line(error, 120)})", flush=True)


def forget(folder: Path) -> None:
    """Delete what all processes keep in `folder`: a finished training is not resumed."""
    for path in folder.glob("compiled-*.bin"):
        path.unlink(missing_ok=True)


def kept_file(folder: Path) -> Path:
    """The file of this process: compiled code names the GPU that it runs on."""
    return folder / f"compiled-{process_index()}.bin"


def _signature(code: bytes) -> bytes:
    return hmac.digest(_key(), code, "sha256")


def _key() -> bytes:
    """The user's own key, made at its first use.

    It is the file that LENSNB_KEY names, or `~/.local/share/lensnb/key`. Raises OSError where there
    is none and none can be written.
    """
    path = Path(os.environ.get("LENSNB_KEY") or "~/.local/share/lensnb/key").expanduser()
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with io.atomic(path, "wb", opener=_for_me_alone) as file:
            file.write(secrets.token_bytes(DIGEST))
    key = path.read_bytes()
    if len(key) < DIGEST:
        raise OSError(f"{path}: expected {DIGEST} random bytes or more, found {len(key)}")
    return key


def _for_me_alone(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
