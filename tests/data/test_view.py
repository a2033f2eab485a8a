"""`speculators data`: what it shows is what a run makes of the file; anything that is typed in a file stays text."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from speculators.cli.main import app
from speculators.composition.compose import compose
from speculators.data.prepare import prepare
from speculators.data.template import ChatTemplate
from speculators.data.view import View, view
from speculators.report.data_page import write_data_page
from tests.data.conftest import Settings
from tests.data.families import FAMILIES, chat_template
from tests.data.test_prepare import TALK, numbered

ROWS: list[Any] = [
    *(numbered(n) for n in range(6)),
    numbered(0),
    numbered(1, "No."),
    numbered(7, "word " * 99),
    {"messages": [{"role": "user", "content": "word " * 99}, TALK[1]]},
    {"messages": TALK[:1]},
    "{broken",
]
TOOLS = {
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "How is "}, {"type": "text", "text": "Oslo?"}]},
        {"role": "assistant", "content": None, "reasoning_content": "Look it up.", "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
        {"role": "assistant", "content": "It rains.", "reasoning_content": "So."},
    ],
    "tools": [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}],
}  # fmt: skip


def marked(found: View) -> str:
    return "".join(f"[{text}]" if supervised else text for text, supervised in found.examples[0].pieces)


def test_counts_are_those_of_a_run(data: Settings, template: ChatTemplate) -> None:
    """Beside the report of `prepare`; lengths, repetitions and the cut beside counts by hand."""
    settings = data(*ROWS, max_length=64, heldout_fraction=0.01)
    found, made = view(settings, template, 2), prepare(settings, template, 4096, seed=0)
    assert (found.rows, found.conversations, found.used) == (12, 10, 9)
    assert found.skipped.counts == made.report.skipped and found.skipped.first.keys() == made.report.first.keys()
    assert found.conversations == made.report.conversations and found.cut["documents"] == made.report.cut == 2
    documents = [document for side in (made.train, made.heldout) for sequence in side for document in sequence]
    assert found.tokens == sum(len(document.tokens) for document in documents) and len(documents) == len(found.lengths)
    assert found.supervised == sum(sum(document.supervised) for document in documents)
    assert (found.same, found.same_prompt) == (1, 1)
    assert found.quantile(1) == max(found.lengths) > 64 and found.quantile(0.5) < 64
    assert [example.place.rpartition(":")[2] for example in found.examples] == ["1", "2"]


def test_examples_are_the_rendered_text_with_what_the_verifier_writes_marked(data: Settings) -> None:
    """Qwen3's template: the call with its reasoning is one document, the last answer with its context another."""
    found = view(data(TOOLS, max_length=2048), chat_template(FAMILIES["qwen3"]), 3)
    assert found.used == 1 and len(found.examples) >= 1
    text = marked(found)
    assert "How is Oslo?" in text and '[<think>\nLook it up.\n</think>\n\n<tool_call>\n{"name": "weather"' in text
    last = "".join(t for t, supervised in found.examples[-1].pieces if supervised)
    assert "It rains.<|im_end|>" in last and "rain\n" not in last.replace("It rains", "")


def test_of_regenerated_data_the_prompts_are_shown(data: Settings, template: ChatTemplate) -> None:
    """Answers are not there yet; a prompt without room for one is skipped."""
    found = view(data({"prompt": "Who?"}, {"prompt": "w " * 99}, regenerate=True, max_length=64), template, 3)
    assert found.used == 1 and found.supervised == 0 and "Who?" in marked(found)
    assert found.skipped.counts == {"without an answer inside data.max_length": 1}


def command(*arguments: Any) -> Any:
    return CliRunner().invoke(app, ["data", *map(str, arguments)])


def test_the_command(tmp_path: Path) -> None:
    """A file with an odd name, or overrides; the supervised tokens are in brackets where there are no colours."""
    file = tmp_path / "it's [/x] ${seed} é.jsonl"
    file.parent.mkdir()
    odd = numbered(3, "\x1b[2J</pre><script>alert(1)</script>[red]")
    file.write_text("".join((json.dumps(row) if isinstance(row, dict) else row) + "\n" for row in [odd, *ROWS]))
    done = command(file, "data.max_length=64", "--examples", "1", "--output", tmp_path / "page" / "data.html")
    assert done.exit_code == 0, done.output
    assert "⟦\\x1b[2J</pre><script>alert(1)</script>[red]" in done.output and "\x1b" not in done.output
    assert "10 of 13 conversations used" in done.output and "1 skipped that are not JSON (first: " in done.output
    page = (tmp_path / "page" / "data.html").read_text(encoding="utf-8")
    assert "<script>" not in page and "<mark>" in page and "&lt;script&gt;" in page and "http" not in page
    assert "[/x] ${seed} é.jsonl" in page and "that are not JSON" in page
    done = command("data=chat", "data.max_conversations=5", "--examples=0")
    assert done.exit_code == 0 and "5 of 5 conversations used" in done.output


def test_nothing_usable_and_wrong_input(tmp_path: Path) -> None:
    """Exit code 2: the reasons, or the key and what is wrong with it; no traceback."""
    (tmp_path / "data.jsonl").write_text("{broken\n[]\n")
    done = command(tmp_path / "data.jsonl")
    assert done.exit_code == 2 and "data: no conversation can be used" in done.output and "1 skipped" in done.output
    for arguments, message in (
        ([tmp_path / "nowhere.jsonl"], "data.path: no file matches"),
        ([tmp_path / "data.jsonl", "data.max_length=3"], "data.max_length"),
        (["data=hub"], "data.name must be given"),
    ):
        done = command(*arguments)
        assert done.exit_code == 2 and message in done.output and isinstance(done.exception, SystemExit), done.output


def slips(rng: random.Random, line: dict[str, Any]) -> bytes:
    """A line with one to three values changed, missing or of another type, or cut or with a byte changed."""
    tree = json.loads(json.dumps(line))
    odd = [
        None,
        True,
        7,
        2**80,
        0.5,
        "",
        "\ud800",
        "x" * 3000,
        [],
        {},
        [[]],
        [None],
        {"role": "user"},
        "{",
        "<think>",
        "tool",
    ]
    for _ in range(rng.randint(1, 3)):
        at: Any = tree
        while True:
            keys = list(at) if isinstance(at, dict) else range(len(at))
            key = rng.choice(keys)
            if not isinstance(at[key], dict | list) or not at[key] or rng.random() < 0.2:
                break
            at = at[key]
        match rng.randrange(4):
            case 0 if len(at) > 1:
                del at[key]
            case 1 if isinstance(at, list):
                at.insert(key, rng.choice([at[key], *odd]))
            case 2 if isinstance(at, dict):
                at[rng.choice(["role", "content", "name", "weight", "tools", "type", "text", "arguments"])] = at[key]
            case _:
                at[key] = rng.choice(odd)
        if not tree:
            break
    text = json.dumps(tree).encode()
    if rng.random() < 0.15:
        place = rng.randrange(len(text))
        text = (
            text[:place] if rng.random() < 0.5 else text[:place] + bytes([rng.randrange(32, 256)]) + text[place + 1 :]
        )
    return text


@pytest.mark.parametrize("family", ["smollm2", "qwen3"])
@pytest.mark.parametrize("count", [150, pytest.param(1500, marks=pytest.mark.slow)])
def test_mutated_lines_are_used_or_counted(count: int, family: str, tmp_path: Path) -> None:
    """No traceback, and every line is used or has a reason; 3,000 of both templates in the slow tests."""
    rng = random.Random(count)
    lines = [slips(rng, TOOLS if rng.random() < 0.7 else numbered(number)) for number in range(count)]
    file = tmp_path / "data.jsonl"
    file.write_bytes(b"\n".join(lines))
    settings = compose(["data=jsonl", f"data.path={file}"]).data.model_copy(update={"max_length": 16384})
    found = view(settings, chat_template(FAMILIES[family]), 10**6)
    assert found.rows == sum(bool(line.strip()) for line in lines)
    assert found.used + found.skipped.counts.total() == found.rows, found.skipped
    assert count * 0.1 < found.used < count * 0.9
    assert len(found.examples) == len(found.lengths) and all(example.supervised for example in found.examples)
    write_data_page(found, "mutations", family, tmp_path / "page.html")
