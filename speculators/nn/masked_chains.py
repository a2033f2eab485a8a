"""Chains of masked places after many anchors at once: what a draft that predicts all tokens in one pass is trained on.

Slot 1 is predicted at the places of the text, which one pass computes for all anchors. The place of each further slot holds a
mask token. A chain is the masked places of one anchor; they see the text up to its newest token, and the chain up to
themselves.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from speculators.nn.attention import KeyValue, additive_mask
from speculators.protocols.batch import Batch, Span

# Rows of one pass. More make a larger mask, fewer repeat the text's keys more often.
CHUNK_ROWS = 1024


class MaskedPlaces(NamedTuple):
    """The C masked places of one pass: whole chains of one sequence.

    Attributes:
        seen: where the L' places of the text lie that they may see.
        position_1C: int64 position of each masked place in its document.
        key_1L: int64 positions of all that is seen: L' places of the text, then the C masked ones.
        mask_11CL: what is added to scores: 0 where a masked place sees a key, else minus infinity.
    """

    seen: Span
    position_1C: Tensor
    key_1L: Tensor
    mask_11CL: Tensor

    def text(self, key: Tensor, value: Tensor) -> KeyValue:
        """The keys and values of a layer that these places may see, of those of the batch [B, heads, T, d]."""
        return KeyValue(self.seen.of(key), self.seen.of(value))


def masked_chains(
    batch: Batch, ahead: int, dtype: torch.dtype, empty_0H: Tensor, compute: Callable[[MaskedPlaces], Tensor]
) -> Tensor:
    """The outputs of the rows of slot 2 and further, in the plan's order.

    Args:
        batch: its plan's rows are all valid, and each anchor has the slots before its last.
        ahead: places from an anchor to the newest one of the text that its chain sees: 0 where each place of the text holds
            the token after it, 1 where it holds its own.
        dtype: of the masks.
        empty_0H: the output for a plan without such rows.
        compute: [C, H] outputs of the masked places of one pass.

    Returns:
        [R', H], a row for each masked place.
    """
    rows, T, later = batch.rows, batch.token_BT.shape[1], slice(batch.rows.layout.starts[1], None)
    # Sorted on the device and on the host, which needs to know where to cut.
    order_R = (rows.anchor_R[later] * rows.slots + rows.slot_R[later]).argsort()
    anchor_R, slot_R = rows.anchor_R[later][order_R], rows.slot_R[later][order_R]
    anchor_on_host = np.sort(rows.layout.anchor_R[later])
    place_R = anchor_R.clamp_min(0)
    position_R = batch.position_BT.flatten()[place_R] + slot_R - 1 + ahead
    document_R = batch.document_BT.flatten()[place_R]
    outputs = [empty_0H]
    for b, chunk in chunks(anchor_on_host, T):
        first, last = anchor_on_host[[chunk.start, chunk.stop - 1]].clip(min=0).tolist()
        seen = Span(b, batch.document_start(first) - b * T, last - b * T + 1 + ahead)
        text = b, slice(seen.start, seen.end)
        place_T = torch.arange(b * T + seen.start, b * T + seen.end, device=place_R.device)
        text_CT = (place_T <= place_R[chunk, None] + ahead) & (batch.document_BT[text] == document_R[chunk, None])
        own_CC = (anchor_R[chunk, None] == anchor_R[chunk]) & (slot_R[chunk, None] >= slot_R[chunk])
        position_1C = position_R[None, chunk]
        key_1L = torch.cat((batch.position_BT[text].unsqueeze(0), position_1C), dim=1)
        mask_11CL = additive_mask(torch.cat((text_CT, own_CC), dim=1).unsqueeze(0), dtype)
        outputs.append(compute(MaskedPlaces(seen, position_1C, key_1L, mask_11CL)))
    return torch.cat(outputs)[order_R.argsort()]


def chunks(anchor_R: np.ndarray, length: int) -> Iterator[tuple[int, slice]]:
    """Cut rows into passes: each holds whole chains of one sequence, about `CHUNK_ROWS` rows.

    Args:
        anchor_R: flat anchor positions, ascending; those below 0 count to the first sequence.
        length: places of a sequence.

    Yields:
        A sequence, and rows of it.
    """
    sequences = max(int(anchor_R[-1]), 0) // length + 1 if len(anchor_R) else 0
    edges = np.searchsorted(anchor_R, np.arange(1, sequences + 1) * length)
    start = 0
    for b, end in enumerate(edges.tolist()):
        while start < end:
            stop = min(start + CHUNK_ROWS, end)
            stop = int(np.searchsorted(anchor_R, anchor_R[stop - 1], side="right"))
            yield b, slice(start, stop)
            start = stop
