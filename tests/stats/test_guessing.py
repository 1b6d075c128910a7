"""no_better(): by hand, of AUC and of accuracy; what can't be known is not said."""

import pytest

from rfray.stats.guessing import constant_answer, no_better


def figures(tn: int, fp: int, fn: int, tp: int, auc: float, low: float | None, high: float | None) -> dict:
    return {"tn": tn, "fp": fp, "fn": fn, "tp": tp, "auc": auc, "auc_low": low, "auc_high": high}


def test_a_coin_toss_is_called_one_with_its_figures() -> None:
    said = no_better(figures(71, 120, 20, 29, 0.508, 0.417, 0.599))
    assert said is not None
    assert said.startswith(
        "No better than guessing on 240 test images: AUC 0.508 (95 % interval 0.417 to 0.599), accuracy 41.7%; "
        "always saying real is right in 79.6%. What may help: more training (a larger search.budget"
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (figures(50, 50, 50, 50, 0.6, 0.5, 0.7), "more images"),  # the interval ends at 0.5
        (figures(10, 90, 90, 10, 0.1, 0.05, 0.2), "the classes may be swapped"),
        (figures(0, 20, 0, 80, 0.9, 0.8, 0.95), "always saying fake is right in 80.0%. It ranks images better"),
        (figures(0, 20, 0, 80, 0.9, None, None), "AUC 0.900, accuracy 80.0%"),
    ],
)
def test_each_way_to_be_no_better_says_what_may_help(given: dict, said: str) -> None:
    text = no_better(given)
    assert text is not None
    assert text.startswith("No better than guessing")
    assert said in text


@pytest.mark.parametrize(
    "given",
    [
        figures(60, 40, 40, 60, 0.65, 0.51, 0.75),
        figures(1, 19, 0, 80, 0.9, 0.8, 0.95),  # one more than always saying fake
        figures(0, 0, 10, 90, 0.0, None, None),  # one class alone
        dict.fromkeys(("tn", "fp", "fn", "tp", "auc", "auc_low", "auc_high")),
    ],
)
def test_what_is_better_or_can_not_be_known_gets_no_such_line(given: dict) -> None:
    assert no_better(given) is None


def test_the_constant_answer_by_hand() -> None:
    assert constant_answer(figures(1, 2, 3, 4, 0.5, None, None)) == ("fake", 0.7)
    assert constant_answer(figures(1, 2, 0, 0, 0.5, None, None)) is None
