"""Packed sequences → one Batch, with its targets worked out on the host."""

from collections.abc import Sequence

import torch

from speculators.data.pack import Packed
from speculators.protocols.batch import Batch


def collate(sequences: Sequence[Packed], slots: int) -> Batch:
    """A batch as wide as its longest sequence.

    Args:
        sequences: packed documents, B of them.
        slots: tokens ahead that the draft is trained to predict, S >= 1.
    """
    B, T = len(sequences), max(sum(len(d.tokens) for d in s) for s in sequences)
    token_BT = torch.zeros(B, T, dtype=torch.int64)
    position_BT = torch.zeros(B, T, dtype=torch.int64)
    document_BT = torch.full((B, T), -1, dtype=torch.int64)
    answer_BT = torch.zeros(B, T, dtype=torch.bool)
    number = 0
    for b, sequence in enumerate(sequences):
        start = 0
        for document in sequence:
            end = start + len(document.tokens)
            token_BT[b, start:end] = torch.tensor(document.tokens)
            position_BT[b, start:end] = torch.arange(end - start)
            document_BT[b, start:end] = number
            answer_BT[b, start:end] = torch.tensor(document.supervised)
            start, number = end, number + 1

    # A target predicts a supervised token of its own document, and has at least the anchor of slot 1.
    predicts_BT = torch.zeros_like(answer_BT)
    predicts_BT[:, :-1] = answer_BT[:, 1:] & (document_BT[:, 1:] == document_BT[:, :-1])
    target_N = (predicts_BT & (position_BT >= 1)).flatten().nonzero().squeeze(1)
    slot_S1 = torch.arange(1, slots + 1).unsqueeze(1)
    return Batch(
        token_BT=token_BT,
        position_BT=position_BT,
        document_BT=document_BT,
        target_N=target_N,
        valid_SN=position_BT.flatten()[target_N] >= slot_S1,
    )
