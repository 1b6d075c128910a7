"""what a probe came to on sources that it had not learned from (`LeftOut`) -> sentences, a finding of the audit."""

from collections import Counter

import pandas as pd

from rfray.audit.facts import gravest_first
from rfray.data.listing import counted
from rfray.data.sources import MIN_IMAGES, large_enough, source_counts
from rfray.store.records import Audit, Finding, LeftOut, LeftOutPair

CODE = "left-out-sources"
MARGIN = 0.05
"""AUC that is lost on sources that were not learned from, above which a detector is another one there (our choice)."""
NO_SOURCES = "no class has images of two known sources (data.group says how their names are found)"
"""Reason for which nothing can be left out."""


def left_out_sentence(found: LeftOut) -> str:
    """What to expect on sources that a detector has not seen, with the worst pair of them."""
    if found.mean is None or found.worst is None or found.seen is None:
        return f"What it is worth on sources that it has not seen is not known: {found.reason}."
    expected = f"On sources it has not seen, expect AUC {found.mean:.2f}"
    if len(found.pairs) > 1:
        expected += f" (worst {found.worst.auc:.2f}: {pair_name(found.worst)})"
    if _is_worse(found):
        return f"{expected}, not {found.seen:.2f}: the sources differ in more than real and fake."
    return f"{expected}; on those it has seen, {found.seen:.2f}."


def too_few(least: int) -> str:
    """Reason for which none of the sources can be left out."""
    return f"the sources have too few images (fewer than {least} of a class)"


def before_probes(training: pd.DataFrame) -> str:
    """The same before there is a probe, of training images with the columns label and source."""
    known = training[training["source"] != ""]
    counts = [Counter(of.tolist()) for _, of in known.groupby("label")["source"]]
    if any(large_enough(of) for of in counts):
        return (
            "What a detector will be worth on sources that it has not seen `rfray tune` says, once it has probed a "
            f"backbone (search.probe), by leaving out each of these: {source_counts(training)}."
        )
    why = too_few(MIN_IMAGES) if any(len(of) > 1 for of in counts) else NO_SOURCES
    return f"What a detector will be worth on sources that it has not seen can't be told: {why}."


def pair_name(pair: LeftOutPair) -> str:
    """A pair of sources in a sentence."""
    return f"{pair.fake or 'other fake images'} against {pair.real or 'other real images'}"


def how_left_out(found: LeftOut, backbone: str) -> str:
    """How that was found out, and which sources it says nothing of."""
    said = (
        f"So say linear heads on what the frozen {backbone} sees, each judged on a source of fakes and one of real "
        f"images after learning from neither ({counted(len(found.pairs), 'pair')})."
    )
    if found.few:
        listed = ", ".join(f"{source} {n:,}" for source, n in list(found.few.items())[:5])
        said += f" Too few images to be left out have {counted(len(found.few), 'source')} ({listed})."
    if found.more:
        said += f" {counted(found.more, 'smaller source')} were not left out."
    fakes, reals = ({getattr(pair, kind) for pair in found.pairs} for kind in ("fake", "real"))
    if missing := len(fakes) * len(reals) - len(found.pairs):
        said += f" For {counted(missing, 'further pair')} there are too few images."
    return said


def with_left_out(audit: Audit, found: LeftOut, backbone: str) -> Audit:
    """The audit with a finding on sources that were left out, in the place of an earlier one."""
    findings = [one for one in audit.findings if one.code != CODE]
    if found.pairs:
        remedy = "More sources of both classes help, and `data.reencode` against formats that differ."
        findings.append(
            Finding(
                grade="warning" if _is_worse(found) else "note",
                code=CODE,
                sentence=left_out_sentence(found),
                what_to_do=f"{how_left_out(found, backbone)}{f' {remedy}' if _is_worse(found) else ''}",
            )
        )
    return audit.model_copy(update={"findings": gravest_first(findings)})


def _is_worse(found: LeftOut) -> bool:
    """By more than MARGIN, and by more than what chance may have added to the AUC on sources that were seen."""
    if found.mean is None or found.seen is None:
        return False
    low = found.seen if found.seen_low is None else found.seen_low
    return found.seen - found.mean > MARGIN and found.mean < low
