"""The error classes and the text that lists allowed names."""

from rfray.errors import InputError, RfrayError, nearest_first


def all_classes(base: type[RfrayError]) -> list[type[RfrayError]]:
    return [base, *(found for child in base.__subclasses__() for found in all_classes(child))]


def test_the_input_is_exit_code_2_an_interruption_130_and_all_else_1() -> None:
    here = [found for found in all_classes(RfrayError) if found.__module__ == "rfray.errors"]
    assert len(here) == 14
    for found in here:
        assert found.exit_code == (130 if found.__name__ == "Interrupted" else 1 + issubclass(found, InputError))


def test_the_nearest_names_come_first_then_the_others_as_they_were() -> None:
    assert nearest_first("asa", ["none", "pbt", "asha"]) == "asha, none, pbt; nearest: asha"


def test_without_a_near_name_the_order_is_kept() -> None:
    assert nearest_first("xyz", ["none", "asha"]) == "none, asha"


def test_a_long_list_is_cut_but_never_the_nearest() -> None:
    names = [*"abcd", "resnet50"]
    assert nearest_first("resnet5", names, limit=3) == "resnet50, a, b, … (5 in all); nearest: resnet50"
