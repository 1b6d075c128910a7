"""what a bundle says of itself -> the page at /, and the policy by which a browser runs and fetches nothing else."""

import re
from base64 import b64encode
from hashlib import sha256

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from rfray.data.decoding import MAX_PIXELS
from rfray.report.model_card import MEASURES, figure_text
from rfray.serving.uploads import Limits
from rfray.store.bundle_record import Bundle, Ensemble


def page(ensemble: Ensemble, bundle: Bundle, limits: Limits) -> tuple[str, str]:
    """HTML, and the value of its Content-Security-Policy header: nothing but this page and this server."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader("rfray.serving", "."), PackageLoader("rfray.report", ".")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    members = [
        {"id": member.id, "backbone": member.trial.backbone, "share": share}
        for member, share in zip(bundle.members, ensemble.weights, strict=True)
    ]
    html = environment.get_template("page.html.j2").render(
        stamp=bundle.audit_stamp,
        figures=[figure_text(name, column, bundle.figures) for column, name in MEASURES.items()],
        n=int(bundle.figures["n"] or 0),
        megabytes=f"{limits.file_bytes / 1e6:g}",
        megapixels=MAX_PIXELS // 1_000_000,
        about={
            "members": members,
            "threshold": _short(ensemble.threshold),
            "unsure": [_short(end) for end in ensemble.unsure] if ensemble.unsure else None,
            "bytes": limits.file_bytes,
        },
    )
    script, style = (
        " ".join(f"'sha256-{_digest(text)}'" for text in re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL))
        for tag in ("script", "style")
    )
    return html, (
        f"default-src 'none'; script-src {script}; style-src {style}; img-src blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _digest(text: str) -> str:
    return b64encode(sha256(text.encode()).digest()).decode()


def _short(number: float) -> str:
    return f"{number:.3g}"
