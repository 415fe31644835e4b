"""What a recipe may name is read off a registry at the moment of validation."""

from collections.abc import Mapping
from typing import Any

from pydantic import AfterValidator

from lensnb.errors import nearest


def named(registry: Mapping[str, Any]) -> AfterValidator:
    """A validator that accepts the names in a registry, those registered later included.

    The message lists the valid names and the nearest of them:

        Annotated[str, named(SAMPLERS)]
    """

    def check(name: str) -> str:
        if name not in registry:
            raise ValueError(_expected(name, registry))
        return name

    return AfterValidator(check)


def _expected(name: str, registry: Mapping[str, Any]) -> str:
    """The valid names, in the words of pydantic's own message for a choice."""
    *others, last = (f"'{known}'" for known in registry)
    valid = f"{', '.join(others)} or {last}" if others else last
    guess = nearest(name, registry)
    return f"input should be {valid}" + (f"; did you mean '{guess}'?" if guess else "")
