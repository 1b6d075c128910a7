"""Heads judged on sources that they have not learned from: against scikit-learn by hand."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from rfray.store.records import LeftOut
from rfray.training import left_out
from rfray.training.left_out import judge_left_out
from rfray.training.probe import LearnedHead

PER_SOURCE = 40
REALS, FAKES = ("cam_a", "cam_b", "cam_c"), ("gan_a", "gan_b")
HEAD = LearnedHead(np.zeros(3), np.ones(3), LogisticRegression(), 3.0, np.zeros(0))


def images(reals=REALS, fakes=FAKES, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, labels, sources: one feature tells real from fake, one tells sources of fakes apart."""
    random = np.random.default_rng(seed)
    sources = np.repeat([*reals, *fakes], PER_SOURCE)
    labels = np.repeat([0] * len(reals) + [1] * len(fakes), PER_SOURCE)
    features = random.normal(size=(len(labels), 3)).astype(np.float32)
    features[:, 0] += labels
    features[:, 1] += 3 * (sources == "gan_a") - 3 * (sources == "gan_b")
    return features, labels, sources


def judged(features, labels, sources, groups=None, seed: int = 0) -> LeftOut:
    groups = np.arange(len(labels)) if groups is None else groups
    return judge_left_out(features, labels, sources, groups, HEAD, seed)


def by_hand(features, labels, learned, judged) -> float:
    centre, scale = features[learned].mean(axis=0), features[learned].std(axis=0)
    head = LogisticRegression(C=3.0 / learned.sum(), max_iter=500)
    head.fit((features[learned] - centre) / scale, labels[learned])
    return roc_auc_score(labels[judged], head.decision_function((features[judged] - centre) / scale))


def test_each_pair_is_judged_by_a_head_that_has_learned_from_neither() -> None:
    features, labels, sources = images()
    found = judged(features, labels, sources)
    assert [(pair.fake, pair.real) for pair in found.pairs] == [(fake, real) for fake in FAKES for real in REALS]
    for pair in found.pairs:
        its = np.isin(sources, [pair.fake, pair.real])
        assert pair.auc == pytest.approx(by_hand(features, labels, ~its, its))
        assert pair.low < pair.auc < pair.high
        assert (pair.fakes, pair.reals) == (PER_SOURCE, PER_SOURCE)
    assert found.mean == pytest.approx(np.mean([pair.auc for pair in found.pairs]))
    assert found.worst.auc == min(pair.auc for pair in found.pairs)
    assert (found.few, found.more, found.reason) == ({}, 0, "")
    # what tells the one generator from real images misleads about the other
    assert found.mean < found.seen - 0.2


def test_where_one_class_has_no_sources_others_of_its_images_are_held_out() -> None:
    features, labels, sources = images()
    nameless = np.where(labels == 0, "", sources)
    found = judged(features, labels, nameless)
    assert [(pair.fake, pair.real) for pair in found.pairs] == [("gan_a", ""), ("gan_b", "")]
    apart = left_out._held_out(np.arange(len(labels)), 0)
    assert apart.sum() == 67  # a third of 200
    for pair in found.pairs:
        learned = np.where(labels == 0, ~apart, sources != pair.fake)
        on = np.where(labels == 0, apart, sources == pair.fake)
        assert pair.auc == pytest.approx(by_hand(features, labels, learned, on))
    one_camera = np.where(labels == 0, "cam", sources)
    assert judged(features, labels, one_camera) == found


@pytest.mark.parametrize("small", [[f"person {n // 4}" for n in range(120)], ["cam"] * 110 + ["other"] * 10])
def test_a_class_of_small_sources_does_not_keep_those_of_the_other_class_from_being_left_out(small) -> None:
    features, labels, sources = images()
    known = sources.astype("<U12")
    known[labels == 0] = small
    found = judged(features, labels, known)
    assert found.pairs == judged(features, labels, np.where(labels == 0, "", sources)).pairs
    assert len(found.pairs) == 2
    assert len(found.few) == len({name for name in small if small.count(name) < 20})


def test_intervals_know_which_images_belong_together() -> None:
    features, labels, sources = images()
    once, eightfold = judged(features, labels, sources), np.repeat(np.arange(len(labels)), 8)
    copies = judged(features[eightfold], labels[eightfold], sources[eightfold], eightfold)
    for one, other in zip(once.pairs, copies.pairs, strict=True):
        assert (other.fakes, other.reals) == (320, 320)
        assert other.high - other.low > 0.8 * (one.high - one.low)  # not the eighth part of the variance
    assert copies.seen_low < copies.seen - 0.05


def test_images_of_one_group_are_never_on_both_sides(monkeypatch) -> None:
    features, labels, sources = images()
    sides = []
    monkeypatch.setattr(left_out, "_judged", lambda *given: sides.append(given[3:5]))
    few = np.arange(len(labels))
    few[PER_SOURCE - 5 : PER_SOURCE + 5] = 7000  # five copies of cam_a in cam_b
    judged(features, labels, sources, few)
    everywhere = np.arange(len(labels)) % PER_SOURCE  # forty people, each in all sources
    judged(features, labels, sources, everywhere)
    pairs = len(REALS) * len(FAKES) + 1  # and images of sources that were learned from
    assert len(sides) == 2 * pairs
    for number, (learned, on) in enumerate(sides):
        groups = few if number < pairs else everywhere
        assert not set(groups[learned]) & set(groups[on])
        assert not (learned & on).any()
    learned, on = sides[0]  # gan_a against cam_a
    assert (learned.sum(), on.sum()) == (3 * PER_SOURCE - 5, 2 * PER_SOURCE)
    learned, on = sides[pairs]  # of 13 people in each of 2 sources; of the other 27 in 3
    assert (learned.sum(), on.sum()) == (3 * 27, 2 * 13)


@pytest.mark.parametrize(
    ("reals", "fakes", "reason"),
    [(("",), ("",), "no class has images of two known sources"), (("cam",), ("gan",), "no class has images of two")],
)
def test_without_two_known_sources_in_a_class_nothing_is_said(reals, fakes, reason: str) -> None:
    found = judged(*images(reals, fakes))
    assert found.pairs == ()
    assert (found.mean, found.worst, found.seen) == (None, None, None)
    assert found.reason.startswith(reason)


def test_sources_with_few_images_are_named_and_more_than_four_counted(monkeypatch) -> None:
    features, labels, sources = images(REALS, ("a", "b", "c", "d", "e"))
    sources[-5:] = "f"
    found = judged(features, labels, sources)
    assert dict.fromkeys(pair.fake for pair in found.pairs) == dict.fromkeys("abcd")
    assert (found.few, found.more) == ({"f": 5}, 1)
    monkeypatch.setattr(left_out, "MIN_IMAGES", 41)
    none = judged(features, labels, sources)
    assert none.pairs == ()
    assert none.reason == "the sources have too few images (fewer than 41 of a class)"


def test_no_more_images_are_used_than_are_worth_it(monkeypatch) -> None:
    _, labels, sources = images()
    monkeypatch.setattr(left_out, "MOST_IMAGES", 120)  # 60 of each class
    rows = left_out._subsample(labels, sources, [[*REALS], [*FAKES]], 0)
    counts = dict(zip(*np.unique(sources[rows], return_counts=True), strict=True))
    assert counts == dict.fromkeys(REALS, 20) | dict.fromkeys(FAKES, 30)
    rows = left_out._subsample(labels, sources, [[""], [*FAKES]], 0)
    assert (labels[rows] == 0).sum() == 60
    assert (np.diff(rows) > 0).all()
    unknown = np.where(sources == "cam_c", "", sources)
    assert not (unknown[left_out._subsample(labels, unknown, [["cam_a", "cam_b"], [*FAKES]], 0)] == "").any()


def test_the_same_seed_gives_the_same() -> None:
    assert judged(*images()) == judged(*images())
