"""Tables of a report in a page."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.splice import BEGIN, END, main


def test_a_section_replaces_what_was_between_the_marks(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "report").mkdir()
    page, section = tmp_path / "docs" / "page.md", tmp_path / "report" / "regret.md"
    page.write_text(f"Before.\n\n{BEGIN}\nold\n{END}\n\nAfter.\n")
    for text in ("first", "second"):
        section.write_text(f"## Regret\n\n{text}\n\n![a figure](ranks.png)\n")
        main([str(section), str(page)])
        expected = f"{BEGIN}\n\n## Regret\n\n{text}\n\n![a figure](../report/ranks.png)\n\n{END}"
        assert page.read_text() == f"Before.\n\n{expected}\n\nAfter.\n"


@pytest.mark.parametrize("text", ["no marks", f"{END}\n{BEGIN}", f"{BEGIN}\n{BEGIN}\n{END}"])
def test_a_page_without_its_marks_stays(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, section = tmp_path / "page.md", tmp_path / "regret.md"
    page.write_text(text)
    section.write_text("new")
    with pytest.raises(SystemExit) as stop:
        main([str(section), str(page)])
    assert stop.value.code == 2
    assert "once each and in this order" in capsys.readouterr().err
    assert page.read_text() == text
