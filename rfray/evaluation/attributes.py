"""Predictions, a table of attributes, a threshold -> how the images of each value come off, and what is no chance.

A detector may do well on the whole and call every fourth photograph of dark skin fake. So of each value the share of
its real images that are called fake, and of its fakes that are found, is compared with that of all other values of the
attribute by Fisher's exact test (Fisher 1934, section 21.02). The more values are looked at, the more of them differ by
chance: all comparisons of all attributes are one family, corrected by Holm's method. Of images that belong together
(a video, an identity), each counts for as much as it is worth beside the others of its group (Rao and Scott 1992).
"""

from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
import pandas as pd

from rfray.data.attributes import attributes_of, categories
from rfray.data.listing import counted
from rfray.evaluation.groups import GROUP_COLUMNS, Groups, by_group
from rfray.spec.parts import TEST
from rfray.stats.clusters import design_effects, groups_in, groups_of_images, share_intervals
from rfray.stats.paired_tests import LEVEL, holm
from rfray.stats.predictions import Predictions, read_predictions
from rfray.store.run_dir import RunDir

RATES: dict[Literal["false_positive_rate", "recall"], tuple[int, str]] = {
    "false_positive_rate": (0, "Real images with {} are called fake in {}"),
    "recall": (1, "Fakes with {} are missed in {}"),
}
"""Rate that is tested -> label of the images that it is a share of, and what is said of its errors."""
TESTED_COLUMNS = {f"{rate}{end}": "float64" for rate in RATES for end in ("_others", "_p")}
"""Columns that the groups of an attribute have besides GROUP_COLUMNS: the rate of all other values together, and the p
value of the difference, corrected; nan where either has no such image."""


@dataclass(frozen=True)
class Gap:
    """The value of an attribute that comes off worst by one rate, against its other values."""

    attribute: str
    value: str
    rate: Literal["false_positive_rate", "recall"]
    errors: tuple[int, int]
    """Of the value's images of the class: how many are wrong, of how many."""
    other_errors: tuple[int, int]
    """The same of the other values together."""
    p: float
    """Of Fisher's exact test, two-sided, corrected by Holm's method for all `comparisons`; in [0, 1]."""
    comparisons: int
    interval: tuple[float, float]
    """95 % interval of the value's share of errors."""
    lowest: tuple[str, float] | None
    """The value with the lowest share of errors, and that share, in [0, 1]; None where there are two values alone."""

    @property
    def is_proven(self) -> bool:
        """Whether chance makes so large a gap, among so many that were looked at, in less than LEVEL of cases."""
        return self.p < LEVEL

    @property
    def sentence(self) -> str:
        """The gap in one plain sentence."""
        (wrong, of), (others, of_others) = self.errors, self.other_errors
        low, high = self.interval
        judged = "is more than chance explains" if self.is_proven else "may be chance, as far as these images tell"
        several = f"the {self.comparisons} comparisons made" if self.comparisons > 1 else "one comparison"
        end = f"; the lowest is {self.lowest[1]:.1%} ({self.attribute}={self.lowest[0]})" if self.lowest else ""
        return (
            f"{RATES[self.rate][1].format(f'{self.attribute}={self.value}', f'{wrong / of:.1%}')} ({low:.1%} to "
            f"{high:.1%}, n = {of:,}), the others in {others / of_others:.1%} (n = {of_others:,}): a difference that "
            f"{judged} (p = {self.p:.2g}, Fisher's exact test, corrected for {several}){end}."
        )


@dataclass(frozen=True)
class AttributeGroups:
    """How good a vote is on the images of each value of each attribute."""

    groups: dict[str, Groups]
    """Attribute -> its groups; their tables have TESTED_COLUMNS, too. Attributes without groups are not there."""
    gaps: list[Gap]
    """Of each attribute at most one a rate, the least likely by chance first."""
    notes: list[str]
    """What to say of columns that were cut into ranges, or make no groups."""
    comparisons: int = 0
    """How many values and rates were compared with others, in all attributes."""

    @property
    def summary(self) -> list[str]:
        """What a reader should know who reads nothing else: every gap that is more than chance, or that none is."""
        if proven := [gap.sentence for gap in self.gaps if gap.is_proven]:
            return proven
        if not self.comparisons:
            return []
        named = ", ".join(self.groups)
        return [
            f"By {named}: no value comes off so much worse than the others that chance does not explain it "
            f"({counted(self.comparisons, 'comparison')}, Fisher's exact test, corrected by Holm's method)."
        ]

    @property
    def has_one_class(self) -> bool:
        """Whether some value has images of one class alone."""
        return any((one.table["auc_against"] != "own").any() for one in self.groups.values())

    def of(self, attribute: str) -> list[Gap]:
        """The gaps of one attribute."""
        return [gap for gap in self.gaps if gap.attribute == attribute]


def by_attribute(
    predictions: Predictions, attributes: pd.DataFrame, threshold: float, together: np.ndarray | None = None
) -> AttributeGroups:
    """The groups of each attribute, and where they differ.

    `attributes` has a row an image, in the order of the predictions, and a column of text an attribute. Images without
    a value ("") are in no group, and none of the others; but a group of one class has its AUC against all of the other.
    `together` (n,) int: images with the same number are one piece of evidence; None: each stands alone.
    """
    found, notes = categories(attributes)
    groups: dict[str, Groups] = {}
    for name in found:
        made = by_group(predictions, found[name].to_numpy(object), threshold, together)
        if made is not None and len(valued := made.table[made.table["group"] != ""]) > 1:
            groups[str(name)] = Groups(valued.reset_index(drop=True), made.overall, made.measure)
    tests = comparisons(predictions.labels, predictions.p_fake >= threshold, found[list(groups)], together)
    for name, one in groups.items():
        table = one.table.assign(**dict.fromkeys(TESTED_COLUMNS, np.nan))
        for rate in RATES:
            own = tests[(tests["attribute"] == name) & (tests["rate"] == rate)].set_index("value")
            share = own["other_wrong"] / own["other_n"]
            table[f"{rate}_others"] = table["group"].map(share if rate == "false_positive_rate" else 1 - share)
            table[f"{rate}_p"] = table["group"].map(own["p"])
        groups[name] = Groups(table.astype({**GROUP_COLUMNS, **TESTED_COLUMNS}), one.overall, one.measure)
    return AttributeGroups(groups, _gaps(tests), notes, int((~tests["twin"]).sum()))


def attribute_groups(run: RunDir) -> AttributeGroups:
    """The same of the ensemble's main vote on test; nothing without an ensemble or a table.

    Raises RunError where a file is damaged.
    """
    ensemble, table = run.ensemble(), run.attributes()
    if ensemble is None or table is None:
        return AttributeGroups({}, [], [])
    predictions = read_predictions(run.ensemble_predictions_file(ensemble.name, "test"))
    folder = TEST if run.sweep().data.share(TEST) is None else "train"
    attributes = attributes_of(table, folder, predictions.ids.tolist())
    together = groups_of_images(predictions.ids, groups_in(run, "test"))
    return by_attribute(predictions, attributes, ensemble.threshold, together)


def comparisons(
    labels: np.ndarray, called_fake: np.ndarray, attributes: pd.DataFrame, together: np.ndarray | None = None
) -> pd.DataFrame:
    """Every value against the others of its attribute, by each of RATES, where there are such images on both sides.

    A row each: attribute, rate, value, wrong and n (images), other_wrong, other_n, low and high (95 % interval of wrong
    of n), the corrected p, and comparisons, the number of all. Of two values, each is the other's others: the second is
    a twin, and not counted. `together`: see `by_attribute`.
    """
    wrong = called_fake != (labels == 1)
    rows = []
    for name, (rate, (label, _)) in product(attributes, RATES.items()):
        own = attributes[name].to_numpy(object)
        counted_in = (own != "") & (labels == label)
        values = sorted(set(own[counted_in]))
        for number, value in enumerate(values if len(values) > 1 else ()):
            sides = np.stack([counted_in & (own == value), counted_in & (own != value)])
            hits = sides & wrong
            ((low, high), _) = share_intervals(hits, sides, together)
            twin = len(values) == 2 and number == 1
            counts = zip(hits.sum(axis=1).tolist(), sides.sum(axis=1).tolist(), strict=True)
            (errors, n), (others, of) = counts
            p = _fisher(hits, sides, together)
            rows.append((str(name), rate, str(value), errors, n, others, of, float(low), float(high), p, twin))
    columns = ["attribute", "rate", "value", "wrong", "n", "other_wrong", "other_n", "low", "high", "p", "twin"]
    table = pd.DataFrame(rows, columns=columns).astype({"p": float, "twin": bool})
    once = ~table["twin"]
    table.loc[once, "p"] = holm(table.loc[once, "p"].to_numpy())
    table["p"] = table["p"].mask(table["twin"], table["p"].shift())
    return table.assign(comparisons=int(once.sum()))


def _fisher(hits: np.ndarray, sides: np.ndarray, together: np.ndarray | None) -> float:
    """p of Fisher's exact test, two-sided, of the hits (2, n) among the images of two sides (2, n), bool.

    With groups, of as many images as they are worth, rounded.
    """
    from scipy.stats import fisher_exact  # takes a second to import

    found, of = hits.sum(axis=1), sides.sum(axis=1)
    if together is not None:
        effect, _ = design_effects(hits, sides, together)
        found, of = np.rint(found / effect).astype(int), np.rint(of / effect).astype(int)
    return float(fisher_exact(np.stack([found, of - found], axis=1)).pvalue)


def _gaps(tests: pd.DataFrame) -> list[Gap]:
    """Of each attribute and rate the value that is worse than the others with the smallest p; of equals the worst."""
    tests = tests.assign(share=tests["wrong"] / tests["n"], other_share=tests["other_wrong"] / tests["other_n"])
    found = []
    for name, rate in product(tests["attribute"].unique(), RATES):
        rows = tests[(tests["attribute"] == name) & (tests["rate"] == rate)]
        worse = rows[rows["share"] > rows["other_share"]].sort_values(["p", "share"], ascending=[True, False])
        if len(worse):
            one, least = worse.iloc[0], rows.sort_values("share", kind="stable").iloc[0]
            found.append(
                Gap(
                    attribute=name,
                    value=one["value"],
                    rate=rate,
                    errors=(int(one["wrong"]), int(one["n"])),
                    other_errors=(int(one["other_wrong"]), int(one["other_n"])),
                    p=float(one["p"]),
                    comparisons=int(one["comparisons"]),
                    interval=(float(one["low"]), float(one["high"])),
                    lowest=(least["value"], float(least["share"])) if len(rows) > 2 else None,
                )
            )
    return sorted(found, key=lambda gap: gap.p)
