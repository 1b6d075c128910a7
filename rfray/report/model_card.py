"""A sealed ensemble, its run's leaderboard, groups and catalog -> ensemble/README.md: the model card."""

import pandas as pd

from rfray.evaluation.attributes import attribute_groups
from rfray.evaluation.groups import groups_of
from rfray.evaluation.leaderboard import read_leaderboard
from rfray.evaluation.left_out import best_left_out
from rfray.evaluation.significance import verdict
from rfray.report.words import TEMPLATES, corruption_sentence, figure_rows, group_sentence, set_rows
from rfray.stats.guessing import bundle_warning
from rfray.store.bundle_record import Ensemble
from rfray.store.files import write_whole
from rfray.store.run_dir import RunDir


def write_model_card(run: RunDir, ensemble: Ensemble) -> None:
    """Writes README.md beside the record of the ensemble, which has a `bundle`. Raises RunError as its parts."""
    bundle = ensemble.bundle
    assert bundle is not None
    frame, groups, catalog = read_leaderboard(run), groups_of(run), run.catalog()
    counts = pd.crosstab(catalog["part"], catalog["label"]).reindex(columns=[0, 1], fill_value=0)
    text = TEMPLATES.get_template("report/model_card.md.j2").render(
        name=run.name,
        ensemble=ensemble,
        bundle=bundle,
        figures=figure_rows(bundle.figures),
        sets=set_rows(frame, [ensemble.name]),
        sentence=verdict(run, frame),
        warning=bundle_warning(ensemble),
        images=counts.T.to_dict("list"),
        worst_group=group_sentence(groups) if groups is not None else None,
        attributes=attribute_groups(run).summary,
        corruption=corruption_sentence(frame, ensemble.name),
        left_out=best_left_out(run),
    )
    write_whole(run.model_card, text)
