"""Every rule of the audit: facts about the images -> findings, each of which says what to do."""

from collections.abc import Callable, Iterator

from rfray.audit.copies import copies_across_test_sets, copies_within_a_part, misplaced_copies, test_in_training
from rfray.audit.counts import class_counts, unreadable_files
from rfray.audit.facts import Facts
from rfray.audit.identities import doubtful_identities
from rfray.audit.settings import identities_across, settings_for_few, several_groups, sources_not_found
from rfray.audit.traces import formats_differ, metadata_tells, sizes_differ, spectra_differ
from rfray.store.records import Finding

RULES: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    test_in_training,
    metadata_tells,
    settings_for_few,
    several_groups,
    doubtful_identities,
    sources_not_found,
    misplaced_copies,
    identities_across,
    formats_differ,
    sizes_differ,
    class_counts,
    unreadable_files,
    copies_within_a_part,
    copies_across_test_sets,
    spectra_differ,
)
"""Every rule; within a grade, findings keep this order. A new one is an entry here."""
