"""rfray.audit: tables of images made by hand -> findings, counts and the metadata baseline."""

import numpy as np
import pandas as pd
import pytest

from rfray.audit.audit import audit_images
from rfray.audit.metadata_baseline import FEATURES, metadata_baseline
from rfray.audit.rules import RULES
from rfray.data.sources import sources
from rfray.errors import RunError
from rfray.spec.sweep import DataSettings
from rfray.store.run_dir import RunDir
from tests.audits import ALL_READABLE, NO_PAIRS, image_table, leaking_audit, pair_table


def audited(images=None, pairs=NO_PAIRS, unreadable=ALL_READABLE):
    return audit_images(image_table() if images is None else images, pairs, unreadable)


def found(audit):
    return {finding.code: finding for finding in audit.findings}


def labels_of(images):
    return images["label"] == 1


def test_harmless_images_have_no_finding():
    audit = audited()
    assert audit.findings == ()
    assert audit.stamp == ""


def test_counts_sizes_and_groups():
    images = image_table(3, subfolder=["a", "b", "a", "", "c", ""], part=["train"] * 4 + ["val"] * 2)
    images["width"] = [10, 20, 30, 40, 50, 60]
    audit = audited(images)
    assert [(c.part, c.label, c.images, c.groups) for c in audit.counts] == [
        ("train", 0, 2, 1),
        ("train", 1, 2, 1),
        ("val", 0, 1, 1),
        ("val", 1, 1, 0),
    ]
    assert [(g.group, g.label, g.images) for g in audit.groups] == [("a", 0, 2), ("b", 1, 1), ("c", 0, 1)]
    real, fake = audit.sizes
    assert (real.width.min, real.width.median, real.width.max) == (10, 30, 50)
    assert (fake.width.min, fake.width.median, fake.width.max) == (20, 40, 60)
    assert real.formats == {"JPEG": 3}
    assert audit.baseline is None  # three images of a class can't be divided


def test_pairs_are_counted_by_kind_place_and_label():
    # images 0 and 2 are real, 1 is fake; 238 (real) and 239 (fake) are in val
    audit = audited(pairs=pair_table((0, 2, "exact"), (238, 0, "crop"), (0, 239, "crop"), (238, 2, "crop")))
    shown = [(p.kind, p.first, p.second, p.across_labels, p.pairs) for p in audit.duplicates]
    assert shown == [
        ("crop", "train", "val", False, 2),
        ("crop", "train", "val", True, 1),
        ("exact", "train", "train", False, 1),
    ]
    assert audit.duplicates[0].examples[0] == ("real/0000.jpg", "real/0238.jpg")  # train first, as `first` says


def test_test_images_in_training_are_an_error():
    images = image_table()
    images.loc[200:, ["folder", "part"]] = "test", "test"
    # 200 is there exactly and as a crop: counted once, as the closer kind
    audit = audited(images, pair_table((200, 4, "crop"), (200, 0, "exact"), (1, 201, "re-encoded")))
    finding = found(audit)["test-in-training"]
    assert finding.grade == "error"
    assert finding.sentence.startswith("2 of 40 test images are also among the training images (1 the same file, 1 ")
    assert "test/real/0200.jpg and train/real/0000.jpg" in finding.sentence
    assert "data.test_duplicates: leave_out" in finding.what_to_do
    assert finding.sentence in audit.stamp


def test_two_folders_without_parts():
    images = image_table(part="")
    images.loc[200:, "folder"] = "test"
    assert "test-in-training" in found(audited(images, pair_table((0, 200, "exact"))))
    assert "test-in-training" not in found(audited(images, pair_table((0, 2, "exact"))))


def test_copies_under_both_labels_and_across_the_split():
    codes = found(audited(pairs=pair_table((0, 1, "exact"), (0, 238, "re-encoded"), (3, 2, "crop"), (4, 6, "exact"))))
    assert codes["both-labels"].grade == "warning"
    assert "1 pair of a real and a fake image is the same picture" in codes["both-labels"].sentence
    assert codes["crop-of-other-class"].grade == "note"
    assert codes["copies-across-the-split"].grade == "warning"
    assert "one of the two folders" in codes["copies-across-the-split"].what_to_do
    assert codes["copies-within-a-part"].sentence.startswith("2 of 40 train images are there more than once")


def test_formats_sizes_and_spectra():
    images = image_table()
    fake = labels_of(images)
    images["format"] = np.where(fake, "PNG", "JPEG")
    images["width"] = np.where(fake, 512, images["width"])
    images["spectrum"] = [row - 1.0 * one for row, one in zip(images["spectrum"], fake, strict=True)]
    codes = found(audited(images))
    assert "real images are 100% JPEG; fake images are 100% PNG" in codes["formats-differ"].sentence
    assert "data.reencode: {quality: 90}" in codes["formats-differ"].what_to_do
    assert "the median width in pixels is" in codes["dimensions-differ"].sentence
    assert "trial.resize: crop" in codes["dimensions-differ"].what_to_do
    assert codes["spectra-differ"].grade == "note"
    assert "less fine detail" in codes["spectra-differ"].sentence


def test_images_that_are_left_out_make_no_finding():
    images = image_table(300)
    images.loc[100:399, "part"] = "left out"
    aside = (images["part"] == "left out") & labels_of(images)
    images.loc[aside, ["format", "width", "file_bytes"]] = "PNG", 512, 90_000
    images["spectrum"] = [row - 3.0 * one for row, one in zip(images["spectrum"], aside, strict=True)]
    alike = pair_table((140, 142, "exact"), (144, 145, "exact"), (146, 147, "crop"))
    audit = audited(images, alike)
    assert found(audit) == {}
    assert audit.baseline.n == 300
    images.loc[aside, "part"] = "val"  # the same images in use are told of
    assert {"formats-differ", "dimensions-differ", "spectra-differ", "both-labels"} <= set(
        found(audited(images, alike))
    )


def test_few_uneven_and_unreadable():
    images = image_table(120)
    images = images[(images["label"] == 0) | (images.index % 20 == 1)]  # 120 real, 12 fake
    codes = found(audited(images, unreadable=pd.DataFrame({"path": ["a", "b"], "reason": ["cut", "cut"]})))
    assert "100 real and 10 fake: calling everything real is right in 91%" in codes["class-imbalance"].sentence
    assert "trial.class_balance" in codes["class-imbalance"].what_to_do
    assert "only 10 fake among the val images" in codes["few-images"].sentence
    assert codes["unreadable"].grade == "warning"  # 2 of 134
    assert codes["unreadable"].sentence == "2 of 134 files are unreadable and left out."
    one = found(audited(unreadable=pd.DataFrame({"path": ["a"], "reason": ["cut"]})))["unreadable"]
    assert one.grade == "note"
    assert one.sentence == "1 of 241 files is unreadable and left out."


def test_gravest_first():
    grades = [finding.grade for finding in leaking_audit().findings]
    assert grades == sorted(grades, key=["error", "warning", "note"].index)
    assert len({rule.__name__ for rule in RULES}) == len(RULES)


@pytest.mark.parametrize("feature", FEATURES)
def test_each_property_is_noticed(feature):
    images = image_table(40)
    fake = labels_of(images)
    telling = {
        "file size": {"file_bytes": images["file_bytes"] + 20_000 * fake},
        "dimensions": {"height": images["height"] + fake},
        "file format": {"format": np.where(fake, "PNG", "JPEG")},
        "JPEG quantisation tables": {"quantisation": np.where(fake, "cccc", "dddd")},
        "chroma subsampling": {"subsampling": np.where(fake, "4:4:4", "4:2:0")},
        "progressive flag": {"progressive": fake},
        "EXIF presence": {"exif": ~fake},
        "ICC profile presence": {"icc": fake},
        "colour mode": {"mode": np.where(fake, "RGBA", "RGB")},
        "bytes per pixel": {"bytes_per_pixel": images["bytes_per_pixel"] + fake},
    }[feature]
    images = images.assign(**telling)
    baseline = metadata_baseline(images, np.arange(80))
    assert baseline.features[0].feature == feature
    assert baseline.features[0].auc == pytest.approx(1.0)
    assert baseline.auc > 0.95
    assert feature in baseline.sentence
    finding = found(audited(images))["metadata-tells"]
    assert finding.grade == "error"
    assert baseline.features[0].remedy in finding.what_to_do


def test_an_even_property_that_is_not_monotonic_is_noticed():
    images = image_table(60)
    side = np.where(labels_of(images), 200, np.where(images.index % 4 == 0, 160, 256))
    baseline = metadata_baseline(images.assign(width=side, height=side), np.arange(120))
    assert baseline.features[0].feature == "dimensions"
    assert baseline.features[0].auc == pytest.approx(1.0)


@pytest.mark.parametrize(("per_class", "draws", "reach"), [(15, 8, 0.1), (100, 4, 0.06)])
def test_on_properties_that_say_nothing_it_hovers_about_chance(per_class, draws, reach):
    found = [metadata_baseline(image_table(per_class, seed), np.arange(2 * per_class)) for seed in range(draws)]
    assert abs(np.mean([baseline.auc for baseline in found]) - 0.5) < reach
    assert sum(baseline.low <= 0.5 <= baseline.high for baseline in found) >= 0.8 * draws


@pytest.mark.parametrize("per_class", [7, 13, 101])
def test_constant_properties_are_exactly_chance(per_class):
    images = image_table(
        per_class, file_bytes=100, width=10, height=10, bytes_per_pixel=1.0, quantisation="", quality=9.0
    )
    uneven = images.drop(index=[0, 2])  # folds that can't be alike: a pooled AUC would end far below 0.5
    baseline = metadata_baseline(uneven, np.arange(len(uneven)))
    assert baseline.auc == 0.5
    assert baseline.low < 0.5 < baseline.high
    assert "No single one" in baseline.sentence


@pytest.mark.parametrize(("groups", "folds"), [(1, None), (2, 2), (3, 3), (40, 5)])
def test_there_are_no_more_folds_than_groups(groups, folds):
    images = image_table(20, seed=0)
    baseline = metadata_baseline(images, np.arange(len(images)) // 2 % groups)
    assert (baseline and baseline.folds) == folds


def test_copies_stay_in_one_fold():
    # every picture eight times with a file size of its own: known by heart only where copies are on both sides
    random = np.random.default_rng(0)
    picture = np.repeat(np.arange(24), 8)
    label = random.permutation(np.arange(24) % 2)[picture]
    images = image_table(96, label=label, file_bytes=1000 * (picture + 1))
    assert metadata_baseline(images, np.arange(192)).features[0].auc > 0.9
    apart = {one.feature: one.auc for one in metadata_baseline(images, picture).features}
    assert apart["file size"] < 0.8


def test_written_and_read_back(tmp_path):
    audit, run = leaking_audit(), RunDir(tmp_path)
    run.write_vouched(run.audit_file, audit)
    assert RunDir(tmp_path).audit() == audit
    assert RunDir(tmp_path / "other").audit() is None
    (tmp_path / "audit.json").write_text('{"version": 2}')
    with pytest.raises(RunError, match=r"audit\.json is damaged: .*`rfray tune` makes it again"):
        RunDir(tmp_path).audit()


def test_the_same_images_give_the_same_audit():
    assert leaking_audit() == leaking_audit()


def divided_by(images, **data):
    given = DataSettings.model_validate({"train": "/x", "test": "/y", **data})
    images = images.assign(source=sources(images, given))
    return audit_images(images, NO_PAIRS, ALL_READABLE, data=given)


@pytest.mark.parametrize(
    ("data", "grade", "said"),
    [
        ({"group_pattern": r"ID(\d+)_"}, "error", "finds nothing in the 240 training images"),
        ({"group_pattern": r"no/such"}, "error", "finds nothing in the 240 training images"),
        ({"split_by": "group"}, "error", "finds nothing in the 240 training images"),
        ({"group_pattern": r"real/id(\d+)"}, "warning", "in only 0 of 120 fake training images"),
        ({"group_pattern": r"_(\d+)\.jpg"}, "warning", "finds another text in each training image"),
    ],
)
def test_a_setting_that_keeps_hardly_any_images_together_is_said(data, grade, said):
    images = image_table()
    images["path"] = [f"{'fake' if n % 2 else 'real'}/id{n // 12}_{n:04d}.jpg" for n in range(240)]
    finding = found(divided_by(images, **data))["setting-for-few"]
    assert finding.grade == grade
    assert said in finding.sentence
    assert "setting-for-few" not in found(divided_by(images, group_pattern=r"id(\d+)_"))


@pytest.mark.parametrize(
    ("pattern", "grade", "said"),
    [
        (r"/(gan\d|cam\d)_", None, None),
        ("subfolder", "error", "finds nothing in the 240 training images: no source is known"),
        (r"/(GAN\d|CAM\d)_", "error", "finds nothing in the 240 training images"),
        (r"/(GAN\d|CAM\d)_", "warning", "would find something in 240 images more if upper and lower case"),
        (r"/(gan\d)_", "note", "finds nothing in the 120 real training images: only the others have sources"),
        (r"/(gan1|cam\d)_", "warning", "finds something in only 40 of 120 fake training images"),
        (r"_(\d+)\.", "warning", "finds another text in each training image"),
        (r"/(gan|cam)", "warning", "finds no more than one source in a class"),
        (r"/(gan|cam)", "warning", "finds only a piece of a name: gan stands for gan0, gan1, gan2"),
        (r"([a-z]+\d)", "warning", "finds different texts in the same path in 20 images, such as `fake/gan0_cam1"),
        (r"(?i:/(gan\d|cam\d)_)", "warning", "differ in upper and lower case alone: CAM0, cam0"),
        (r"/(gan\d|cam\d)(_)", "warning", "has several groups in brackets"),
        (r"(?i)/(gan\d)_", "note", "finds nothing in the 120 real training images"),
        (r"/(gan1)_", "warning", "finds something in only 40 of 120 fake training images"),
        (r"real/(cam1_001\d)", "warning", "finds something in only 1 of 120 real training images"),
        (r"_(\d\d\d)\d\.", "warning", "finds 24 sources of 5 images at most, too few to leave one out"),
    ],
)
def test_a_pattern_that_names_hardly_any_sources_or_others_is_said(pattern, grade, said):
    images = image_table()
    names = [f"{'gan' if n % 2 else 'cam'}{n // 2 % 3}{'_cam1' if n % 12 == 1 else ''}" for n in range(240)]
    if said and "CAM0" in said:
        names[0] = "CAM0"
    images["path"] = [f"{'fake' if n % 2 else 'real'}/{name}_{n:04d}.jpg" for n, name in enumerate(names)]
    findings = [one for one in divided_by(images, group=pattern).findings if f"data.group: {pattern}`" in one.sentence]
    if said is None:
        assert findings == []
    else:
        assert [one.grade for one in findings if said in one.sentence] == [grade]
        assert "real/cam0_0000.jpg" in findings[-1].what_to_do or "several" in said or "CAM0" in said


def test_what_to_do_about_the_case_is_said():
    images = image_table()
    images["path"] = [f"{'fake' if n % 2 else 'real'}/gan{n % 4 // 2}_{n:04d}.jpg" for n in range(240)]
    findings = divided_by(images, group=r"GAN\d").findings
    (about,) = (one for one in findings if "if upper and lower case were the same" in one.sentence)
    assert about.what_to_do.startswith("If they are the same, begin the pattern with (?i)")


def test_a_source_that_is_a_whole_name_is_no_piece_of_the_class_folder():
    images = image_table()
    images["path"] = [f"{'fake' if n % 2 else 'real'}/{'ae'[n % 4 // 2]}_{n:04d}.jpg" for n in range(240)]
    assert "sources-not-found" not in found(divided_by(images, group=r"/([a-z])_"))  # real and fake have an a and an e


@pytest.mark.parametrize(
    ("pattern", "is_said"), [(r"(id\d+)_(\d+)", True), (r"(ID)(\d)", True), (r"(?:id)(\d)_", False)]
)
def test_a_pattern_with_several_groups_is_said_whatever_it_finds(pattern, is_said):
    images = image_table()
    images["path"] = [f"{'fake' if n % 2 else 'real'}/id{n // 12}_{n:04d}.jpg" for n in range(240)]
    findings = found(divided_by(images, group_pattern=pattern))
    assert ("several-groups" in findings) is is_said
    if is_said:
        assert "has several groups in brackets, of which only the first counts" in findings["several-groups"].sentence
    assert ("setting-for-few" in findings) is ("ID" in pattern)


def test_the_order_of_columns_does_not_matter():
    """All are found by their names."""
    given = image_table(quality=np.where(np.arange(240) % 3, 75.0, 90.0))
    plain, turned = (
        audit_images(images, pairs[pairs.columns[::step]], ALL_READABLE)
        for images, pairs, step in (
            (given, pair_table((0, 2, "exact"), (0, 239, "crop")), 1),
            (given[given.columns[::-1]], pair_table((0, 2, "exact"), (0, 239, "crop")), -1),
        )
    )
    assert turned == plain
    groups = np.arange(240)
    assert metadata_baseline(given[given.columns[::-1]], groups) == metadata_baseline(given, groups)


def test_identities_of_test_among_the_training_images_are_said():
    images = image_table(part="train")
    images["path"] = [f"{'fake' if n % 2 else 'real'}/id{n // 12}_{n:04d}.jpg" for n in range(240)]
    assert "identities-across" not in found(divided_by(images[:-1], group_pattern="no(thing)"))
    images.loc[216:, ["folder", "part"]] = "test", "test"
    images.loc[228, "path"] = "real/id19_id3_0228.jpg"  # the second of two people
    sentence = found(divided_by(images, group_pattern=r"id(\d+)_"))["identities-across"].sentence
    assert sentence.startswith(
        "1 of 3 identities of test (`data.group_pattern`) is also among the training images, e.g. 3"
    )
