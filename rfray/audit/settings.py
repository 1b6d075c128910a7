"""data.group_pattern and data.split_by, and the paths -> findings: settings that keep few images together.

Thresholds without a source are rfray's own choice: where a careful person would want to know before reading a result.
"""

import re
from collections.abc import Iterator

import pandas as pd

from rfray.audit.facts import NAMED, Facts, are, used
from rfray.data.catalog import identities
from rfray.data.listing import counted
from rfray.spec.parts import is_test
from rfray.spec.sweep import CLASSES
from rfray.store.records import Finding

MATCHED_SHARE = 0.5
"""Share of the images of a class to which a setting must apply: below, it is hardly what was meant."""


def settings_for_few(facts: Facts) -> Iterator[Finding]:
    """`data.group_pattern` and `data.split_by: group` where they keep hardly any images together."""
    data, training = facts.data, used(facts.images)[lambda kept: ~kept["folder"].map(is_test)]
    asked: dict[str, pd.Series] = {}
    if training.empty:
        return
    if data is not None and data.group_pattern is not None:
        asked[f"data.group_pattern: {data.group_pattern}"] = identities(training["path"], data.group_pattern)
    if data is not None and data.split_by == "group":
        asked["data.split_by: group"] = training["subfolder"].map(lambda name: [name] if name else [])
    for setting, texts in asked.items():
        has = texts.map(bool)
        shares = has.groupby(training["label"]).mean()
        least = int(shares.to_numpy().argmin())
        if not has.any():
            said = f"finds nothing in the {len(has):,} training images: none are kept together by it"
        elif shares[least] < MATCHED_SHARE:
            found, of = has[training["label"] == least].sum(), int((training["label"] == least).sum())
            said = f"finds something in only {found:,} of {counted(of, f'{CLASSES[least]} training image')}"
        elif texts.explode().dropna().is_unique:
            said = "finds another text in each training image: none are kept together by it"
        else:
            continue
        yield Finding(
            grade="warning" if has.any() else "error",
            code="setting-for-few",
            sentence=f"`{setting}` {said}.",
            what_to_do=f"Images that belong together may be in train and in val. Paths are such as "
            f"`{training['path'].iloc[0]}` (upper and lower case differ); mend the setting, or leave it out.",
        )


def several_groups(facts: Facts) -> Iterator[Finding]:
    """A `data.group_pattern` with more than one group in brackets."""
    pattern = facts.data.group_pattern if facts.data is not None else None
    if pattern is not None and re.compile(pattern).groups > 1:
        yield Finding(
            grade="warning",
            code="several-groups",
            sentence=f"`data.group_pattern: {pattern}` has several groups in brackets, of which only the first counts.",
            what_to_do="Write the others (?:…).",
        )


def identities_across(facts: Facts) -> Iterator[Finding]:
    """Identities (`data.group_pattern`) in parts that models are judged on, and in those that they learn from."""
    if facts.data is None or facts.data.group_pattern is None:
        return
    texts = identities(facts.images["path"], facts.data.group_pattern).explode().dropna()
    part = facts.images["part"].loc[texts.index]
    known = {name: set(texts[part.eq(name).to_numpy()]) for name in ("train", "val", *facts.test_parts)}
    of_tests = ((test, known["train"] | known["val"]) for test in facts.test_parts)
    for here, there in (*of_tests, ("val", known["train"])):
        if both := sorted(known[here] & there):
            yield Finding(
                grade="warning",
                code="identities-across",
                sentence=f"{len(both):,} of {len(known[here]):,} identities of {facts.title(here)} "
                f"(`data.group_pattern`) {are(len(both))} also among the training images, e.g. "
                f"{', '.join(both[:NAMED])}.",
                what_to_do="A model that knows them would seem better than it is on new ones: divide the folders by "
                "identity, or make the part a share of the training folder.",
            )
