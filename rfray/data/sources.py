"""Paths of images -> where each comes from (`data.group`): the generator of a fake, the origin of a photograph.

Not to be confused with `group_id`, by which images that belong together stay on one side of a split.
"""

import re
from collections.abc import Mapping

import pandas as pd

from rfray.data.attributes import KEYS, attributes_of, read_attributes
from rfray.data.demo import UPSAMPLING
from rfray.errors import DataError, nearest_first
from rfray.spec.parts import is_test
from rfray.spec.sweep import CLASSES, SUBFOLDER, DataSettings, SourceColumn

MIN_IMAGES = 20
"""A source with fewer images has an AUC of hardly any meaning: at 0.8, a 95 % interval of 0.66 to 0.89 (our choice)."""
NAMED = 5
"""Sources of a class that a line names: more would not be read."""


def sources(images: pd.DataFrame, settings: DataSettings) -> pd.Series:
    """The name of each image's source, "" where it is not known; `images` has path, label, subfolder (str), folder.

    By default the class folder where a class has several, else the subfolder where each class has some; of the built-in
    data how a fake was scaled up.
    """
    if settings.group is None and settings.source == "demo":
        return images["path"].map(_demo_source)
    if settings.group is None:
        return _of_folders(images, settings)
    if settings.group == SUBFOLDER:
        return images["subfolder"]
    if isinstance(settings.group, SourceColumn):
        return _of_column(images, settings, settings.group.column)
    pattern = settings.group
    return images["path"].map(lambda path: matched(pattern, path)).astype(str)


def _of_folders(images: pd.DataFrame, settings: DataSettings) -> pd.Series:
    """The folder with what is below it where a class has several; else the subfolder where each class has some."""
    counts = {CLASSES.index(name): len(folders) for name, folders in settings.class_folders().items()}
    several = images["label"].map(counts) > 1
    named = images["subfolder"].mask(several, images["path"].str.rpartition("/")[0])
    each = named.ne("").groupby(images["label"]).any()
    return named if len(each) == len(CLASSES) and each.all() else named.where(several, "")


def check_source_column(settings: DataSettings) -> None:
    """Raises DataError where `data.group` is a column that the table `data.attributes` lacks."""
    if isinstance(settings.group, SourceColumn):
        assert settings.attributes is not None  # DataSettings makes sure of it
        column, table = settings.group.column, read_attributes(settings.attributes)
        there = table.columns.difference([*KEYS])
        if column not in there:
            allowed = nearest_first(column, list(there))
            raise DataError(f"data.group: {settings.attributes} has no column {column!r}; allowed: {allowed}")


def _of_column(images: pd.DataFrame, settings: DataSettings, column: str) -> pd.Series:
    if images["folder"].map(is_test).all():
        return _none(images)  # nothing is learned from these, and the table may be gone by then
    check_source_column(settings)
    assert settings.attributes is not None
    table, found = read_attributes(settings.attributes), _none(images)
    for folder, its in images.groupby("folder"):
        found[its.index] = attributes_of(table, str(folder), its["path"].tolist())[column].to_numpy()
    return found


def matched(pattern: str, path: str) -> str:
    """What a regular expression finds first in a path: its first group in brackets, if any; "" where nothing."""
    found = re.search(pattern, path)
    return "" if found is None else found[min(found.re.groups, 1)] or ""


def large_enough(counts: Mapping[str, int]) -> list[str]:
    """The sources of a class that can be left out: they have images to be judged on, the others some to learn from."""
    whole = sum(counts.values())
    return [source for source, count in counts.items() if min(count, whole - count) >= MIN_IMAGES]


def source_counts(images: pd.DataFrame) -> str:
    """How many images each source has (columns label, source), largest first, for people; "" where none is known."""
    known = images[images["source"] != ""]
    said = []
    for label, name in reversed(list(enumerate(CLASSES))):
        counts = known.loc[known["label"] == label, "source"].value_counts()
        listed = [f"{source} {count:,}" for source, count in counts.head(NAMED).items()]
        more = [f"… and {len(counts) - NAMED:,} more"] if len(counts) > NAMED else []
        said.append(f"{name}: {', '.join([*listed, *more]) or 'none is known'}")
    return "; ".join(said) if len(known) else ""


def _none(images: pd.DataFrame) -> pd.Series:
    return pd.Series("", images.index, dtype=str)


def _demo_source(path: str) -> str:
    """How a fake of the built-in data was scaled up, by its number (see `demo`); its photographs have no sources."""
    label, _, file = path.split("/")
    methods = list(UPSAMPLING)
    return methods[int(file.partition(".")[0]) % len(methods)] if label == "fake" else ""
