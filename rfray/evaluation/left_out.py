"""A run's probes -> what the best of them came to on sources that it had not learned from."""

from typing import NamedTuple

from rfray.audit.left_out import how_left_out, left_out_sentence
from rfray.errors import RunError
from rfray.store.files import file_digest
from rfray.store.records import LeftOut, TrialResult
from rfray.store.run_dir import RunDir, TrialDir

COLUMNS = ("auc_left_out", "auc_left_out_worst")
"""Of the leaderboard: the mean over all pairs of sources, and the worst of them."""


class ProbeLeftOut(NamedTuple):
    """The best probe that has been judged on sources that were left out."""

    backbone: str
    found: LeftOut

    @property
    def sentence(self) -> str:
        """What to expect on such sources."""
        return left_out_sentence(self.found)

    @property
    def how(self) -> str:
        """How that was found out."""
        return how_left_out(self.found, self.backbone)


def best_left_out(run: RunDir) -> ProbeLeftOut | None:
    """Of the best probe by the val metric; None where there is none. Raises RunError where a record is damaged."""
    results = [(out, result) for out in run.probes() if (result := out.result()) is not None]
    for out, result in sorted(results, key=lambda one: -(one[1].score or 0)):
        if (found := probe_left_out(out, result)) is not None:
            return ProbeLeftOut(result.trial.backbone, found)
    return None


def probe_left_out(out: TrialDir, result: TrialResult) -> LeftOut | None:
    """left-out.json of a probe; None where it has none. Raises RunError where it is not what was written."""
    if (digest := result.files.get(out.left_out_file.name)) is None:
        return None
    out.mirror.fetch(out.left_out_file)
    if not out.left_out_file.is_file() or file_digest(out.left_out_file) != digest:
        raise RunError(f"{out.left_out_file} is damaged: its content does not match its digest; `rfray tune` mends it")
    return out.left_out()


def left_out_line(run: RunDir) -> str:
    """What to expect on sources that it has not seen, for the end of a command."""
    best = best_left_out(run)
    if best is None:
        return left_out_sentence(LeftOut(reason="no backbone was probed (search.probe)"))
    return best.sentence
