"""Packing of documents into sequences of bounded length."""

from collections import defaultdict
from collections.abc import Sequence
from heapq import heappop, heappush

import numpy as np

from speculators.data.template import Document

# One packed sequence: documents whose lengths add up to at most `max_length`.
Packed = Sequence[Document]


def pack(length_D: np.ndarray, max_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Pack documents by best fit, longest first; deterministic for the same lengths.

    Of sequences with equally little room left, a document goes to the first.

    Args:
        length_D: tokens of each document, 1 ... max_length.
        max_length: tokens of a sequence.

    Returns:
        int64 [D] numbers of the documents, sequence by sequence; int64 [S] how many of them each sequence has.
    """
    by_length_D = np.argsort(-length_D, kind="stable")
    sequence_D = np.empty(len(length_D), np.int64)
    # By tokens left, sequences in a heap; in the bits of `some`, which numbers of tokens left have any. Finding a place takes
    # no longer with more documents.
    open_by_left: defaultdict[int, list[int]] = defaultdict(list)
    some = sequences = 0
    for i, size in enumerate(length_D[by_length_D].tolist()):
        if fitting := some >> size:
            left = size + (fitting & -fitting).bit_length() - 1
            sequence = heappop(open_by_left[left])
            if not open_by_left[left]:
                some ^= 1 << left
        else:
            left, sequence, sequences = max_length, sequences, sequences + 1
        sequence_D[i] = sequence
        if left > size:
            heappush(open_by_left[left - size], sequence)
            some |= 1 << (left - size)
    order_D = by_length_D[np.argsort(sequence_D, kind="stable")]
    return order_D, np.bincount(sequence_D, minlength=sequences)
