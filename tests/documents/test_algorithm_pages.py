"""Every algorithm has a page, and the page's result is its row in the table that benchmarks/algorithms.py writes."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "algorithms"
NAMES = sorted(file.stem for file in (ROOT / "conf" / "algorithm").glob("*.yaml"))


def test_what_an_algorithm_needs_is_there() -> None:
    """docs/add-an-algorithm.md names the files that every algorithm has, by NAME; those that only some have say `if`."""
    lines = (ROOT / "docs" / "add-an-algorithm.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| `") and " if " not in line]
    files = [file for row in rows for file in re.findall(r"`([\w/.-]*NAME[\w/.-]*\.(?:py|ya?ml|json|md))`", row)]
    assert len(files) >= 5 and "conf/algorithm/NAME.yaml" in files and "docs/algorithms/NAME.md" in files
    missing = [p for file in files for name in NAMES if not (ROOT / (p := file.replace("NAME", name))).is_file()]
    assert missing == []


@pytest.mark.parametrize("name", NAMES)
def test_the_pages_result_is_the_tables(name: str) -> None:
    rows = [[cell.strip() for cell in line.split("|")] for line in (PAGES / "README.md").read_text().splitlines()]
    row = next(row for row in rows if len(row) > 2 and row[1] == f"[{name}]({name}.md)" and row[4] == "trained")
    lengths = [cell for cell in row[5:] if re.fullmatch(r"\d\.\d\d", cell)]  # speed-ups have their K behind them
    page = " ".join((PAGES / f"{name}.md").read_text().split())
    assert len(lengths) > 1
    assert f"acceptance length {', '.join(lengths)}, from {row[2]} parameters" in page
