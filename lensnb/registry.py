"""One registry for each thing that a recipe may name.

A sampler, a network, a measure or a reader is registered where it is defined:

    SAMPLERS = Registry("sampler")

    @SAMPLERS.register("ddim")
    def ddim(denoise, sigmas, x, noise): ...

What a recipe may name is read off the registries, so that a new entry needs no other change.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from lensnb.errors import InputError, did_you_mean

T = TypeVar("T")


class Registry(dict[str, T]):
    """Name -> entry, in the order of registration.

    kind : what an entry is called in messages, such as "sampler".
    """

    def __init__(self, kind: str, entries: Iterable[tuple[str, T]] = ()) -> None:
        super().__init__(entries)
        self.kind = kind

    def register(self, name: str) -> Callable[[Any], Any]:
        """A decorator that enters a function or class under `name` and returns it unchanged.

        Raises ValueError if the name is taken.
        """

        def enter(entry: T) -> T:
            self.add(name, entry)
            return entry

        return enter

    def add(self, name: str, entry: T) -> None:
        """Enter `entry` under `name`; raises ValueError if the name is taken."""
        if name in self:
            raise ValueError(f"{self.kind} {name} is registered already")
        self[name] = entry

    def find(self, name: str, where: str = "") -> T:
        """The entry of this name; raises InputError with the nearest name, after `where`."""
        if name not in self:
            place = f"{where}: " if where else ""
            raise InputError(f"{place}no {self.kind} {name!r}; {did_you_mean(name, self)}")
        return self[name]
