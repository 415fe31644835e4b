"""The registry of what a recipe may name."""

import pytest

from lensnb.errors import InputError
from lensnb.registry import Registry


def made():
    numbers = Registry("number")
    numbers.add("one", 1)
    numbers.add("two", 2)
    return numbers


def test_entries_keep_their_order_and_a_decorator_returns_them_unchanged():
    numbers = made()

    @numbers.register("three")
    def three():
        return 3

    assert list(numbers) == ["one", "two", "three"]
    assert numbers.find("three") is three and three() == 3 and numbers.find("one") == 1


def test_an_unknown_name_is_refused_with_the_nearest_one():
    with pytest.raises(InputError, match="^model.n: no number 'onne'; did you mean one\\?$"):
        made().find("onne", "model.n")
    with pytest.raises(InputError, match="^no number 'xyz'; known are one, two$"):
        made().find("xyz")
    with pytest.raises(InputError, match="^no number 'a'; known are none$"):
        Registry("number").find("a")


def test_a_name_is_taken_once():
    with pytest.raises(ValueError, match="number one is registered already"):
        made().add("one", 3)
