"""rfray.report.page: one file, nothing from outside, nothing that a name or a reason could smuggle in."""

import base64
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from rfray.evaluation.audit_record import write_audit
from rfray.evaluation.ensemble import choose_members, write_ensemble
from rfray.evaluation.leaderboard import write_leaderboard
from rfray.report.audit_plots import ALT, write_audit_plots
from rfray.report.page import write_page
from rfray.report.plots import write_plots
from tests.audits import image_table, leaking_audit
from tests.synthetic import fail_trial, new_run, small_run


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


def report(run, top_k=2):
    write_ensemble(run, choose_members(run, top_k))
    write_leaderboard(run)
    write_plots(run)
    write_page(run)
    return run.report_html.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    run = small_run(tmp_path_factory.mktemp("page") / "run")
    run.unreadable_file.write_text('path,reason\na.jpg,"cut\noff"\nb.jpg,no image\n')
    return run, report(run)


def test_verdict(small):
    text = " ".join(Page(small[1]).text.split())
    assert "Of 4 finished trials (1 failed, 1 not kept), the 2 best vote in the ensemble, chosen by auc" in text
    assert (
        "On 6 report images, which nothing was chosen on, the ensemble reaches accuracy 1.0000 and AUC 1.0000" in text
    )
    assert "the best single model, 001, reaches accuracy 0.6667 and AUC 0.7778" in text
    assert "2 images could not be read" in text
    assert "In the ensemble, best first: 001, 002." in text


def test_nothing_comes_from_outside(small):
    page = Page(small[1])
    loads = [value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href")]
    assert len(loads) == 6
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
    assert headers.count("col") == len(page.all("button")) == 51
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
    assert "udit" not in Page(small[1]).text


def test_an_audit_is_a_section_and_its_errors_a_stamp(tmp_path):
    run = small_run(tmp_path / "run")
    audit, images = leaking_audit(), image_table(5)
    write_audit(run.audit_file, audit)
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
    assert {image["alt"] for image in page.all("img")} >= set(ALT.values())


def test_an_audit_without_errors_is_no_stamp(tmp_path):
    run = small_run(tmp_path / "run")
    write_audit(run.audit_file, leaking_audit().model_copy(update={"findings": ()}))
    text = Page(report(run)).text
    assert "Data audit" in text
    assert "Audit:" not in text
    assert "Nothing was found that would mislead." in text
