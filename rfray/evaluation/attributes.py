"""The predictions of a vote, a table of attributes -> how good it is on the images of each value."""

import pandas as pd

from rfray.data.attributes import attributes_of, categories
from rfray.evaluation.groups import Groups, by_group
from rfray.stats.predictions import Predictions, read_predictions
from rfray.store.run_dir import RunDir


def by_attribute(
    predictions: Predictions, attributes: pd.DataFrame, threshold: float
) -> tuple[dict[str, Groups], list[str]]:
    """Attribute -> its groups; and what to say of columns that were cut into ranges or make no groups.

    `attributes` has a row an image, in the order of the predictions, and a column of text an attribute; images without
    a value ("") are in no group.
    """
    found, said = categories(attributes)
    groups = {}
    for name in found:
        has_value = (found[name] != "").to_numpy()
        made = by_group(predictions.at(has_value.nonzero()[0]), found[name].to_numpy(object)[has_value], threshold)
        if made is not None:
            groups[str(name)] = made
    return groups, said


def attribute_groups(run: RunDir) -> tuple[dict[str, Groups], list[str]]:
    """The same of the ensemble's main vote on test; nothing without an ensemble or a table.

    Raises RunError where a file is damaged.
    """
    ensemble, table = run.ensemble(), run.attributes()
    if ensemble is None or table is None:
        return {}, []
    predictions, images = read_predictions(run.ensemble_predictions_file(ensemble.name, "test")), run.images("test")
    attributes = attributes_of(table, images["folder"].iloc[0], predictions.ids.tolist())
    return by_attribute(predictions, attributes, ensemble.threshold)
