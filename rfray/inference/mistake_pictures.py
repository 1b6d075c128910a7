"""mistakes + members' weights -> plots/mistakes/: each image, and a heat map of the evidence over it.

In the process of the command: two dozen images are less work than starting Ray.
"""

from dataclasses import dataclass

import numpy as np
from rich.console import Console

from rfray.data.catalog import decode_images
from rfray.data.geometry import Geometry, geometry_of
from rfray.errors import DataError
from rfray.evaluation.mistakes import Mistake, Mistakes, write_mistakes
from rfray.models.grad_cam import encode_jpeg, heatmaps_from_file, overlay_heatmap, place_heatmap, shrink
from rfray.store.files import write_whole
from rfray.store.run_dir import RunDir

LONGEST = 160
"""Longest side of a picture in the gallery, in pixels."""
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

    def placed(self, heatmap: np.ndarray, geometry: Geometry) -> np.ndarray:
        """(S, S) of a model with this geometry -> (h, w) float32, over the picture as it is shown."""
        side = geometry.seen(self.width, self.height) * self.small.shape[1] / self.width
        return place_heatmap(heatmap, side, *self.small.shape[:2])


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
        else:
            drawn.append(Drawn(mistake, shrink(picture, LONGEST), *picture.shape[1::-1]))
            write_whole(run.mistake_picture(mistake.number), encode_jpeg(drawn[-1].small))
    calls = np.array([one.mistake.call for one in drawn])
    maps: list[list[np.ndarray]] = []
    for member in [member for member, share in mistakes.members.items() if share and drawn]:
        try:
            result = run.trial(member).result()
            assert result is not None  # only ended trials vote
            geometry = geometry_of(result.trial, sweep.data.reencode)
            images = decode_images(catalog, sweep.data, "test", geometry, [one.mistake.id for one in drawn])
            found = heatmaps_from_file(run.trial(member).weights_file, result.trial, images, calls)
        except Exception as error:  # whatever one of timm's backbones, or a lack of memory, makes torch raise
            cause = (str(error).splitlines() or [""])[0]
            problems.append(f"{member} could not be explained: {type(error).__name__}: {cause}")
        else:
            maps.append([one.placed(heatmap, geometry) for one, heatmap in zip(drawn, found, strict=True)])
    for one, *seen in zip(drawn, *maps, strict=True) if maps else ():
        overlay = overlay_heatmap(one.small, np.mean(seen, axis=0))
        write_whole(run.mistake_picture(one.mistake.number, evidence=True), encode_jpeg(overlay))
    return problems
