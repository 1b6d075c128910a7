"""rfray.report.terminal: the audit at 80 columns."""

import io

from rich.console import Console

from rfray.data.audit import audit_images
from rfray.report.terminal import audit_summary
from tests.audits import ALL_READABLE, NO_PAIRS, image_table, leaking_audit


def printed(audit):
    console = Console(width=80, file=io.StringIO())
    console.print(audit_summary(audit))
    return console.file.getvalue()


def test_audit_at_80_columns():
    text = printed(leaking_audit())
    assert max(map(len, text.splitlines())) <= 80
    flat = " ".join(text.split())
    assert "Error: 2 of 10 report images are also among the training images" in flat
    assert "real/<b>|x.jpg" in flat
    assert "│ report │" in text
    assert "JPEG 20 │ PNG 20" in flat
    assert "file format 1.00 ████████████████████" in flat
    assert "…" not in text  # nothing is cut off


def test_nothing_found():
    assert "Nothing was found that would mislead." in printed(audit_images(image_table(), NO_PAIRS, ALL_READABLE))
