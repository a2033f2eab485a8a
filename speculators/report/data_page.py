"""One self-contained HTML page about a source of conversations, without scripts or network requests. Torch-free."""

from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from speculators.data.view import View
from speculators.report.page import template
from speculators.utils import files

BARS = 24


def write_data_page(found: View, title: str, verifier: str, file: Path) -> Path:
    """Write the page.

    Args:
        found: of the source.
        title: names the source.
        verifier: whose chat template rendered it.
        file: is replaced; its folder is made.
    """
    page = template("data.html").render(
        title=title,
        verifier=verifier,
        found=found,
        bars=_bars(found),
        footer=f"speculators-hydra {version('speculators-hydra')}, {datetime.now():%Y-%m-%d %H:%M}",
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    files.write(file, page)
    return file


def _bars(found: View) -> list[tuple[str, int, float, bool]]:
    """A histogram of lengths: the range, the documents in it, their share of the fullest, whether they are cut."""
    if not found.lengths:
        return []
    width = max(1, -(-max(found.lengths) // BARS))
    counts = [0] * (max(found.lengths) // width + 1)
    for length in found.lengths:
        counts[length // width] += 1
    return [
        (f"{i * width} to {(i + 1) * width - 1}", count, count / max(counts), i * width > found.max_length)
        for i, count in enumerate(counts)
    ]
