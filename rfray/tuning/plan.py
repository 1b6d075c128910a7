"""a sweep -> the plan in words: what `rfray tune --dry-run` prints."""

from rfray.cluster.packing import Packing
from rfray.cluster.slots import TrialSlots, slot_count
from rfray.data.folders import drawn, list_images, most_images
from rfray.data.geometry import Geometry, geometries
from rfray.spec.sweep import Sweep
from rfray.spec.trial import Range
from rfray.store.records import Measured, Spent, find_record
from rfray.store.run_dir import RunDir
from rfray.tuning.disk_needs import Needs
from rfray.tuning.strategies import planned_trials
from rfray.tuning.warm_start import BEGINNING, foreseen


def plan_lines(sweep: Sweep, run: RunDir, shares: TrialSlots, needs: Needs) -> list[str]:
    """Trials, epochs, images and places. Raises DataError where the training folder can't be used."""
    counts = {
        folder: len(drawn(list_images(sweep.data, folder), most_images(sweep, folder)))
        for folder in sweep.data.training_folders
    }
    images = sum(counts.values())
    trials = planned_trials(sweep)
    most, passes = sweep.trial.most_epochs(images), int(max(sweep.trial.ends("epochs")))
    train = counts["train"] * (1 - (sweep.data.share("test") or 0)) * (1 - (sweep.data.share("val") or 0))
    at_once = sweep.search.concurrent or slot_count(shares)
    at_once = at_once if trials is None else min(trials, at_once)
    warm = foreseen(run, sweep)
    many = "as many as there is time for" if trials is None else trials
    new = None if trials is None else trials - len(warm.taken_over)
    done = sum(trial.result() is not None for trial in run.trials())
    return [
        f"run folder   {run.where}" + (f" ({done} trials done already)" if done else ""),
        *_budget_line(sweep, run),
        f"trials       {many} by {sweep.search.algorithm}, scheduler {sweep.search.scheduler}, "
        + (
            f"at most {at_once} at once"
            if isinstance(shares, Packing)
            else f"{at_once} at once with {shares.kinds[0]} each"
        ),
        *(f"warm start   {line.removeprefix(BEGINNING)}" for line in warm.lines),
        *packing_lines(shares),
        *(f"axis         {name}: {_axis(axis)}" for name, axis in sweep.trial.axes().items()),
        f"epochs       at most {most} a trial"
        if new is None
        else f"epochs       at most {new * most} ({most} a trial)",
        f"images       {images} to train and choose with"
        + ("" if new is None else f", about {new * passes * train:.0f} passes over one image"),
        *_finalists_line(sweep),
        f"kept         weights of the best {sweep.keep} trials; ensemble of {sweep.ensemble.top_k}",
        f"disk         at most {needs.total / 1e6:.0f} MB in the run folder, "
        f"{sum(_megabytes(geometry) for geometry in geometries(sweep)) * images:.0f} MB of pixels in the cache of "
        "each node" + (", and the whole pictures for crops" if "crop" in sweep.trial.choices("resize") else ""),
    ]


def _finalists_line(sweep: Sweep) -> list[str]:
    if not sweep.search.finalists:
        return []
    kinds = [f"{sweep.search.seeds - 1} other seeds"] * (sweep.search.seeds > 1)
    kinds += [f"{sweep.data.folds} folds"] * (sweep.data.folds is not None)
    return [f"finalists    the best {sweep.search.finalists} trials are trained again: {' and '.join(kinds)} each"]


def _budget_line(sweep: Sweep, run: RunDir) -> list[str]:
    budget = sweep.budget
    if budget is None:
        return []
    earlier = find_record(run.budget_file, Spent, run.mirror) or Spent()
    spent = earlier.gpus if budget.of_gpus else earlier.clock
    what = "seconds of GPUs" if budget.of_gpus else "seconds by the clock, from the start of the command to its end"
    used = f", of which {spent:.0f} are used" if spent else ""
    return [f"budget       {sweep.search.budget}: {budget.seconds:.0f} {what}{used}"]


def packing_lines(shares: TrialSlots) -> list[str]:
    """What each backbone was measured to take, and what its trials get; nothing where that was not measured."""
    if not isinstance(shares, Packing):
        return []
    return [
        f"packing      {one.backbone} at {one.image_size} px: {_footprint(one)}; "
        f"{(slot := shares.slots[one.backbone, one.image_size])} each, {slot_count(slot)} at once"
        for one in shares.measured
    ]


def _footprint(one: Measured) -> str:
    """Of all that was measured for a backbone."""
    took = f"{one.host_memory / 1e9:.1f} GB"
    if one.memory:
        took = f"{one.memory / 1e9:.1f} of {one.device_memory / 1e9:.0f} GB of {one.device}, {took} of its node"
    return f"{took}, {one.images_per_second:.0f} images/s, {one.micro_batch} at a time"


def _axis(axis: list[object] | Range) -> str:
    if isinstance(axis, list):
        return ", ".join(str(value) for value in axis)
    return f"{axis.kind} from {axis.bounds[0]:g} to {axis.bounds[1]:g}"


def _megabytes(geometry: Geometry) -> float:
    """Of one picture, where that does not depend on its size; else 0."""
    width, height = geometry.stored_size(0, 0)
    return 3 * width * height / 1e6
