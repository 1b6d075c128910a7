"""a sweep -> what it will do, in words (`rfray tune --dry-run`), and how much room it takes on the disk."""

from rfray.cluster.slots import Packing, TrialSlots, slot_count
from rfray.data.folders import drawn, list_images, most_images
from rfray.data.geometry import geometries
from rfray.data.rotations import listed_rotations
from rfray.spec.checks import planned_trials
from rfray.spec.sweep import Sweep
from rfray.spec.trial import Range
from rfray.store.records import Spent, find_record
from rfray.store.run_dir import RunDir
from rfray.tuning.warm_start import LINE_START, preview_warm_start


def plan_lines(sweep: Sweep, run: RunDir, shares: TrialSlots, needed: int) -> list[str]:
    """Trials, epochs, images and room on the disk (`needed` bytes), a line each.

    Raises DataError where the training folder can't be used, RunError where an earlier run can't be read.
    """
    search, budget, warm = sweep.search, sweep.budget, preview_warm_start(run, sweep)
    trials = planned_trials(sweep)
    at_once = min(trials or 10**9, search.concurrent or slot_count(shares))
    each = f"at most {at_once} at once" if isinstance(shares, Packing) else f"{at_once} at once with {shares} each"
    many = "as many as there is time for" if trials is None else trials
    done = sum(trial.result() is not None for trial in run.trials())
    time = finalists = ""
    if budget is not None:
        earlier = find_record(run.budget_file, Spent, run.mirror) or Spent()
        spent = earlier.gpus if budget.of_gpus else earlier.clock
        what = "of GPUs" if budget.of_gpus else "by the clock, from the start of the command to its end"
        used = f", of which {spent:.0f} are used" if spent else ""
        time = f"{search.budget}: {budget.seconds:.0f} seconds {what}{used}"
    if search.finalists:
        kinds = [f"{search.seeds - 1} other seeds"] * (search.seeds > 1)
        kinds += [f"{sweep.data.folds} folds"] * (sweep.data.folds is not None)
        kinds += ["once without each left-out source"] * sweep.judges_unseen
        finalists = f"the best {search.finalists} trials are trained again: {' and '.join(kinds)} each"
    lines = [
        ("run folder", f"{run.where}" + (f" ({done} trials done already)" if done else "")),
        ("budget", time),
        ("trials", f"{many} by {search.algorithm}, scheduler {search.scheduler}, {each}"),
        *(("warm start", line.removeprefix(LINE_START)) for line in warm.lines),
        *(("packing", text) for text in packing_lines(shares)),
        *(("axis", f"{name}: {_axis(axis)}") for name, axis in sweep.trial.axes().items()),
        *_image_lines(sweep, None if trials is None else trials - len(warm.taken_over)),
        *(("left out", line) for line in (listed_rotations(sweep).lines() if sweep.judges_unseen else ())),
        ("finalists", finalists),
        ("kept", f"weights of the best {sweep.keep} trials; ensemble of {sweep.ensemble.top_k}"),
        ("disk", f"at most {needed / 1e6:.0f} MB in the run folder"),
    ]
    return [f"{name:<13}{text}" for name, text in lines if text]


def _axis(axis: list[object] | Range) -> str:
    if isinstance(axis, list):
        return ", ".join(map(str, axis))
    return f"{axis.kind} from {axis.bounds[0]:g} to {axis.bounds[1]:g}"


def packing_lines(shares: TrialSlots) -> list[str]:
    """What each backbone was measured to take, and what its trials get; nothing where that was not measured."""
    lines = []
    packing = shares if isinstance(shares, Packing) else Packing({}, [])
    for one in packing.measured:
        slot, taken = packing.slots[one.backbone, one.image_size], f"{one.host_memory / 1e9:.1f} GB"
        if one.memory:
            taken = f"{one.memory / 1e9:.1f} of {one.device_memory / 1e9:.0f} GB of {one.device}, {taken} of its node"
        speed = f"{one.images_per_second:.0f} images/s, {one.micro_batch} at a time"
        lines.append(
            f"{one.backbone} at {one.image_size} px: {taken}, {speed}; {slot} each, {slot_count(slot)} at once"
        )
    return lines


def disk_needs(sweep: Sweep, parameters: dict[str, int], at_once: int) -> int:
    """Bytes that the run folder may take at any moment, at most; `parameters`: backbone -> how many its model has.

    Counts the weights of kept trials, of those that run, and of probes; and the states that trials go on from (weights,
    two moments, maybe two averages), each twice while a new one is written. All as large as the largest backbone.
    """
    trials = planned_trials(sweep) or sweep.keep + at_once
    running = min(at_once, trials)
    # asha pauses at most trials / factor at the first rung, and so on; more where no number of trials is known
    paused = trials // (sweep.search.reduction_factor - 1) if sweep.search.scheduler == "asha" else 0
    averages = any(end != 0 for end in sweep.trial.ends("ema")), sweep.trial.choices("swa") != ["none"]
    kept = min(sweep.keep, trials) + len(sweep.probes()) + sweep.search.finalists * sweep.repeats
    models = kept + running + (3 + sum(averages)) * (2 * running + paused)
    return 4 * max(parameters.values()) * models  # a parameter is a float32


def _image_lines(sweep: Sweep, new: int | None) -> list[tuple[str, str]]:
    """Epochs of all `new` trials, images, and room in the cache."""
    data, trial = sweep.data, sweep.trial
    counts = {
        folder: len(drawn(list_images(data, folder), most_images(sweep, folder))) for folder in data.training_folders
    }
    images = sum(counts.values())
    most = trial.most_epochs(images)
    epochs, passes = f"at most {most} a trial", ""
    if new is not None:
        train = counts["train"] * (1 - (data.share("test") or 0)) * (1 - (data.share("val") or 0))
        epochs = f"at most {new * most} ({most} a trial)"
        passes = f", about {new * int(max(trial.ends('epochs'))) * train:.0f} passes over one image"
    # 3 bytes a pixel; where the stored size depends on the picture, it counts as 0
    sizes = [geometry.stored_size(0, 0) for geometry in geometries(sweep)]
    cache = f"{sum(3 * width * height / 1e6 for width, height in sizes) * images:.0f} MB of pixels on each node"
    if "crop" in trial.choices("resize"):
        cache += ", and the whole pictures for crops"
    return [("epochs", epochs), ("images", f"{images} to train and choose with{passes}"), ("cache", cache)]
