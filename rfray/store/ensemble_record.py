"""a run, a bundle's folder or an address -> `Ensemble`: ensemble.json, and the checked files that stand beside it."""

from pathlib import Path
from typing import Literal

from rfray.errors import RunError
from rfray.spec.schema_base import Strict
from rfray.store.bundle_record import Bundle, file_problems
from rfray.store.records import find_record, read_record
from rfray.store.run_dir import ENSEMBLE_FILE, RunDir

NAME = "ensemble"
"""Name of the uniform soft vote: in its files' names and on the leaderboard."""


class Vote(Strict):
    """How members' probabilities become one, and from where on that one is called fake."""

    name: str
    """Of its row on the leaderboard and its files: ensemble for the soft vote, ensemble-<method> for others."""
    members: list[str]
    """Ids of the trials that vote, best first."""
    weights: list[float]
    """Share of each member in the vote, in the same order; they sum to 1."""
    temperatures: list[float]
    """What each member's logit is divided by before it votes; 1 leaves it as it is."""
    temperature: float = 1.0
    """What the logit of the vote is divided by."""
    threshold: float
    """An image is called fake where p_fake >= this; above 1: none is."""
    unsure: tuple[float, float] | None = None
    """An image gets no verdict where low <= p_fake < high, which the threshold is between; both alike: each gets one.
    None where no error rate was asked for, or where it can't be reached."""
    val_score: float | None
    """The vote's own value of the val metric on val, in [0, 1]; None where it is undefined."""


class Ensemble(Vote):
    """ensemble.json: everything that turns the members' weights into one detector."""

    schema_version: Literal[3] = 3
    classes: list[str]
    """Class names; the position is the label."""
    metric: str
    """Name of the val metric, by which the members were chosen."""
    choose_by: Literal["score", "worst"] = "score"
    """By its value on val, or by the worst of its values there under corruption."""
    others: list[Vote]
    """What this vote is compared with: the other ways to vote."""
    bundle: Bundle | None = None
    """What stands beside it in the folder, and how good it is; None until all of that is there."""

    @property
    def chosen_by(self) -> str:
        """The same in words."""
        return self.metric if self.choose_by == "score" else f"the worst {self.metric} under corruption"

    @property
    def votes(self) -> list[Vote]:
        """The vote itself, then the others."""
        return [self, *self.others]


def vote_name(method: str) -> str:
    """What the vote by this method is called on the leaderboard and in its files' names."""
    return NAME if method == "soft" else f"{NAME}-{method}"


def read_ensemble(run: RunDir) -> Ensemble | None:
    """ensemble.json, or None where no ensemble was made yet. Raises RunError where it is damaged."""
    return find_record(run.ensemble_file, Ensemble, remedy="`rfray ensemble` writes it anew")


def read_bundle(where: Path | str) -> tuple[Path, Ensemble, Bundle]:
    """The folder of a bundle whose files are what they were, and its two records.

    Raises RunError where there is none, or a file is missing, damaged or more than data.
    """
    folder = find_bundle(where)
    ensemble = read_record(folder / ENSEMBLE_FILE, Ensemble)
    bundle = ensemble.bundle
    if bundle is None or [member.id for member in bundle.members] != ensemble.members:
        raise RunError(
            f"{folder / ENSEMBLE_FILE} does not say what its members are; `rfray ensemble RUN` writes it anew"
        )
    if problems := file_problems(folder, bundle.files, bundle.members):
        listed = "\n  ".join(problems)
        raise RunError(f"{folder} can't be used:\n  {listed}\nCopy it anew; `rfray ensemble RUN` makes it")
    return folder, ensemble, bundle


def find_bundle(where: Path | str) -> Path:
    """The folder with ensemble.json: `where` itself or its ensemble/, brought here from an address."""
    run = RunDir(where)
    run.mirror.pull(ENSEMBLE_FILE, f"ensemble/{ENSEMBLE_FILE}", "members/*", "ensemble/members/*")
    for folder in (run.path, run.bundle_folder):
        if (folder / ENSEMBLE_FILE).is_file():
            return folder
    made = "; `rfray ensemble` makes it" if run.sweep_file.exists() else ", and no run folder"
    raise RunError(f"{run.where}: no bundle (a folder with {ENSEMBLE_FILE}){made}")
