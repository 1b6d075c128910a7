"""mistakes + the run's bundle -> plots/mistakes/: each image, and a heat map of the evidence over it.

In the process of the command: two dozen images are less work than starting Ray.
"""

from collections.abc import Callable

import numpy as np
from rich.console import Console

from rfray.data.catalog import decode_images
from rfray.data.geometry import Geometry
from rfray.errors import DataError
from rfray.evaluation.mistakes import Gallery, Mistakes, write_mistakes
from rfray.models.bundle import LoadedBundle, load_bundle
from rfray.models.grad_cam import encode_jpeg, heatmap_jpeg, shrink
from rfray.progress.phases import say
from rfray.store.files import write_whole
from rfray.store.run_dir import RunDir

LONGEST = 160
"""Longest side of a picture in the gallery, in pixels."""
PRINTED = 3
"""Problems that are printed; mistakes.json has all of them."""
WHOLE = Geometry("crop", 1, None)
"""Keeps pictures as they are."""


def draw_mistakes(run: RunDir, mistakes: Mistakes, console: Console) -> None:
    """Draws each image, and over it where the members saw evidence for their call, then writes mistakes.json.

    A report without some pictures is better than none: prints, and writes there, what could not be drawn, and why.
    Raises RunError where the run's bundle is damaged.
    """
    ids = [mistake.id for mistake in mistakes.shown]
    files = decode_images(run.catalog(), run.sweep().data, "test", WHOLE, ids)
    draw_gallery(run, mistakes, load_bundle(run.path), files.source.picture, console)


def draw_gallery(
    place: Gallery,
    mistakes: Mistakes,
    bundle: LoadedBundle,
    picture_of: Callable[[int], np.ndarray],
    console: Console,
) -> None:
    """The same for any place; `picture_of` gives the picture of the mistake at a position, or raises DataError."""
    say(console, f"Explaining {len(mistakes.shown)} wrongly classified images with {len(mistakes.members)} models")
    problems = list[str]()
    for row, mistake in enumerate(mistakes.shown):
        try:
            picture = picture_of(row)
        except DataError as error:
            problems.append(str(error))
            continue
        write_whole(place.mistake_picture(mistake.number), encode_jpeg(shrink(picture, LONGEST)))
        try:
            evidence = heatmap_jpeg(bundle, picture, mistake.p_fake, LONGEST)
        except Exception as error:  # whatever one of timm's backbones, or a lack of memory, makes torch raise
            cause = (str(error).splitlines() or [""])[0]
            problems.append(f"{mistake.id} could not be explained: {type(error).__name__}: {cause}")
        else:
            write_whole(place.mistake_picture(mistake.number, evidence=True), evidence)
    say(console, *(f"Mistakes: {problem}" for problem in problems[:PRINTED]))
    if len(problems) > PRINTED:
        say(console, f"Mistakes: … and {len(problems) - PRINTED} more like these")
    write_mistakes(place, mistakes.model_copy(update={"problems": problems}))
