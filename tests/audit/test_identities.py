"""rfray.audit.identities: patterns for identities that find others than those that are meant."""

import pytest

from rfray.audit.audit import audit_images
from rfray.spec.sweep import DataSettings
from tests.audits import ALL_READABLE, NO_PAIRS, image_table

REAL = [f"real/id{n % 12}_{n:04d}.jpg" for n in range(120)]
FAKE = [f"fake/id{n % 12}_id{(n + 5) % 12}_{n:04d}.jpg" for n in range(120)]
SWAPS = [path for both in zip(REAL, FAKE, strict=True) for path in both]
"""As in Celeb-DF: a fake shows two people, and both are in its name."""


def said_of(pattern, paths=SWAPS):
    images = image_table().assign(path=paths)
    data = DataSettings.model_validate({"train": "/x", "test": "/y", "group_pattern": pattern})
    found = audit_images(images, NO_PAIRS, ALL_READABLE, data=data).findings
    assert {one.grade for one in found if one.code == "doubtful-identities"} <= {"warning"}
    return [one.sentence for one in found if one.code == "doubtful-identities"]


@pytest.mark.parametrize("pattern", [r"id(\d+)_", r"(id\d+)", r"(?i)ID(\d+)_", r"(fake|real)/", r"_(\d+)\.", "no/such"])
def test_patterns_that_find_whole_names(pattern):
    assert said_of(pattern) == []


def test_half_of_a_name():
    (said,) = said_of(r"^(?:real|fake)/id(\d+)_")
    assert said.endswith(
        "half of the names in 120 images: in `fake/id0_id5_0000.jpg` it passes over id5, which it finds in others."
    )
    (said,) = said_of(r"(id\d+)_\d")
    assert said.endswith("in 120 images: in `fake/id0_id5_0000.jpg` it passes over id0, which it finds in others.")


def test_a_piece_of_a_number():
    (said,) = said_of(r"id\d")
    # of twelve people id10 and id11: 20 of the real images, and 40 fakes
    assert said.endswith("ends within a number in 60 images: it finds id1 of id10 in `fake/id5_id10_0005.jpg`.")


def test_names_in_another_case():
    (said,) = said_of(r"ID(\d+)_")
    assert "would find something in 240 images more if upper and lower case were the same" in said
    mixed = [path.replace("real/id1_", "real/ID1_") for path in SWAPS]
    (said,) = said_of(r"(id\d+)_", mixed)
    assert "would find something in 10 images more if upper and lower case were the same" in said
    (said,) = said_of(r"((?:id|ID)\d+)_", mixed)
    assert "identities that differ in upper and lower case alone: ID1, id1" in said
    assert said_of(r"(?i)id(\d+)_", mixed) == []
