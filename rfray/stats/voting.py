"""The val predictions of candidates -> METHODS: who votes, with what weight and temperature; a vote -> verdicts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import optimize, special

from rfray.errors import InputError, nearest_first, readable
from rfray.stats.metrics import metric
from rfray.stats.predictions import Predictions, positions
from rfray.store.bundle_record import Vote

TEMPERATURES = (0.05, 20.0)
"""The lowest and the highest that is tried; Guo et al. (2017) found 0.5 to 4 in practice."""
LARGEST_LOGIT = float(special.logit(1 - np.finfo(np.float64).epsneg))
"""That of the probability next to 1; a probability of exactly 0 or 1 is taken for one of this size."""
BAGS = 10
"""Random halves of the candidates that `weighted` selects from; Caruana et al. (2004) have 20."""
SMALLEST_BAG = 10
"""Candidates; fewer are not halved, as chance would choose then."""
ROUNDS = 20
"""Votes that are given in a bag; Caruana et al. (2004) find no gain beyond some tens."""
UNIT = 2**24
"""`weighted` counts probabilities in parts of this size (a float32's): sums are exact then, and equal scores equal."""


@dataclass(frozen=True)
class Candidates:
    """Everything that a method of voting may use."""

    ids: np.ndarray
    """(n,) of text: the images of val."""
    labels: np.ndarray
    """(n,) int8: 0 real, 1 fake."""
    p_fake: np.ndarray
    """(m, n) float64: the probabilities of each candidate, the best one first."""
    top: int
    """How many of them, from the first, are the members that were asked for."""
    metric: str
    """Name of the val metric."""
    seed: int


class Weighting(NamedTuple):
    """How the m candidates' probabilities become one."""

    weights: np.ndarray
    """(m,) float64: weight of each candidate, summing to 1; one with 0 has no vote."""
    temperatures: np.ndarray
    """(m,) float64: what each candidate's logit is divided by before it votes."""
    temperature: float = 1.0
    """What the logit of the vote is divided by."""


def fit_temperature(labels: np.ndarray, p_fake: np.ndarray) -> float | None:
    """The temperature (Guo et al. 2017) by which the logits of `p_fake` are divided to be most likely.

    Above 1 the probabilities were too extreme, below 1 not extreme enough. 1 where no image is on the wrong side of
    0.5, as the likelihood would sharpen them without end; None where a class is missing.
    """
    if len(np.unique(labels)) < 2:
        return None
    margins = np.where(labels == 1, 1, -1) * logits(p_fake)
    if margins.min() >= 0:
        return 1.0

    def loss(log_temperature: float) -> float:
        given = margins / np.exp(log_temperature)
        return float(np.mean(np.maximum(-given, 0) + np.log1p(np.exp(-np.abs(given)))))  # without a large exp

    lowest, highest = TEMPERATURES
    found = optimize.minimize_scalar(loss, bounds=(np.log(lowest), np.log(highest)), method="bounded")
    return float(np.exp(found.x))


def tempered(p_fake: np.ndarray, temperature: float) -> np.ndarray:
    """The probabilities whose logits are those of `p_fake` divided by `temperature` (> 0); order and 0.5 stay."""
    if temperature == 1:
        return p_fake  # as it is, to the last digit
    return np.asarray(special.expit(logits(p_fake) / temperature))


def logits(p_fake: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)), at most LARGEST_LOGIT away from 0."""
    return np.clip(special.logit(p_fake), -LARGEST_LOGIT, LARGEST_LOGIT)


def soft(candidates: Candidates) -> Weighting:
    """The plain mean of the members' probabilities."""
    places = np.arange(len(candidates.p_fake))
    return Weighting((places < candidates.top) / candidates.top, np.ones(len(places)))


def weighted(candidates: Candidates) -> Weighting:
    """Ensemble selection from all candidates (Caruana, Niculescu-Mizil, Crew and Ksikes 2004), bagged.

    Votes are given one by one, also several times to one candidate, each to the one with which the mean of all votes so
    far has the best val metric (the better candidate among equals). Of the ROUNDS steps the shortest of the best
    counts. This is done in BAGS random halves of the candidates, and the weights are averaged.
    """
    count = len(candidates.p_fake)
    size = max(-(-count // 2), SMALLEST_BAG)
    generator = np.random.default_rng(candidates.seed)
    bags = [np.arange(count)]
    if size < count:
        bags = [np.sort(generator.choice(count, size, replace=False)) for _ in range(BAGS)]
    units = np.rint(candidates.p_fake * UNIT).astype(np.int32)
    weights = np.zeros(count)
    for bag in bags:
        weights[bag] += _selected(units[bag], candidates)
    return Weighting(weights / len(bags), np.ones(count))


def calibrated(candidates: Candidates) -> Weighting:
    """The mean of the members' probabilities after each one's temperature, then the temperature of that mean.

    The second one is needed since a mean of calibrated probabilities is too close to 0.5 (Rahaman and Thiery 2021); it
    changes neither the order of the images nor on which side of 0.5 they are.
    """
    weights, temperatures, _ = soft(candidates)
    members = candidates.p_fake[: candidates.top]
    temperatures[: candidates.top] = [fit_temperature(candidates.labels, member) or 1.0 for member in members]
    mean = np.mean([tempered(*pair) for pair in zip(members, temperatures, strict=False)], axis=0)
    return Weighting(weights, temperatures, fit_temperature(candidates.labels, mean) or 1.0)


METHODS: dict[str, Callable[[Candidates], Weighting]] = {"soft": soft, "weighted": weighted, "calibrated": calibrated}
"""Name -> how the members vote; everything in it is chosen on val."""

VERDICTS = ("real", "fake", "unsure")
NOT_FINITE = "a model's output is not a number"
"""The reason for a missing verdict where the file could be read."""


def methods_to_use(asked: Sequence[str]) -> list[str]:
    """Those asked for, each once, and soft: others are compared with it. Raises InputError for one not in METHODS."""
    for name in asked:
        if name not in METHODS:
            raise InputError(f"--method {name}: no such method; allowed: {nearest_first(name, METHODS)}")
    return list(dict.fromkeys([*asked, "soft"]))


def vote_predictions(vote: Vote, members: Sequence[Predictions]) -> Predictions:
    """What `vote` says, in the order of the first member's ids. Raises ValueError as `aligned` does."""
    return Predictions(members[0].ids, members[0].labels, joined(vote, aligned(members)))


def joined(vote: Vote, p_fake: np.ndarray) -> np.ndarray:
    """The vote's p_fake, (n,) float64, of those of its members, (k, n) in the order of `vote.members`.

    The weighted mean of them, each after its temperature, and then the vote's own temperature (soft voting: Kittler et
    al. 1998, the sum rule). Equal weights give the plain mean to the last digit.
    """
    each = [tempered(row, temperature) for row, temperature in zip(p_fake, vote.temperatures, strict=True)]
    mean = np.average(each, axis=0, weights=np.array(vote.weights) / max(vote.weights))
    return tempered(np.clip(mean, 0, 1), vote.temperature)


def verdicts(vote: Vote, p_fake: np.ndarray) -> np.ndarray:
    """(n,) of VERDICTS for (n,) p_fake: unsure within the vote's band; "" where p_fake is nan."""
    found = np.where(p_fake >= vote.threshold, "fake", "real").astype(object)
    if vote.unsure is not None:
        low, high = vote.unsure
        found[(low <= p_fake) & (p_fake < high)] = "unsure"
    found[np.isnan(p_fake)] = ""
    return found


def verdict_table(vote: Vote, paths: Sequence[str], scores: np.ndarray, reasons: Sequence[str]) -> pd.DataFrame:
    """The columns path, p_fake, verdict, each member's p_fake under its id, and reason.

    `scores` (k, n) float64 are the members' p_fake. `reasons` are n texts, "" where there is none; a file with a reason
    has nan for every number, and no verdict. A path that is not UTF-8 is written as `readable` says.
    """
    scores = np.where([bool(reason) for reason in reasons], np.nan, scores)
    p_fake = joined(vote, scores)
    said = {"path": [readable(path) for path in paths], "p_fake": p_fake, "verdict": verdicts(vote, p_fake)}
    return pd.DataFrame({**said, **dict(zip(vote.members, scores, strict=True)), "reason": list(reasons)})


def aligned(members: Sequence[Predictions]) -> np.ndarray:
    """Their p_fake, (k, n) float64, by the first one's ids. Raises ValueError where the images or labels differ."""
    first, rows = members[0], []
    for number, member in enumerate(members, start=1):
        order = positions(member.ids, first.ids)
        if order is None:
            only_one = sorted(set(member.ids.tolist()) ^ set(first.ids.tolist()))
            example = f"; only in one of them: {only_one[0]}" if only_one else ""
            images = f"different images ({len(first)} and {len(member)}{example})"
            raise ValueError(f"members 1 and {number} have predicted {images}")
        differing = member.labels[order] != first.labels
        if differing.any():
            raise ValueError(f"members 1 and {number} disagree on the label of {first.ids[differing][0]}")
        rows.append(member.p_fake[order])
    return np.stack(rows)


def _selected(units: np.ndarray, candidates: Candidates) -> np.ndarray:
    """(b,) float64: the share of the votes that each of b candidates gets, from their p_fake in UNITs, (b, n) int32."""
    total = np.zeros_like(units[0])
    picks: list[int] = []
    scores: list[float] = []
    while len(picks) < ROUNDS and 1.0 not in scores:
        sums = total + units
        if candidates.metric == "auc":
            found = aucs(candidates.labels, sums)
        else:
            means = (row / ((len(picks) + 1) * UNIT) for row in sums)
            voters = (Predictions(candidates.ids, candidates.labels, mean) for mean in means)
            values = [metric(candidates.metric, voter) for voter in voters]
            found = np.array([-np.inf if value is None else value for value in values])
        picks.append(int(np.argmax(found)))
        scores.append(found[picks[-1]])
        total = sums[picks[-1]]
    votes = 1 + int(np.argmax(scores))
    return np.bincount(picks[:votes], minlength=len(units)) / votes


def aucs(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(b,) float64: the AUC of each row of `scores` (b, n), from the ranks of the fake images (Mann and Whitney 1947).

    All rows at once, in less time than `metric` takes for them. -inf where `labels` (n,) lack a class.
    """
    from scipy.stats import rankdata  # takes a second to import

    fakes = int(labels.sum())
    reals = len(labels) - fakes
    if not fakes or not reals:
        return np.full(len(scores), -np.inf)
    rank_sums = rankdata(scores, axis=1)[:, labels == 1].sum(axis=1)
    return np.asarray((rank_sums - fakes * (fakes + 1) / 2) / (fakes * reals))
