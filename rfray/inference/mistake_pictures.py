"""mistakes + members' weights -> plots/mistakes/: each image, and a heat map of the evidence over it.

In the process of the command: two dozen images are less work than starting Ray.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from rich.console import Console

from rfray.data.catalog import decode_images
from rfray.data.geometry import Geometry, geometry_of
from rfray.errors import DataError
from rfray.evaluation.mistakes import Mistake, Mistakes, write_mistakes
from rfray.models.heatmap_overlay import encode_jpeg, overlay_heatmap, place_heatmap, shrink
from rfray.store.files import write_whole
from rfray.store.run_dir import RunDir

PRINTED = 3
"""Problems that are printed; mistakes.json has all of them."""
WHOLE = Geometry("crop", 1, None)
"""Keeps pictures as they are."""


@dataclass(frozen=True)
class Drawn:
    """A mistake whose picture could be read."""

    mistake: Mistake
    small: np.ndarray
    """(h, w, 3) uint8: the picture as it is shown."""
    width: int
    height: int
    """Of the picture itself, in pixels."""


def draw_mistakes(run: RunDir, mistakes: Mistakes, console: Console) -> None:
    """Draws the pictures of the mistakes and writes mistakes.json; prints, and writes there, what could not be drawn.

    A report without these pictures is better than none: what goes wrong here does not end the command.
    """
    console.print(f"Explaining {len(mistakes.shown)} wrongly classified images with {len(mistakes.members)} models")
    problems = draw_pictures(run, mistakes)
    for problem in problems[:PRINTED]:
        console.print(f"Mistakes: {problem}", soft_wrap=True, markup=False)
    if len(problems) > PRINTED:
        console.print(f"Mistakes: … and {len(problems) - PRINTED} more like these")
    write_mistakes(run, mistakes.model_copy(update={"problems": problems}))


def draw_pictures(run: RunDir, mistakes: Mistakes) -> list[str]:
    """Draws each image, and over it where the members that vote saw evidence for their call (their mean).

    Returns what could not be drawn, and why. Decodes those images only; one member after the other is in memory.
    """
    sweep, catalog = run.sweep(), run.catalog()
    problems: list[str] = []
    drawn: list[Drawn] = []
    files = decode_images(catalog, sweep.data, "test", WHOLE, [mistake.id for mistake in mistakes.shown])
    for row, mistake in enumerate(mistakes.shown):
        try:
            picture = files.source.picture(row)
        except DataError as error:
            problems.append(str(error))
            continue
        drawn.append(Drawn(mistake, shrink(picture), picture.shape[1], picture.shape[0]))
        write_whole(run.mistake_picture(mistake.number), encode_jpeg(drawn[-1].small))
    maps: list[list[np.ndarray]] = []
    for member, share in mistakes.members.items():
        if not share or not drawn:
            continue
        try:
            maps.append(_evidence_of(run, member, drawn, catalog))
        except Exception as error:  # whatever one of timm's backbones, or a lack of memory, makes torch raise
            problems.append(f"{member} could not be explained: {type(error).__name__}: {_first_line(error)}")
    for one, *seen in zip(drawn, *maps, strict=True) if maps else ():
        overlay = overlay_heatmap(one.small, np.mean(seen, axis=0))
        write_whole(run.mistake_picture(one.mistake.number, evidence=True), encode_jpeg(overlay))
    return problems


def _evidence_of(run: RunDir, member: str, drawn: list[Drawn], catalog: pd.DataFrame) -> list[np.ndarray]:
    """Of each picture, (h, w) float32 as it is shown: where the member saw evidence for what it was called."""
    from rfray.models.grad_cam import heatmaps_from_file  # imports torch: only where there is a picture

    trial = run.trial(member)
    result = trial.result()
    assert result is not None  # only ended trials vote
    settings = run.sweep().data
    geometry = geometry_of(result.trial, settings.reencode)
    images = decode_images(catalog, settings, "test", geometry, [one.mistake.id for one in drawn])
    calls = np.array([one.mistake.call for one in drawn])
    maps = heatmaps_from_file(trial.weights_file, result.trial, images, calls)
    return [
        place_heatmap(
            found, geometry.seen(one.width, one.height) * one.small.shape[1] / one.width, *one.small.shape[:2]
        )
        for found, one in zip(maps, drawn, strict=True)
    ]


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
