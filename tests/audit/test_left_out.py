"""What a finding says of sources that were left out."""

import pandas as pd
import pytest

from rfray.audit.left_out import before_probes, left_out_sentence, with_left_out
from rfray.store.records import LeftOut, LeftOutPair
from tests.audits import leaking_audit


def pair(fake: str, real: str, auc: float) -> LeftOutPair:
    return LeftOutPair(fake=fake, real=real, auc=auc, low=auc - 0.04, high=auc + 0.02, fakes=30, reals=40)


WORSE = LeftOut(seen=0.979, pairs=(pair("sd", "ffhq", 0.98), pair("gan", "lfw", 0.455)), few={"midjourney": 7}, more=2)
BY_CHANCE = LeftOut(seen=0.85, seen_low=0.74, pairs=(pair("sd", "", 0.77), pair("gan", "", 0.75)))
ALIKE = LeftOut(seen=0.85, pairs=(pair("sd", "", 0.84),))


def test_what_to_expect_is_said_with_the_worst_pair() -> None:
    assert left_out_sentence(WORSE) == (
        "On sources it has not seen, expect AUC 0.72 (worst 0.46: gan against lfw), not 0.98: the sources differ in "
        "more than real and fake."
    )
    assert left_out_sentence(ALIKE) == "On sources it has not seen, expect AUC 0.84; on those it has seen, 0.85."
    assert left_out_sentence(BY_CHANCE) == (
        "On sources it has not seen, expect AUC 0.76 (worst 0.75: gan against other real images); on those it has "
        "seen, 0.85."
    )
    assert left_out_sentence(BY_CHANCE.model_copy(update={"seen_low": 0.80})).endswith("in more than real and fake.")
    assert left_out_sentence(LeftOut(reason="nobody knows")) == (
        "What it is worth on sources that it has not seen is not known: nobody knows."
    )


@pytest.mark.parametrize(
    ("sources", "said"),
    [
        (["", "", "", ""], "can't be told: no class has images of two known sources (data.group says"),
        (["", "lfw", "sd", "sd"], "can't be told: no class has images of two known sources (data.group says"),
        (["", "", "sd", "gan"], "by leaving out each of these: fake: sd 20, gan 20; real: none is known."),
        (["lfw", "ffhq", "sd", "sd"], "by leaving out each of these: fake: sd 40; real: lfw 20, ffhq 20."),
    ],
)
def test_before_there_is_a_probe_it_is_said_whether_one_will_tell(sources: list[str], said: str) -> None:
    images = pd.DataFrame({"label": [0, 0, 1, 1] * 20, "source": sources * 20})
    assert said in before_probes(images)
    if "leaving out" in said:
        assert "the sources have too few images (fewer than 20 of a class)" in before_probes(images[4:])


@pytest.mark.parametrize(
    ("found", "grade"), [(WORSE, "warning"), (ALIKE, "note"), (BY_CHANCE, "note"), (LeftOut(reason="none"), None)]
)
def test_it_is_a_finding_which_takes_the_place_of_an_earlier_one(found: LeftOut, grade: str | None) -> None:
    audit = leaking_audit()
    once = with_left_out(with_left_out(audit, WORSE, "resnet18"), found, "resnet18")
    new = [one for one in once.findings if one not in audit.findings]
    assert [one.grade for one in new] == ([grade] if grade else [])
    assert len(once.findings) == len(audit.findings) + len(new)
    grades = [one.grade for one in once.findings]
    assert grades == sorted(grades, key=("error", "warning", "note").index)
    if found is WORSE:
        assert "2 smaller sources were not left out. For 2 further pairs there are too few images." in new[0].what_to_do
        assert "frozen resnet18" in new[0].what_to_do
        assert "(2 pairs). Too few images to be left out have 1 source (midjourney 7). 2 smaller sources were not" in (
            new[0].what_to_do
        )
