"""Conversations, wherever they are kept: the package, a file, or the Hub."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speculators.settings.run_config import ChatData, DataSettings, HubData, JsonlData
from speculators.utils import digest
from speculators.verifier.location import local_path

Message = dict[str, str]

CHAT = "pkg://speculators.assets/chat.jsonl"
# ShareGPT's names of the speakers.
ROLES = {"human": "user", "gpt": "assistant", "bing": "assistant", "chatgpt": "assistant"}


@dataclass(frozen=True)
class Conversation:
    """Messages with `role` and `content`, the last one an answer.

    Attributes:
        messages: system, user, assistant and so on.
        truncated: the last answer was cut at a token limit, so it did not end where it ends here.
    """

    messages: list[Message]
    truncated: bool = False

    @property
    def prompt(self) -> list[Message]:
        """What comes before the first answer."""
        first = next(i for i, m in enumerate(self.messages) if m["role"] == "assistant")
        return self.messages[:first]


def read(settings: DataSettings, skipped: Counter[str]) -> list[Conversation]:
    """All usable conversations of a source, in its order.

    Args:
        settings: the source.
        skipped: gets the count of what was left out, by reason.

    Raises:
        ValueError: the source is missing, empty, or broken; a broken line is named by its number.
    """
    if isinstance(settings, HubData):
        rows = ((f"{settings.name}[{i}]", row) for i, row in enumerate(from_hub(settings)))
    else:
        rows = _lines(_file(settings))
    conversations = [c for place, row in rows if (c := _conversation(place, row, skipped)) is not None]
    if not conversations:
        what = "has no conversation" if not skipped else f"has no usable conversation: {dict(skipped)}"
        raise ValueError(f"data: the source {what}")
    return conversations


def content(settings: DataSettings) -> str:
    """A name for what a source holds now.

    Raises:
        ValueError: the source is missing.
    """
    # datasets makes a fingerprint of the files that it loaded, whatever the revision was called.
    return from_hub(settings)._fingerprint if isinstance(settings, HubData) else digest.of_file(_file(settings))


def _file(settings: DataSettings) -> Path:
    match settings:
        case ChatData():
            return Path(local_path(CHAT))
        case JsonlData():
            path = Path(local_path(settings.path))
        case _:
            raise TypeError(f"no reader for {type(settings).__name__}")
    if not path.is_file():
        raise ValueError(f"data.path: there is no file {path}")
    return path


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield f"{path}:{number}", json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(
                    f"data.path: {path}:{number} is not JSON ({error.msg}, column {error.colno})"
                ) from error


def from_hub(settings: HubData) -> Any:
    """The data set, as `datasets` keeps it on disk.

    Raises:
        ValueError: it cannot be loaded.
    """
    from datasets import load_dataset

    try:
        return load_dataset(settings.name, settings.subset, split=settings.split, revision=settings.revision)
    except Exception as error:
        # datasets raises some twenty types of its own and of its file systems; each means the same to the user.
        raise ValueError(f"data.name: {settings.name} cannot be loaded ({type(error).__name__}: {error})") from error


def _conversation(place: str, row: Any, skipped: Counter[str]) -> Conversation | None:
    turns = (row.get("messages") or row.get("conversations")) if isinstance(row, dict) else None
    if not isinstance(turns, list):
        raise ValueError(f"data: {place} has neither `messages` nor `conversations`, a list of turns")
    messages = []
    for turn in turns:
        role = turn.get("role") or turn.get("from") if isinstance(turn, dict) else None
        content = turn.get("content", turn.get("value")) if isinstance(turn, dict) else None
        if isinstance(content, list):
            content = "".join(part.get("text") or "" for part in content)
        if not role or not isinstance(content, str):
            raise ValueError(f"data: {place} has a turn without role and content (or from and value): {turn!r:.100}")
        messages.append({"role": ROLES.get(role, role), "content": content})
    # What follows the last answer has nothing to be learnt from.
    while messages and messages[-1]["role"] != "assistant":
        messages.pop()
    if not messages or not any(m["content"].strip() for m in messages if m["role"] == "assistant"):
        skipped["without an answer"] += 1
        return None
    if messages[0]["role"] == "assistant":
        skipped["without a prompt"] += 1
        return None
    return Conversation(messages, truncated=row.get("finish_reason") == "length")
