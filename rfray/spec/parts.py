"""The parts of the data: train, val, test, and test-<name> for each further test set (`data.test: {name: folder, …}`).

The first test set is the part `test`, whatever its name: whatever is said without a name is on it.
"""

import re
from typing import Annotated

from pydantic import Field

from rfray.spec.schema_base import AbsolutePath, rule

TEST, FURTHER = "test", "test-"
"""The part of the first test set, and what those of the others begin with."""
COLUMNS_OF_SETS = ("mean", "worst")
"""auc_mean, auc_worst: of all test sets."""
TAKEN = frozenset(
    {
        *COLUMNS_OF_SETS,
        "worst_corruption",
        "low",
        "high",
        "boot",
        "p_best",
        "p_ensemble",
        "left_out",
        "left_out_worst",
        "groups",
    }
)
"""What stands after auc_ or accuracy_ in other columns of the leaderboard, and after test- in names of files."""
TAKEN_ENDINGS = re.compile(r".*[_-](low|high)|(.*-)?(jpeg|scale|blur|noise)_\d+")
"""The same of columns that come with another one (auc_phone_low), and of corruptions."""


def _is_free(name: str) -> bool:
    return name.lower() not in TAKEN and not TAKEN_ENDINGS.fullmatch(name.lower())


SetName = Annotated[
    str,
    rule(
        "a name of letters, digits, _ and -, a letter or digit first, at most 40: it becomes a part of file names",
        re.compile("[A-Za-z0-9][A-Za-z0-9_-]{,39}").fullmatch,
    ),
    rule(
        f"a name that no other column of the leaderboard has after auc_: not {', '.join(sorted(TAKEN))}, nor what "
        "ends in _low or _high, nor a corruption (jpeg_50)",
        _is_free,
    ),
]
"""Of a test set: columns and files are called by it."""
NamedSets = Annotated[
    dict[SetName, AbsolutePath],
    Field(min_length=1),
    rule(
        "names that differ in more than upper and lower case",
        lambda sets: len({name.lower() for name in sets}) == len(sets),
    ),
]
"""Name of each test set -> its folder, or its address."""


def is_test(part: str) -> bool:
    """Whether a part (or the data folder that is given for it) is that of a test set."""
    return part == TEST or part.startswith(FURTHER)
