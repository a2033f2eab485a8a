"""Reads the conversations of a source, normalised to one format, and counts unusable rows by reason.

The format: messages with `role` and `content`, tool calls and tool definitions as in OpenAI's chat completions except
for `arguments`, which is a dict as chat templates expect, and an answer's reasoning under `reasoning`.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from speculators.data.sources import rows
from speculators.data.unused import Unused
from speculators.settings.data import Place
from speculators.utils.untrusted import check_depth, parse_value

Message = dict[str, Any]

# Role names in ShareGPT's format and in formats derived from it.
ROLES = {
    "human": "user",
    "gpt": "assistant",
    "bing": "assistant",
    "chatgpt": "assistant",
    "function_call": "assistant",
    "function": "tool",
    "observation": "tool",
}
# Keys of an answer's reasoning: of vLLM and DeepSeek's API, of OpenRouter, of gpt-oss.
REASONING = ("reasoning_content", "reasoning", "thinking")
# Types of a text part: of OpenAI's chat completions, of its responses.
NOT_UNICODE = "with text that is not Unicode"
BAD_CALL = "with a tool call that cannot be read"
BAD_TOOLS = "with tool definitions that cannot be read"
TEXTS = ("text", "input_text", "output_text")


@dataclass(frozen=True)
class Conversation:
    """A conversation: its messages in order.

    Attributes:
        messages: each with `role` and `content`, a text; some with `tool_calls`, `reasoning`, `name` or `tool_call_id`.
        tools: definitions of the tools that the model may call.
        truncated: the last answer was cut at a token limit, so its text here is incomplete.
        category: what kind of prompt it is, by which evaluations are broken down; None if the row names none.
        place: file and line, or data set and row.
    """

    messages: list[Message]
    tools: list[dict[str, Any]] | None = None
    truncated: bool = False
    category: str | None = field(default=None, compare=False)
    place: str = field(default="", compare=False)

    @property
    def prompt(self) -> list[Message]:
        """The messages before the first answer."""
        first = next((i for i, m in enumerate(self.messages) if m["role"] == "assistant"), len(self.messages))
        return self.messages[:first]


class Unusable(ValueError):
    """A row that cannot be used as a conversation; its text is one of a fixed set of reasons."""


def read(source: Place, key: str, unused: Unused, answered: bool) -> Iterator[Conversation]:
    """The usable conversations of a source, in its order; one at a time is in memory.

    Args:
        source: files, or a data set of the Hub.
        key: config key of the source, to which messages append `.path` and `.name`.
        unused: counts what was left out, by reason.
        answered: a conversation must have an answer, and is cut after its last one; else it needs only a prompt, and
            all of it is kept.

    Raises:
        ValueError: the source is missing or broken.
    """
    for place, row in rows(source, key, unused):
        try:
            yield conversation(place, row, answered)
        except Unusable as error:
            unused.add(str(error), place)


def conversation(place: str, row: Any, answered: bool) -> Conversation:
    """Convert a row to a `Conversation`.

    Raises:
        Unusable: it cannot be converted.
    """
    turns = _turns(row)
    messages = [_message(turn) for turn in turns]
    finish_reason = row.get("finish_reason")
    if answered:
        # Messages after the last answer are never supervised.
        while messages and messages[-1]["role"] != "assistant":
            messages.pop()
        if not any(is_answer(m) for m in messages):
            raise Unusable("without an answer")
    if not messages or messages[0]["role"] == "assistant":
        raise Unusable("without a prompt")
    category = row.get("category")
    category = category if isinstance(category, str) else None
    return Conversation(messages, _tools(row.get("tools")), finish_reason == "length", category, place)


def is_answer(message: Message) -> bool:
    """Whether a message has content that a model would have generated."""
    learnt = message["role"] == "assistant" and message.get("weight") != 0
    return learnt and bool(message["content"].strip() or message.get("tool_calls") or message.get("reasoning"))


def _turns(row: Any) -> list[Any]:
    """The turns of a row that has `messages`, `conversations`, or a `prompt` and perhaps a `completion`."""
    if not isinstance(row, dict):
        raise Unusable("that are not a JSON object")
    turns = _parsed(row.get("messages") or row.get("conversations"))
    if turns is None and row.get("prompt"):
        turns = _side(row["prompt"], "user") + (_side(row["completion"], "assistant") if row.get("completion") else [])
    if not isinstance(turns, list):
        raise Unusable("without `messages`, `conversations` or `prompt`")
    return turns


def _side(side: Any, role: str) -> list[Any]:
    return [{"role": role, "content": side}] if isinstance(side, str) else side if isinstance(side, list) else []


def _message(turn: Any) -> Message:
    if not isinstance(turn, dict):
        raise Unusable("with a turn that is not an object")
    said = turn.get("role") or turn.get("from")
    if not isinstance(said, str):
        raise Unusable("with a turn without a role")
    role, content = ROLES.get(said, said), turn.get("content", turn.get("value"))
    calls = _parsed(turn.get("tool_calls")) or turn.get("function_call")
    if said == "function_call":
        calls, content = _parsed(content), None
    found = _reasoning(turn) if role == "assistant" else ""
    if content is None and not (role == "assistant" and (calls or found)):
        raise Unusable("with a turn without content")
    message: Message = {"role": _unicode(role), "content": _text(content)}
    if found:
        message["reasoning"] = _unicode(found)
    if calls and role == "assistant":
        message["tool_calls"] = [_call(c) for c in (calls if isinstance(calls, list) else [calls])]
    if turn.get("weight") == 0:
        # OpenAI's mark of an answer that is not to be trained on.
        message["weight"] = 0
    message |= {key: _unicode(turn[key]) for key in ("name", "tool_call_id") if isinstance(turn.get(key), str)}
    return message


def _reasoning(turn: dict[str, Any]) -> str:
    return next((turn[key] for key in REASONING if isinstance(turn.get(key), str) and turn[key].strip()), "")


def _text(content: Any) -> str:
    """Content, or the text of its parts."""
    if content is None:
        return ""
    if isinstance(content, str):
        return _unicode(content)
    if not isinstance(content, list):
        raise Unusable("with content that is neither text nor parts")
    texts = []
    for part in content:
        text = part if isinstance(part, str) else part.get("text") if isinstance(part, dict) else None
        if not isinstance(text, str) or isinstance(part, dict) and part.get("type", "text") not in TEXTS:
            raise Unusable("with a part that is not text")
        texts.append(_unicode(text))
    return "".join(texts)


def _call(call: Any) -> dict[str, Any]:
    """A tool call with its arguments as a dict; OpenAI writes them as JSON text."""
    function = call.get("function", call) if isinstance(call, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    arguments = _parsed((function or {}).get("arguments") or "{}") if isinstance(function, dict) else None
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise Unusable(BAD_CALL)
    made = {"type": "function", "function": {"name": name, "arguments": arguments}}
    named = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
    return _json(named | made, BAD_CALL)


def _tools(tools: Any) -> list[dict[str, Any]] | None:
    """Tool definitions; bare functions are wrapped as in OpenAI's format."""
    tools = _parsed(tools)
    if not tools:
        return None
    if not isinstance(tools, list) or not all(isinstance(t, dict) for t in tools):
        raise Unusable(BAD_TOOLS)
    functions = [t.get("function", t) for t in tools]
    if not all(isinstance(f, dict) and isinstance(f.get("name"), str) for f in functions):
        raise Unusable(BAD_TOOLS)
    return [_json({"type": "function", "function": f}, BAD_TOOLS) for f in functions]


def _parsed(value: Any) -> Any:
    """Parse a value that may be stored as JSON text, as in columnar data sets."""
    if not isinstance(value, str):
        return value
    try:
        return parse_value(value)
    except ValueError:
        return value


def _json(value: Any, otherwise: str) -> Any:
    """A value that a chat template can print as JSON; else raises Unusable with the reason `otherwise`."""
    try:
        check_depth(value)
        json.dumps(value, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise Unusable(NOT_UNICODE if isinstance(error, UnicodeError) else otherwise) from error
    return value


def _unicode(text: str) -> str:
    """Return the text unchanged; raises Unusable for a lone surrogate, which JSON can hold but UTF-8 cannot encode."""
    try:
        text.encode()
    except UnicodeError as error:
        raise Unusable(NOT_UNICODE) from error
    return text
