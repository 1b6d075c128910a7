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
    origins = prediction_origins(trials, run.catalog(), part)

    def is_complete(trial: TrialDir) -> bool:
        files = (trial.predictions_file(part, corruption) for corruption in corruptions)
        return all(origins[trial.id].items() <= predictions_metadata(file).items() for file in files)

    return [trial for trial in trials if not is_complete(trial)]
