"""Stores conversations in a temporary file, so that a source may be larger than memory."""

import json
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from tempfile import SpooledTemporaryFile
from typing import IO

from speculators.data.conversations import Conversation

# Bytes that stay in memory before a file is made.
IN_MEMORY = 256 * 2**20


@contextmanager
def spooled(conversations: Iterable[Conversation]) -> "Iterator[Spool]":
    """A spool of conversations, deleted when the block ends."""
    with SpooledTemporaryFile(IN_MEMORY) as file:
        yield Spool(file, conversations)


class Spool:
    """Conversations by index; beyond IN_MEMORY bytes, only eight bytes of each stay in memory.

    Args:
        file: temporary file that stores them.
        conversations: the conversations to store, in order.
    """

    def __init__(self, file: IO[bytes], conversations: Iterable[Conversation]) -> None:
        self._file = file
        self._starts = array("Q", [0])
        for c in conversations:
            self._file.write(json.dumps([c.messages, c.tools, c.truncated, c.category, c.place]).encode())
            self._starts.append(self._file.tell())

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, number: int) -> Conversation:
        start, end = self._starts[number], self._starts[number + 1]
        self._file.seek(start)
        return Conversation(*json.loads(self._file.read(end - start)))
