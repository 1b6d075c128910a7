"""What this command's trials hold on the cluster -> given back, which ends the processes that still run there.

Tune holds a placement group for every trial, and a trial with several workers another one for them.
"""

from ray.util import remove_placement_group

from rfray.cluster.ray_internals import held_groups


def free_trials() -> None:
    """Gives back what Tune holds for trials. It ends their processes, even those that are only starting."""
    for held in held_groups():
        if not held.by_trial:
            remove_placement_group(held.group)


def free_workers(orphans_only: bool) -> None:
    """Gives back what trials hold for their workers: all, or only where a trial's process was killed.

    Ray does so by itself only when the whole command ends, or with the help of its dashboard.
    """
    for held in held_groups():
        if held.by_trial and (held.is_orphan or not orphans_only):
            remove_placement_group(held.group)
