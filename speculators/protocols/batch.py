"""A packed batch of conversations, with the rows that are trained in it.

Shape legend, used everywhere: B batch, T tokens, H hidden, V vocabulary, D draft vocabulary, N targets of a sequence,
S slots, R rows, K speculative tokens. A tensor's name ends in its shape: `hidden_RH`.
"""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from speculators.protocols.rows import RowPlan


class Span(NamedTuple):
    """Positions start to end - 1 of row b of a batch."""

    b: int
    start: int
    end: int

    def of(self, x_BHT: Tensor) -> Tensor:
        """The view [1, H, end - start, ...] of a tensor with positions in its third dimension."""
        return x_BHT[self.b : self.b + 1, :, self.start : self.end]


def spans_of(document_BT: Tensor) -> tuple[Span, ...]:
    """Where each document lies, and each row's padding, of a tensor on the host."""
    spans, T = [], document_BT.shape[1]
    for b, row_T in enumerate(document_BT):
        starts = (row_T[1:] != row_T[:-1]).nonzero().squeeze(1) + 1
        spans += [Span(b, start, end) for start, end in pairwise([0, *starts.tolist(), T])]
    return tuple(spans)


@dataclass(frozen=True)
class Batch:
    """Packed sequences. Position p = b * T + t of the flattened batch is a flat position.

    Attributes:
        token_BT: int64 token ids; padding is 0 with document -1.
        position_BT: int64 position inside the document, from 0.
        document_BT: int64 document number, unique in the batch; -1 is padding. Attention never crosses documents.
        rows: what is trained; made on the host, so that no step waits for the device.
        spans: where each document lies, and each row's padding; together they are all positions. They are on the host.
    """

    token_BT: Tensor
    position_BT: Tensor
    document_BT: Tensor
    rows: RowPlan
    spans: tuple[Span, ...]

    def document_start(self, position: int) -> int:
        """The flat position at which the document of a flat position begins."""
        b, place = divmod(position, self.token_BT.shape[1])
        span = self.spans[bisect_right(self.spans, (b, place), key=lambda span: (span.b, span.start)) - 1]
        return position - place + span.start

    def map(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        """The same batch with every tensor replaced by `function` of it."""
        tokens, positions, documents = map(function, (self.token_BT, self.position_BT, self.document_BT))
        return Batch(tokens, positions, documents, self.rows.map(function), self.spans)

    def pinned(self) -> "Batch":
        """The same batch in page-locked memory, from which `to` copies to a CUDA device without waiting."""
        return self.map(Tensor.pin_memory)

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`, without waiting for the copy."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))
