"""The page says what the bundle says, escaped, and its policy allows this page alone."""

import json
import re
from base64 import b64encode
from hashlib import sha256

import pytest

from rfray.models.bundle import load_bundle
from rfray.store.bundle_record import Ensemble
from rfray.store.run_dir import RunDir

pytest.importorskip("ray.serve", reason="needs pip install 'rfray[serve]'")

from rfray.serving.app import page
from rfray.serving.uploads import Limits


@pytest.fixture(scope="module")
def ensemble(run: RunDir) -> Ensemble:
    return load_bundle(run.path).ensemble


def shown(ensemble: Ensemble, **changes: object) -> tuple[str, str]:
    assert ensemble.bundle is not None
    return page(ensemble.model_copy(update={"bundle": ensemble.bundle.model_copy(update=changes)}), Limits())


def test_the_figures_and_the_members_are_the_bundles(ensemble: Ensemble) -> None:
    figures = {"accuracy": 0.75, "accuracy_low": 0.5, "accuracy_high": 0.875, "auc": None, "n": 32}
    assert ensemble.bundle is not None
    html, _ = shown(ensemble, figures={**ensemble.bundle.figures, **figures})
    assert '<tr><th scope="row">accuracy</th><td>0.7500</td><td>0.500 to 0.875</td></tr>' in html
    assert '<tr><th scope="row">AUC</th><td>undefined</td>' in html
    assert "On 32 images" in html
    about = json.loads(re.findall(r'id="about">(.*?)</script>', html)[0])
    assert about["members"] == [
        {"id": "a", "backbone": "test_resnet", "share": 0.5},
        {"id": "b", "backbone": "test_efficientnet", "share": 0.5},
    ]
    assert about["bytes"] == Limits().file_bytes


def test_the_audits_stamp_stands_with_the_figures_and_is_escaped(ensemble: Ensemble) -> None:
    html, _ = shown(ensemble, audit_stamp="<script>alert(1)</script>")
    assert "Audit: &lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "Audit:" not in shown(ensemble, audit_stamp="")[0]


def test_what_a_bundle_says_can_not_become_markup(ensemble: Ensemble) -> None:
    assert ensemble.bundle is not None
    evil = [member.model_copy(update={"id": "</script><b>"}) for member in ensemble.bundle.members]
    html, _ = shown(ensemble, members=evil)
    assert "</script><b>" not in html
    assert json.loads(re.findall(r'id="about">(.*?)</script>', html)[0])["members"][0]["id"] == "</script><b>"


def test_the_policy_names_what_is_in_the_page(ensemble: Ensemble) -> None:
    html, policy = shown(ensemble)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == rules["frame-ancestors"] == "'none'"
    assert rules["connect-src"] == "'self'"
    for tag in ("script", "style"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        assert rules[f"{tag}-src"] == f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
    assert not re.findall(r"<[^>]* (?:style|on\w+)=", html)  # these would be blocked
    assert not re.findall(r"(?:src|href)=\"(?!data:,|[a-z.]+\")", html)
