"""rfray.report.page: one file, nothing from outside, nothing that a name or a reason could smuggle in."""

import base64
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from rfray.evaluation.ensemble import choose_members, write_ensemble
from rfray.evaluation.leaderboard import column_types, write_leaderboard
from rfray.evaluation.mistakes import AT_MOST, find_mistakes, undrawn_mistakes, write_mistakes
from rfray.evaluation.search_findings import search_findings
from rfray.inference.mistake_pictures import LONGEST
from rfray.models.grad_cam import encode_jpeg
from rfray.report.audit_plots import AUDIT_PLOTS, write_audit_plots
from rfray.report.page import write_page
from rfray.report.pictures import description
from rfray.report.plots import write_plots
from rfray.report.search_plots import write_search_plots
from rfray.report.words import GROUPS_SHOWN
from rfray.spec.sweep import MaxFpr
from rfray.spec.sweep_file import resolved_text
from tests.audits import image_table, leaking_audit
from tests.synthetic import FIRST, catalog_of, fail_trial, finish_trial, new_run, predictions, small_run


class Page(HTMLParser):
    """Every tag with its attributes, and all text that is shown."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def report(run, top_k=2, methods=()):
    write_ensemble(run, choose_members(run, top_k), methods)
    write_leaderboard(run)
    findings = search_findings(run)
    write_plots(run)
    write_search_plots(run, findings)
    write_page(run, findings)
    return run.report_html.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    run = small_run(tmp_path_factory.mktemp("page") / "run")
    run.unreadable_file.write_text(
        'path,reason,folder,size,modified\na.jpg,"cut\noff",train,1,2\nb.jpg,no image,train,1,2\n'
    )
    return run, report(run)


def test_verdict(small):
    text = " ".join(Page(small[1]).text.split())
    assert text.index("No better than guessing on 6 test images: AUC 1.000 (95 %") < text.index("Of 4 finished trials")
    assert "Of 4 finished trials (1 failed, 1 not kept), the 2 best vote in the ensemble, chosen by auc" in text
    assert (
        "On 6 test images, which nothing was chosen on, the ensemble reaches accuracy 1.0000 (95 % interval 0.6097 "
        "to 1.0000) and AUC 1.0000 (95 % interval 0.2924 to 1.0000)." in text
    )
    assert "the ensemble is tied with the best single model, 001: AUC 1.0000 against 0.7778" in text
    assert "2 images could not be read" in text
    assert "In the ensemble, best first: 001, 002." in text


def test_the_vote_handed_over_is_spoken_of(tmp_path):
    run = small_run(tmp_path / "run")
    sweep = run.sweep()
    asked = sweep.ensemble.model_copy(update={"threshold": MaxFpr(max_fpr=0.2)})
    run.sweep_file.write_text(resolved_text(sweep.model_copy(update={"ensemble": asked})))
    page = Page(report(run, 2, ["calibrated"]))
    assert "False-positive rate of ensemble-calibrated: at most 20 % was asked for" in page.text
    alts = [image["alt"] for image in page.all("img")]
    assert any("ensemble-calibrated AUC 1.0000, 001 AUC 0.7778" in alt for alt in alts)
    # from 0.6 on, the threshold of 001, which its picture has too
    (first,) = (alt for alt in alts if alt.startswith("Confusion matrix of 001"))
    assert "2 called real and 1 called fake" in first


def test_members_that_are_not_the_best_are_not_called_so(tmp_path):
    run = small_run(tmp_path / "run")
    write_ensemble(run, choose_members(run)[1:])
    write_leaderboard(run)
    write_page(run)
    text = " ".join(Page(run.report_html.read_text()).text.split())
    assert "one votes in the ensemble, chosen by auc" in text
    assert "the best single model, 001: AUC" in text


def test_nothing_comes_from_outside(small):
    page = Page(small[1])
    links = [link["href"] for link in page.all("a")]
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert len(links) == 6
    assert {link.removeprefix("#") for link in links} <= ids
    loads = [value for _, attributes in page.tags for name, value in attributes.items() if name == "src"]
    assert len(loads) == 10
    assert all(load.startswith("data:image/png;base64,") for load in loads)
    assert not re.search(r"https?:|url\(|@import|<link", small[1])


def test_every_picture_is_inside_and_described(small):
    run, html = small
    images = Page(html).all("img")
    inside = {base64.b64decode(image["src"].partition(",")[2]) for image in images}
    assert inside == {file.read_bytes() for file in run.plots_folder.iterdir()}
    assert all(image["alt"] for image in images)
    assert any("of the real images 2 called real and 1 called fake" in image["alt"] for image in images)
    assert any("ensemble AUC 1.0000, 001 AUC 0.7778, 002 AUC 0.9444" in image["alt"] for image in images)
    assert any("stratified bootstrap, 1,000 resamples" in image["alt"] for image in images)


def test_what_the_search_found(small):
    text = " ".join(Page(small[1]).text.split())
    assert re.search(r"What the search found 5 trials \([^)]*\) trained for 9 slot-seconds in all\.", text)
    assert "too few trials (3 with a score, at least 8 are needed)" in text


def test_a_page_without_findings_says_nothing_of_the_search(small, tmp_path):
    run = small_run(tmp_path / "run")
    write_leaderboard(run)
    write_page(run)
    assert "search found" not in run.report_html.read_text()


def test_a_reason_is_text(small):
    page = Page(small[1])
    assert len(page.all("script")) == 1
    assert "<script>alert(1)</script>" not in small[1]
    assert "failed: RuntimeError: shape | mismatch <script>alert(1)</script>" in page.text


def test_a_reason_can_not_leave_its_attribute(tmp_path):
    run = small_run(tmp_path / "run")
    fail_trial(run, "006", 'boom" onclick="alert(1)')
    page = Page(report(run))
    assert not any("onclick" in attributes for _, attributes in page.tags)


def test_headers_have_scope_and_are_buttons(small):
    page = Page(small[1])
    headers = [header["scope"] for header in page.all("th")]
    buttons = [button for button in page.all("button") if "id" not in button]
    assert headers.count("col") == len(buttons) == len(column_types(small[0].sweep()))
    assert None not in headers


def test_settings_and_versions(small):
    run, html = small
    text = Page(html).text
    assert run.sweep_file.read_text() in text
    assert all(package in text for package in ("torch", "timm", "ray", "albumentations", "scikit-learn"))


def test_a_run_without_an_ensemble_says_so(tmp_path):
    run = new_run(tmp_path / "run")
    fail_trial(run, "a", "boom")
    write_leaderboard(run)
    write_page(run)
    text = Page(run.report_html.read_text()).text
    assert "No ensemble was made of 1 finished trial (1 failed, 0 not kept)." in text
    assert "failed: boom" in text


def test_without_an_audit_the_page_says_nothing_of_it(small):
    assert "Data audit" not in Page(small[1]).text


def test_an_audit_is_a_section_and_its_errors_a_stamp(tmp_path):
    run = small_run(tmp_path / "run")
    audit, images = leaking_audit(), image_table(5)
    run.write_vouched(run.audit_file, audit)
    write_audit_plots(run.audit_folder, np.zeros((10, 8, 8, 3), np.uint8), images)
    page = Page(report(run))
    text = " ".join(page.text.split())
    assert f"Audit: {audit.stamp}" in text
    assert text.index("Audit:") < text.index("Of 4 finished trials")
    for finding in audit.findings:
        assert finding.sentence in text
        assert finding.what_to_do in text
    assert audit.baseline.sentence in text
    assert "file format 1.00" in text
    assert not page.all("b")[len(audit.findings) :]  # a path with <b> in it is text
    assert {image["alt"] for image in page.all("img")} >= {description(run.audit_folder / name) for name in AUDIT_PLOTS}


def test_an_audit_without_errors_is_no_stamp(tmp_path):
    run = small_run(tmp_path / "run")
    run.write_vouched(run.audit_file, leaking_audit().model_copy(update={"findings": ()}))
    text = Page(report(run)).text
    assert "Data audit" in text
    assert "Audit:" not in text
    assert "Nothing was found that would mislead." in text


def test_mistakes_and_groups_are_sections(tmp_path):
    run = small_run(tmp_path / "run")
    report(run, top_k=1)  # of 001 alone: real/2.jpg is called fake, fake/3.jpg real
    ids = [mistake.id for mistake in undrawn_mistakes(run).shown]
    write_mistakes(run, find_mistakes(run).model_copy(update={"problems": ["no pictures: <b>no</b>"]}))
    picture = run.mistake_picture(1)
    picture.parent.mkdir()
    picture.write_bytes(b"a picture")
    names = ["<i>hard</i>" if path in ids else "" for path in predictions(FIRST).ids]
    run.write_catalog(catalog_of(path=predictions(FIRST).ids, subfolder=names, part="test"))
    write_page(run)
    page = Page(run.report_html.read_text(encoding="utf-8"))
    text = " ".join(page.text.split())
    assert len(page.all("figure")) == 2
    assert {"src": "data:image/jpeg;base64,YSBwaWN0dXJl", "alt": "fake/3.jpg: fake, called real"} in page.all("img")
    assert "fake, called real, p_fake 0.30 fake/3.jpg Members: 001 0.30" in text
    assert "Not drawn: no pictures: <b>no</b>" in text
    assert "Of 2 groups, <i>hard</i> comes off worst: AUC 0.000" in text
    assert "groups.csv" not in text
    assert not page.all("i")
    assert all("scope" in header for header in page.all("th"))
    headings = [text.index(heading) for heading in ("Confusion matrices", "Mistakes", "Groups", "Training curves")]
    assert headings == sorted(headings)


def test_of_many_groups_the_others_are_in_the_file(tmp_path):
    run = new_run(tmp_path / "run")
    count = GROUPS_SHOWN + 5
    given = predictions([0.5] * 2 * count, [0, 1] * count)
    finish_trial(run, "one", 0.9, given, given)
    names = [f"{number // 2:02d}" if number > 1 else "" for number in range(2 * count)]
    report(run, 1)
    run.write_catalog(catalog_of(path=given.ids, subfolder=names, part="test"))
    write_page(run)
    text = Page(run.report_html.read_text()).text
    assert "The 30 worst of 35 groups; all are in groups.csv." in text
    assert "images of one class alone" not in text


def test_the_groups_of_an_attribute_have_a_sentence_and_a_table(tmp_path):
    run = small_run(tmp_path / "run")
    report(run, top_k=1)  # of 001 alone: real/2.jpg is called fake, fake/3.jpg real
    ids = predictions(FIRST).ids
    run.write_catalog(catalog_of(path=ids, subfolder="", part="test", folder="test"))
    skin = ["dark" if path == "real/2.jpg" else "<b>light</b>" for path in ids]
    run.write_table(run.attributes_file, pd.DataFrame({"path": ids, "skin": skin, "same": "x"}))
    write_page(run)
    page = Page(run.report_html.read_text(encoding="utf-8"))
    text = " ".join(page.text.split())
    assert "By skin Real images with skin=dark are called fake in 100.0% (20.7% to 100.0%, n = 1)" in text
    assert "the others in 0.0% (n = 2): a difference that may be chance" in text
    assert "attribute same: the same value in all images, so no groups." in text
    assert {"href": "#groups"} in page.all("a")
    assert "1.000 (0.207 to 1.000) all fake 0.000 (0.33)" in text
    assert "<b>light</b>" in text
    assert all("scope" in header for header in page.all("th"))


@pytest.fixture
def two_wrong(tmp_path):
    """One member; of three real and three fake images one of each is wrong: real/2.jpg 0.6, fake/3.jpg 0.3."""
    run = new_run(tmp_path / "run")
    finish_trial(run, "one", 0.9, predictions(FIRST), predictions(FIRST))
    return run


def gallery(run, top_k=1, **changes):
    """The page, and the text of its gallery."""
    ensemble = write_ensemble(run, choose_members(run, top_k))
    write_mistakes(run, find_mistakes(run))
    run.write_vouched(run.ensemble_file, ensemble.model_copy(update=changes))
    write_leaderboard(run)
    write_page(run)
    page = Page(run.report_html.read_text(encoding="utf-8"))
    text = " ".join(page.text.split())
    return page, text[text.find("Mistakes Of") : text.find("The sweep name:")]


def test_captions_alt_texts_and_pictures_of_mistakes(two_wrong):
    two_wrong.mistakes_folder.mkdir(parents=True)
    for number, evidence, colour in ((1, False, "red"), (1, True, "blue"), (2, False, "green")):
        Image.new("RGB", (8, 8), colour).save(two_wrong.mistake_picture(number, evidence=evidence))
    page, text = gallery(two_wrong)
    assert "Of ensemble, which calls an image fake where p_fake >= 0.5: the most confident mistakes first." in text
    assert "Fakes called real: 1 fake, called real, p_fake 0.30 fake/3.jpg Members: one 0.30" in text
    assert "Real images called fake: 1 real, called fake, p_fake 0.60 real/2.jpg Members: one 0.60" in text
    images = page.all("img")
    assert [image["alt"] for image in images] == [
        "fake/3.jpg: fake, called real",
        "fake/3.jpg with colour where the members saw evidence for real",
        "real/2.jpg: real, called fake",  # its evidence could not be drawn
    ]
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in images)


def test_the_unsure_band_is_named(two_wrong):
    _, text = gallery(two_wrong, unsure=(0.4, 0.65))
    assert "p_fake 0.30 fake/3.jpg" in text
    assert "p_fake 0.60 (in the unsure band) real/2.jpg" in text
    assert "unsure band" not in gallery(two_wrong, unsure=(0.4, 0.6))[1]  # 0.6 is fake: the band ends before it


def test_mistakes_of_another_vote_are_not_shown(two_wrong):
    assert gallery(two_wrong)[1]
    two_wrong.mistakes_file.write_text(two_wrong.mistakes_file.read_text().replace('"ensemble"', '"another"'))
    write_page(two_wrong)
    assert "Mistakes" not in Page(two_wrong.report_html.read_text()).text


def test_a_vote_without_a_mistake_says_so(tmp_path):
    run = new_run(tmp_path / "run")
    finish_trial(run, "one", 1.0, predictions([0, 1], [0, 1]), predictions([0, 1], [0, 1]))
    page, text = gallery(run)
    assert "no test image is called wrongly." in text
    assert not page.all("details")


def test_a_full_gallery_of_noise_leaves_room_on_the_page(tmp_path):
    """Noise is the largest JPEG; the page is to stay below 5 MB."""
    run = new_run(tmp_path / "run")
    given = predictions([0.9, 0.1] * 200, [0, 1] * 200)
    for number in range(5):
        finish_trial(run, f"{number:05d}-abcdef", 0.9, given, given)
    noise = encode_jpeg(np.random.default_rng(0).integers(0, 256, (LONGEST, LONGEST, 3), dtype=np.uint8))
    run.mistakes_folder.mkdir(parents=True)
    for number in range(1, AT_MOST + 1):
        for evidence in (False, True):
            run.mistake_picture(number, evidence=evidence).write_bytes(noise)
    page, text = gallery(run, top_k=5)
    assert "Fakes called real: the 12 most confident of 200" in text
    assert "Real images called fake: the 12 most confident of 200" in text
    sizes = [len(image["src"]) for image in page.all("img")]
    assert len(sizes) == 2 * AT_MOST
    assert sum(sizes) < 1.5e6
