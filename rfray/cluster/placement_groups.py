"""Ray's table of what is held -> what this command's trials hold, given back; whatever still runs there is ended.

Tune holds a placement group for every trial, and a trial with several workers another one for them.
"""

from collections.abc import Iterator

import ray
from ray.core.generated import gcs_pb2
from ray.util import remove_placement_group
from ray.util.placement_group import PlacementGroup


def free_trials() -> None:
    """Gives back what Tune holds for trials. It ends their processes, even such as are only starting."""
    for group in _held():
        if not _is_of_a_trial(group):
            _free(group)


def free_workers(orphans_only: bool) -> None:
    """Gives back what trials hold for their workers: all, or only where a trial's process was killed.

    Ray does so by itself only when the whole command ends, or with the help of its dashboard.
    """
    for group in _held():
        if _is_of_a_trial(group) and (group.creator_actor_dead or not orphans_only):
            _free(group)


def _held() -> Iterator[gcs_pb2.PlacementGroupTableData]:
    """The placement groups that this command and its trials have."""
    job = ray.get_runtime_context().get_job_id()
    for found in ray._private.state.state._connect_and_get_accessor().get_placement_group_table():
        group = gcs_pb2.PlacementGroupTableData.FromString(found)
        if group.creator_job_id.hex() == job and group.state != gcs_pb2.PlacementGroupTableData.REMOVED:
            yield group


def _is_of_a_trial(group: gcs_pb2.PlacementGroupTableData) -> bool:
    """Whether a trial's process has made it, not the command."""
    return any(byte != 255 for byte in group.creator_actor_id)


def _free(group: gcs_pb2.PlacementGroupTableData) -> None:
    remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))
