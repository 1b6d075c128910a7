"""data.group_pattern and the paths -> findings: identities that are others than those that are meant."""

import re
from collections.abc import Iterator

import pandas as pd

from rfray.audit.facts import NAMED, SAME_CASE, Facts
from rfray.data.catalog import identities
from rfray.data.listing import counted
from rfray.store.records import Finding

WORD = re.compile(r"[^\W_]+")
"""Letters and digits between marks: `id3_id10_0001.jpg` has the words id3, id10, 0001 and jpg."""


def doubtful_identities(facts: Facts) -> Iterator[Finding]:
    """A `data.group_pattern` that finds half of a name, a piece of a number, or names in one case alone."""
    pattern = facts.data.group_pattern if facts.data is not None else None
    if pattern is None:
        return
    paths = facts.images["path"]
    for said, what_to_do in (*_by_case(paths, pattern), *_pieces(paths, pattern), *_halves(paths, pattern)):
        yield Finding(
            grade="warning",
            code="doubtful-identities",
            sentence=f"`data.group_pattern: {pattern}` {said}.",
            what_to_do=what_to_do,
        )


def _by_case(paths: pd.Series, pattern: str) -> Iterator[tuple[str, str]]:
    """Identities that differ in upper and lower case alone, and names that the case hides."""
    found, in_any = (identities(paths, pattern, flags) for flags in (0, re.IGNORECASE))
    if (more := int(in_any.map(bool).sum() - found.map(bool).sum())) > 0:
        yield f"would find something in {counted(more, 'image')} more if upper and lower case were the same", SAME_CASE
    kinds = found.explode().dropna().drop_duplicates()
    if len(alike := kinds[kinds.str.lower().duplicated(keep=False)]):
        yield (
            f"finds identities that differ in upper and lower case alone: {', '.join(sorted(alike)[:NAMED])}",
            SAME_CASE,
        )


def _pieces(paths: pd.Series, pattern: str) -> Iterator[tuple[str, str]]:
    """Matches that end within a number: id1 is found in id1 and in id10, who are two people."""
    cut = {path: pieces for path in paths if (pieces := [*_cut_numbers(path, pattern)])}
    if cut:
        path, ((piece, whole), *_) = next(iter(cut.items()))
        yield (
            f"ends within a number in {counted(len(cut), 'image')}: it finds {piece} of {whole} in `{path}`",
            "Different people are linked as one; let it take the whole number (\\d+).",
        )


def _cut_numbers(path: str, pattern: str) -> Iterator[tuple[str, str]]:
    """Each match that ends within a number, and the word that it is a piece of."""
    for match in re.finditer(pattern, path):
        end = match.end(min(match.re.groups, 1))
        if 0 < end < len(path) and path[end - 1].isdigit() and path[end].isdigit():
            piece = match[min(match.re.groups, 1)] or ""
            yield piece, next(word[0] for word in WORD.finditer(path) if word.start() < end <= word.end())


def _halves(paths: pd.Series, pattern: str) -> Iterator[tuple[str, str]]:
    """Images with a second name that is an identity elsewhere: of `id3_id10_0001.jpg` both people have to be found."""
    own = {path: _found_words(path, pattern) for path in paths}
    # a number alone may be that of a frame
    known = {word for words in own.values() for word in words if not word.isdigit()}
    missed = {
        path: others
        for path, words in own.items()
        if words and (others := [word for word in WORD.findall(path) if word in known and word not in words])
    }
    if missed:
        path, (other, *_) = next(iter(missed.items()))
        yield (
            f"finds half of the names in {counted(len(missed), 'image')}: in `{path}` it passes over {other}, which it "
            "finds in others",
            "An image of two people belongs to both: let the pattern match each of them, as all its matches count "
            "(with ^ only the first does).",
        )


def _found_words(path: str, pattern: str) -> set[str]:
    """The whole words of a path that a pattern's matches are in."""
    ends = [match.end(min(match.re.groups, 1)) for match in re.finditer(pattern, path)]
    return {word[0] for word in WORD.finditer(path) for end in ends if word.start() < end <= word.end()}
