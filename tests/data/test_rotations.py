"""Which sources the trials of `search.judge: unseen` leave out in turn, and what they learn from and are judged on."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rfray.data.rotations import Rotation, check_rotations, fold_count, judged_on, rotations, training_rotations
from rfray.errors import DataError, SweepError
from rfray.spec.sweep import Sweep
from rfray.spec.sweep_file import parse_sweep
from rfray.store.run_dir import RunDir

SWEEP = """
name: unseen
data: {train: TRAIN, test: 0.2}
trial: {backbone: test_resnet}
search: {trials: 2, judge: unseen}
"""


def sweep(folder: Path = Path("/data"), *overrides: str) -> Sweep:
    return parse_sweep(SWEEP.replace("TRAIN", str(folder)), "sweep.yaml", overrides).sweep


def catalog(**sources: int) -> pd.DataFrame:
    """So many images of each source: those whose name begins with cam are real; one in five is val."""
    names = [name for name, count in sources.items() for _ in range(count)]
    count = len(names)
    columns = {"label": [int(not name.startswith("cam")) for name in names], "group_id": np.arange(count)}
    known = [name if not name.endswith("unknown") else "" for name in names]
    part = np.where(np.arange(count) % 5, "train", "val")
    return pd.DataFrame({"path": [f"{row:04d}.jpg" for row in range(count)], "source": known, "part": part, **columns})


def divided(table: pd.DataFrame, *overrides: str) -> list[pd.DataFrame]:
    """The catalog of each rotation; in none of them are images of one group on both sides."""
    how = sweep(Path("/data"), *overrides)
    count = len(training_rotations(table).all)
    found = [judged_on(table, (turn, count), how) for turn in range(1, count + 1)]
    for one in found:
        groups = {part: set(one.loc[one["part"] == part, "group_id"]) for part in ("train", "val")}
        assert not groups["train"] & groups["val"]
    return found


def counts(table: pd.DataFrame, part: str) -> dict[str, int]:
    return table.loc[table["part"] == part, "source"].value_counts().to_dict()


def test_each_rotation_leaves_out_a_source_of_fakes_and_one_of_photographs() -> None:
    table = catalog(cam_a=40, cam_b=30, cam_c=20, gan=50, diffusion=40, blend=30)
    found = rotations(table)
    assert found.all == (Rotation("gan", ("cam_a",)), Rotation("diffusion", ("cam_b",)), Rotation("blend", ("cam_c",)))
    first, second, third = divided(table)
    assert counts(first, "val") == {"gan": 50, "cam_a": 40}
    assert counts(first, "train") == {"diffusion": 40, "blend": 30, "cam_b": 30, "cam_c": 20}
    assert counts(second, "val") == {"diffusion": 40, "cam_b": 30}
    assert counts(third, "train") == {"gan": 50, "diffusion": 40, "cam_a": 40, "cam_b": 30}


def test_further_sources_of_photographs_are_shared_out_by_their_images_and_names() -> None:
    table = catalog(cam_a=60, cam_b=50, cam_c=30, cam_d=25, gan=40, diffusion=30)
    assert [one.real for one in rotations(table).all] == [("cam_a", "cam_d"), ("cam_b", "cam_c")]
    # photographs and fakes of one name, such as a kind of camera, are left out together
    table["source"] = table["source"].replace({"gan": "cam_c", "diffusion": "cam_b"})
    assert rotations(table).all == (Rotation("cam_c", ("cam_c", "cam_a")), Rotation("cam_b", ("cam_b", "cam_d")))


def test_a_source_of_photographs_of_several_rotations_is_divided_and_never_on_both_sides() -> None:
    table = catalog(cam_a=40, cam_b=30, gan=50, diffusion=40, blend=30)
    assert [one.real for one in rotations(table).all] == [("cam_a",), ("cam_b",), ("cam_a",)]
    first, second, third = divided(table)
    assert counts(first, "val") == {"gan": 50, "cam_a": 20}
    assert counts(third, "val") == {"blend": 30, "cam_a": 20}
    assert counts(second, "val") == {"diffusion": 40, "cam_b": 30}
    assert "cam_a" not in counts(first, "train")
    assert "cam_a" not in counts(third, "train")
    assert (first["part"].eq("val").astype(int) + third["part"].eq("val")).max() == 1


def test_without_known_sources_photographs_are_divided_by_what_belongs_together() -> None:
    table = catalog(cam_unknown=60, gan=40, diffusion=30)
    table["group_id"] = np.where(table["label"] == 0, table.index // 2, table["group_id"])  # pairs of photographs
    first, second = divided(table)
    assert counts(first, "val") == {"gan": 40, "": 30}
    assert counts(first, "train") == {"diffusion": 30, "": 30}
    judged = [set(one.loc[one["part"].eq("val") & one["label"].eq(0), "path"]) for one in (first, second)]
    assert not judged[0] & judged[1]


@pytest.mark.parametrize("sources", [{"cam_a": 60}, {"cam_a": 53, "cam_few": 7}, {"cam_a": 40, "cam_unknown": 20}])
def test_one_source_of_photographs_is_none(sources: dict[str, int]) -> None:
    first, second = divided(catalog(**sources, gan=40, diffusion=30))
    for one in (first, second):
        assert one["part"].eq("val")[one["label"] == 0].sum() == one["part"].eq("train")[one["label"] == 0].sum() == 30
    assert not (first["part"].eq("val") & second["part"].eq("val")).any()


def test_who_is_left_out_never_or_takes_no_part_is_said() -> None:
    table = catalog(cam_a=40, cam_b=30, cam_few=7, cam_unknown=4, gan=50, diffusion=40, odd=19, unknown=3)
    found = rotations(table)
    assert found.lines() == [
        "Each trial leaves out, and is judged on, one of 2 in turn: gan with cam_a; diffusion with cam_b",
        "Never left out, as they have fewer than 20 images: odd (19), cam_few (7)",
        "7 images whose source is not known take no part (data.group)",
    ]
    first, _ = divided(table)
    assert counts(first, "train") == {"diffusion": 40, "odd": 19, "cam_b": 30, "cam_few": 7}
    assert counts(first, "left out") == {"": 7}
    many = catalog(cam_unknown=40, **{f"gan_{number}": 40 - number for number in range(10)})
    assert rotations(many).lines() == [
        "Each trial leaves out, and is judged on, one of 8 in turn: "
        + "; ".join(f"gan_{number} with a share of the real images" for number in range(8)),
        "Never left out, as 8 sources have more images: gan_8, gan_9",
    ]


def test_identities_in_all_sources_are_divided() -> None:
    table = catalog(cam_a=30, cam_b=30, diffusion=30, gan=30)
    table["group_id"] = np.tile(np.arange(30), 4)
    first, second = divided(table)
    assert counts(first, "val") == {"diffusion": 10, "cam_a": 10}
    assert counts(first, "train") == {"gan": 20, "cam_b": 20}
    assert counts(second, "val") == {"gan": 10, "cam_b": 10}


def test_no_more_images_are_judged_than_are_wanted() -> None:
    table = catalog(cam_a=40, cam_b=30, gan=60, diffusion=40)
    first, _ = divided(table, "data.val_images=50")
    assert counts(first, "val") == {"gan": 30, "cam_a": 20}
    assert counts(first, "train") == {"diffusion": 40, "cam_b": 30}


def test_folds_stay_folds_and_need_no_catalog(tmp_path: Path) -> None:
    table = catalog(cam_a=40, gan=40).assign(digest="")
    how = sweep(Path("/data"), "search.judge=val", "data.folds=4", "search.finalists=1")
    assert fold_count(RunDir(tmp_path), how) == 4
    assert judged_on(table, (1, 4), how)["part"].eq("val").sum() == 20
    assert fold_count(RunDir(tmp_path), sweep(Path("/data"), "search.judge=val")) == 0


@pytest.mark.parametrize(
    ("sources", "there"),
    [
        ({"cam_a": 40, "gan": 40, "odd": 19}, "gan (40), odd (19)"),
        ({"cam_a": 40, "cam_b": 40, "unknown": 80}, "none is known"),
    ],
)
def test_two_sources_of_fakes_are_needed(sources: dict[str, int], there: str) -> None:
    with pytest.raises(DataError) as raised:
        rotations(catalog(**sources))
    assert str(raised.value) == (
        "search.judge: unseen needs two sources of fakes with 20 images each, of which one is left out; "
        f"there: {there}. data.group says how their names are found"
    )


def test_the_folders_are_looked_at_before_anything_starts(tmp_path: Path) -> None:
    for name in ("real/a", "fake/gan"):
        (tmp_path / name).mkdir(parents=True)
        for number in range(20):
            (tmp_path / name / f"{number}.jpg").touch()
    file = parse_sweep(SWEEP.replace("TRAIN", str(tmp_path)), "sweep.yaml")
    with pytest.raises(SweepError, match=r"sweep\.yaml:5: search\.judge: unseen needs two .* there: gan \(20\)\. "):
        check_rotations(file)
    (tmp_path / "fake/gan").rename(tmp_path / "fake/flux")
    (tmp_path / "fake/gan").mkdir()
    for number in range(20, 40):
        (tmp_path / f"fake/gan/{number}.jpg").touch()
    check_rotations(file)
    check_rotations(parse_sweep(SWEEP.replace("TRAIN", "/nowhere"), "sweep.yaml", ("search.judge=val",)))
