"""Puts the regret section of a study's report into a page, between the page's two marks.

    python -m benchmarks.splice benchmarks/results/learning_rate_free/regret.md docs/learning_rate_free.md

Links to figures become those of the report's folder. Nothing else of the page changes.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path

BEGIN, END = "<!-- begin: tables of the report -->", "<!-- end: tables of the report -->"
FIGURE = re.compile(r"(!\[[^\]]*\]\()([^)]+)\)")


def spliced(page: str, section: str, to_report: str) -> str:
    """Return a page with a section between its marks.

    Args:
        page: The page's text.
        section: The section's text.
        to_report: The way from the page's folder to the section's, for links to figures.

    Raises:
        ValueError: the page does not have each mark once, in this order.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in after:
        raise ValueError(f"the page needs the lines {BEGIN} and {END}, once each and in this order")
    linked = FIGURE.sub(lambda match: f"{match[1]}{to_report}/{match[2]})", section.strip())
    return f"{before}{BEGIN}\n\n{linked}\n\n{END}{after}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("section", type=Path, help="regret.md of a report")
    parser.add_argument("page", type=Path, help="the page with the two marks")
    options = parser.parse_args(arguments)
    to_report = os.path.relpath(options.section.parent, options.page.parent)
    try:
        text = spliced(options.page.read_text(encoding="utf-8"), options.section.read_text(encoding="utf-8"), to_report)
    except (OSError, ValueError) as error:
        parser.error(f"{options.page}: {error}")
    options.page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
