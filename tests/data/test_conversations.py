"""Rows of every form and every kind of file become one form; what cannot be used is counted by reason, with its place."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from speculators.composition.compose import compose
from speculators.data.conversations import Conversation, Unusable, conversation
from speculators.data.mixture import conversations as read_all
from speculators.data.spool import spooled
from speculators.data.unused import Unused
from tests.data.conftest import Settings

TALK = [{"role": "user", "content": "Name a colour."}, {"role": "assistant", "content": "Blue."}]
SHAREGPT = [{"from": "human", "value": "Name a colour."}, {"from": "gpt", "value": "Blue."}]
FUNCTION = {"name": "weather", "description": "Of a city.", "parameters": {"type": "object", "properties": {}}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
READ_CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}


def conversations(settings: Any, unused: Unused | None = None, answered: bool = True) -> list[Conversation]:
    return list(read_all(settings, unused or Unused(), answered, []))


@pytest.mark.parametrize(
    "row",
    [
        {"messages": TALK},
        {"conversations": SHAREGPT},
        {"messages": json.dumps(TALK)},
        {"prompt": "Name a colour.", "completion": "Blue."},
        {"prompt": TALK[:1], "completion": TALK[1:]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "Name a "}, {"text": "colour."}]},
                TALK[1],
            ]
        },
        {"messages": [*TALK, TALK[0]]},
        {"messages": [TALK[0], TALK[1] | {"tool_calls": None, "reasoning_content": " ", "name": None}], "tools": []},
    ],
)
def test_every_form_is_the_same_conversation(row: dict[str, Any]) -> None:
    """ShareGPT's and OpenAI's, JSON text in a column, parts, a question behind the last answer, columns without a value."""
    assert conversation("x", row, answered=True) == Conversation(TALK)


def test_an_answer_that_its_writer_cut_is_known() -> None:
    """By OpenAI's finish_reason."""
    assert conversation("x", {"messages": TALK, "finish_reason": "length"}, True) == Conversation(TALK, truncated=True)


def test_tools_and_reasoning() -> None:
    """As OpenAI, vLLM and the older function calls write them; arguments are a dict, as chat templates want them."""
    turns = [
        TALK[0],
        {"role": "assistant", "content": None, "reasoning_content": "Which city?", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "rain"}]},
        {"role": "assistant", "content": "Rain.", "reasoning": "So."},
    ]
    found = conversation("x", {"messages": turns, "tools": json.dumps([FUNCTION])}, answered=True)
    assert found.tools == [{"type": "function", "function": FUNCTION}]
    assert found.messages == [
        TALK[0],
        {"role": "assistant", "content": "", "reasoning": "Which city?", "tool_calls": [READ_CALL]},
        {"role": "tool", "content": "rain", "tool_call_id": "call_1"},
        {"role": "assistant", "content": "Rain.", "reasoning": "So."},
    ]
    bare = {"type": "function", "function": READ_CALL["function"]}
    older = [TALK[0], {"role": "assistant", "content": None, "function_call": CALL["function"]}]
    sharegpt = [SHAREGPT[0], {"from": "function_call", "value": json.dumps(CALL["function"])}]
    for turns in (older, sharegpt):
        found = conversation("x", {"messages": turns}, answered=True)
        assert found.messages[1] == {"role": "assistant", "content": "", "tool_calls": [bare]}


def test_prompts_are_enough_where_answers_are_not_needed() -> None:
    """All of them is kept then, also a last question."""
    talk = [*TALK, TALK[0]]
    assert conversation("x", {"messages": talk}, answered=False).messages == talk
    assert conversation("x", {"prompt": "Name a colour."}, answered=False) == Conversation(TALK[:1])
    assert conversation("x", {"messages": TALK[:1]}, answered=False).prompt == TALK[:1]


def test_an_answer_that_is_not_to_be_learnt() -> None:
    """OpenAI's weight of 0: the other answers still are."""
    turns = [TALK[0], TALK[1] | {"weight": 0}]
    with pytest.raises(Unusable, match="without an answer"):
        conversation("x", {"messages": turns}, answered=True)
    assert len(conversation("x", {"messages": [*turns, *TALK]}, answered=True).messages) == 4


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (["hello"], "that are not a JSON object"),
        ({"text": "hello"}, "without `messages`, `conversations` or `prompt`"),
        ({"messages": "hello"}, "without `messages`, `conversations` or `prompt`"),
        ({"messages": ["hello"]}, "with a turn that is not an object"),
        ({"messages": [{"content": "hello"}]}, "with a turn without a role"),
        ({"messages": [{"role": ["user"], "content": "hello"}]}, "with a turn without a role"),
        ({"messages": [{"role": "user"}]}, "with a turn without content"),
        ({"messages": [{"role": "user", "content": 3}]}, "with content that is neither text nor parts"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "with a part that is not",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "image", "text": ""}]}]}, "with a part that is not text"),
        ({"messages": [{"role": "user", "content": [7]}]}, "with a part that is not text"),
        ({"messages": [TALK[0], {"role": "assistant", "tool_calls": [{}]}]}, "with a tool call that cannot be read"),
        (
            {"messages": [TALK[0], {"role": "assistant", "tool_calls": [CALL | {"function": 3}]}]},
            "with a tool call that",
        ),
        (
            {"messages": [TALK[0], {"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{broken"}]}]},
            "with a tool call that cannot be read",
        ),
        ({"messages": TALK, "tools": "weather"}, "with tool definitions that cannot be read"),
        ({"messages": TALK, "tools": [{"type": "function"}]}, "with tool definitions that cannot be read"),
        ({"messages": [TALK[0], {"role": "assistant", "content": "\ud800"}]}, "with text that is not Unicode"),
        ({"messages": TALK[:1]}, "without an answer"),
        ({"messages": [TALK[0], {"role": "assistant", "content": " "}]}, "without an answer"),
        ({"messages": TALK[1:]}, "without a prompt"),
        ({"messages": []}, "without `messages`"),
    ],
)
def test_what_cannot_be_used_has_a_reason(row: Any, reason: str) -> None:
    """One of few, so that counts say something."""
    with pytest.raises(Unusable, match=reason):
        conversation("x", row, answered=True)


def test_lines_that_cannot_be_used_are_counted_with_the_first_place(data: Settings) -> None:
    """The others are read; blank lines are nothing."""
    unused = Unused()
    settings = data({"messages": TALK}, "", "{broken", "[" * 100_000, {"messages": TALK[:1]}, {"messages": TALK})
    assert conversations(settings, unused) == [Conversation(TALK)] * 2
    assert unused.counts == {"that are not JSON": 2, "without an answer": 1}
    assert [place.rpartition(":")[2] for place in unused.first.values()] == ["3", "5"]


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    """A byte-order mark is none of them; Latin-1 is counted, line by line."""
    file, line = tmp_path / "data.jsonl", json.dumps({"messages": TALK}).encode()
    file.write_bytes(b"\xef\xbb\xbf" + line + b"\n" + line.replace(b"Blue", b"Bl\xfc") + b"\n")
    unused = Unused()
    assert conversations(compose(["data=jsonl", f"data.path={file}"]).data, unused) == [Conversation(TALK)]
    assert str(unused) == f"1 that are not UTF-8 (first: {file}:2)"


def zst(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


COMPRESSION: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zst,
}


@pytest.mark.parametrize("suffix", COMPRESSION)
def test_compressed_lines(suffix: str, tmp_path: Path) -> None:
    """The same as plain ones; a file that is cut or something else is named."""
    content = "".join(
        json.dumps({"messages": [TALK[0], {"role": "assistant", "content": str(n)}]}) + "\n" for n in range(999)
    )
    whole = COMPRESSION[suffix](content.encode())
    file = tmp_path / f"data.jsonl{suffix}"
    file.write_bytes(whole)
    settings = compose(["data=jsonl", f"data.path={file}"]).data
    assert [c.messages[1]["content"] for c in conversations(settings)] == [str(n) for n in range(999)]
    for broken in (whole[:-20], b"hello"):
        file.write_bytes(broken)
        with pytest.raises(ValueError, match=rf"data\.path: {file} cannot be read"):
            conversations(settings)


def test_parquet(tmp_path: Path) -> None:
    """As lines, also where a column holds what only some turns have; other columns are not read."""
    turns = [
        TALK,
        [
            TALK[0],
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "content": "rain"},
            TALK[1],
        ],
    ]
    rows = [{"messages": t, "tools": json.dumps([FUNCTION]), "score": 0.5} for t in turns]
    file = tmp_path / "data.parquet"
    pq.write_table(pa.Table.from_pylist(rows * 300), file)
    settings = compose(["data=jsonl", f"data.path={file}"]).data
    found = conversations(settings)
    expected = [conversation("x", {"messages": t, "tools": [FUNCTION]}, True) for t in turns]
    assert found == expected * 300 and found[-1].place == f"{file}[599]"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=rf"data\.path: {file} cannot be read"):
        conversations(settings)


def test_a_folder_and_a_pattern_are_their_files_in_order(tmp_path: Path) -> None:
    """Files of other kinds are no part of a folder."""
    for name in ("b.jsonl", "a.jsonl.gz", "c.parquet", "notes.txt"):
        row = {"messages": [TALK[0], {"role": "assistant", "content": name}]}
        line = json.dumps(row).encode()
        if name.endswith(".parquet"):
            pq.write_table(pa.Table.from_pylist([row]), tmp_path / name)
        else:
            (tmp_path / name).write_bytes(gzip.compress(line) if name.endswith(".gz") else line)
    for path, names in (
        (tmp_path, ["a.jsonl.gz", "b.jsonl", "c.parquet"]),
        (tmp_path / "[bc].*", ["b.jsonl", "c.parquet"]),
    ):
        settings = compose(["data=jsonl", f"data.path='{path}'"]).data
        assert [c.messages[1]["content"] for c in conversations(settings)] == names


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("{}/nope.jsonl", "data.path: no file matches"),
        ("{}", "data.path: the folder .* has no file with the ending .jsonl"),
        ("pkg://speculators.assets/nope.jsonl", "data.path: pkg://speculators.assets/nope.jsonl"),
    ],
)
def test_a_source_that_is_not_there(path: str, message: str, tmp_path: Path) -> None:
    """A file, a folder without any, a package without it."""
    with pytest.raises(ValueError, match=message):
        conversations(compose(["data=jsonl", f"data.path={path.format(tmp_path)}"]).data)


def test_packaged_prompts_are_usable() -> None:
    """All different, each with a category, twenty of a kind."""
    settings = compose(["data=jsonl", "data.path=pkg://speculators.assets/prompts.jsonl", "data.regenerate=true"]).data
    unused = Unused()
    found = conversations(settings, unused, answered=False)
    assert len({c.messages[0]["content"] for c in found}) == 200 and not unused.counts


def test_a_spool_gives_back_what_it_took() -> None:
    """In any order."""
    taken = [Conversation([*TALK, {"role": "user", "content": "é" * n}], place=f"f:{n}") for n in range(50)]
    with spooled(iter(taken)) as spool:
        order = [n * 7 % 50 for n in range(50)]
        assert [spool[n] for n in order] == [taken[n] for n in order] and len(spool) == 50
        assert spool[3].place == "f:3"
