"""Packing of documents into sequences of bounded length."""

from bisect import bisect_left, insort
from collections.abc import Sequence

from speculators.data.template import Document

# One packed sequence: documents whose lengths add up to at most `max_length`.
Packed = list[Document]


def pack(documents: Sequence[Document], max_length: int) -> list[Packed]:
    """Pack documents by best fit, longest first; deterministic for the same documents.

    Args:
        documents: each at most `max_length` tokens long.
        max_length: tokens of a sequence.
    """
    order = sorted(range(len(documents)), key=lambda i: (-len(documents[i].tokens), i))
    sequences: list[Packed] = []
    free: list[tuple[int, int]] = []  # (tokens left, sequence), ascending
    for i in order:
        size = len(documents[i].tokens)
        place = bisect_left(free, (size, 0))
        if place == len(free):
            sequences.append([])
            left, sequence = max_length, len(sequences) - 1
        else:
            left, sequence = free.pop(place)
        sequences[sequence].append(documents[i])
        insort(free, (left - size, sequence))
    return sequences
