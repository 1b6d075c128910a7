"""mistakes.json and its pictures -> the page's gallery of wrongly classified images."""

from dataclasses import dataclass

from rfray.evaluation.mistakes import Mistake, read_mistakes
from rfray.report.pictures import Picture, picture_of
from rfray.spec.sweep import CLASSES
from rfray.store.bundle_record import Ensemble
from rfray.store.run_dir import RunDir


@dataclass(frozen=True)
class Figure:
    """One wrongly classified image."""

    id: str
    verdict: str
    """What it is, what it was called, and how surely."""
    members: str
    """What each member said."""
    pictures: list[Picture]
    """The image, and the image with the evidence over it, as far as they are there."""


@dataclass(frozen=True)
class Gallery:
    """What the page shows of the mistakes."""

    summary: str
    lists: list[tuple[str, list[Figure]]]
    """Heading and figures: fakes called real, real images called fake."""
    problems: list[str]
    """What could not be shown, and why."""


def gallery_of(run: RunDir, ensemble: Ensemble | None) -> Gallery | None:
    """The gallery of the bundle's vote; None where its mistakes were not looked for, or there are none."""
    mistakes = read_mistakes(run)
    if ensemble is None or mistakes is None or mistakes.name != ensemble.name:
        return None
    lists = []
    for label, heading, count in [
        (1, "Fakes called real", mistakes.false_negatives),
        (0, "Real images called fake", mistakes.false_positives),
    ]:
        figures = [_figure(run, mistake, ensemble) for mistake in mistakes.shown if mistake.label == label]
        if figures:
            some = f"the {len(figures)} most confident of {count:,}" if len(figures) < count else f"{count:,}"
            lists.append((f"{heading}: {some}", figures))
    order = "the most confident mistakes first" if lists else "no test image is called wrongly"
    summary = f"Of {mistakes.name}, which calls an image fake where p_fake >= {mistakes.threshold:.4g}: {order}."
    return Gallery(summary, lists, mistakes.problems)


def _figure(run: RunDir, mistake: Mistake, ensemble: Ensemble) -> Figure:
    label, call = CLASSES[mistake.label], CLASSES[mistake.call]
    verdict = f"{label}, called {call}, p_fake {mistake.p_fake:.2f}"
    if ensemble.unsure is not None and ensemble.unsure[0] <= mistake.p_fake <= ensemble.unsure[1]:
        verdict += " (in the unsure band)"
    pictures = [
        picture_of(run.mistake_picture(mistake.number), f"{mistake.id}: {label}, called {call}"),
        picture_of(
            run.mistake_picture(mistake.number, evidence=True),
            f"{mistake.id} with colour where the members saw evidence for {call}",
        ),
    ]
    return Figure(
        id=mistake.id,
        verdict=verdict,
        members=", ".join(f"{member} {score:.2f}" for member, score in mistake.scores.items()),
        pictures=[picture for picture in pictures if picture is not None],
    )
