"""Whole sources that are held out to choose by."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rfray.data.catalog import divide
from rfray.data.held_out import check_held_out, held_out_parts
from rfray.errors import DataError, SweepError
from rfray.spec.sweep import DataSettings
from rfray.spec.sweep_file import parse_sweep

NO_PAIRS = np.empty((0, 2), int)


def images(**sources: int) -> pd.DataFrame:
    """So many images of each source: those whose name begins with cam are real."""
    names = [name for name, count in sources.items() for _ in range(count)]
    columns = {"source": names, "label": [int(not name.startswith("cam")) for name in names]}
    return pd.DataFrame({"path": [f"{number:04d}.jpg" for number in range(len(names))], **columns})


def counts(table: pd.DataFrame, parts: np.ndarray) -> dict[tuple[str, str], int]:
    return table.groupby([parts, "source"]).size().to_dict()


def test_sources_of_both_classes_are_val_where_both_are_named() -> None:
    table = images(cam_a=30, cam_b=20, gan=25, diffusion=15)
    parts = held_out_parts(table, np.arange(90), ("gan", "cam_b"), 0, None)
    assert counts(table, parts) == {
        ("train", "cam_a"): 30,
        ("train", "diffusion"): 15,
        ("val", "cam_b"): 20,
        ("val", "gan"): 25,
    }


def test_where_only_fakes_are_named_as_large_a_share_of_the_real_ones_is_taken_by_their_groups() -> None:
    table = images(cam=40, gan=10, diffusion=30)
    together = np.r_[np.repeat(np.arange(10), 4), 100 + np.arange(40)]  # ten people of four photographs each
    parts = held_out_parts(table, together, ("gan",), 0, None)
    # a quarter of the fakes is held out; of the people three, with 12 photographs, are the first to reach 10 of 40
    assert counts(table, parts) == {
        ("train", "cam"): 28,
        ("train", "diffusion"): 30,
        ("val", "cam"): 12,
        ("val", "gan"): 10,
    }
    assert not set(together[parts == "train"]) & set(together[parts == "val"])
    assert (held_out_parts(table, together, ("gan",), 0, None) == parts).all()
    assert (held_out_parts(table, together, ("gan",), 1, None) != parts).any()


def test_what_belongs_together_with_val_is_left_out_of_train() -> None:
    table, together = images(cam_a=30, cam_b=30, gan=30, diffusion=30), np.arange(120)
    together[88:92] = 7000  # two of gan, two of diffusion
    parts = held_out_parts(table, together, ("gan", "cam_b"), 0, None)
    assert counts(table, parts)["left out", "diffusion"] == 2
    assert counts(table, parts)["train", "diffusion"] == 28


def test_identities_in_all_sources_are_divided() -> None:
    table, together = images(cam=30, gan=30, diffusion=30), np.tile(np.arange(30), 3)
    parts = held_out_parts(table, together, ("gan",), 0, None)
    assert counts(table, parts) == {
        ("left out", "diffusion"): 10,
        ("left out", "gan"): 20,
        ("train", "cam"): 20,
        ("train", "diffusion"): 20,
        ("val", "cam"): 10,
        ("val", "gan"): 10,
    }
    assert not set(together[parts == "train"]) & set(together[parts == "val"])


def test_of_val_no_more_than_enough_images_are_used() -> None:
    table = images(cam_a=30, cam_b=60, gan=30, diffusion=15)
    parts = held_out_parts(table, np.arange(135), ("gan", "cam_b"), 0, 30)
    found = counts(table, parts)
    assert (found["val", "cam_b"], found["val", "gan"]) == (20, 10)
    assert (found["left out", "cam_b"], found["left out", "gan"]) == (40, 20)


def test_a_part_without_a_class_is_an_error() -> None:
    table = images(cam=1, gan=10, diffusion=10)
    with pytest.raises(DataError, match=r"data\.val: train has no real image where gan are held out"):
        held_out_parts(table, np.arange(21), ("gan",), 0, None)


def test_the_catalog_is_divided_so() -> None:
    table = images(cam=40, gan=10, diffusion=30).assign(
        folder="train", subfolder="", digest=[f"{n}" for n in range(80)]
    )
    given = DataSettings.model_validate({"train": "/x", "test": 0.25, "val": {"groups": ["gan"]}})
    divided = divide(table, given, 0, NO_PAIRS)
    assert set(divided.loc[divided["part"] == "val", "source"]) == {"cam", "gan"}
    assert not (divided.loc[divided["part"] == "train", "source"] == "gan").any()
    assert (divided["part"] == "test").sum() == 20


def test_a_source_that_is_not_among_the_images_is_an_error() -> None:
    with pytest.raises(DataError, match=r"data\.val: no image of source 'gam'; there: gan, cam; nearest: gan"):
        held_out_parts(images(cam=10, gan=10), np.arange(20), ("gam",), 0, None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for name in ("real/ffhq", "real/lfw", "fake/stylegan2", "fake/stylegan3"):
        (folder / name).mkdir(parents=True)
        (folder / name / "1.jpg").touch()
    return folder


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ("[stylegan2, lfw]", None),
        ("[stylegan4]", 'data.val.groups: given "stylegan4"; allowed: stylegan3, stylegan2, ffhq, lfw'),
        ("[stylegan2, stylegan3]", "allowed: fewer of them, as no fake image would be left to learn from"),
    ],
)
def test_a_source_that_no_image_has_is_refused_before_anything_starts(folder: Path, groups: str, said) -> None:
    text = f"name: a\ndata: {{train: {folder}, test: 0.2, val: {{groups: {groups}}}}}\ntrial: {{backbone: resnet18}}\n"
    file = parse_sweep(f"{text}search: {{trials: 1}}\n", "a.yaml")
    if said is None:
        check_held_out(file)
    else:
        with pytest.raises(SweepError) as refused:
            check_held_out(file)
        assert said in str(refused.value)


def test_without_known_sources_none_can_be_held_out(tmp_path: Path) -> None:
    for name in ("real", "fake"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").touch()
    text = f"name: a\ndata: {{train: {tmp_path}, test: 0.2, val: {{groups: [gan]}}}}\ntrial: {{backbone: resnet18}}\n"
    with pytest.raises(SweepError, match=r"data\.val: no image has a known source; data.group says how to find it"):
        check_held_out(parse_sweep(text, "a.yaml"))
