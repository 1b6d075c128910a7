"""What a sweep says of its images -> an error in a line, before any picture is read."""

from rfray.data.attributes import check_attributes
from rfray.data.folders import check_folders
from rfray.data.held_out import check_held_out
from rfray.data.leave_out import check_leave_out
from rfray.data.rotations import check_rotations
from rfray.data.sources import check_source_column
from rfray.spec.sweep_file import SweepFile


def check_data(file: SweepFile) -> None:
    """Raises DataError or SweepError where folders, tables, lists or sources can't be used, as far as names tell."""
    check_folders(file.sweep.data)
    check_attributes(file.sweep.data)
    check_leave_out(file.sweep.data)
    check_source_column(file.sweep.data)
    check_held_out(file)
    check_rotations(file)
