"""data.group_pattern, data.split_by and data.group, and the paths -> findings: settings that hardly apply.

Thresholds without a source are rfray's own choice: where a careful person would want to know before reading a result.
"""

import re
from collections import Counter
from collections.abc import Iterator

import pandas as pd

from rfray.audit.facts import NAMED, SAME_CASE, Facts, are, used
from rfray.data.catalog import identities
from rfray.data.listing import counted
from rfray.data.sources import MIN_IMAGES
from rfray.spec.parts import is_test
from rfray.spec.sweep import CLASSES, SUBFOLDER
from rfray.store.records import Finding, Grade

MATCHED_SHARE = 0.5
"""Share of the images of a class to which a setting must apply: below, it is hardly what was meant."""
WORD_IMAGES = 10
"""Images that a word in the paths must have to be the name of a source: one with a number in it has one."""
WORD_END, WORD_START = re.compile(r"[^\W_]*\Z"), re.compile(r"[^\W_]*")
"""The letters and digits that a text ends or begins with; both find something in any text, "" at least."""


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
    """A `data.group_pattern` or `data.group` with more than one group in brackets."""
    for key in ("group_pattern", "group") if facts.data is not None else ():
        pattern = getattr(facts.data, key)
        if isinstance(pattern, str) and re.compile(pattern).groups > 1:
            yield Finding(
                grade="warning",
                code="several-groups",
                sentence=f"`data.{key}: {pattern}` has several groups in brackets, of which only the first counts.",
                what_to_do="Write the others (?:…).",
            )


def sources_not_found(facts: Facts) -> Iterator[Finding]:
    """A `data.group` that names hardly any sources, or not the sources that were meant."""
    data, images = facts.data, used(facts.images)
    training: pd.DataFrame = images[~images["folder"].map(is_test)]
    if data is None or data.group is None or training.empty:
        return
    found = training["source"]
    pattern = data.group if isinstance(data.group, str) else None
    asked = data.group if isinstance(data.group, str) else f"{{column: {data.group.column}}}"
    how = "first match in the path (of its first group in brackets)" if pattern else "value in that column"
    paths = f"Paths are such as `{training['path'].iloc[0]}` and `{training['path'].iloc[-1]}`."
    meant = f"It is to name the generator of each fake, and the origin of each photograph, by its {how}."
    said_of = [(grade, said, meant) for grade, said in _few_sources(training["label"], found)]
    said_of += [("warning", said, SAME_CASE) for said in _cases(training["path"], found, pattern)]
    said_of += [("warning", said, meant) for said in _doubtful_sources(training, found, pattern)]
    for grade, said, what_to_do in said_of:
        yield Finding(
            grade=grade,
            code="sources-not-found",
            sentence=f"`data.group: {asked}` {said}.",
            what_to_do=f"{what_to_do} {paths}",
        )


def _few_sources(labels: pd.Series, found: pd.Series) -> Iterator[tuple[Grade, str]]:
    """What is wrong with how many images have a source, and how bad that is."""
    has = found != ""
    counts = found[has].groupby(labels[has]).value_counts()
    shares = has.groupby(labels).mean()[lambda share: share > 0]
    if shares.empty:
        yield "error", f"finds nothing in the {len(has):,} training images: no source is known"
        return
    least, without = (
        min(shares.index, key=lambda label: shares[label]),
        [label for label in (0, 1) if label not in shares.index],
    )
    of = [counted(int((labels == label).sum()), f"{name} training image") for label, name in enumerate(CLASSES)]
    if shares[least] < MATCHED_SHARE:
        yield "warning", f"finds something in only {has[labels == least].sum():,} of {of[least]}"
    elif found[has].is_unique:
        yield "warning", "finds another text in each training image: no source has several"
    elif counts.groupby(level=0).size().max() < 2:
        yield "warning", "finds no more than one source in a class, so that none can be left out"
    elif (most := counts.max()) < MIN_IMAGES:
        yield "warning", f"finds {found[has].nunique():,} sources of {most} images at most, too few to leave one out"
    elif without:
        yield "note", f"finds nothing in the {of[without[0]]}: only the others have sources"


def _cases(paths: pd.Series, found: pd.Series, pattern: str | None) -> Iterator[str]:
    """Sources that differ in upper and lower case alone, and those that the case hides from a pattern."""
    kinds = found[found != ""].drop_duplicates()
    if len(alike := kinds[kinds.str.lower().duplicated(keep=False)]):
        yield f"finds sources that differ in upper and lower case alone: {', '.join(sorted(alike)[:NAMED])}"
    if pattern is not None and pattern != SUBFOLDER:
        in_any_case = identities(paths, pattern, re.IGNORECASE).map(bool).sum()
        if (more := int(in_any_case) - int((found != "").sum())) > 0:
            yield f"would find something in {counted(more, 'image')} more if upper and lower case were the same"


def _doubtful_sources(training: pd.DataFrame, found: pd.Series, pattern: str | None) -> Iterator[str]:
    """What makes sources that were found others than those that are meant."""
    if pattern is None or pattern == SUBFOLDER:
        return
    several = identities(training["path"], pattern).map(len) > 1
    if several.any():
        yield (
            f"finds different texts in the same path in {counted(int(several.sum()), 'image')}, such as "
            f"`{training.loc[several, 'path'].iloc[0]}`; the first counts"
        )
    for source, names in _whole_names(training["path"], pattern).items():
        yield f"finds only a piece of a name: {source} stands for {', '.join(names[:NAMED])}"


def _whole_names(paths: pd.Series, pattern: str) -> dict[str, list[str]]:
    """Sources that are a piece of several words in the paths, each of many images -> these words."""
    pieces: dict[str, Counter[str]] = {}
    for match in filter(None, (re.search(pattern, path) for path in paths)):
        if source := match[group := min(match.re.groups, 1)]:
            before, after = match.string[: match.start(group)], match.string[match.end(group) :]
            ends = [found[0] for found in (WORD_END.search(before), WORD_START.match(after)) if found]
            pieces.setdefault(source, Counter())[source.join(ends)] += 1
    words = {source: sorted(word for word, n in them.items() if n >= WORD_IMAGES) for source, them in pieces.items()}
    return {source: names for source, names in words.items() if len(names) > 1}


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
