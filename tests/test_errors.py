"""The error classes and the text that lists allowed names."""

import re

from rfray import errors
from rfray.errors import RfrayError, nearest_first


def drawn_tree() -> dict[str, tuple[str, int]]:
    """The docstring's tree: class -> (parent, exit code)."""
    drawn: dict[str, tuple[str, int]] = {}
    above: list[str] = ["Exception"]
    for line in errors.__doc__.splitlines():
        found = re.match(r"^([ │├└─]*)(\w+) +exit (\d+)", line)
        if found:
            depth = len(found[1]) // 4
            drawn[found[2]] = (above[depth], int(found[3]))
            above[depth + 1 :] = [found[2]]
    return drawn


def all_classes(base: type[RfrayError]) -> list[type[RfrayError]]:
    return [base, *(found for child in base.__subclasses__() for found in all_classes(child))]


def test_the_classes_are_as_the_docstring_draws_them() -> None:
    here = [found for found in all_classes(RfrayError) if found.__module__ == "rfray.errors"]
    assert {found.__name__: (found.__base__.__name__, found.exit_code) for found in here} == drawn_tree()
    assert len(here) == 14


def test_the_nearest_names_come_first_then_the_others_as_they_were() -> None:
    assert nearest_first("asa", ["none", "pbt", "asha"]) == "asha, none, pbt; nearest: asha"


def test_without_a_near_name_the_order_is_kept() -> None:
    assert nearest_first("xyz", ["none", "asha"]) == "none, asha"


def test_a_long_list_is_cut_but_never_the_nearest() -> None:
    names = [*"abcd", "resnet50"]
    assert nearest_first("resnet5", names, limit=3) == "resnet50, a, b, … (5 in all); nearest: resnet50"
