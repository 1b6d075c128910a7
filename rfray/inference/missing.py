"""trials and a catalog -> those whose predictions of a part are missing, or were made of other weights or images."""

from collections.abc import Sequence

import pandas as pd

from rfray.data.catalog import part_digest
from rfray.stats.predictions import predictions_metadata
from rfray.store.files import file_digest
from rfray.store.run_dir import Part, RunDir, TrialDir


def prediction_origins(trials: Sequence[TrialDir], catalog: pd.DataFrame, part: Part) -> dict[str, dict[str, str]]:
    """Id of a trial -> which weights and images its predictions are made of: digests, kept in the file's metadata."""
    images = part_digest(catalog, part)  # once: it takes a while for many images
    return {trial.id: {"weights": file_digest(trial.weights_file), "images": images} for trial in trials}


def without_predictions(
    run: RunDir, trials: Sequence[TrialDir], part: Part, corruptions: Sequence[str | None] = (None,)
) -> list[TrialDir]:
    """The trials that lack predictions of the part as it is (None), or under one or more of the corruptions."""
    return without_predictions_of(run, trials, [part], corruptions)[part]


def without_predictions_of(
    run: RunDir, trials: Sequence[TrialDir], parts: Sequence[Part], corruptions: Sequence[str | None] = (None,)
) -> dict[Part, list[TrialDir]]:
    """The same of several parts: files of weights are read once."""
    catalog = run.catalog()
    weights = {trial.id: file_digest(trial.weights_file) for trial in trials}
    images = {part: part_digest(catalog, part) for part in parts}

    def is_complete(trial: TrialDir, part: Part) -> bool:
        origin = {"weights": weights[trial.id], "images": images[part]}
        files = (trial.predictions_file(part, corruption) for corruption in corruptions)
        return all(origin.items() <= predictions_metadata(file).items() for file in files)

    return {part: [trial for trial in trials if not is_complete(trial, part)] for part in parts}
