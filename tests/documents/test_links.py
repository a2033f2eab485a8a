"""Links of documents lead to files and headings that are there; `make docs` checks those between pages as the site has them."""

import re
from pathlib import Path

import pytest

import speculators

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(DOCS.rglob("*.md"))


def anchors(page: Path) -> set[str]:
    """What headings are called in links."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def broken(page: Path, text: str) -> list[str]:
    """The links of a text in a page that lead nowhere, or from the site to what is not on it."""
    found = []
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        outside = page.is_relative_to(DOCS) and not target.is_relative_to(DOCS)
        if "://" not in link and (outside or not target.exists() or anchor and anchor not in anchors(target)):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert broken(page, page.read_text(encoding="utf-8")) == []


def test_broken_links_are_found() -> None:
    """A missing file, a missing heading, a file outside of the site."""
    text = "[a](nope.md) [b](runs.md#nope) [c](../README.md) [d](runs.md#go-on) [e](https://x.org) [f](#what-is-there)"
    assert broken(DOCS / "data.md", text) == ["nope.md", "runs.md#nope", "../README.md", "#what-is-there"]


def test_every_page_is_in_the_navigation() -> None:
    """A page that the site's menu leaves out is found by nobody."""
    menu = (ROOT / "zensical.toml").read_text(encoding="utf-8")
    assert [page.name for page in DOCS.rglob("*.md") if f'"{page.relative_to(DOCS)}"' not in menu] == []


def test_every_public_name_is_on_the_page_of_the_api() -> None:
    shown = re.findall(r"^::: (\S+)$", (DOCS / "api.md").read_text(encoding="utf-8"), re.MULTILINE)
    public = [(getattr(speculators, name).__module__, name) for name in speculators.__all__ if name != "__version__"]
    assert {".".join(place) for place in public} <= set(shown)
