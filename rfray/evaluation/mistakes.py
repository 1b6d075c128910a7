"""Test predictions of the ensemble and its members -> ensemble/mistakes.json: the wrongly classified images."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol

import pandas as pd

from rfray.spec.schema_base import Strict
from rfray.stats.predictions import Predictions, predictions_metadata, read_predictions
from rfray.store.bundle_record import Vote
from rfray.store.files import RECORD_BYTES, read_plain, write_whole
from rfray.store.run_dir import RunDir

AT_MOST = 24
"""Images in the gallery, a page of four rows: half of them fakes, half real images, where there are as many."""


class Gallery(Protocol):
    """A folder that has the record of mistakes and their pictures: a run, or an evaluation."""

    mistakes_file: Path
    mistakes_folder: Path

    def mistake_picture(self, number: int, *, evidence: bool = False) -> Path:
        """Where a picture is."""


class Mistake(Strict):
    """One wrongly classified image."""

    number: int
    """Names its pictures; from 1."""
    id: str
    """Path below its data folder."""
    label: int
    """What it is: 0 real, 1 fake. It was called the other."""
    p_fake: float
    """Of the vote."""
    scores: dict[str, float]
    """Member -> its own p_fake, best member first."""

    @property
    def call(self) -> int:
        """What it was called: 0 real, 1 fake."""
        return 1 - self.label


class Mistakes(Strict):
    """mistakes.json: written last, when the pictures are there."""

    schema_version: Literal[1] = 1
    name: str
    """Of the vote whose mistakes these are."""
    members: dict[str, float]
    """Member -> its share in the vote."""
    threshold: float
    """An image was called fake where p_fake >= this."""
    origins: dict[str, dict[str, str]]
    """Member -> digests of the weights and images that its predictions are made of."""
    false_negatives: int
    """How many fakes were called real, among all test images."""
    false_positives: int
    """How many real images were called fake."""
    shown: list[Mistake]
    """Fakes called real, then real images called fake; of each the most confident mistakes first."""
    problems: list[str]
    """Sentences: what could not be drawn, and why."""


def find_mistakes(run: RunDir) -> Mistakes | None:
    """The mistakes of the ensemble's main vote on test; None where no ensemble was made.

    Raises RunError where a predictions file is damaged.
    """
    ensemble = run.ensemble()
    if ensemble is None:
        return None
    files = {member: run.trial(member).predictions_file("test") for member in ensemble.members}
    return mistakes_of(
        ensemble,
        read_predictions(run.ensemble_predictions_file(ensemble.name, "test")),
        {member: read_predictions(file) for member, file in files.items()},
        {member: predictions_metadata(file) for member, file in files.items()},
    )


def mistakes_of(
    ensemble: Vote, vote: Predictions, said: Mapping[str, Predictions], origins: Mapping[str, dict[str, str]]
) -> Mistakes:
    """The mistakes of a vote on some images; `said` is what its members say of them, `origins` what of (see Mistakes).

    The farther from the threshold the more confident, ties by id.
    """
    table = pd.DataFrame({"id": vote.ids, "label": vote.labels, "p_fake": vote.p_fake})
    table["far"] = (table["p_fake"] - ensemble.threshold).abs()
    wrong = table[(table["p_fake"] >= ensemble.threshold) != (table["label"] == 1)]
    wrong = wrong.sort_values(["far", "id"], ascending=[False, True])
    fakes, reals = wrong[wrong["label"] == 1], wrong[wrong["label"] == 0]
    shown_fakes = min(len(fakes), max(AT_MOST // 2, AT_MOST - len(reals)))
    shown = pd.concat([fakes.head(shown_fakes), reals.head(AT_MOST - shown_fakes)])
    scores = pd.DataFrame({member: pd.Series(one.p_fake, one.ids).loc[shown["id"]] for member, one in said.items()})
    images = shown[["id", "label", "p_fake"]].assign(number=range(1, len(shown) + 1))
    given = zip(images.to_dict("records"), scores.to_dict("records"), strict=True)
    return Mistakes(
        name=ensemble.name,
        members=dict(zip(ensemble.members, ensemble.weights, strict=True)),
        threshold=ensemble.threshold,
        origins=dict(origins),
        false_negatives=len(fakes),
        false_positives=len(reals),
        shown=[Mistake.model_validate({**image, "scores": each}) for image, each in given],
        problems=[],
    )


def undrawn_mistakes(run: RunDir) -> Mistakes | None:
    """The mistakes whose pictures are to be drawn: None where they are there, or where nothing is wrong.

    What was recorded of another vote is deleted. Raises RunError where a predictions file is damaged.
    """
    return undrawn(find_mistakes(run), run)


def undrawn(found: Mistakes | None, place: Gallery) -> Mistakes | None:
    """The same of mistakes that were found, whose pictures have this place."""
    known = read_mistakes(place)
    pictures = [place.mistake_picture(mistake.number) for mistake in found.shown] if found is not None else []
    if known is not None and known.model_copy(update={"problems": []}) == found and all(map(Path.exists, pictures)):
        return None
    place.mistakes_file.unlink(missing_ok=True)
    for picture in place.mistakes_folder.glob("*.jpg"):
        picture.unlink()
    if found is not None and not found.shown:
        write_mistakes(place, found)
        return None
    return found


def write_mistakes(place: Gallery, mistakes: Mistakes) -> None:
    """Writes mistakes.json."""
    write_whole(place.mistakes_file, mistakes.model_dump_json(indent=1))


def read_mistakes(place: Gallery) -> Mistakes | None:
    """mistakes.json; None where there is no such record that can be read: it is made anew then."""
    try:
        return Mistakes.model_validate_json(read_plain(place.mistakes_file, RECORD_BYTES))
    except (FileNotFoundError, ValueError):
        return None
