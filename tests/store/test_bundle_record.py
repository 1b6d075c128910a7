"""rfray.store.bundle_record: what a folder must hold to be taken for a bundle."""

import hashlib
import math

import pytest
from pydantic import ValidationError

from rfray.commands.ensemble import members_of
from rfray.spec.trial import Trial
from rfray.store.bundle_record import Member, Vote, file_problems, member_files
from rfray.store.files import file_digest
from tests.synthetic import finish_trial, new_run

MEMBERS = [Member(id=name, weights="0" * 64, trial=Trial(backbone="resnet18")) for name in ("a", "b")]


@pytest.fixture
def folder(tmp_path):
    for number in (1, 2):
        (tmp_path / "members" / str(number)).mkdir(parents=True)
        (tmp_path / "members" / str(number) / "config.json").write_text("{}")
        (tmp_path / "members" / str(number) / "model.safetensors").write_bytes(b"tensors")
    return tmp_path


def digests(folder, members):
    return {name: file_digest(folder / name) for name in member_files(members)}


def problem(folder, files):
    return "\n".join(file_problems(folder, files, MEMBERS))


def test_what_it_was_sealed_with_is_fine(folder):
    files = digests(folder, MEMBERS)
    assert list(files) == [f"members/{n}/{name}" for n in (1, 2) for name in ("config.json", "model.safetensors")]
    assert file_problems(folder, files, MEMBERS) == []


def test_a_probes_head_is_a_file_of_its_own(folder):
    probed = [MEMBERS[0], Member(id="b", weights="0" * 64, trial=Trial(backbone="resnet18", head="probe"))]
    (folder / "members/2/head.safetensors").write_bytes(b"head")
    files = digests(folder, probed)
    assert [name for name in files if "head" in name] == ["members/2/head.safetensors"]
    assert file_problems(folder, files, probed) == []
    assert "names a file that is none of a bundle's: 'members/2/head.safetensors'" in problem(folder, files)


def test_every_file_that_is_not_what_it_was_is_named(folder):
    files = digests(folder, MEMBERS)
    (folder / "members/1/model.safetensors").write_bytes(b"tensorz")
    (folder / "members/2/config.json").unlink()
    said = problem(folder, files)
    assert "members/1/model.safetensors is damaged: its content does not match its digest" in said
    assert "members/2/config.json is missing, or no plain file" in said
    assert "members/2/model.safetensors" not in said


def test_names_that_lead_elsewhere_are_refused(folder):
    files = digests(folder, MEMBERS)
    said = problem(folder, {**files, "members/../../evil": files["members/1/config.json"]})
    assert "names a file that is none of a bundle's: 'members/../../evil'" in said
    files.pop("members/2/config.json")
    assert "has no digest of members/2/config.json" in problem(folder, files)


def test_a_link_is_no_file_of_a_bundle(folder, tmp_path_factory):
    files = digests(folder, MEMBERS)
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "weights"
    (folder / "members/1/model.safetensors").rename(elsewhere)
    (folder / "members/1/model.safetensors").symlink_to(elsewhere)
    assert "members/1/model.safetensors is missing, or no plain file" in problem(folder, files)


def test_where_weights_came_from_is_no_part_of_it(tmp_path):
    run = new_run(tmp_path / "run")
    trial = finish_trial(run, "001", 0.9, pretrained="/secret/place/weights.safetensors", image_size=96)
    (member,) = members_of([trial])
    assert (member.id, member.trial.pretrained, member.trial.image_size) == ("001", True, 96)
    assert member.weights == hashlib.sha256(b"weights").hexdigest()


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        ({"weights": [1.0, 0.0]}, "weights"),
        ({"weights": [1.5, -0.5]}, "weights"),
        ({"weights": [0.4, 0.4]}, "weights"),
        ({"weights": [1.0]}, "weights"),
        ({"temperatures": [1.0, 0.0]}, "temperatures"),
        ({"temperatures": [1.0, -1.0]}, "temperatures"),
        ({"temperatures": [1.0] * 3}, "temperatures"),
        ({"temperature": 0.0}, "temperature"),
        ({"threshold": -5.0}, "threshold"),
        ({"threshold": 1.1}, "threshold"),
        ({"unsure": (0.7, 0.3)}, "unsure"),
        ({"unsure": (0.6, 0.7)}, "unsure"),
        ({"unsure": (-1.0, 0.7)}, "unsure"),
        ({"members": ["a", "a"]}, "members"),
        ({"members": [], "weights": [], "temperatures": []}, "members"),
        ({"members": ["a", "../b"]}, "members"),
        ({"name": "/tmp/x"}, "name"),
    ],
)
def test_numbers_and_names_that_make_no_vote_are_refused(wrong, key):
    sound = {"name": "ensemble", "members": ["a", "b"], "weights": [0.75, 0.25], "temperatures": [1.0, 2.0]}
    sound |= {"threshold": 0.5, "unsure": (0.4, 0.5), "val_score": None}
    Vote(**sound)
    Vote(**sound | {"threshold": math.nextafter(1, 2), "unsure": None})
    Vote(**sound | {"members": list("abc"), "weights": [1 / 3] * 3, "temperatures": [1.0] * 3})
    with pytest.raises(ValidationError) as refused:
        Vote(**sound | wrong)
    assert refused.value.errors()[0]["loc"][0] == key


def test_a_folder_that_is_a_link_is_none_of_a_bundle(folder, tmp_path_factory):
    files = digests(folder, MEMBERS)
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "members"
    (folder / "members").rename(elsewhere)
    (folder / "members").symlink_to(elsewhere)
    assert "members/1/model.safetensors is missing, or no plain file" in problem(folder, files)
