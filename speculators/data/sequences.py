"""Packed sequences of documents that lie in mapped files, so that a process holds none of their tokens."""

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, overload

import numpy as np

from speculators.data.pack import Packed, pack
from speculators.data.template import Document


@dataclass(frozen=True)
class Columns:
    """Documents, one after the other.

    Attributes:
        token_N: int32 token ids of all documents.
        supervised_N: bool, whether a token is part of an answer.
        start_D: int64 [D + 1], the first token of each document, and the number of tokens.
    """

    token_N: np.ndarray
    supervised_N: np.ndarray
    start_D: np.ndarray

    @property
    def length_D(self) -> np.ndarray:
        """int64 tokens of each document."""
        return np.diff(self.start_D)

    def document(self, number: int) -> Document:
        """A document, as views of the columns."""
        start, end = self.start_D[number], self.start_D[number + 1]
        supervised = self.supervised_N[start:end].view(np.uint8).data
        return Document(self.token_N[start:end].data, supervised.cast("?"))


class Sequences(Sequence[Packed]):
    """Packed sequences.

    Args:
        documents: of all sequences.
        order_D: int64 numbers of the documents, sequence by sequence.
        start_S: int64 [S + 1], index in `order_D` of each sequence's first document, and the number of documents.
        part: which of the sequences; None is all.
    """

    def __init__(self, documents: Columns, order_D: np.ndarray, start_S: np.ndarray, part: range | None = None) -> None:
        self.documents, self.order_D, self.start_S = documents, order_D, start_S
        self._part = range(len(start_S) - 1) if part is None else part

    def __len__(self) -> int:
        return len(self._part)

    @overload
    def __getitem__(self, at: int) -> Packed: ...
    @overload
    def __getitem__(self, at: slice) -> "Sequences": ...
    def __getitem__(self, at: int | slice) -> "Packed | Sequences":
        chosen = self._part[at]
        if isinstance(chosen, range):
            return Sequences(self.documents, self.order_D, self.start_S, chosen)
        numbers = self.order_D[self.start_S[chosen] : self.start_S[chosen + 1]]
        return [self.documents.document(number) for number in numbers]


def in_columns(sides: Iterable[Iterable[Document]]) -> tuple[Columns, list[int]]:
    """Documents in temporary files without a name, and how many there are up to the end of each side.

    Args:
        sides: read one document at a time.
    """
    with TemporaryFile() as tokens, TemporaryFile() as supervised:
        lengths = [write_columns(side, tokens, supervised) for side in sides]
        start_D = np.cumsum(np.concatenate([[0], *lengths]), dtype=np.int64)
        columns = Columns(mapped(tokens, np.int32), mapped(supervised, np.bool_), start_D)
    return columns, np.cumsum([len(side) for side in lengths]).tolist()


def write_columns(documents: Iterable[Document], tokens: IO[bytes], supervised: IO[bytes]) -> "array[int]":
    """Append documents to the files of two columns, one at a time; returns their lengths."""
    lengths = array("q")
    for document in documents:
        tokens.write(np.asarray(document.tokens, np.int32).data)
        supervised.write(np.asarray(document.supervised, np.bool_).data)
        lengths.append(len(document.tokens))
    return lengths


def mapped(file: Path | IO[bytes], dtype: Any) -> np.ndarray:
    """The numbers in a file, mapped into memory; the file may be closed and removed."""
    size = file.stat().st_size if isinstance(file, Path) else file.seek(0, 2)
    return np.memmap(file, dtype, "r") if size else np.empty(0, dtype)


def packed(documents: Columns, ends: Sequence[int], max_length: int) -> tuple[Sequences, list[int]]:
    """Packed sequences, those of one side after those of the other, and how many there are of each side.

    Args:
        documents: of all sides.
        ends: how many documents there are up to the end of each side.
        max_length: tokens of a sequence.
    """
    orders, sizes = [], []
    for start, end in pairwise([0, *ends]):
        order_D, size_S = pack(documents.length_D[start:end], max_length)
        orders.append(order_D + start)
        sizes.append(size_S)
    start_S = np.concatenate([[0], np.cumsum(np.concatenate(sizes))])
    return Sequences(documents, np.concatenate(orders), start_S), [len(size_S) for size_S in sizes]
