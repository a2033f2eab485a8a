"""Every algorithm has a page, and the page's result is its row in the table that benchmarks/algorithms.py writes."""

import re
from pathlib import Path

import pytest

PAGES = Path(__file__).parents[2] / "docs" / "algorithms"
NAMES = sorted(file.stem for file in (PAGES.parents[1] / "conf" / "algorithm").glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_the_pages_result_is_the_tables(name: str) -> None:
    rows = [[cell.strip() for cell in line.split("|")] for line in (PAGES / "README.md").read_text().splitlines()]
    row = next(row for row in rows if len(row) > 2 and row[1] == f"[{name}]({name}.md)" and row[4] == "trained")
    lengths = [cell for cell in row[5:] if re.fullmatch(r"\d\.\d\d", cell)][:-1]  # the last is a ratio of speeds
    page = " ".join((PAGES / f"{name}.md").read_text().split())
    assert len(lengths) > 1
    assert f"acceptance length {', '.join(lengths)}, from {row[2]} parameters" in page
