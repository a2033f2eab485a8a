"""Stores conversations in a temporary file, so that a source may be larger than memory."""

import json
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from tempfile import TemporaryFile
from typing import IO

import numpy as np

from speculators.data.conversations import Conversation

# Characters of a prompt's key; longer prompts are identified by their beginning and a hash.
KEY_LENGTH = 512


def prompt_key(conversation: Conversation) -> bytes:
    """A key of a conversation's prompt, by which conversations are split."""
    whole = repr(conversation.prompt)
    key = whole if len(whole) <= KEY_LENGTH else whole[:KEY_LENGTH] + sha256(whole.encode()).hexdigest()
    return key.encode()


def hash_of(key: bytes) -> int:
    """A 64-bit hash of a prompt's key."""
    return int.from_bytes(sha256(key).digest()[:8], "big", signed=True)


@contextmanager
def spooled(conversations: Iterable[Conversation]) -> "Iterator[Spool]":
    """A spool of conversations, deleted when the block ends."""
    with TemporaryFile() as file:
        yield Spool(file, conversations)


class Spool:
    """Conversations by index. In memory are sixteen bytes of each and the distinct prompts' keys.

    Args:
        file: temporary file that stores them.
        conversations: the conversations to store, in order.

    Attributes:
        file: the same file.
        prompt_keys: the distinct `prompt_key`s.
        prompt_numbers: of each conversation, the index of its key.
    """

    def __init__(self, file: IO[bytes], conversations: Iterable[Conversation]) -> None:
        self.file = file
        self._starts = array("q", [0])
        self.prompt_numbers = array("q")
        known: dict[bytes, int] = {}
        for c in conversations:
            self.file.write(json.dumps([c.messages, c.tools, c.truncated, c.category, c.place]).encode())
            self._starts.append(self.file.tell())
            self.prompt_numbers.append(known.setdefault(prompt_key(c), len(known)))
        self.file.flush()
        self.prompt_keys = list(known)

    def __len__(self) -> int:
        return len(self.prompt_numbers)

    def __getitem__(self, number: int) -> Conversation:
        start, end = self._starts[number], self._starts[number + 1]
        self.file.seek(start)
        return conversation_of(self.file.read(end - start))

    def places(self, numbers: np.ndarray) -> np.ndarray:
        """int64 [n, 2], where conversations begin and end in the file."""
        starts = np.frombuffer(self._starts, np.int64)
        return np.stack([starts[numbers], starts[numbers + 1]], axis=1)


def conversation_of(written: bytes) -> Conversation:
    """The conversation that a spool wrote as these bytes."""
    return Conversation(*json.loads(written))
