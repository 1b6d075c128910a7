"""A sealed ensemble, its run's leaderboard, groups and catalog -> ensemble/README.md: the model card.

Its front matter is as the Hugging Face hub reads it.
"""

import io
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from ruamel.yaml import YAML

from rfray.evaluation.groups import groups_of
from rfray.evaluation.leaderboard import escaped, read_leaderboard
from rfray.evaluation.significance import verdict
from rfray.report.corruption_words import corruption_sentence, is_corrupted
from rfray.report.group_table import group_table
from rfray.store.bundle_record import Bundle, Ensemble
from rfray.store.files import write_whole
from rfray.store.run_dir import RunDir

MEASURES = {
    "accuracy": "accuracy",
    "precision": "precision",
    "recall": "recall",
    "auc": "AUC",
    "fpr": "false-positive rate",
}
"""Figure -> its name on the card; each has an interval."""
ON_THE_HUB = {"accuracy": "accuracy", "precision": "precision", "recall": "recall", "f1": "f1", "auc": "roc_auc"}
"""Figure -> the metric's name in the front matter."""


def write_model_card(run: RunDir, ensemble: Ensemble) -> None:
    """Writes README.md beside the record of the ensemble, which has a `bundle`. Raises RunError as its parts."""
    bundle = ensemble.bundle
    assert bundle is not None
    frame, groups = read_leaderboard(run), groups_of(run)
    environment = Environment(
        loader=PackageLoader("rfray.report", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # noqa: S701  it is Markdown: what comes from files goes through `escaped`
    )
    environment.filters["escaped"] = escaped
    text = environment.get_template("model_card.md.j2").render(
        front=_front_matter(run.name, bundle),
        name=run.name,
        ensemble=ensemble,
        bundle=bundle,
        figures=[figure_text(name, column, bundle.figures) for column, name in MEASURES.items()],
        sentence=verdict(run, frame),
        images=_images(run),
        worst_group=group_table(groups).worst if groups is not None else None,
        corruption=corruption_sentence(frame, ensemble.name) if is_corrupted(frame) else None,
    )
    write_whole(run.model_card, text)


def _front_matter(name: str, bundle: Bundle) -> str:
    metrics = [
        {"type": kind, "value": round(value, 4)}
        for figure, kind in ON_THE_HUB.items()
        if (value := bundle.figures[figure]) is not None
    ]
    task = {"type": "image-classification", "name": "telling real from fake images"}
    data = {"type": "image-folder", "name": "the test images of this run", "split": "test"}
    fields: dict[str, Any] = {
        "library_name": "timm",
        "pipeline_tag": "image-classification",
        "tags": ["timm", "image-classification", "deepfake-detection", "ensemble", "rfray"],
        "metrics": [metric["type"] for metric in metrics],
        "model-index": [{"name": name, "results": [{"task": task, "dataset": data, "metrics": metrics}]}],
    }
    out = io.StringIO()
    writer = YAML()
    writer.default_flow_style = False
    writer.dump(fields, out)
    return out.getvalue()


def figure_text(name: str, column: str, figures: dict[str, float | None]) -> tuple[str, str, str]:
    """Name, value and 95 % interval as text."""
    value, low, high = (figures[key] for key in (column, f"{column}_low", f"{column}_high"))
    if value is None:
        return name, "undefined", ""
    return name, f"{value:.4f}", "" if low is None or high is None else f"{low:.3f} to {high:.3f}"


def _images(run: RunDir) -> list[tuple[str, int, int]]:
    """Part, real images and fake ones."""
    counts = run.catalog().groupby("part")["label"].agg(fake="sum", n="count")
    return [
        (part, int(counts.loc[part, "n"] - counts.loc[part, "fake"]), int(counts.loc[part, "fake"]))
        for part in ("train", "val", "test")
        if part in counts.index
    ]
