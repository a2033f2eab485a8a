"""docs/settings.md agrees with conf/ and with the classes that check it; every key is explained, every value has a source."""

import re
import runpy
from pathlib import Path

import pytest
import yaml

from speculators.composition.describe import kind, leaves, of_the_run
from speculators.utils.yaml_lines import comments

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
TOOL = runpy.run_path(str(ROOT / "tools" / "settings_page.py"))
# What a value's comment names if it says where the value comes from: a paper, an engine, upstream, or a choice of ours.
SOURCE = re.compile(
    r"arXiv:\d{4}\.\d{5}|\bpaper\b|\bvLLM\b|\bupstream\b|\bHASS\b|\bours\b|\bour own\b|\bmeasured\b", re.I
)
FILES = sorted(file for group in ("algorithm", "recipe") for file in (CONF / group).glob("*.yaml"))


def test_the_page_is_up_to_date() -> None:
    """python tools/settings_page.py writes it anew."""
    assert TOOL["PAGE"].read_text(encoding="utf-8") == TOOL["page"](), "run python tools/settings_page.py"


def test_every_key_is_explained() -> None:
    """By its comment in the YAML, or by the class that checks it."""
    settings = [
        *of_the_run(CONF / "train.yaml"),
        *(s for options in TOOL["groups"]().values() for o in options for s in o.settings),
    ]
    assert [s.key for s in settings if not s.meaning] == []
    assert {s.key for s in settings} >= {"seed", "algorithm.loss.smooth_l1", "data.path", "optimizer.momentum"}


@pytest.mark.parametrize("file", FILES, ids=lambda f: f"{f.parent.name}/{f.stem}")
def test_every_value_has_a_source(file: Path) -> None:
    """The comment above a value, or above what it belongs to, says where the value comes from."""
    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    said = comments(file.read_text(encoding="utf-8"))

    def sourced(key: str) -> bool:
        parts = key.split(".")
        return any(SOURCE.search(said.get(".".join(parts[: i + 1]), "")) for i in range(len(parts)))

    values.pop("defaults", None)
    bare = [key for key, _ in leaves(values) if not sourced(key)]
    assert bare == [], "name the paper, vLLM, upstream, or say that it is ours and what it was measured on"


def test_types_and_bounds_in_words() -> None:
    """Hand-written cases of what a JSON schema says."""
    assert kind({"type": "integer", "minimum": 1}) == "integer ≥ 1"
    assert kind({"type": "number", "exclusiveMinimum": 0, "maximum": 1}) == "number > 0, ≤ 1"
    assert kind({"anyOf": [{"type": "string"}, {"type": "null"}]}) == "text or null"
    assert kind({"const": "muon", "type": "string"}) == "`muon`"
    text = "# what a is,\n# in two lines\na: 1\nb:\n  # inside\n  c: 2\nd: 3\n"
    assert comments(text) == {"a": "what a is, in two lines", "b": "", "b.c": "inside", "d": ""}
