"""pairs of similar images -> findings: those that are in two parts, under two labels, or twice in one part."""

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pandas as pd

from rfray.audit.facts import NAMED, Facts, are, out_of
from rfray.data.listing import counted
from rfray.spec.parts import is_test
from rfray.store.records import Finding

KINDS = {"exact": "the same file", "re-encoded": "re-encoded", "mirrored": "mirrored", "crop": "cropped"}
"""Kind of pair, the closest first -> its name in a sentence."""


def test_in_training(facts: Facts) -> Iterator[Finding]:
    """Copies of the images of a test set among the training images: a model may remember them."""
    first, second = facts.pairs["first"], facts.pairs["second"]
    in_training = ~facts.images["part"].map(is_test).to_numpy()
    for part in facts.test_parts:
        here = facts.images["part"].eq(part).to_numpy()
        both = (here[first] & in_training[second]) | (here[second] & in_training[first])
        pairs = facts.pairs.assign(test=np.where(here[first], first, second))[both]
        if pairs.empty:
            continue
        outcome = ": a model that remembers them would seem better than it is."
        what_to_do = (
            "Delete these images from one of the two folders, or set `data.test_duplicates: leave_out`, which a run "
            "follows from its start on."
        )
        if pairs["first_part"].eq("left out").all():
            outcome = "; these training images are left out of train and val."
            what_to_do = "Look at them; `--accept-audit` goes on without these training images."
        closest_first = pairs["kind"].map([*KINDS].index).sort_values(kind="stable").index
        copies = pairs.loc[closest_first].drop_duplicates("test")
        yield Finding(
            grade="error",
            code="test-in-training",
            sentence=f"{out_of(len(copies), int(here.sum()), f'{facts.title(part)} image')} also among the training "
            f"images {_examples(copies)}{outcome}",
            what_to_do=what_to_do,
        )


def copies_across_test_sets(facts: Facts) -> Iterator[Finding]:
    """The same pictures in two test sets: their figures are not independent of each other."""
    for one, other in combinations(facts.test_parts, 2):
        first, second = sorted((one, other))
        pairs = facts.pairs[(facts.pairs["first_part"] == first) & (facts.pairs["second_part"] == second)]
        if len(pairs):
            yield Finding(
                grade="note",
                code="copies-across-test-sets",
                sentence=f"{counted(len(pairs), 'pair')} of similar images {are(len(pairs))} divided between "
                f"{facts.title(one)} and {facts.title(other)} {_examples(pairs)}.",
                what_to_do="Nothing needs to be done, but the two test sets don't confirm each other there.",
            )


def misplaced_copies(facts: Facts) -> Iterator[Finding]:
    """The same picture called real and fake, or in train and in val.

    Under both labels it is only a warning, also between train and test: those copies are an error by `test_in_training`
    already. A crop is a note: a fake may be made from a part of a real image.
    """
    pairs = facts.pairs[(facts.pairs[["first_part", "second_part"]] != "left out").any(axis=1)]
    across, crop = pairs["across_labels"], pairs["kind"] == "crop"
    split = (pairs["first_part"] == "train") & (pairs["second_part"] == "val")
    wrong = (
        "Look at them and delete the wrong one of each pair, unless the fakes are small edits of these very pictures."
    )
    told = "A model that remembers the one is scored on the other: delete these images from one of the two folders."
    for code, found, relation, what_to_do in (
        (
            "both-labels",
            pairs[across & ~crop],
            "of a real and a fake image {} the same picture under both labels",
            wrong,
        ),
        ("crop-of-other-class", pairs[across & crop], "of a real and a fake image {} one cut out of the other", wrong),
        ("copies-across-the-split", pairs[split], "of similar images {} divided between train and val", told),
    ):
        if len(found):
            relation = relation.format(are(len(found)))
            yield Finding(
                grade="note" if code == "crop-of-other-class" else "warning",
                code=code,
                sentence=f"{counted(len(found), 'pair')} {relation} {_examples(found)}.",
                what_to_do=what_to_do,
            )


def copies_within_a_part(facts: Facts) -> Iterator[Finding]:
    """Copies in one part with one label: they count twice, no more."""
    inside = (facts.pairs["first_part"] == facts.pairs["second_part"]) & (facts.pairs["first_part"] != "left out")
    pairs = facts.pairs[inside & ~facts.pairs["across_labels"]]
    for part, found in pairs.groupby("first_part"):
        copies, images = len(np.unique(found[["first", "second"]].to_numpy())), int(facts.counts(str(part)).sum())
        title = facts.title(str(part))
        yield Finding(
            grade="note",
            code="copies-within-a-part",
            sentence=f"{out_of(copies, images, f'{title} image')} there more than once {_examples(found)}.",
            what_to_do="Nothing needs to be done: copies count twice. Delete them where they should not.",
        )


def _examples(pairs: pd.DataFrame) -> str:
    """How many pairs there are of each kind, and the first few."""
    counts = pairs["kind"].value_counts()
    kinds = ", ".join(f"{counts[kind]:,} {shown}" for kind, shown in KINDS.items() if kind in counts)
    return f"({kinds}), e.g. {'; '.join(pairs['named'].head(NAMED))}"
