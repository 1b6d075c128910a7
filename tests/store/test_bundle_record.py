"""rfray.store.bundle_record: what a folder must hold to be taken for a bundle."""

import hashlib

import pytest

from rfray.commands.ensemble import members_of
from rfray.spec.trial import Trial
from rfray.store.bundle_record import Member, file_problems, member_files
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
