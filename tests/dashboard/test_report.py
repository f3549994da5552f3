"""The report: one page that asks nothing of any other place, with every text as text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from longatlas import LongAtlasError
from longatlas.cli import cli
from longatlas.harness.cells import expand
from longatlas.harness.plan import Plan
from longatlas.store import Store
from longatlas.store.transfer import export_rows, import_rows, read_rows
from longatlas_dashboard.report import report

EVIL = "<script>alert(1)</script>"


def test_a_report_has_charts_tables_and_the_plan_and_needs_no_network(filled: Store) -> None:
    text = report(filled, title="Here & now", methods=("vanilla", "alibi"))
    assert "<h1>Here &amp; now</h1>" in text
    addresses = set(re.findall(r"https?://[^\s\"'<>)]+", text))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "<script" not in text
    assert not re.search(r"(src|href)=", text.replace("xlink:href", ""))
    assert len(re.findall("<svg ", text)) == 2 * (6 + 1 + 1 + 1 + 2)  # views, bits, mqar, passkey and its depths
    assert "needs 3.1 GiB, more than the 2.0 GiB allowed" in text
    assert "T^2" in text
    plan = Plan(methods=("vanilla", "alibi"), measure=("speed", "memory"))
    assert plan.hash in text
    assert "infini_attention" not in text


def test_what_is_imported_is_text(filled: Store, tmp_path: Path) -> None:
    rows = filled.rows(methods=("alibi",), measure="speed", latest=True, samples=True)
    path = tmp_path / "evil.json"
    export_rows(rows.assign(method=EVIL, machine=EVIL, cell=[f"x{cell}" for cell in rows["cell"]]), path)
    other = Store(str(tmp_path / "other.sqlite"))
    import_rows(other, read_rows(path), path.name)
    text = report(other)
    assert EVIL not in text
    assert "&lt;script&gt;" in text


def test_the_command_writes_the_page_whole_or_says_why_not(filled: Store, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    arguments = ["report", "--store", filled.name, "-o", str(path), "--method", "alibi", "--measure", "memory"]
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    assert path.read_text().endswith("</html>")
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(LongAtlasError, match="choose another place with -o"):
        CliRunner().invoke(cli, [*arguments[:4], str(tmp_path / "no" / "r.html")], catch_exceptions=False)
    with pytest.raises(LongAtlasError, match="has no results for this report"):
        CliRunner().invoke(cli, [*arguments[:5], "--method", "yarn"], catch_exceptions=False)


def test_rows_of_two_machines_stand_in_sections_of_their_own(filled: Store, tmp_path: Path) -> None:
    both = Store(str(tmp_path / "both.sqlite"))
    plan = Plan(methods=("vanilla",), measure=("speed",), phases=("prefill",), lengths=(512, 1024))
    for threads in (1, 2):
        for cell in expand(plan.with_values({"threads": threads})):
            both.save(cell.record([{"metric": "prefill_ms", "value": 1.0, "unit": "ms", "n": 5}], 1.0))
    text = report(both)
    assert len(re.findall("<h2>Time and memory</h2>", text)) == 2
    assert "1 thread " in text
    assert "2 threads" in text
